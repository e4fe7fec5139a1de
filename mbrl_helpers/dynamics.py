"""Learned dynamics: what the next observation, the reward and the end of an episode will be.

`EnsembleModel` learns; each fit gives a `FittedModel`, which stays as it is.

Axes: E members, K rollouts side by side, T transitions, O observation, A encoded action.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl_helpers import saving
from mbrl_helpers.angles import Angles, changed, check_angles
from mbrl_helpers.checks import check_counts, check_range, check_setting, check_sizes, check_tensor
from mbrl_helpers.data import Folds, Transitions
from mbrl_helpers.envs import Task
from mbrl_helpers.interfaces import Step
from mbrl_helpers.networks import (
    EnsembleNetwork,
    Normalizer,
    TrainingConfig,
    cross_entropy,
    load_network,
    network_arrays,
    ranked,
    train_network,
    uninterrupted,
    with_ones,
)
from mbrl_helpers.probabilistic import METHODS, GaussianNetwork
from mbrl_helpers.units import Rows, Units, learned_rows, never_back


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig(TrainingConfig):
    """Settings of a learned model, beside those of its training.

    Attributes:
        num_members: E; 1 for a single network.
        hidden_sizes: width of each hidden layer.
        method: how the members differ: "ensemble", networks trained apart; "dropout", one network
            with units switched off; "last_layer", one network with last layers drawn from their
            posterior.
        gaussian: whether each member predicts a variance for every state and action; if not, the
            noise is as large everywhere as the error on held-out data.
        bootstrap: whether each member draws its training rows with replacement.
        num_elites: how many members are planned with, those that have learned most of what can be
            learned (see `networks.ranked`), on held-out data; all if None.
        warm_start: whether a further fit goes on from the networks of the last one.
        num_folds: each member holds out another one of so many folds of the experience, for early
            stopping; so all of it is learned from, and all of it judges. In a warm start episodes
            stay in their folds: no member is judged by what it was trained on.
        angles: pairs of columns of the observation that are cosine and sine of one angle, see
            `angles`; those of the task if None, and () for none.
        linear_part: whether to fit a linear part first, and the network to what it leaves over.
        ridge: penalty on the linear part's squared coefficients, per transition.
        clamp: whether the network, asked about a point outside the range of its data, answers for
            the nearest point inside.
        termination_sizes: width of each hidden layer of the termination head.
        min_terminations: terminal transitions from which on the head is trained; with fewer it
            gives their share for every state, for it would take chance for a rule.
        dropout: share of the hidden units that are off, for the method of that name.
    """

    num_members: int = 5
    hidden_sizes: tuple[int, ...] = (64, 64)
    method: str = "ensemble"
    gaussian: bool = False
    bootstrap: bool = False
    num_elites: int | None = None
    warm_start: bool = False
    num_folds: int = 5
    angles: Angles | None = None
    linear_part: bool = True
    ridge: float = 1e-4
    clamp: bool = True
    termination_sizes: tuple[int, ...] = (16,)
    min_terminations: int = 10
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("DynamicsConfig", num_members=self.num_members, num_folds=self.num_folds)
        check_sizes(self, "hidden_sizes", "termination_sizes")
        check_range(self, "ridge", 0, math.inf, ends="()")  # at 0 there may be no solution
        check_range(self, "dropout", 0, 1, ends="()")
        check_setting(self, "method", self.method in METHODS, f"to be one of {tuple(METHODS)}")
        check_setting(self, "num_folds", self.num_folds >= 2, ">= 2, one of them to hold out")
        check_setting(self, "min_terminations", self.min_terminations >= 0, ">= 0")
        apart = METHODS[self.method].apart
        check_setting(self, "gaussian", apart or not self.gaussian,
                      "False unless the method trains its members apart")  # fmt: skip
        if self.num_elites is not None:
            check_counts("DynamicsConfig", num_elites=self.num_elites)
            check_setting(self, "num_elites", apart and self.num_elites <= self.num_members,
                          "<= num_members, and None unless the method trains its members "
                          "apart")  # fmt: skip
        if self.angles is not None:
            check_angles("DynamicsConfig", self.angles)


class Prediction(NamedTuple):
    """What each member says of one step, in units of the data.

    Attributes:
        mean: [E, K, O+1] change of the observation, and the reward.
        std: [E, K, O+1] standard deviation of the noise that it expects around its mean.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, eq=False)
class FittedModel(saving.Saved):
    """What a fit gives: a model (see `interfaces.Model`) that stays as it is.

    All that was fitted is in units of the data, so that planning need not pay for normalising.

    Attributes:
        task: whose dynamics it predicts.
        config: with which it was fitted.
        units: of the data.
        linear: [O+A, O+1] the linear part.
        change: the members' networks.
        termination: the members' termination heads.
        noise_std: [O+1] of the noise around the members' means; None where they predict it.
        history: "change" and "termination", the losses (see `train_network`); the former if the
            linear part left something over, the latter if there were enough terminations.
    """

    kind = "fitted model"

    task: Task
    config: DynamicsConfig
    units: Units
    linear: Tensor
    change: EnsembleNetwork
    termination: EnsembleNetwork
    noise_std: Tensor | None
    history: dict[str, dict[str, list[float]]]

    @property
    def num_members(self) -> int:
        """E."""
        return self.change.num_members

    @property
    def angles(self) -> Angles:
        """Pairs of columns that are cosine and sine of one angle."""
        return self.task.angles if self.config.angles is None else self.config.angles

    def targets(self, transitions: Transitions) -> Tensor:
        """What `predict` is to predict: changes of the observation and rewards [T, O+1]."""
        return learned_rows("FittedModel.targets", self.task, self.angles, transitions).targets

    def line(self, transitions: Transitions) -> Tensor:
        """What the linear part alone says of `targets` [T, O+1]."""
        rows = learned_rows("FittedModel.line", self.task, self.angles, transitions)
        x = self.units.inputs.normalize(rows.inputs) * ~self.units.inputs.constant
        return self.units.outputs.denormalize(with_ones(x) @ self.units.linear)

    def predict(self, obs: Tensor, action: Tensor) -> Prediction:
        """Predict change and reward with every member, and how much noise there is around them.

        Args:
            obs: [E, K, O], or [K, O] for the same rows for all members.
            action: [E, K, A] or [K, A] encoded.
        """
        self._check("FittedModel.predict", obs, action)
        return self._predict(obs, action)

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """Predict a step with every member.

        Args:
            obs: [E, K, O], or [K, O] for the same rows for all members.
            action: [E, K, A] or [K, A] encoded.
            generator: source of the noise that is added to the predicted change; none unless given.

        Returns:
            The step, each part [E, K, ...].
        """
        self._check("FittedModel.step", obs, action)
        if generator is None:
            mean = self._means(obs, action)
            change = mean[..., :-1]
        else:
            mean, std = self._predict(obs, action)
            change = mean[..., :-1]
            change = change + std[..., :-1] * torch.randn(change.shape, generator=generator)
        next_obs = changed(obs, change, self.angles)
        if (always := self._always_ends) is not None:
            return Step(next_obs, mean[..., -1], always.expand(next_obs.shape[:-1]))
        outcome = torch.cat([next_obs, action.expand(*next_obs.shape[:-1], -1)], dim=-1)
        if self.config.clamp:
            outcome = outcome.clamp(*self.units.outcome_range)
        if (centre := self._centres[1]) is not None:
            outcome = outcome - centre
        logit = self.termination(outcome)
        return Step(next_obs, mean[..., -1], logit[..., 0].sigmoid())

    @functools.cached_property
    def _centres(self) -> tuple[Tensor | None, Tensor | None]:
        """What to subtract from inputs, and from outcomes; mostly nothing at all."""
        centres = self.units.inputs.centre, self.units.outcome.centre
        inputs, outcome = (centre if centre.any() else None for centre in centres)
        return inputs, outcome

    @functools.cached_property
    def _always_ends(self) -> Tensor | None:
        """Probability [E, 1] of the end, where the head, untrained, gives one for every state."""
        weight, bias = self.termination.layers()[-1]
        with torch.inference_mode(False):  # what is first asked for while imagining stays usable
            return None if weight.any() else bias[..., 0].sigmoid()

    def _inputs(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """What the linear part is asked about, and what the networks are."""
        x = torch.cat([obs, action], dim=-1)
        known = x.clamp(*self.units.input_range) if self.config.clamp else x
        if (centre := self._centres[0]) is not None:
            x, known = x - centre, known - centre
        return x, known

    def _means(self, obs: Tensor, action: Tensor) -> Tensor:
        x, known = self._inputs(obs, action)
        return self.change.means(known) + x @ self.linear

    def _predict(self, obs: Tensor, action: Tensor) -> Prediction:
        x, known = self._inputs(obs, action)
        out = self.change(known)
        mean, std = self.change.moments(out)
        if std is None:
            assert self.noise_std is not None
            std = self.noise_std.expand_as(mean)
        return Prediction(mean + x @ self.linear, std)

    def _check(self, where: str, obs: Tensor, action: Tensor) -> None:
        check_tensor(where, "obs", obs)
        check_tensor(where, "action", action)
        batch = obs.shape[:-1]
        wanted = (*batch, self.task.num_obs), (*batch, self.task.actions.size)
        members = (self.num_members,) * (len(batch) - 1)  # none for [K, O]
        if (obs.shape, action.shape) != wanted or len(batch) not in (1, 2) or batch[:-1] != members:
            raise ValueError(
                f"{where}: expected obs [(E,) K, {self.task.num_obs}] and action [(E,) K, "
                f"{self.task.actions.size}] with E = {self.num_members}, got {tuple(obs.shape)} "
                f"and {tuple(action.shape)}. Encode actions with task.actions.encode."
            )

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""
        settings = {
            "task": self.task.settings(), "config": dataclasses.asdict(self.config),
            "history": self.history, "num_members": self.num_members,
            "change": self.change.sizes, "gaussian": isinstance(self.change, GaussianNetwork),
            "termination": self.termination.sizes,
        }  # fmt: skip
        parts = {
            "units": self.units.arrays(), "change": network_arrays(self.change),
            "termination": network_arrays(self.termination),
        }  # fmt: skip
        arrays = {f"{part}/{k}": v for part, kept in parts.items() for k, v in kept.items()}
        arrays["linear"] = self.linear.numpy()
        if self.noise_std is not None:
            arrays["noise_std"] = self.noise_std.numpy()
        return settings, arrays

    @classmethod
    def of_contents(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "FittedModel":
        """Make it of what a file has kept."""
        kinds = {"change": GaussianNetwork if settings["gaussian"] else EnsembleNetwork}
        networks = []
        for name in ("change", "termination"):
            kind = kinds.get(name, EnsembleNetwork)
            network = kind(settings["num_members"], tuple(settings[name]), torch.Generator())
            load_network(network, saving.under(f"{name}/", arrays))
            networks.append(network.requires_grad_(False))
        noise = None if settings["gaussian"] else torch.tensor(arrays["noise_std"])
        return cls(
            Task.of_settings(settings["task"]), _config_of(settings["config"]),
            Units.of_arrays(saving.under("units/", arrays)), torch.tensor(arrays["linear"]),
            networks[0], networks[1], noise, settings["history"],
        )  # fmt: skip


def _config_of(kept: dict[str, Any]) -> DynamicsConfig:
    """Settings of what JSON has kept of them: its lists are tuples."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return DynamicsConfig(**{name: tuples(value) for name, value in kept.items()})


class EnsembleModel:
    """Learns a model of one step: an ensemble, or a single network as an ensemble of one.

    From the normalised observation and encoded action it predicts the *change* of the observation,
    and the reward, in normalised units: a linear part first, and networks that learn what it
    leaves over. Before training they predict 0, so that training has to beat the linear model on
    held-out episodes. Outside the range of its data a network is asked for the nearest point
    inside, where it knows something; there the linear part alone carries on. Another small network,
    the termination head, says from the predicted next observation and the action whether that was
    the end.

    Attributes:
        networks: "change" and "termination", as they were trained.
        fitted: the latest fit; None before the first.

    Source: Chua et al. 2018 (ensemble, delta targets). Taught in notebooks 02 and 05.
    """

    def __init__(
        self, task: Task, generator: torch.Generator, config: DynamicsConfig | None = None
    ) -> None:
        """Make a model to be fitted.

        Args:
            task: whose dynamics to learn.
            generator: source of all randomness: weights, split and mini-batches.
            config: settings.
        """
        self.task, self.generator = task, generator
        self.config = config or DynamicsConfig()
        _ = task.actions  # a space without actions to learn from is refused here, not in a fit
        self.angles = task.angles if self.config.angles is None else self.config.angles
        check_angles("EnsembleModel", self.angles, task.num_obs)
        self.networks: dict[str, EnsembleNetwork] = {}
        self._folds, self._ends_by_action = Folds(self.config.num_folds), False
        self.fitted: FittedModel | None = None

    def fit(self, transitions: Transitions, *, progress: bool = False) -> FittedModel:
        """Fit to experience; an interrupt leaves the best so far in `fitted`.

        Args:
            transitions: training and validation data together, whole episodes.
            progress: whether to show progress bars.
        """
        rows = learned_rows("EnsembleModel.fit", self.task, self.angles, transitions)
        if not self.config.warm_start:
            self._folds, self._ends_by_action = Folds(self.config.num_folds), False
        folds = self._folds.deal(transitions)
        units = Units.of(rows, never_back(transitions), self.config.ridge, self.config.linear_part)
        self._make_networks(rows.ended)
        units.outcome.constant[self.task.num_obs :] |= not self._ends_by_action
        x, rest = units.standard(rows)
        history: dict[str, dict[str, list[float]]] = {}
        try:
            if not units.rest.constant.all():
                history["change"] = self._train("change", x, rest, folds, units, progress)
            if rows.ended.sum() >= self.config.min_terminations:
                history["termination"] = self._train_ends(rows, folds, units, progress)
        finally:
            with uninterrupted():
                self.fitted = self._fold(units, x, rest, folds, history)
        return self.fitted

    def _train(
        self, name: str, x: Tensor, y: Tensor, folds: np.ndarray, units: Units, progress: bool
    ) -> dict[str, list[float]]:
        network = self.networks[name]
        train = self._training_rows(folds, network.num_members)
        valid = self._held_out(folds, network.num_members)

        def loss(out: Tensor, target: Tensor) -> Tensor:
            if name == "termination":
                return cross_entropy(out, target)
            return network.loss(out, target, ~units.rest.constant)

        return train_network(
            network, loss, (x[train], y[train]), (x[valid], y[valid]), self.generator,
            self.config, score=network.gain_scale, label=f"fit {name}" if progress else None,
        )  # fmt: skip

    def _train_ends(
        self, rows: Rows, folds: np.ndarray, units: Units, progress: bool
    ) -> dict[str, list[float]]:
        """Train the termination head; it is shown the action only where that says more.

        Most ends hang on where one is, and what says nothing more only feeds chance.
        """
        num_obs = rows.outcome.shape[1] - self.task.actions.size
        units.outcome.constant[num_obs:] |= not self._ends_by_action
        seen = units.outcome.normalize(rows.outcome)
        x = seen * ~units.outcome.constant
        history = self._train("termination", x, rows.ended, folds, units, progress)
        if self._ends_by_action or not self._surprised(seen, x, rows.ended, folds):
            return history
        self._ends_by_action = True
        self.networks["termination"] = self._make_termination(rows.ended)
        units.outcome.constant[num_obs:] = Normalizer(rows.outcome[:, num_obs:]).constant
        x = seen * ~units.outcome.constant
        return self._train("termination", x, rows.ended, folds, units, progress)

    @torch.no_grad()
    def _surprised(self, seen: Tensor, x: Tensor, ended: Tensor, folds: np.ndarray) -> bool:
        """Whether the ends that a head did not expect go with the action, alone or somewhere.

        That is a score test on held-out rows: of the sum of surprises, weighted by a column, in
        standard deviations of what chance makes of it.
        """
        head = self.networks["termination"]
        # Each row once, by a member that has not seen it: what is counted twice is no evidence.
        rows = np.flatnonzero(folds < head.num_members)
        p = head(x).sigmoid()[folds[rows], rows]
        action, where = seen[rows][:, x.shape[1] - self.task.actions.size :], with_ones(x[rows])
        columns = (action[:, :, None] * where[:, None, :]).flatten(1)
        weighted = ((ended[rows] - p) * columns).sum(0)
        chance = (p * (1 - p) * columns.square()).sum(0).sqrt()
        return bool((weighted.abs() > 5 * chance + 1).any())

    def _make_networks(self, ended: Tensor) -> None:
        """New networks, or those of the last fit, to go on from."""
        config = self.config
        if config.warm_start and self.networks:
            return
        num_obs, num_actions = self.task.num_obs, self.task.actions.size
        sizes = (num_obs + num_actions, *config.hidden_sizes, num_obs + 1)
        change = METHODS[config.method].make(config, sizes, self.generator)
        self.networks = {"change": change, "termination": self._make_termination(ended)}

    def _make_termination(self, ended: Tensor) -> EnsembleNetwork:
        """A head that says of every state how many ends there were."""
        num_inputs = self.task.num_obs + self.task.actions.size
        sizes = (num_inputs, *self.config.termination_sizes, 1)
        head = EnsembleNetwork(self.config.num_members, sizes, self.generator)
        with torch.no_grad():
            head.biases[-1].fill_(torch.logit((ended.sum() + 0.5) / (len(ended) + 1)))
        return head

    def _training_rows(self, folds: np.ndarray, num_members: int) -> Tensor:
        """Rows that each member trains on [E, ...]."""
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=self.generator)))
        chosen = []
        for member in range(num_members):
            rows = rng.permutation(np.flatnonzero(folds != member % self.config.num_folds))
            chosen.append(rng.choice(rows, len(rows)) if self.config.bootstrap else rows)
        return _as_many(chosen)

    def _held_out(self, folds: np.ndarray, num_members: int) -> Tensor:
        """Rows that each member is judged by [E, ...]."""
        held_out = (member % self.config.num_folds for member in range(num_members))
        return _as_many([np.flatnonzero(folds == fold) for fold in held_out])

    @torch.no_grad()
    def _fold(
        self, units: Units, x: Tensor, rest: Tensor, folds: np.ndarray,
        history: dict[str, dict[str, list[float]]],
    ) -> FittedModel:  # fmt: skip
        """Fold normalisers and linear part into the weights, so that planning need not pay them."""
        method = METHODS[self.config.method]
        change, termination = self.networks["change"], self.networks["termination"]
        valid = self._held_out(folds, change.num_members)
        out, target = change(x[valid]), rest[valid]  # of each member, on what it has not seen
        if self.config.num_elites:
            new = method.make(self.config, change.sizes, torch.Generator())
            losses = (
                change.gain_scale(change.loss(o, target, ~units.rest.constant))
                for o in (new(x[valid]), out)
            )
            best = ranked(*losses)[: self.config.num_elites]
            change, termination = change.select(best), termination.select(best)
        change = method.members(change, x, rest, self.config, self.generator)
        # Where nothing is left over, nothing is added, nor expected to be.
        scale = units.outputs.std * units.rest.std.masked_fill(units.rest.constant, 1e-6)
        shift = units.outputs.denormalize(units.rest.mean + units.linear[-1])
        linear = units.linear[:-1] / units.inputs.std[:, None] * units.outputs.std
        shift = shift - (units.inputs.mean - units.inputs.centre) @ linear
        noise = None
        if change.moments(out)[1] is None:
            noise = (out - target).square().mean((0, 1)).sqrt() * scale
        return FittedModel(
            self.task, self.config, units, linear, change.folded(units.inputs, scale, shift),
            termination.folded(units.outcome, torch.ones(1), torch.zeros(1)), noise, history,
        )  # fmt: skip


def _as_many(rows: list[np.ndarray]) -> Tensor:
    """Rows of each member [E, ...], of which some come twice, so that all have as many."""
    most = max(map(len, rows))
    return torch.as_tensor(np.stack([np.resize(r, most) for r in rows]))
