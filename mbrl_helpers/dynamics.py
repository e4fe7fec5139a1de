"""Learned dynamics: what the next observation, the reward and the end of an episode will be.

Axes: E members, K rollouts side by side, T transitions, O observation, A encoded action.
"""

import math
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mbrl_helpers.data import Transitions, split_by_episode
from mbrl_helpers.envs import Model, Step, action_size, check_counts, encode_actions
from mbrl_helpers.networks import (
    EnsembleNetwork,
    Normalizer,
    TrainingConfig,
    fit_ridge,
    train_network,
    with_ones,
)


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig(TrainingConfig):
    """Settings of a learned model, beside those of its training.

    Attributes:
        num_members: E; 1 for a single network.
        hidden_sizes: width of each hidden layer.
        linear_part: whether to fit a linear part first, and the network to what it leaves over.
        ridge: penalty on the linear part's squared coefficients, per transition.
        termination_sizes: width of each hidden layer of the termination head.
        min_terminations: terminal transitions from which on the head is trained; with fewer it
            gives their share for every state, for it would take chance for a rule.
        validation_fraction: share of the episodes held out for early stopping.
    """

    num_members: int = 5
    hidden_sizes: tuple[int, ...] = (64, 64)
    linear_part: bool = True
    ridge: float = 1e-4
    termination_sizes: tuple[int, ...] = (16,)
    min_terminations: int = 10
    validation_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("DynamicsConfig", num_members=self.num_members)
        for sizes in (self.hidden_sizes, self.termination_sizes):
            check_counts("DynamicsConfig", **{f"layer {i}": n for i, n in enumerate(sizes)})
        if not 0 < self.ridge < math.inf:
            raise ValueError(
                f"DynamicsConfig: expected 0 < ridge < inf, got {self.ridge}. Without it there is "
                "no solution: give a small number, such as 1e-4."
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "DynamicsConfig: expected 0 < validation_fraction < 1, got "
                f"{self.validation_fraction}. Try 0.2."
            )


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
        self.num_members = self.config.num_members
        self.history: dict[str, dict[str, list[float]]] = {}
        self._folded: tuple | None = None  # what `step` uses

    @property
    def is_fitted(self) -> bool:
        """Whether it has seen data and can be planned with."""
        return self._folded is not None

    def fit(self, transitions: Transitions, *, progress: bool = False) -> "EnsembleModel":
        """Fit anew to transitions of at least two episodes; an interrupt keeps the best so far.

        Args:
            transitions: training and validation data together.
            progress: whether to show progress bars.

        Returns:
            The model itself. `history["change"]` and `history["termination"]` have the losses (the
            latter if there were enough terminations to train the head).
        """
        inputs, targets, next_obs, ended = self._tensors(transitions)
        self._fit_closed_form(inputs, targets, next_obs, ended)
        seed = int(torch.randint(2**31, (), generator=self.generator))
        train, valid = (
            self._standard_units(*self._tensors(part))
            for part in split_by_episode(
                transitions, self.config.validation_fraction, np.random.default_rng(seed)
            )
        )
        self.history, losses = {}, {"change": squared_error}
        if ended.sum() >= self.config.min_terminations:
            losses["termination"] = cross_entropy
        try:
            for name, loss in losses.items():
                self.history[name] = train_network(
                    self.networks[name], loss, train[name], valid[name], self.generator,
                    self.config, label=f"fit {name}" if progress else None,
                )  # fmt: skip
        finally:
            self._fold()
        return self

    def _tensors(self, transitions: Transitions) -> tuple[Tensor, ...]:
        """Inputs [T, O+A], targets [T, O+1], next observation [T, O], whether it ended [T, 1]."""
        obs, next_obs = torch.tensor(transitions.obs), torch.tensor(transitions.next_obs)
        if obs.shape[1] != self.num_obs:
            raise ValueError(
                f"EnsembleModel.fit: expected observations of size {self.num_obs}, got "
                f"{obs.shape[1]}. Is this data of another environment?"
            )
        action = encode_actions(self.action_space, transitions.action)
        reward = torch.tensor(transitions.reward)[:, None]
        ended = torch.tensor(transitions.terminated).float()[:, None]
        inputs, targets = torch.cat([obs, action], 1), torch.cat([next_obs - obs, reward], 1)
        return inputs, targets, next_obs, ended

    def _fit_closed_form(self, inputs, targets, next_obs, ended) -> None:
        """Normalisers, linear part and rate of terminations: few numbers, so from all data."""
        self.in_norm, self.out_norm = Normalizer(inputs), Normalizer(targets)
        self.next_norm = Normalizer(next_obs)
        self.range = inputs.amin(0), inputs.amax(0), next_obs.amin(0), next_obs.amax(0)
        x, y = self.in_norm.normalize(inputs), self.out_norm.normalize(targets)
        self.linear = fit_ridge(with_ones(x), y, self.config.ridge) * self.config.linear_part
        self.rest_norm = Normalizer(y - with_ones(x) @ self.linear)
        sizes = (x.shape[1], *self.config.hidden_sizes, y.shape[1])
        change = EnsembleNetwork(self.num_members, sizes, self.generator)
        sizes = (self.num_obs, *self.config.termination_sizes, 1)
        termination = EnsembleNetwork(self.num_members, sizes, self.generator)
        rate = (ended.sum() + 0.5) / (len(ended) + 1)
        with torch.no_grad():
            termination.biases[-1].fill_(torch.logit(rate))
        self.networks = {"change": change, "termination": termination}

    def _standard_units(self, inputs, targets, next_obs, ended) -> dict[str, tuple]:
        """Inputs and targets of each network, normalised."""
        x, y = self.in_norm.normalize(inputs), self.out_norm.normalize(targets)
        rest = self.rest_norm.normalize(y - with_ones(x) @ self.linear)
        return {"change": (x, rest), "termination": (self.next_norm.normalize(next_obs), ended)}

    def _fold(self) -> None:
        """Fold normalisers and linear part into the weights, so that planning need not pay them."""
        scale = self.out_norm.std * self.rest_norm.std
        shift = self.out_norm.denormalize(self.rest_norm.mean + self.linear[-1])
        linear = self.linear[:-1] / self.in_norm.std[:, None] * self.out_norm.std
        shift = shift - self.in_norm.mean @ linear
        change = self.networks["change"].folded(self.in_norm, scale, shift)
        one, zero = torch.ones(1), torch.zeros(1)
        termination = self.networks["termination"].folded(self.next_norm, one, zero)
        # All at once: a fit that fails half way leaves a model that still agrees with itself.
        self._folded = linear, change, termination, self.range

    def step(self, obs: Tensor, action: Tensor) -> Step:
        """Predict a step with every member.

        Args:
            obs: [E, K, O], or [K, O] for the same rows for all members.
            action: [E, K, A] or [K, A] encoded.

        Returns:
            The step, each part [E, K, ...].
        """
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
        linear, change, termination, (low, high, next_low, next_high) = self._folded
        x = torch.cat([obs, action], dim=-1)
        out = change(x.clamp(low, high)) + x @ linear
        next_obs = obs + out[..., :-1]
        logit = termination(next_obs.clamp(next_low, next_high))
        return Step(next_obs, out[..., -1], logit[..., 0].sigmoid())


def rollout(model: Model, obs: Tensor, actions: Tensor) -> Tensor:
    """Predict k = 1 … H steps ahead: each member goes on from where it has imagined itself to be.

    Args:
        model: true dynamics or a learned model.
        obs: [K, O] where the rollouts start.
        actions: [K, H, A] encoded.

    Returns:
        [E, K, H+1, O] states, the start included.

    Source: taught in notebook 02.
    """
    if obs.ndim != 2 or actions.ndim != 3 or len(obs) != len(actions):
        raise ValueError(
            f"rollout: expected obs [K, O] and actions [K, H, A], got {tuple(obs.shape)} and "
            f"{tuple(actions.shape)}. Give each start a row of actions, encoded."
        )
    states = [obs.expand(model.num_members, -1, -1)]
    with torch.inference_mode():
        for action in actions.unbind(1):
            states.append(model.step(states[-1], action.expand(model.num_members, -1, -1)).next_obs)
    return torch.stack(states, dim=2)


def squared_error(out: Tensor, target: Tensor) -> Tensor:
    """Mean squared error [E] of each member, for out [E, K, M] and target [..., K, M]."""
    return (out - target).square().mean((-2, -1))


def cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy [E] of each member, for logit [E, K, 1] and target [..., K, 1]."""
    target = target.expand(logit.shape)
    return binary_cross_entropy_with_logits(logit, target, reduction="none").mean((-2, -1))
