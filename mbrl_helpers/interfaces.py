"""What the rooms show each other: what a model, an agent and a score look like from outside.

Axes: ... any leading axes, B environments, N candidates, H horizon, E members, K rollouts,
O observation, A encoded action.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor


class Step(NamedTuple):
    """What a model says of one step.

    Attributes:
        next_obs: [..., O] the next observation.
        reward: [...] the reward of the step.
        terminated: [...] probability that the step ends the episode in a terminal state.
    """

    next_obs: Tensor
    reward: Tensor
    terminated: Tensor


class Model(Protocol):
    """What planners and policies need of a model: true dynamics, learned ones, and yours.

    A model of several members has a number, `num_members`, and predicts each step with all of
    them; without that attribute it is a model of one (see `num_members`).
    """

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """Predict one step of K rollouts: obs [E, K, O], encoded action [E, K, A].

        It is given a generator only where noise is asked for (see `futures.Imagination`).
        """
        ...


def num_members(model: Model) -> int:
    """E, how many predictions a model makes of each step; 1 if it does not say."""
    return int(getattr(model, "num_members", 1))


def noise_from(model: Model, generator: torch.Generator | None) -> dict[str, Any]:
    """What `step` is to be given beside observation and action, for a step with noise.

    Nothing without a generator, nor for a model whose `step` takes none: it has no noise.
    """
    if generator is None or "generator" not in inspect.signature(model.step).parameters:
        return {}
    return {"generator": generator}


class Agent(Protocol):
    """Anything that picks actions."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions of B environments, as they take them, for obs [B, O]."""
        ...

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the past of all environments, or of those where ended [B] is True."""
        ...


# Anything that picks actions [B, ...] for obs [B, ...]: the short form of an agent.
ActFunction: TypeAlias = Callable[[np.ndarray], np.ndarray]


class VectorStep(NamedTuple):
    """One step of B environments side by side.

    Attributes:
        obs: [B, ...] before it.
        action: [B] or [B, A] as the environments take it.
        reward: [B].
        next_obs: [B, ...] after it: at an end, the last one of the old episode.
        terminated: [B] bool.
        truncated: [B] bool.
        episode: [B] number of the episode that each environment is in.
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    episode: np.ndarray

    @property
    def ended(self) -> np.ndarray:
        """[B] bool, whether the episode is over."""
        return self.terminated | self.truncated


class Proposer(Protocol):
    """A policy without chance, whose plan competes with a planner's own."""

    def action(self, obs: Tensor) -> Tensor:
        """Encoded actions [..., A] for obs [..., O]."""
        ...


class Sampler(Protocol):
    """A policy with chance, as branches of imagined experience need it."""

    @property
    def num_obs(self) -> int:
        """O."""
        ...

    def sample(self, obs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Encoded actions [..., A] for obs [..., O], and the logarithm of their probability."""
        ...


# Returns [B, N] of candidates [B, N, H, A], bound to the present observations of B environments.
Score: TypeAlias = Callable[[Tensor], Tensor]
# Reward [...] for planning, of obs [..., O], action [..., A] and what the model says of the step.
Objective: TypeAlias = Callable[[Tensor, Tensor, Step], Tensor]
# What lies beyond the horizon [...], of obs [..., O].
TerminalValue: TypeAlias = Callable[[Tensor], Tensor]
# The true equations of an environment: a step of obs [..., O] and encoded action [..., A].
TrueStep: TypeAlias = Callable[[Tensor, Tensor], Step]
