"""Planners: search for the action sequences with the highest predicted return.

A planner never sees a model. It is given `score(actions [B, N, H, A]) -> returns [B, N]`, bound
to the current observations of B environments; discrete actions are one-hot.

Axes: B environments, N population (candidates), H horizon, A encoded action.
"""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor

from mbrl_helpers.envs import action_size, check_counts

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Plan:
    """The plans chosen for B environments.

    Attributes:
        actions: [B, H, A] encoded; MPC executes the first action of each.
        returns: [B] their predicted returns.
        num_failed: how many candidates scored NaN or infinity.
    """

    actions: Tensor
    returns: Tensor
    num_failed: int


@dataclass(frozen=True, kw_only=True)
class RandomShootingConfig:
    """Settings of random shooting.

    Attributes:
        horizon: H, how many steps ahead a plan reaches.
        population_size: N, how many candidate plans are scored for each environment.
    """

    horizon: int = 10
    population_size: int = 100

    def __post_init__(self) -> None:
        check_counts(
            type(self).__name__, horizon=self.horizon, population_size=self.population_size
        )


class RandomShooting:
    """Draw candidate plans at random and keep the best one.

    Source: Nagabandi et al. 2018, section IV.C. Taught in notebook 03.
    """

    def __init__(
        self,
        action_space: gym.Space,
        generator: torch.Generator,
        config: RandomShootingConfig | None = None,
    ) -> None:
        """Plan in an environment's action space, Discrete or Box."""
        action_size(action_space)  # says what is wrong with another kind of space
        sample_actions(action_space, (), torch.Generator())  # and with one that has no bounds
        self.action_space = action_space
        self.generator = generator
        self.config = config or RandomShootingConfig()

    def plan(self, score: Score, num_envs: int) -> Plan:
        """Plan for B = num_envs environments at once.

        Raises:
            RuntimeError: if every candidate of an environment scored NaN or infinity.
        """
        shape = (num_envs, self.config.population_size, self.config.horizon)
        actions = sample_actions(self.action_space, shape, self.generator)
        returns, num_failed = checked_returns(score, actions)
        return Plan(*best_plan(actions, returns), num_failed)

    def reset(self, ended: Tensor | None = None) -> None:
        """Forget earlier plans: random shooting remembers none."""


def sample_actions(space: gym.Space, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw encoded actions uniformly.

    Args:
        space: Discrete, or Box with finite bounds.
        shape: leading axes, such as (B, N, H).
        generator: source of the randomness.

    Returns:
        [*shape, A]: one-hot, or numbers within the bounds.
    """
    if isinstance(space, gym.spaces.Discrete):
        index = torch.randint(int(space.n), shape, generator=generator)
        return torch.eye(int(space.n))[index]
    low, high = torch.as_tensor(space.low).float(), torch.as_tensor(space.high).float()
    if not (low.isfinite().all() and high.isfinite().all()):
        raise ValueError(
            f"sample_actions: expected finite bounds, got {space}. Plan in a space with "
            "the bounds that you want to search: gymnasium.spaces.Box(-1, 1, space.shape)."
        )
    return low + (high - low) * torch.rand(*shape, len(low), generator=generator)


def checked_returns(score: Score, actions: Tensor) -> tuple[Tensor, int]:
    """Score candidates so that a failed prediction can't win.

    Args:
        score: see the module.
        actions: [B, N, H, A].

    Returns:
        [B, N] returns with -inf in place of NaN and infinities, and how many there were.
    """
    returns = score(actions)
    if returns.shape != actions.shape[:2]:
        raise ValueError(
            f"plan: expected score to return shape {tuple(actions.shape[:2])} (environments, "
            f"candidates), got {tuple(returns.shape)}. Sum over the horizon, average the members."
        )
    failed = ~returns.isfinite()
    if failed.all(dim=1).any():
        raise RuntimeError(
            f"plan: expected finite predicted returns, got none among {actions.shape[1]} "
            f"candidates of environment {int(failed.all(dim=1).nonzero()[0])}. The model diverges: "
            "shorten the horizon, or fit the model again."
        )
    return returns.masked_fill(failed, -torch.inf), int(failed.sum())


def best_plan(actions: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
    """Pick each environment's best candidate.

    Args:
        actions: [B, N, H, A].
        returns: [B, N].

    Returns:
        Its actions [B, H, A] and return [B].
    """
    best = returns.argmax(dim=1)
    rows = torch.arange(len(best))
    return actions[rows, best], returns[rows, best]
