"""Policy optimisation inside a model: by its gradients, and from what it imagines.

Axes: E members, K rollouts or rows side by side, T rows of data, H horizon, O observation, A
encoded action.
"""

import copy
import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mbrl_helpers.agents import checked_reward, imagined_returns
from mbrl_helpers.data import Transitions
from mbrl_helpers.envs import Model, check_counts, check_setting, encode_actions
from mbrl_helpers.networks import EnsembleNetwork
from mbrl_helpers.policies import Policy
from mbrl_helpers.uncertainty import disagreement


def _check_starts(where: str, obs: Tensor, policy: Policy) -> None:
    num_obs = len(policy.task.obs_names)
    if obs.ndim != 2 or obs.shape[1] != num_obs or len(obs) == 0:
        raise ValueError(
            f"{where}: expected states [K, {num_obs}] to start from, got {tuple(obs.shape)}. Pass "
            "torch.tensor(transitions.obs) of some experience."
        )


@dataclass(frozen=True, kw_only=True)
class BackpropConfig:
    """Settings of policy optimisation by backpropagation through a model.

    Attributes:
        num_updates: gradient steps.
        horizon: H, steps imagined.
        num_starts: K, states of the experience from which the imagined futures of a step begin.
        discount: weight of a reward a step later, in (0, 1].
        learning_rate: of Adam.
        noise: standard deviation of what is added to imagined continuous actions, as a share of
            half their range: it smooths the cliffs between two good plans. Choices are drawn.
        max_norm: the gradient is scaled down to this norm.
        spread_weight: how much of the standard deviation of the members' returns is added to their
            mean: below 0 the policy shuns what they disagree about.
    """

    num_updates: int = 120
    horizon: int = 40
    num_starts: int = 64
    discount: float = 0.98
    learning_rate: float = 3e-3
    noise: float = 0.3
    max_norm: float = 1.0
    spread_weight: float = 0.0

    def __post_init__(self) -> None:
        where = type(self).__name__
        names = ("num_updates", "horizon", "num_starts")
        check_counts(where, **{name: getattr(self, name) for name in names})
        check_setting(self, "discount", 0 < self.discount <= 1, "in (0, 1]")
        check_setting(self, "learning_rate", 0 < self.learning_rate < math.inf, "> 0")
        check_setting(self, "noise", 0 <= self.noise < math.inf, ">= 0")
        check_setting(self, "max_norm", self.max_norm > 0, "> 0")


def improve(
    policy: Policy,
    model: Model,
    obs: Tensor,
    generator: torch.Generator,
    config: BackpropConfig | None = None,
    *,
    objective=None,
    terminal_value=None,
    progress: bool = False,
) -> dict[str, list[float]]:
    """Climb the gradient of the imagined return, backwards through model and policy.

    Each member imagines futures of its own to the end, without the model's noise.

    Args:
        policy: trained in place.
        model: true dynamics or a learned model; it stays as it is.
        obs: [T, O] states to start from.
        generator: picks the starts, and draws noise and discrete actions.
        config: settings.
        objective: see `rollout_returns`; the model's reward unless given.
        terminal_value: see `rollout_returns`.
        progress: whether to show a progress bar.

    Returns:
        "return" and "gradient_norm" (before it is scaled) of each step.

    Raises:
        RuntimeError: if the gradient is not finite; the policy is then as it was before that step.

    Source: Nguyen and Widrow 1990; Heess et al. 2015 (SVG). Taught in notebook 07.
    """
    config = config or BackpropConfig()
    _check_starts("improve", obs, policy)
    parameters = list(policy.network.parameters())
    optimizer = torch.optim.Adam(parameters, config.learning_rate, fused=True)
    act = _with_noise(policy, config.noise, generator)
    history: dict[str, list[float]] = {"return": [], "gradient_norm": []}
    for _ in tqdm(range(config.num_updates), desc="improve", disable=not progress):
        starts = obs[torch.randint(len(obs), (config.num_starts,), generator=generator)]
        returns = imagined_returns(
            model, starts, [act] * config.horizon, objective=objective,
            terminal_value=terminal_value, discount=config.discount,
        )  # [E, K]  # fmt: skip
        value = returns.mean()
        if config.spread_weight:
            value = value + config.spread_weight * returns.std(0, correction=0).mean()
        optimizer.zero_grad()
        (-value).backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.max_norm)
        if not norm.isfinite():
            raise RuntimeError(
                f"improve: expected a finite gradient, got {float(norm)}. It explodes along the "
                "horizon: shorten it, or fit the model again."
            )
        optimizer.step()
        history["return"].append(float(returns.detach().mean()))
        history["gradient_norm"].append(float(norm))
    return history


def _with_noise(policy: Policy, noise: float, generator: torch.Generator):
    """The policy's actions, disturbed; choices are drawn."""

    def act(obs: Tensor) -> Tensor:
        if policy.is_discrete:
            return policy.sample(obs, generator)[0]
        action = policy.action(obs)
        white = torch.randn(action.shape, generator=generator)
        return policy.clip(action + noise * policy.half_range * white)

    return act


@dataclass(frozen=True)
class Batch:
    """Transitions as tensors, real or imagined.

    Attributes:
        obs: [K, O].
        action: [K, A] encoded.
        reward: [K].
        next_obs: [K, O].
        terminated: [K] 1 where nothing follows; 0 where an episode or a rollout was merely cut.
        imagined: [K] bool.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    imagined: Tensor

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: Tensor | slice) -> "Batch":
        """Pick rows by a slice, a mask or indices."""
        return Batch(*(part[rows] for part in vars(self).values()))

    def draw(self, num_rows: int, generator: torch.Generator) -> "Batch":
        """Draw rows uniformly, with replacement."""
        return self[torch.randint(len(self), (num_rows,), generator=generator)]


def real_batch(transitions: Transitions, policy: Policy) -> Batch:
    """Experience as a batch.

    Raises:
        ValueError: for actions outside the bounds.
    """
    action = encode_actions(policy.task.action_space, transitions.action)
    if not policy.is_discrete:
        policy.to_unit(action)
    return Batch(
        torch.tensor(transitions.obs), action, torch.tensor(transitions.reward),
        torch.tensor(transitions.next_obs), torch.tensor(transitions.terminated).float(),
        torch.zeros(len(transitions), dtype=torch.bool),
    )  # fmt: skip


def join(batches: list[Batch]) -> Batch:
    """Put batches one after another."""
    return Batch(*map(torch.cat, zip(*(vars(b).values() for b in batches), strict=True)))


@torch.no_grad()
def branch(
    model: Model,
    policy: Policy,
    obs: Tensor,
    length: int,
    generator: torch.Generator,
    *,
    objective=None,
    max_spread: float | None = None,
    spread_weight: float = 0.0,
) -> Batch:
    """Imagine short rollouts that branch off from real states.

    Each step of each rollout is that of a member drawn anew, with its noise. A rollout stops where
    a terminal state is more likely than not.

    Args:
        model: true dynamics or a learned model.
        policy: draws the actions.
        obs: [K, O] real states.
        length: steps at most.
        generator: source of the randomness.
        objective: see `rollout_returns`; the model's reward unless given.
        max_spread: a rollout is cut before a step on which the members disagree more than that
            (see `disagreement`).
        spread_weight: how much of that disagreement is added to the reward; below 0 a penalty.

    Returns:
        At most K times `length` imagined transitions.

    Raises:
        RuntimeError: if not one step was finite and within max_spread.

    Source: Janner et al. 2019 (MBPO); a penalty on disagreement stands where Yu et al. 2020 (MOPO)
    have one on the members' largest standard deviation. Taught in notebook 07.
    """
    check_counts("branch", length=length)
    _check_starts("branch", obs, policy)
    limit, parts = math.inf if max_spread is None else max_spread, []
    for _ in range(length):
        action, _ = policy.sample(obs, generator)
        before, taken = (part.expand(model.num_members, -1, -1) for part in (obs, action))
        step = model.step(before, taken, generator)
        step = step._replace(reward=checked_reward(before, taken, step, objective))
        rows = torch.arange(len(obs))
        member = torch.randint(model.num_members, rows.shape, generator=generator)
        next_obs, reward, terminated = (part[member, rows] for part in step)
        part = Batch(obs, action, reward, next_obs, terminated.round(), rows >= 0)
        spread = torch.zeros_like(reward)  # of one member: nobody to disagree with
        if (max_spread is not None or spread_weight) and model.num_members > 1:
            spread = disagreement(model, obs, action)
            part.reward.add_(spread_weight * spread)
        finite = (part.next_obs.sum(-1) + part.reward + part.terminated).isfinite()
        part = part[finite & (spread <= limit)]
        parts.append(part)
        obs = part.next_obs[part.terminated == 0]
        if not len(obs):
            break
    batch = join(parts)
    if not len(batch):
        raise RuntimeError(
            "branch: expected finite steps on which the members' disagreement is at most "
            f"{limit}, got none. Raise max_spread, or collect more experience."
        )
    return batch


@dataclass(frozen=True, kw_only=True)
class SACConfig:
    """Settings of the soft actor-critic.

    Attributes:
        hidden_sizes: width of each hidden layer of the critics.
        discount: weight of a reward a step later, in (0, 1).
        learning_rate: of Adam, for critics, policy and entropy weight.
        target_rate: share of the critics that goes into their slow copies at each update.
        reward_scale: by which rewards are multiplied, so that values are of the order of ten.
        batch_size: rows of an update.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    discount: float = 0.98
    learning_rate: float = 1e-3
    target_rate: float = 0.01
    reward_scale: float = 0.1
    batch_size: int = 256

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_counts(where, batch_size=self.batch_size)
        check_setting(self, "discount", 0 < self.discount < 1, "in (0, 1)")
        check_setting(self, "learning_rate", 0 < self.learning_rate < math.inf, "> 0")
        check_setting(self, "target_rate", 0 < self.target_rate <= 1, "in (0, 1]")
        check_setting(self, "reward_scale", 0 < self.reward_scale < math.inf, "> 0")


class SAC:
    """Soft actor-critic: a policy that climbs two learned values of its actions, and its entropy.

    Source: Haarnoja et al. 2018, with the entropy's weight learned. Taught in notebook 07.
    """

    def __init__(
        self, policy: Policy, generator: torch.Generator, config: SACConfig | None = None
    ) -> None:
        """Make the critics of a policy for continuous actions."""
        if policy.is_discrete:
            raise TypeError(
                f"SAC: expected continuous actions, got {policy.task.action_space}. Train a policy "
                "for discrete ones with improve."
            )
        self.policy, self.generator, self.config = policy, generator, config or SACConfig()
        sizes = (len(policy.task.obs_names) + policy.num_actions, *self.config.hidden_sizes, 1)
        self.critic = EnsembleNetwork(2, sizes, generator)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_entropy_weight = nn.Parameter(torch.zeros(1))
        groups = self.critic.parameters(), policy.network.parameters(), [self.log_entropy_weight]
        self.critic_optimizer, self.actor_optimizer, self.entropy_optimizer = (
            torch.optim.Adam(group, self.config.learning_rate, fused=True) for group in groups
        )

    def values(self, critic: EnsembleNetwork, obs: Tensor, action: Tensor) -> Tensor:
        """What both critics think of actions [K, A] at obs [K, O]: [2, K], scaled."""
        unit = self.policy.unit(action)
        return critic(torch.cat([self.policy.inputs.normalize(obs), unit], -1))[..., 0]

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """What the critics are to say [K]: reward, and what follows where anything does."""
        action, log_prob = self.policy.sample(batch.next_obs, self.generator)
        value = self.values(self.slow_critic, batch.next_obs, action).amin(0)
        soft = value - self.log_entropy_weight.exp() * log_prob
        scaled = self.config.reward_scale * batch.reward
        return scaled + self.config.discount * (1 - batch.terminated) * soft

    def update(self, batch: Batch) -> None:
        """One gradient step of the critics, the policy and the entropy's weight."""
        error = self.values(self.critic, batch.obs, batch.action) - self.targets(batch)
        _descend(self.critic_optimizer, error.square().mean(1).sum())
        action, log_prob = self.policy.sample(batch.obs, self.generator)
        self.critic.requires_grad_(False)
        value = self.values(self.critic, batch.obs, action).amin(0)
        self.critic.requires_grad_(True)
        weight = self.log_entropy_weight.exp().detach()
        _descend(self.actor_optimizer, (weight * log_prob - value).mean())
        # As much entropy as the standard heuristic wants: minus the number of actions.
        gap = (log_prob.detach() - self.policy.num_actions).mean()
        _descend(self.entropy_optimizer, -(self.log_entropy_weight * gap).sum())
        with torch.no_grad():
            for slow, fast in zip(
                self.slow_critic.parameters(), self.critic.parameters(), strict=True
            ):
                slow.lerp_(fast, self.config.target_rate)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@dataclass(frozen=True, kw_only=True)
class DynaConfig:
    """Settings of learning from imagined experience.

    Attributes:
        num_updates: of the actor-critic.
        rollout_length: steps that a rollout goes beyond a real state.
        num_starts: K, real states from which rollouts branch off at a time.
        branch_every: updates between two times.
        num_branches: so many of the latest times make up the imagined experience.
        real_share: share of real transitions in a mini-batch; 1 is learning without a model.
        max_spread: see `branch`.
        spread_weight: see `branch`.
    """

    num_updates: int = 4_000
    rollout_length: int = 5
    num_starts: int = 400
    branch_every: int = 50
    num_branches: int = 10
    real_share: float = 0.1
    max_spread: float | None = None
    spread_weight: float = 0.0

    def __post_init__(self) -> None:
        where = type(self).__name__
        names = ("num_updates", "rollout_length", "num_starts", "branch_every", "num_branches")
        check_counts(where, **{name: getattr(self, name) for name in names})
        check_setting(self, "real_share", 0 <= self.real_share <= 1, "in [0, 1]")


def dyna(
    sac: SAC,
    model: Model | None,
    transitions: Transitions,
    config: DynaConfig | None = None,
    *,
    objective=None,
    progress: bool = False,
) -> None:
    """Train an actor-critic on what a model imagines near real states, mixed with real rows.

    Args:
        sac: trained in place.
        model: fitted; None if all is real.
        transitions: real experience.
        config: settings.
        objective: see `rollout_returns`; the model's reward unless given.
        progress: whether to show a progress bar.

    Source: Sutton 1990 (Dyna); Janner et al. 2019 (MBPO). Taught in notebook 07.
    """
    config = config or DynaConfig()
    real = real_batch(transitions, sac.policy)
    num_real = round(config.real_share * sac.config.batch_size)
    num_imagined = sac.config.batch_size - num_real
    if num_imagined and model is None:
        raise ValueError(
            f"dyna: expected a model to imagine {num_imagined} rows of each mini-batch, got None. "
            "Pass one, or DynaConfig(real_share=1)."
        )
    branches: deque[Batch] = deque(maxlen=config.num_branches)
    for update in tqdm(range(config.num_updates), desc="dyna", disable=not progress):
        if num_imagined and update % config.branch_every == 0:
            starts = real.draw(config.num_starts, sac.generator).obs
            branches.append(branch(
                model, sac.policy, starts, config.rollout_length, sac.generator,
                objective=objective, max_spread=config.max_spread,
                spread_weight=config.spread_weight,
            ))  # fmt: skip
            imagined = join(list(branches))
        parts = [real.draw(num_real, sac.generator)] if num_real else []
        if num_imagined:
            parts.append(imagined.draw(num_imagined, sac.generator))
        sac.update(join(parts))


def learn_from_memory(q, model, remembered, rate, discount):
    """Update a table of values from transitions that a table remembers.

    Args:
        q: [S, A] values.
        model: (state, action) -> (next state, reward, terminated).
        remembered: pairs (state, action), in the order of the updates.
        rate: share of the way to the target.
        discount: weight of a reward a step later.

    Returns:
        The new values; those given stay as they were.

    Source: Watkins 1989 (Q-learning). Taught in notebook 07.
    """
    q = q.copy()
    for state, action in remembered:
        next_state, reward, terminated = model[state, action]
        target = reward + discount * (1 - terminated) * q[next_state].max()
        q[state, action] += rate * (target - q[state, action])
    return q


def dyna_q(env, rng, num_episodes, num_planning_steps):
    """Learn a table of values from real steps, and between them from remembered ones.

    Args:
        env: deterministic, with S states and A actions.
        rng: explores, breaks ties, and picks what is remembered.
        num_episodes: real ones.
        num_planning_steps: updates from the model after each real step; 0 is Q-learning.

    Returns:
        Values [S, A], and the real steps of each episode.

    Source: Sutton 1990; Sutton and Barto 2018, section 8.2. Taught in notebook 07.
    """
    q = np.zeros((env.observation_space.n, env.action_space.n))
    model, lengths = {}, []
    for _ in range(num_episodes):
        (obs, _), ended = env.reset(), False
        lengths.append(0)
        while not ended:
            best = rng.choice(np.flatnonzero(q[obs] == q[obs].max()))
            action = int(rng.integers(q.shape[1]) if rng.random() < 0.1 else best)
            next_obs, reward, terminated, truncated, _ = env.step(action)
            model[obs, action] = next_obs, reward, terminated
            remembered = rng.choice(list(model), num_planning_steps)
            pairs = [(obs, action), *map(tuple, remembered)]
            q = learn_from_memory(q, model, pairs, 0.5, 0.95)
            obs, ended = next_obs, terminated or truncated
            lengths[-1] += 1
    return q, lengths
