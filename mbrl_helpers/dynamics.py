"""Learned dynamics: what the next observation, the reward and the end of an episode will be.

Axes: E members, K rollouts side by side, T transitions, O observation, A encoded action.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mbrl_helpers.data import Transitions, validation_folds
from mbrl_helpers.envs import Model, Step, action_size, check_counts, check_setting, encode_actions
from mbrl_helpers.networks import (
    EnsembleNetwork,
    Normalizer,
    TrainingConfig,
    fit_ridge,
    train_network,
    with_ones,
)
from mbrl_helpers.probabilistic import (
    DropoutNetwork,
    GaussianNetwork,
    gaussian_nll,
    last_layer_members,
)

METHODS = ("ensemble", "dropout", "last_layer")
PROPAGATIONS = ("tsinf", "ts1", "expectation")


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
        num_elites: how many members are planned with, those best on held-out data; all if None.
        warm_start: whether a further fit goes on from the networks of the last one.
        num_folds: each member holds out another one of so many folds of the experience, for early
            stopping; so all of it is learned from, and all of it judges.
        angles: pairs of columns of the observation that are cosine and sine of one angle. Of such
            a pair the change of the angle is predicted, and no imagined state leaves the circle
            (a mean of states, as "expectation" takes it, lies within).
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
    angles: tuple[tuple[int, int], ...] = ()
    linear_part: bool = True
    ridge: float = 1e-4
    clamp: bool = True
    termination_sizes: tuple[int, ...] = (16,)
    min_terminations: int = 10
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("DynamicsConfig", num_members=self.num_members, num_folds=self.num_folds)
        for sizes in (self.hidden_sizes, self.termination_sizes):
            check_counts("DynamicsConfig", **{f"layer {i}": n for i, n in enumerate(sizes)})
        if self.num_elites is not None:
            check_counts("DynamicsConfig", num_elites=self.num_elites)
        alone = self.method == "ensemble"
        columns = [column for pair in self.angles for column in pair]
        for name, holds, wanted in (
            ("ridge", 0 < self.ridge < math.inf, "in (0, inf), or there is no solution"),
            ("num_folds", self.num_folds >= 2, ">= 2, one to hold out and others to train on"),
            ("dropout", 0 < self.dropout < 1, "in (0, 1)"),
            ("method", self.method in METHODS, f"to be one of {METHODS}"),
            ("gaussian", alone or not self.gaussian, "False unless method is 'ensemble'"),
            ("num_elites", not self.num_elites or (alone and self.num_elites <= self.num_members),
             "<= num_members, or None unless method is 'ensemble'"),
            ("angles", len(columns) == 2 * len(self.angles) == len(set(columns)),
             "as pairs of different columns, such as ((0, 1),)"),
        ):  # fmt: skip
            check_setting(self, name, holds, wanted)


class Prediction(NamedTuple):
    """What each member says of one step, in units of the data.

    Attributes:
        mean: [E, K, O+1] change of the observation, and the reward.
        std: [E, K, O+1] standard deviation of the noise that it expects around its mean.
    """

    mean: Tensor
    std: Tensor


class _Folded(NamedTuple):
    """What `step` uses: all that was fitted, in units of the data."""

    linear: Tensor
    change: EnsembleNetwork
    termination: EnsembleNetwork
    noise_std: Tensor | None  # None: the network predicts it
    bounds: tuple[Tensor, ...]


class EnsembleModel:
    """A learned model of one step: an ensemble, or a single network as an ensemble of one.

    From the normalised observation and encoded action it predicts the *change* of the observation,
    and the reward, in normalised units: a linear part first, and networks that learn what it
    leaves over. Before training they predict 0, so that training has to beat the linear model on
    held-out episodes. Outside the range of its data a network is asked for the nearest point
    inside, where it knows something; there the linear part alone carries on. Another small network,
    the termination head, says from the predicted next observation whether it is terminal.

    Source: Chua et al. 2018 (ensemble, delta targets). Taught in notebooks 02 and 05.
    """

    def __init__(
        self,
        num_obs: int,
        action_space: gym.Space,
        generator: torch.Generator,
        config: DynamicsConfig | None = None,
    ) -> None:
        """Make a model to be fitted.

        Args:
            num_obs: O.
            action_space: of one environment.
            generator: source of all randomness: weights, split and mini-batches.
            config: settings.
        """
        self.num_obs = num_obs
        self.num_actions = action_size(action_space)
        self.action_space = action_space
        self.generator = generator
        self.config = config or DynamicsConfig()
        if any(not 0 <= column < num_obs for pair in self.config.angles for column in pair):
            raise ValueError(
                f"EnsembleModel: expected angles among the {num_obs} columns of the observation, "
                f"got {self.config.angles}. Count columns from 0."
            )
        self.num_members = self.config.num_elites or self.config.num_members
        self.networks: dict[str, EnsembleNetwork] = {}
        self.history: dict[str, dict[str, list[float]]] = {}
        self._folded: _Folded | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether it has seen data and can be planned with."""
        return self._folded is not None

    def fit(self, transitions: Transitions, *, progress: bool = False) -> "EnsembleModel":
        """Fit to experience; an interrupt keeps the best so far.

        Args:
            transitions: training and validation data together, whole episodes.
            progress: whether to show progress bars.

        Returns:
            The model itself. `history["change"]` and `history["termination"]` have the losses (the
            latter if there were enough terminations to train the head).
        """
        inputs, targets, next_obs, ended = self._tensors(transitions)
        folds = validation_folds(transitions, self.config.num_folds)
        self._fit_closed_form(inputs, targets, next_obs, ended)
        self._make_networks(ended)
        data = self._standard_units(inputs, targets, next_obs, ended)
        self.history, names = {}, ["change"]
        if ended.sum() >= self.config.min_terminations:
            names.append("termination")
        try:
            for name in names:
                network, (x, y) = self.networks[name], data[name]
                train, valid = self._member_rows(folds, network.num_members)
                loss = cross_entropy if name == "termination" else self._loss
                score = _nats_to_share if name == "change" and self.config.gaussian else None
                self.history[name] = train_network(
                    network, loss, (x[train], y[train]), (x[valid], y[valid]), self.generator,
                    self.config, score=score, label=f"fit {name}" if progress else None,
                )  # fmt: skip
        finally:
            self._fold(*data["change"], folds)
        return self

    def _loss(self, out: Tensor, target: Tensor) -> Tensor:
        """What the members minimise [E], for out [E, K, ...] and target [..., K, O+1]."""
        if not self.config.gaussian:
            return squared_error(out, target)
        # The likelihood of a constant grows without end: training would never stop.
        varies = ~self.rest_norm.constant
        return gaussian_nll(out[..., varies.repeat(2)], target[..., varies])

    def targets(self, transitions: Transitions) -> Tensor:
        """What `predict` is to predict: changes of the observation and rewards [T, O+1]."""
        return self._tensors(transitions)[1]

    def _tensors(self, transitions: Transitions) -> tuple[Tensor, ...]:
        """Inputs [T, O+A], targets [T, O+1], next observation [T, O], whether it ended [T, 1]."""
        transitions.check_finite()
        obs, next_obs = torch.tensor(transitions.obs), torch.tensor(transitions.next_obs)
        if obs.shape[1] != self.num_obs:
            raise ValueError(
                f"EnsembleModel.fit: expected observations of size {self.num_obs}, got "
                f"{obs.shape[1]}. Is this data of another environment?"
            )
        action = encode_actions(self.action_space, transitions.action)
        reward = torch.tensor(transitions.reward)[:, None]
        ended = torch.tensor(transitions.terminated).float()[:, None]
        change = next_obs - obs
        for cos, sin in self.config.angles:
            turn = torch.atan2(next_obs[:, sin], next_obs[:, cos]) - obs[:, sin].atan2(obs[:, cos])
            change[:, cos] = torch.remainder(turn + math.pi, 2 * math.pi) - math.pi
            change[:, sin] = 0.0
        return torch.cat([obs, action], 1), torch.cat([change, reward], 1), next_obs, ended

    def _moved(self, obs: Tensor, change: Tensor) -> Tensor:
        """The observation after a change of it, of which angles are turned."""
        next_obs = obs + change
        for cos, sin in self.config.angles:
            c, s, turn = obs[..., cos], obs[..., sin], change[..., cos]
            next_obs[..., cos] = c * turn.cos() - s * turn.sin()
            next_obs[..., sin] = s * turn.cos() + c * turn.sin()
        return next_obs

    def _fit_closed_form(self, inputs, targets, next_obs, ended) -> None:
        """Normalisers and linear part: few numbers, so from all data."""
        size = torch.zeros(targets.shape[1])  # a change is as exact as what it is the change of
        size[:-1] = inputs[:, : self.num_obs].abs().amax(0)
        self.in_norm, self.out_norm = Normalizer(inputs), Normalizer(targets, size)
        self.next_norm = Normalizer(next_obs)
        self.range = inputs.amin(0), inputs.amax(0), next_obs.amin(0), next_obs.amax(0)
        x, y = self.in_norm.normalize(inputs), self.out_norm.normalize(targets)
        self.linear = fit_ridge(with_ones(x), y, self.config.ridge) * self.config.linear_part
        self.rest_norm = Normalizer(y - with_ones(x) @ self.linear, 1.0)

    def _make_networks(self, ended: Tensor) -> None:
        """New networks, or those of the last fit, to go on from."""
        config = self.config
        if config.warm_start and self.networks:
            return
        sizes = (self.num_obs + self.num_actions, *config.hidden_sizes, self.num_obs + 1)
        if config.method == "dropout":
            change = DropoutNetwork(sizes, self.generator, rate=config.dropout)
        else:
            kind = GaussianNetwork if config.gaussian else EnsembleNetwork
            count = 1 if config.method == "last_layer" else config.num_members
            change = kind(count, sizes, self.generator)
        sizes = (self.num_obs, *config.termination_sizes, 1)
        termination = EnsembleNetwork(config.num_members, sizes, self.generator)
        rate = (ended.sum() + 0.5) / (len(ended) + 1)
        with torch.no_grad():
            termination.biases[-1].fill_(torch.logit(rate))
        self.networks = {"change": change, "termination": termination}

    def _standard_units(self, inputs, targets, next_obs, ended) -> dict[str, tuple]:
        """Inputs and targets of each network, normalised."""
        x, y = self.in_norm.normalize(inputs), self.out_norm.normalize(targets)
        rest = self.rest_norm.normalize(y - with_ones(x) @ self.linear)
        return {"change": (x, rest), "termination": (self.next_norm.normalize(next_obs), ended)}

    def _member_rows(self, folds: np.ndarray, num_members: int) -> tuple[Tensor, Tensor]:
        """Rows that each member trains on, and those that it holds out, both [E, ...]."""
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=self.generator)))
        train, valid = [], []
        for member in range(num_members):
            held_out = folds == member % self.config.num_folds
            rows = rng.permutation(np.flatnonzero(~held_out))
            train.append(rng.choice(rows, len(rows)) if self.config.bootstrap else rows)
            valid.append(np.flatnonzero(held_out))
        # Some rows come twice, so that all members have as many.
        return tuple(
            torch.as_tensor(np.stack([np.resize(r, max(map(len, rows))) for r in rows]))
            for rows in (train, valid)
        )

    @torch.no_grad()
    def _fold(self, x: Tensor, rest: Tensor, folds: np.ndarray) -> None:
        """Fold normalisers and linear part into the weights, so that planning need not pay them."""
        change, termination = self.networks["change"], self.networks["termination"]
        valid = self._member_rows(folds, change.num_members)[1]
        out, target = change(x[valid]), rest[valid]  # of each member, on what it has not seen
        if self.config.num_elites:
            best = self._loss(out, target).topk(self.config.num_elites, largest=False).indices
            change, termination = change.select(best), termination.select(best)
        elif self.config.method == "dropout":
            change = change.members(self.num_members)
        elif self.config.method == "last_layer":
            change = last_layer_members(change, x, rest, self.num_members, self.generator)
        # Where nothing is left over, nothing is added, nor expected to be.
        scale = self.out_norm.std * self.rest_norm.std.masked_fill(self.rest_norm.constant, 1e-6)
        shift = self.out_norm.denormalize(self.rest_norm.mean + self.linear[-1])
        linear = self.linear[:-1] / self.in_norm.std[:, None] * self.out_norm.std
        shift = shift - self.in_norm.mean @ linear
        change = change.folded(self.in_norm, scale, shift)
        one, zero = torch.ones(1), torch.zeros(1)
        termination = termination.folded(self.next_norm, one, zero)
        noise = (
            None if self.config.gaussian else (out - target).square().mean((0, 1)).sqrt() * scale
        )
        # All at once: a fit that fails half way leaves a model that still agrees with itself.
        self._folded = _Folded(linear, change, termination, noise, self.range)

    def predict(self, obs: Tensor, action: Tensor) -> Prediction:
        """Predict change and reward with every member, and how much noise there is around them.

        Args:
            obs: [E, K, O], or [K, O] for the same rows for all members.
            action: [E, K, A] or [K, A] encoded.
        """
        self._check(obs, action)
        linear, change, _, noise_std, (low, high, *_) = self._folded
        x = torch.cat([obs, action], dim=-1)
        out = change(x.clamp(low, high) if self.config.clamp else x)
        if noise_std is not None:
            return Prediction(out + x @ linear, noise_std.expand_as(out))
        mean, log_var = out.chunk(2, dim=-1)
        return Prediction(mean + x @ linear, (0.5 * log_var).exp())

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """Predict a step with every member.

        Args:
            obs: [E, K, O], or [K, O] for the same rows for all members.
            action: [E, K, A] or [K, A] encoded.
            generator: source of the noise that is added to the predicted change; none unless given.

        Returns:
            The step, each part [E, K, ...].
        """
        mean, std = self.predict(obs, action)
        change = mean[..., :-1]
        if generator is not None:
            change = change + std[..., :-1] * torch.randn(change.shape, generator=generator)
        next_obs = self._moved(obs, change)
        *_, low, high = self._folded.bounds
        known = next_obs.clamp(low, high) if self.config.clamp else next_obs
        logit = self._folded.termination(known)
        return Step(next_obs, mean[..., -1], logit[..., 0].sigmoid())

    def _check(self, obs: Tensor, action: Tensor) -> None:
        if not self.is_fitted:
            raise RuntimeError(
                "EnsembleModel.step: expected a fitted model, got one that has seen no data. "
                "Call fit(transitions) first."
            )
        batch = obs.shape[:-1]
        wanted = (*batch, self.num_obs), (*batch, self.num_actions)
        members = (self.num_members,) * (len(batch) - 1)  # none for [K, O]
        if (obs.shape, action.shape) != wanted or len(batch) not in (1, 2) or batch[:-1] != members:
            raise ValueError(
                f"EnsembleModel.step: expected obs [(E,) K, {self.num_obs}] and action [(E,) K, "
                f"{self.num_actions}] with E = {self.num_members}, got {tuple(obs.shape)} and "
                f"{tuple(action.shape)}. Encode actions with encode_actions."
            )


def propagate(
    model: Model,
    obs: Tensor,
    actions: Tensor | Sequence[Callable[[Tensor], Tensor]],
    *,
    propagation: str = "tsinf",
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Tensor, Tensor, Step]]:
    """Imagine futures step by step, one in each of the E places of a batch.

    Args:
        model: true dynamics or a learned model.
        obs: [E, K, O] where they start.
        actions: [K, H, A] encoded; or H policies, functions `obs [E, K, O] -> action [E, K, A]`.
        propagation: "tsinf": a future stays with its member for good. "ts1": it goes to another
            one at each step. "expectation": all go on from the mean of the members' predictions.
        generator: source of the noise that a learned model expects; without it there is none. It
            also deals the members out for "ts1", which needs one.

    Yields:
        Observation, action and step, each part [E, K, ...].

    Source: Chua et al. 2018, section 5 (trajectory sampling). Taught in notebook 05.
    """
    if propagation not in PROPAGATIONS or (propagation == "ts1" and generator is None):
        raise ValueError(
            f"propagate: expected propagation to be one of {PROPAGATIONS}, 'ts1' with a generator, "
            f"got {propagation!r} and {generator}. Pass generator=torch.Generator()."
        )
    num_members = model.num_members
    noise = {} if generator is None or propagation == "expectation" else {"generator": generator}
    if isinstance(actions, Tensor):
        actions = actions.transpose(0, 1).contiguous()  # slices of it are fast to join
    for action in actions:
        action = action(obs) if callable(action) else action.expand(num_members, -1, -1)
        if propagation == "ts1":
            # The futures move, not the weights, each column by itself; then back to their places.
            column = torch.arange(obs.shape[1])
            there = torch.rand(obs.shape[:2], generator=generator).argsort(0)  # [E, K]
            step = model.step(obs[there, column], action[there, column], **noise)
            step = Step(*(part[there.argsort(0), column] for part in step))
        else:
            step = model.step(obs, action, **noise)
        yield obs, action, step
        obs = step.next_obs
        if propagation == "expectation":
            obs = obs.mean(0, keepdim=True).expand(num_members, -1, -1)


def rollout(model: Model, obs: Tensor, actions: Tensor, **how) -> Tensor:
    """Predict k = 1 … H steps ahead: each member goes on from where it has imagined itself to be.

    Args:
        model: true dynamics or a learned model.
        obs: [K, O] where the rollouts start.
        actions: [K, H, A] encoded.
        how: `propagation` and `generator`, see `propagate`.

    Returns:
        [E, K, H+1, O] states, the start included.

    Source: taught in notebook 02.
    """
    if obs.ndim != 2 or actions.ndim != 3 or len(obs) != len(actions):
        raise ValueError(
            f"rollout: expected obs [K, O] and actions [K, H, A], got {tuple(obs.shape)} and "
            f"{tuple(actions.shape)}. Give each start a row of actions, encoded."
        )
    start = obs.expand(model.num_members, -1, -1)
    with torch.inference_mode():
        steps = propagate(model, start, actions, **how)
        states = [start, *(step.next_obs for _, _, step in steps)]
    return torch.stack(states, dim=2)


def squared_error(out: Tensor, target: Tensor) -> Tensor:
    """Mean squared error [E] of each member, for out [E, K, M] and target [..., K, M]."""
    return (out - target).square().mean((-2, -1))


def cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy [E] of each member, for logit [E, K, 1] and target [..., K, 1]."""
    target = target.expand(logit.shape)
    return binary_cross_entropy_with_logits(logit, target, reduction="none").mean((-2, -1))


def _nats_to_share(loss: Tensor) -> Tensor:
    """A likelihood's loss in units of a squared error, so that a gain of it is a share."""
    return (2 * loss).exp()
