"""A recurrent state-space model: learned from looks, it believes, and imagines with eyes shut.

Axes: B episodes or environments, T steps, O look, A encoded action, S state, C coordinates.
"""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad
from tqdm.auto import tqdm

from mbrl_helpers import saving
from mbrl_helpers.actions import ContinuousActions
from mbrl_helpers.angles import check_circles
from mbrl_helpers.checks import check_counts, check_range, check_setting
from mbrl_helpers.data import Transitions
from mbrl_helpers.envs import Task
from mbrl_helpers.hidden.cell import Cell, Guess, balanced_kl
from mbrl_helpers.hidden.sequences import Sequences
from mbrl_helpers.interfaces import Step
from mbrl_helpers.networks import Normalizer, uninterrupted
from mbrl_helpers.saving import Saved

PATIENCE = 50  # updates between two looks at the loss


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """Settings of a recurrent state-space model.

    Attributes:
        seen: the column of the observation that is 1 where there was a look, else 0; None where
            everything is seen.
        memory: how many numbers the memory holds.
        width: of the hidden layers.
        stochastic: whether the latent is drawn, and its width learned.
        deterministic: whether the memory is not drawn.
        sequence: steps of a training sequence.
        batch_size: sequences in an update.
        num_updates: of the first fit.
        num_more_updates: of each later one, which goes on from the last.
        learning_rate: for the first half of a fit; then it falls to nothing.
        weight_decay: of AdamW.
        overshooting: share of the sequences in which eyes are shut from some step on, so that
            what is imagined from there is compared with what came.
        open_steps: least number of steps with open eyes in these.
        blank: of the rest of the looks, up to this share is withheld at random.
        kl_weight: of the divergence from posterior to prior.
        kl_balance: share of its gradient that moves the prior.
        free_nats: divergence below this costs nothing.
        look_std: width of a look, in the units in which errors are measured.
    """

    seen: int | None = None
    memory: int = 4
    width: int = 64
    stochastic: bool = False
    deterministic: bool = True
    sequence: int = 24
    batch_size: int = 64
    num_updates: int = 500
    num_more_updates: int = 100
    learning_rate: float = 6e-3
    weight_decay: float = 0.1
    overshooting: float = 1.0
    open_steps: int = 6
    blank: float = 0.5
    kl_weight: float = 1.0
    kl_balance: float = 0.8
    free_nats: float = 0.0
    look_std: float = 0.1

    def __post_init__(self) -> None:
        names = ("memory", "width", "sequence", "batch_size", "num_updates", "num_more_updates",
                 "open_steps")  # fmt: skip
        check_counts("RecurrentConfig", **{name: getattr(self, name) for name in names})
        check_setting(self, "open_steps", self.open_steps < self.sequence,
                      f"below sequence {self.sequence}")  # fmt: skip
        check_setting(self, "deterministic", self.deterministic or self.stochastic,
                      "True where nothing is stochastic")  # fmt: skip
        for name in ("overshooting", "blank", "kl_balance"):
            check_range(self, name, 0, 1)
        for name in ("weight_decay", "kl_weight", "free_nats"):
            check_range(self, name, 0, float("inf"))
        check_range(self, "learning_rate", 0, 1, ends="(]")
        check_range(self, "look_std", 0, float("inf"), ends="()")


class RecurrentModel(Saved):
    """Learns from looks what is not seen in one: filters, imagines, and is planned with.

    A belief is a row [S + 2]: the state (see `cell`), the number of steps since the last look, and
    whether there was any. To planners it is what an observation is to the course's other models.

    Attributes:
        units: mean and standard deviation of looks and reward; None before the first fit.
        losses: of the last fit, by name, means of each 50 updates.

    Source: Hafner et al. 2019 (PlaNet). Taught in notebook 10.
    """

    kind = "recurrent model"

    def __init__(
        self, task: Task, generator: torch.Generator, config: RecurrentConfig | None = None
    ) -> None:
        """Make a model to be fitted.

        Args:
            task: whose looks to learn from.
            generator: for weights, sequences and noise.
            config: settings.
        """
        self.task, self.generator = task, generator
        self.config = config or RecurrentConfig()
        c, num_obs = self.config, task.num_obs
        if c.seen is not None and not 0 <= c.seen < num_obs:
            raise ValueError(
                f"RecurrentModel: expected seen as a column of {task.obs_names}, got {c.seen}. "
                "Name the one that says whether there was a look, or None."
            )
        in_angles = [column for pair in task.angles for column in pair]
        self.plain = [i for i in range(num_obs) if i not in in_angles and i != c.seen]
        num_coordinates = len(task.angles) + len(self.plain)
        noisy = num_coordinates + (0 if c.deterministic else c.memory) if c.stochastic else 0
        self.cell = Cell(
            len(task.angles), len(self.plain), task.actions.size, memory=c.memory, width=c.width,
            look_std=c.look_std, num_noisy=noisy, generator=generator,
        )  # fmt: skip
        self.optimizer = torch.optim.AdamW(
            self.cell.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay
        )
        self.units: dict[str, Tensor] | None = None
        self.losses: dict[str, list[float]] = {}
        self.can_end = False

    # --- what it believes ------------------------------------------------------------------------

    def start(self, num_envs: int) -> Tensor:
        """Beliefs [B, S+2] before anything has been seen."""
        check_counts("RecurrentModel.start", num_envs=num_envs)
        belief = torch.zeros(num_envs, self.cell.memory + self.cell.size + 2)
        belief[:, -2] = 1.0
        return belief

    def predict(self, belief: Tensor, action: Tensor) -> Tensor:
        """The prior: beliefs [..., S+2] one encoded action [..., A] later, eyes shut."""
        self._check_fitted("RecurrentModel.predict")
        state = self.cell.predict(belief[..., :-2], self._unit(action)).mean
        return torch.cat([state, belief[..., -2:-1] + 1, belief[..., -1:]], -1)

    def correct(self, belief: Tensor, obs: Tensor) -> Tensor:
        """The posterior: beliefs [B, S+2] once obs [B, O] has been looked at."""
        self._check_fitted("RecurrentModel.correct")
        if obs.shape != (len(belief), self.task.num_obs):
            raise ValueError(
                f"RecurrentModel.correct: expected obs [{len(belief)}, {self.task.num_obs}], a "
                f"look for each belief, got {tuple(obs.shape)}. Is it of another environment, or "
                "did the number of environments change? Then begin with start(num_envs)."
            )
        look, seen = self._coordinates(obs)
        seen, age, old = seen[:, None], belief[:, -2:-1], belief[:, -1:]
        prior = Guess(belief[:, :-2], belief[:, :1])
        state = self.cell.correct(prior, look, seen, 1 / age, old).mean
        # The next look will be one step younger than the next prior.
        age = torch.where(seen > 0, torch.zeros_like(age), age)
        return torch.cat([state, age, torch.maximum(old, seen)], -1)

    @torch.inference_mode()
    def filter(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Beliefs after each look of B episodes.

        Args:
            obs: [B, T+1, O].
            actions: [B, T, A] encoded, what was done between them.

        Returns:
            [B, T+1, S+2].
        """
        if obs.ndim != 3 or actions.ndim != 3 or obs.shape[1] != actions.shape[1] + 1:
            raise ValueError(
                "RecurrentModel.filter: expected obs [B, T+1, O] and actions [B, T, A], got "
                f"{tuple(obs.shape)} and {tuple(actions.shape)}. There is one look more than there "
                "are actions."
            )
        beliefs = [self.correct(self.start(len(obs)), obs[:, 0])]
        for t in range(actions.shape[1]):
            beliefs.append(self.correct(self.predict(beliefs[-1], actions[:, t]), obs[:, t + 1]))
        return torch.stack(beliefs, 1)

    def look(self, belief: Tensor) -> Tensor:
        """What would be seen [..., O] in these beliefs; the column `seen` is 1."""
        units = self._check_fitted("RecurrentModel.look")
        num, latent = self.cell.num_angles, belief[..., self.cell.memory : -2]
        obs = torch.ones(*belief.shape[:-1], self.task.num_obs)
        for i, (cos, sin) in enumerate(self.task.angles):
            obs[..., cos], obs[..., sin] = latent[..., i].cos(), latent[..., i].sin()
        obs[..., self.plain] = latent[..., num:] * units["look_std"] + units["look_mean"]
        return obs

    def features(self, belief: Tensor) -> Tensor:
        """What networks are told of beliefs [..., S+2]: of an angle its cosine and sine."""
        return self.cell.features(belief[..., :-2])

    def in_units(self, reward: Tensor) -> Tensor:
        """Rewards [...] in units of their standard deviation, around their mean."""
        units = self._check_fitted("RecurrentModel.in_units")
        return (reward - units["reward_mean"]) / units["reward_std"]

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """One imagined step, eyes shut: beliefs in place of observations (see `interfaces.Model`).

        Args:
            obs: [..., S+2] beliefs.
            action: [..., A] encoded.
            generator: for the noise of the latent; without it the mean goes on.
        """
        units = self._check_fitted("RecurrentModel.step")
        state, action = obs[..., :-2], self._unit(action)
        guess = self.cell.predict(state, action)
        after = guess.mean
        if generator is not None and self.cell.num_noisy:
            after = self.cell.sample(guess, torch.randn(guess.std.shape, generator=generator))
        x = torch.cat([self.cell.features(state), action], -1)
        reward = self.cell.reward(x)[..., 0] * units["reward_std"] + units["reward_mean"]
        ends = torch.zeros_like(reward)
        if self.can_end:
            y = torch.cat([self.cell.features(after), action], -1)
            ends = torch.sigmoid(self.cell.end(y)[..., 0])
        return Step(torch.cat([after, obs[..., -2:-1] + 1, obs[..., -1:]], -1), reward, ends)

    # --- how it learns ---------------------------------------------------------------------------

    def fit(self, transitions: Transitions, *, progress: bool = False) -> "RecurrentModel":
        """Learn from whole episodes, going on from the last fit; an interrupt keeps the best.

        Args:
            transitions: all experience so far.
            progress: whether to show a progress bar.

        Returns:
            The model itself.

        Raises:
            ValueError: for experience of another environment, or in which nothing was seen.
            RuntimeError: if the loss is not finite; the weights are those from before.
        """
        episodes = self._sequences(transitions)
        count = self.config.num_updates if not self.losses else self.config.num_more_updates
        kept, least = self._weights(), float("inf")
        losses: dict[str, list[float]] = {}
        recent: list[dict[str, float]] = []
        whole = False
        try:
            for number in tqdm(range(count), desc="updates", disable=not progress):
                for group in self.optimizer.param_groups:
                    share = min(1.0, 2 * (1 - number / count) + 0.02)
                    group["lr"] = self.config.learning_rate * share
                recent.append(self._update(episodes))
                if len(recent) == PATIENCE or number == count - 1:
                    for name in recent[0]:
                        mean = float(np.mean([loss[name] for loss in recent]))
                        losses.setdefault(name, []).append(mean)
                    recent = []
                    if losses["total"][-1] < least:
                        kept, least = self._weights(), losses["total"][-1]
            whole = True
        finally:
            with uninterrupted():
                if not whole:
                    self.cell.load_state_dict(kept)
                self.losses = losses or {"total": []}
        return self

    def state(self) -> dict[str, Any]:
        """A copy of all that a fit changes, for `restore`."""
        kept = {"units": self.units, "losses": self.losses, "can_end": self.can_end}
        return copy.deepcopy(kept | {"weights": self.cell.state_dict()})

    def restore(self, state: dict[str, Any]) -> None:
        """Be again as when `state` was called."""
        self.cell.load_state_dict(state["weights"])
        self.units, self.losses = state["units"], state["losses"]
        self.can_end = state["can_end"]

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.cell.state_dict().items()}

    def _update(self, episodes: Sequences) -> dict[str, float]:
        """One gradient step."""
        losses = self.loss(episodes.draw(
            self.config.batch_size, self.config.sequence, self.generator
        ))  # fmt: skip
        total = losses["total"]
        if not total.isfinite():
            raise RuntimeError(
                f"RecurrentModel.fit: expected a finite loss, got {float(total.detach())}. Lower "
                "learning_rate; the weights are the best so far."
            )
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.cell.parameters(), 10.0)
        self.optimizer.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def loss(self, batch: Sequences) -> dict[str, Tensor]:
        """Losses of some sequences, in nats a step.

        Returns:
            "look": how far the state is from what was seen, where it had looked (reconstruction)
                and where its eyes were shut (overshooting); "reward", "end"; "kl", from posterior
                to prior where it had looked; and the "total".
        """
        eyes = self._eyes(batch)
        states, posterior, prior = self.unroll(batch, eyes)
        known = (eyes.cumsum(0) >= 2).float()  # before two looks nobody can know how fast it is
        scale = 2 * self.config.look_std**2
        look = batch.look.transpose(0, 1)
        seen = batch.seen.t()[1:] * known[:-1]
        gap = self._apart(look, states[..., self.cell.memory :])[1:]
        weight = batch.valid.t() * known[:-1]
        action, total = batch.action.transpose(0, 1), weight.sum().clamp(min=1)
        x = torch.cat([self.cell.features(states[:-1]), action], -1)
        error = (self.cell.reward(x)[..., 0] - batch.reward.t()) ** 2
        kl = (balanced_kl(posterior, prior, self.config.kl_balance) * eyes[1:] * known[:-1]).sum()
        losses = {
            "look": (gap * seen).sum() / total / scale,
            "reward": (error * weight).sum() / total / scale,
            "kl": kl / (eyes[1:] * known[:-1]).sum().clamp(min=1),
            "end": torch.zeros(()),
        }
        if self.can_end:
            y = torch.cat([self.cell.features(states[1:]), action], -1)
            losses["end"] = binary_cross_entropy_with_logits(
                self.cell.end(y)[..., 0], batch.ended.t(), weight / total, reduction="sum"
            )
        kl_cost = self.config.kl_weight * losses["kl"].clamp(min=self.config.free_nats)
        losses["total"] = losses["look"] + losses["reward"] + losses["end"] + kl_cost
        return losses

    def unroll(self, batch: Sequences, eyes: Tensor) -> tuple[Tensor, Guess, Guess]:
        """Filter sequences, looking where eyes [T+1, B] is 1.

        Returns:
            States [T+1, B, S], drawn where they are stochastic; posterior and prior of all steps
            but the first.
        """
        age = torch.zeros(eyes.shape[1])
        rates, olds = [], []
        for t in range(len(eyes)):  # what is known of each step before anything is computed
            rates.append(1 / (age + 1))
            age = torch.where(eyes[t] > 0, 0.0, age + 1)
            olds.append((eyes[:t].sum(0) > 0).float())
        rate, old, open_ = (
            torch.stack(rates)[..., None],
            torch.stack(olds)[..., None],
            eyes[..., None],
        )
        look, action = batch.look.transpose(0, 1), batch.action.transpose(0, 1)
        zero = self.start(eyes.shape[1])[:, :-2]
        noise = torch.randn(*eyes.shape, self.cell.num_noisy, generator=self.generator)
        first = Guess(zero, torch.full_like(zero[:, -max(self.cell.num_noisy, self.cell.size) :],
                                            self.config.look_std))  # fmt: skip
        state = self.cell.correct(first, look[0], open_[0], rate[0], old[0]).mean
        states, posteriors, priors = [state], [], []
        for t in range(len(action)):
            prior = self.cell.predict(state, action[t])
            guess = self.cell.correct(prior, look[t + 1], open_[t + 1], rate[t + 1], old[t + 1])
            state = self.cell.sample(guess, noise[t + 1])
            states.append(state)
            posteriors.append(guess)
            priors.append(prior)
        posterior, prior = (
            Guess(*map(torch.stack, zip(*g, strict=True))) for g in (posteriors, priors)
        )
        return torch.stack(states), posterior, prior

    def _eyes(self, batch: Sequences) -> Tensor:
        """Which looks [T+1, B] the model is allowed to see; the others it has to foretell."""
        c, seen = self.config, batch.seen.t()
        num_steps, num = seen.shape
        last = torch.randint(min(c.open_steps, num_steps - 1), num_steps, (num,),
                             generator=self.generator)  # fmt: skip
        shut = torch.rand(num, generator=self.generator) < c.overshooting
        eyes = seen * ((torch.arange(num_steps)[:, None] <= last) | ~shut)
        share = c.blank * torch.rand(1, num, generator=self.generator) * shut
        return eyes * (torch.rand(num_steps, num, generator=self.generator) >= share)

    def _apart(self, look: Tensor, latent: Tensor) -> Tensor:
        """Squared distance [...] of looks; of angles, between points on the circle."""
        num = self.cell.num_angles
        gap = self.cell.difference(look, latent)
        return (2 - 2 * gap[..., :num].cos()).sum(-1) + gap[..., num:].square().sum(-1)

    # --- what it is given ------------------------------------------------------------------------

    def _sequences(self, transitions: Transitions) -> Sequences:
        """Episodes side by side, in the units of the first fit."""
        where, task = "RecurrentModel.fit", self.task
        if transitions.obs.shape[1] != task.num_obs:
            raise ValueError(
                f"{where}: expected looks of {task.num_obs} numbers, {task.obs_names}, got "
                f"{transitions.obs.shape[1]}. Is this experience of another environment?"
            )
        transitions.check_finite()
        obs, next_obs = torch.tensor(transitions.obs), torch.tensor(transitions.next_obs)
        action = self._unit(task.actions.encode(transitions.action))
        reward = torch.tensor(transitions.reward)
        seen = self._seen(next_obs) > 0
        if not seen.any():
            raise ValueError(
                f"{where}: expected experience in which something was seen, got {len(seen)} steps "
                f"with column {self.config.seen} at 0. That column is 1 where there was a look."
            )
        check_circles(where, task.angles, next_obs[seen])
        if self.units is None:
            # With a column of ones, for there may be no other.
            look = Normalizer(pad(next_obs[seen][:, self.plain], (0, 1), value=1.0))
            paid = Normalizer(reward[:, None])
            self.units = {"look_mean": look.mean[:-1], "look_std": look.std[:-1],
                          "reward_mean": paid.mean[0], "reward_std": paid.std[0]}  # fmt: skip
        self.can_end |= bool(transitions.terminated.any())
        reward = (reward - self.units["reward_mean"]) / self.units["reward_std"]
        parts: list[list[Tensor]] = [[] for _ in range(6)]
        for number in transitions.episodes:
            rows = torch.as_tensor(transitions.episode == number)
            whole = torch.cat([obs[rows], next_obs[rows][-1:]])
            ended = torch.tensor(transitions.terminated)[rows].float()
            each = (*self._coordinates(whole), action[rows], reward[rows], ended,
                    torch.ones_like(ended))  # fmt: skip
            for part, values in zip(parts, each, strict=True):
                part.append(values)
        return Sequences(*(nn.utils.rnn.pad_sequence(p, batch_first=True) for p in parts))

    def _seen(self, obs: Tensor) -> Tensor:
        return (
            torch.ones(obs.shape[:-1]) if self.config.seen is None else obs[..., self.config.seen]
        )

    def _coordinates(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates [..., C] of looks [..., O], and which were seen [...]."""
        units = self._check_fitted("RecurrentModel.correct")
        angles = [torch.atan2(obs[..., sin], obs[..., cos]) for cos, sin in self.task.angles]
        plain = (obs[..., self.plain] - units["look_mean"]) / units["look_std"]
        return torch.cat([*(angle[..., None] for angle in angles), plain], -1), self._seen(obs)

    def _unit(self, action: Tensor) -> Tensor:
        actions = self.task.actions
        return actions.unit(action) if isinstance(actions, ContinuousActions) else action

    def _check_fitted(self, where: str) -> dict[str, Tensor]:
        if self.units is None:
            raise RuntimeError(
                f"{where}: expected a model that has learned, got one before its first fit. Call "
                "fit(transitions) first."
            )
        return self.units

    # --- keeping it ------------------------------------------------------------------------------

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""
        units = self._check_fitted("RecurrentModel.save")
        settings = {"task": self.task.settings(), "config": dataclasses.asdict(self.config),
                    "can_end": self.can_end}  # fmt: skip
        arrays = {f"weights/{k}": v.numpy() for k, v in self.cell.state_dict().items()}
        return settings, arrays | {f"units/{k}": v.numpy() for k, v in units.items()}

    @classmethod
    def of_contents(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> "RecurrentModel":
        """Make it of what a file has kept; a later fit goes on with a new optimiser."""
        task = Task.of_settings(settings["task"])
        model = cls(task, torch.Generator(), RecurrentConfig(**settings["config"]))
        weights = {k: torch.tensor(v) for k, v in saving.under("weights/", arrays).items()}
        model.cell.load_state_dict(weights)
        model.units = {k: torch.tensor(v) for k, v in saving.under("units/", arrays).items()}
        model.can_end, model.losses = settings["can_end"], {"total": []}
        return model
