"""Planners: search for the action sequences with the highest predicted return.

A planner never sees a model. It is given `score(actions [B, N, H, A]) -> returns [B, N]`, bound
to the current observations of B environments; discrete actions are one-hot. All planners share one
loop: sample candidates, score them, update what the next ones are sampled from. A planner is its
`sample` and its `update`.

Axes: B environments, N population (candidates), K elites, H horizon, A encoded action.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from mbrl_helpers.envs import action_size, check_counts, check_setting

Score = Callable[[Tensor], Tensor]


class Iteration(NamedTuple):
    """What one iteration of a planner did, for figures.

    Attributes:
        actions: [B, N, H, A] candidates.
        returns: [B, N] their predicted returns; -inf for failed ones.
        elites: [B, K, H, A] candidates that the update went by; none for random shooting.
        mean: [B, H, A] mean after the update; probabilities of discrete actions.
        std: [B, H, A] its standard deviation; of discrete actions 0.
    """

    actions: Tensor
    returns: Tensor
    elites: Tensor
    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Plan:
    """The plans chosen for B environments.

    Attributes:
        actions: [B, H, A] encoded; MPC executes the first action of each.
        returns: [B] the highest return predicted for any candidate.
        num_failed: how many candidates scored NaN or infinity.
        trace: the iterations, if they were asked for.
    """

    actions: Tensor
    returns: Tensor
    num_failed: int
    trace: tuple[Iteration, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RandomShootingConfig:
    """Settings of random shooting.

    Attributes:
        horizon: H, how many steps ahead a plan reaches.
        population_size: N, how many candidate plans are scored for each environment.
    """

    horizon: int = 10
    population_size: int = 100
    # Not settings here, but of the planners below.
    num_iterations, init_std, warm_start, execute = 1, 1.0, False, "best"

    def __post_init__(self) -> None:
        names = ("horizon", "population_size", "num_iterations", "num_elites")
        check_counts(
            type(self).__name__, **{n: getattr(self, n) for n in names if hasattr(self, n)}
        )


@dataclass(frozen=True, kw_only=True)
class SearchConfig(RandomShootingConfig):
    """Settings of the planners that search around a mean plan.

    Attributes:
        num_iterations: how often it samples, scores and updates for one decision.
        init_std: standard deviation at first, as a share of half the range of an action; of
            discrete actions the share of the choice that is uniform at first.
        warm_start: whether to begin with the last plan, shifted by the step that was executed.
        execute: "best", the best candidate, or "mean", the mean plan (of discrete actions, the
            most probable ones).
    """

    num_iterations: int = 5
    init_std: float = 0.5
    warm_start: bool = True
    execute: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_setting(self, "init_std", 0 < self.init_std <= 1, "in (0, 1]")
        check_setting(self, "execute", self.execute in ("best", "mean"), "to be 'best' or 'mean'")


@dataclass(frozen=True, kw_only=True)
class CEMConfig(SearchConfig):
    """Settings of the cross-entropy method.

    Attributes:
        num_elites: K, how many of the best candidates the next mean and deviation come from.
        min_std: least standard deviation, as a share of half the range; of discrete actions the
            share of the choice that stays uniform.
        momentum: weight of the old mean and deviation in the new ones.
    """

    num_elites: int = 10
    min_std: float = 0.05
    momentum: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_setting(self, "num_elites", self.num_elites <= self.population_size,
                    f"<= population_size {self.population_size}")  # fmt: skip
        check_setting(self, "min_std", 0 <= self.min_std <= 1, "in [0, 1]")
        check_setting(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class ICEMConfig(CEMConfig):
    """Settings of the improved cross-entropy method.

    Attributes:
        noise_exponent: colour of the noise over time: power falls with frequency to this power; 0
            is white, the larger the slower.
        population_decay: each iteration has this many times fewer candidates than the last.
        keep_fraction: share of the elites that compete again, in the next iteration and, shifted,
            in the next decision.
    """

    population_size: int = 40
    num_iterations: int = 3
    execute: str = "best"
    noise_exponent: float = 2.0
    population_decay: float = 1.25
    keep_fraction: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_setting(self, "noise_exponent", 0 <= self.noise_exponent < math.inf, ">= 0")
        check_setting(self, "population_decay", 1 <= self.population_decay < math.inf, ">= 1")
        check_setting(self, "keep_fraction", 0 <= self.keep_fraction <= 1, "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class MPPIConfig(SearchConfig):
    """Settings of model-predictive path integral control.

    Attributes:
        temperature: divides the returns: near 0 the best candidate takes all the weight, far above
            their spread all have the same.
    """

    num_iterations: int = 1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_setting(self, "temperature", 0 < self.temperature < math.inf, "> 0")


class Planner:
    """The loop that all planners share.

    It keeps a mean plan [B, H, A] and its standard deviation for B environments; for discrete
    actions the mean holds probabilities, which is what the mean of one-hot actions is.
    """

    Config = RandomShootingConfig

    def __init__(
        self,
        action_space: gym.Space,
        generator: torch.Generator,
        config: RandomShootingConfig | None = None,
    ) -> None:
        """Plan in an environment's action space, Discrete or Box with finite bounds."""
        self.config = self.Config() if config is None else config
        if type(self.config) is not self.Config:
            raise TypeError(
                f"{type(self).__name__}: expected a {self.Config.__name__}, got "
                f"{type(self.config).__name__}. Each planner has settings of its own."
            )
        size = action_size(action_space)  # says what is wrong with another kind of space
        sample_actions(action_space, (), torch.Generator())  # and with one that has no bounds
        self.action_space, self.generator = action_space, generator
        self.is_discrete = isinstance(action_space, gym.spaces.Discrete)
        if self.is_discrete:
            middle, self.half_range = torch.full((size,), 1 / size), torch.zeros(size)
        else:
            self.low = torch.as_tensor(action_space.low).float()
            self.high = torch.as_tensor(action_space.high).float()
            middle, self.half_range = (self.low + self.high) / 2, (self.high - self.low) / 2
        self.init_mean = middle.expand(self.config.horizon, -1)  # [H, A]
        self.reset()

    def sample(self, iteration: int) -> Tensor:
        """Draw candidates [B, N, H, A]."""
        raise NotImplementedError

    def update(self, actions: Tensor, returns: Tensor) -> Tensor:
        """Update mean and deviation from candidates and their returns; give the elites back."""
        raise NotImplementedError

    def plan(
        self, score: Score, num_envs: int, *, trace: bool = False, proposal: Tensor | None = None
    ) -> Plan:
        """Plan for B = num_envs environments at once.

        Args:
            score: see the module.
            num_envs: B.
            trace: whether to keep the iterations.
            proposal: [B, H, A] encoded plans, such as a policy's. They compete, and half of the
                candidates of the first iteration are drawn around them (where these are drawn
                around a mean at all).

        Raises:
            RuntimeError: if every candidate of an environment scored NaN or infinity.
            ValueError: if B is another than at the last call, and there was no reset.
        """
        last = dict(vars(self))
        try:
            return self._search(score, num_envs, trace, proposal)
        except BaseException:  # failed or interrupted: go on from the last plan that was made
            vars(self).update(last)
            raise

    def _search(self, score: Score, num_envs: int, trace: bool, proposal: Tensor | None) -> Plan:
        self._begin(num_envs)
        best, best_return, num_failed, steps = None, None, 0, []
        for iteration in range(self.config.num_iterations):
            actions = self.sample(iteration)
            if iteration == 0 and proposal is not None:
                actions = self._with_proposal(actions, proposal)
            returns, failed = checked_returns(score, actions)
            elites = self.update(actions, returns)
            candidate, value = best_plan(actions, returns)
            if best is None:
                best, best_return = candidate, value
            else:
                better = value > best_return
                best = torch.where(better[:, None, None], candidate, best)
                best_return = torch.where(better, value, best_return)
            num_failed += failed
            if trace:
                steps.append(Iteration(actions, returns, elites, self.mean, self.std))
        chosen = best if self.config.execute == "best" else self._mean_plan()
        self._shift()
        return Plan(chosen, best_return, num_failed, tuple(steps))

    def reset(self, ended: Tensor | None = None) -> None:
        """Forget the plans of all environments, or of those where ended [B] is True."""
        if ended is None or self.mean is None:
            self.mean = self.std = None
        elif ended.shape != self.mean.shape[:1]:
            raise ValueError(
                f"reset: expected ended of shape ({len(self.mean)},), a flag for each environment, "
                f"got {tuple(ended.shape)}. Pass what is true of each of them."
            )
        else:
            self.mean = torch.where(ended[:, None, None], self.init_mean, self.mean)

    def _begin(self, num_envs: int) -> None:
        """Start from the last plan, or from nothing; the deviation always starts anew."""
        if self.mean is None or not self.config.warm_start:
            self.mean = self.init_mean.expand(num_envs, -1, -1)
        elif len(self.mean) != num_envs:
            raise ValueError(
                f"plan: expected the {len(self.mean)} environments of the last call, got "
                f"{num_envs}. Call reset() before planning for others."
            )
        else:
            self.mean = self._opened(self.mean)
        self.std = (self.config.init_std * self.half_range).expand_as(self.mean)

    def _opened(self, plan: Tensor) -> Tensor:
        """A plan [B, H, A] as a mean to draw around; of discrete actions a share stays uniform."""
        if not self.is_discrete:
            return plan
        share = self.config.init_std
        return (1 - share) * plan + share * self.init_mean

    def _with_proposal(self, actions: Tensor, proposal: Tensor) -> Tensor:
        """Candidates [B, N, H, A], the first half of them a proposed plan and what is around it."""
        if proposal.shape != self.mean.shape:
            raise ValueError(
                f"plan: expected a proposal of shape {tuple(self.mean.shape)}, got "
                f"{tuple(proposal.shape)}. Imagine as many steps as the planner's horizon."
            )
        own, self.mean = self.mean, self._opened(proposal)
        around = self.sample(0)
        self.mean = own
        half = max(1, actions.shape[1] // 2)
        around[:, 0] = proposal
        return torch.cat([around[:, :half], actions[:, half:]], dim=1)

    def _shift(self) -> None:
        """Drop the step that is executed now; the new last one is open."""
        last = self.init_mean[-1:].expand(len(self.mean), -1, -1)
        self.mean = torch.cat([self.mean[:, 1:], last], dim=1)

    def _mean_plan(self) -> Tensor:
        if not self.is_discrete:
            return self._clip(self.mean)  # the mean of equal numbers may differ from them by a bit
        return torch.nn.functional.one_hot(self.mean.argmax(-1), self.mean.shape[-1]).float()

    def _around_mean(self, noise: Tensor) -> Tensor:
        """Candidates from standard normal noise [B, N, H, A], or [B, N, H, 1] if discrete."""
        if not self.is_discrete:
            return self._clip(self.mean[:, None] + self.std[:, None] * noise)
        # Its rank among all numbers picks the action: the same noise, the same kind of plan.
        bins = self.mean.cumsum(-1)[:, None, ..., :-1]
        index = (torch.special.ndtr(noise) > bins).sum(-1)
        return torch.nn.functional.one_hot(index, self.mean.shape[-1]).float()

    def _clip(self, actions: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(actions, self.low), self.high)

    def _noise(self, num: int) -> Tensor:
        """Standard normal noise for `num` candidates of each environment."""
        horizon, size = self.init_mean.shape
        shape = (len(self.mean), num, horizon, 1 if self.is_discrete else size)
        return torch.randn(shape, generator=self.generator)


class RandomShooting(Planner):
    """Draw candidate plans at random and keep the best one.

    Source: Nagabandi et al. 2018, section IV.C. Taught in notebook 03.
    """

    def sample(self, iteration: int) -> Tensor:
        """Draw candidates [B, N, H, A] uniformly."""
        shape = (len(self.mean), self.config.population_size, self.config.horizon)
        return sample_actions(self.action_space, shape, self.generator)

    def update(self, actions: Tensor, returns: Tensor) -> Tensor:
        """Learn nothing from them."""
        return actions[:, :0]


class CEM(Planner):
    """Cross-entropy method: sample, and refit the distribution to the best candidates.

    Source: Chua et al. 2018 (PETS), section 5; Rubinstein and Kroese 2004. Taught in notebook 04.
    """

    Config = CEMConfig

    def sample(self, iteration: int) -> Tensor:
        """Draw candidates [B, N, H, A] around the mean."""
        return self._around_mean(self._noise(self.config.population_size))

    def update(self, actions: Tensor, returns: Tensor) -> Tensor:
        """Refit mean and deviation to the elites [B, K, H, A]."""
        elites = best_candidates(actions, returns, self.config.num_elites)
        old, new = self.config.momentum, 1 - self.config.momentum
        mean = old * self.mean + new * elites.mean(1)
        if self.is_discrete:
            share = self.config.min_std
            self.mean = (1 - share) * mean + share * self.init_mean
        else:
            std = old * self.std + new * elites.std(1, correction=0)
            self.mean = mean
            self.std = torch.maximum(std, self.config.min_std * self.half_range)
        return elites


class ICEM(CEM):
    """Improved CEM: slow noise, elites that stay, fewer candidates in each iteration.

    Source: Pinneri et al. 2020. Taught in notebook 04.
    """

    Config = ICEMConfig

    def sample(self, iteration: int) -> Tensor:
        """Draw coloured noise around the mean; kept elites and, at last, the mean compete too."""
        config = self.config
        num = round(config.population_size / config.population_decay**iteration)
        colour = coloured(config.horizon, config.noise_exponent)
        noise = torch.einsum("bnha,hk->bnka", self._noise(max(num, config.num_elites)), colour)
        parts = [self._around_mean(noise)]
        if self.kept is not None:
            parts.append(self.kept)
        if iteration == config.num_iterations - 1:
            parts.append(self._mean_plan()[:, None])
        return torch.cat(parts, dim=1)

    def update(self, actions: Tensor, returns: Tensor) -> Tensor:
        """Refit to the elites, and keep the best of them."""
        elites = super().update(actions, returns)
        num = round(self.config.keep_fraction * self.config.num_elites)
        self.kept = elites[:, :num] if num else None
        return elites

    def reset(self, ended: Tensor | None = None) -> None:
        """Forget the plans of all environments, or of those where ended [B] is True."""
        super().reset(ended)
        if ended is None or self.kept is None:
            self.kept: Tensor | None = None
        else:  # elites of an old episode say nothing of a new one
            self.kept = torch.where(
                ended[:, None, None, None], self._mean_plan()[:, None], self.kept
            )

    def _begin(self, num_envs: int) -> None:
        super()._begin(num_envs)
        if not self.config.warm_start:
            self.kept = None

    def _shift(self) -> None:
        super()._shift()
        if self.kept is not None:
            self.kept = torch.cat([self.kept[:, :, 1:], self.kept[:, :, -1:]], dim=2)


class MPPI(Planner):
    """Model-predictive path integral control: the mean of all candidates, weighted by return.

    Source: Williams et al. 2017, without the cost of its noise. Taught in notebook 04.
    """

    Config = MPPIConfig

    def sample(self, iteration: int) -> Tensor:
        """Draw candidates [B, N, H, A] around the mean."""
        return self._around_mean(self._noise(self.config.population_size))

    def update(self, actions: Tensor, returns: Tensor) -> Tensor:
        """Move the mean to the weighted mean of the candidates; the deviation stays."""
        gap = (returns - returns.amax(1, keepdim=True)).double()  # for any temperature
        weights = torch.softmax(gap / self.config.temperature, dim=1)  # 0 for -inf
        self.mean = torch.einsum("bn,bnha->bha", weights.float(), actions)
        return actions[:, :0]


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
    if not (high - low).isfinite().all():
        raise ValueError(
            f"sample_actions: expected finite bounds, got {space}. Plan in a space with "
            "the bounds that you want to search: gymnasium.spaces.Box(-1, 1, space.shape)."
        )
    return low + (high - low) * torch.rand(*shape, len(low), generator=generator)


@functools.cache
def coloured(horizon: int, exponent: float) -> Tensor:
    """Matrix [H, H] that turns white noise over time into noise of a colour, of the same variance.

    Args:
        horizon: H.
        exponent: power falls with frequency to this power; 0 is white.

    Source: Timmer and König 1995, on a circle of H steps.
    """
    frequency = torch.arange(horizon // 2 + 1).clamp(min=1)  # in circles, so no power overflows
    matrix = torch.fft.irfft(
        torch.fft.rfft(torch.eye(horizon)) * frequency ** (-exponent / 2), horizon
    )
    return matrix / matrix.norm(dim=0)


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


def best_candidates(actions: Tensor, returns: Tensor, num_elites: int) -> Tensor:
    """Pick each environment's elites, best first.

    Args:
        actions: [B, N, H, A].
        returns: [B, N]; -inf marks a failed rollout, whose place the best one takes.
        num_elites: K.

    Returns:
        [B, K, H, A].
    """
    values, index = returns.topk(num_elites, dim=1)
    index = torch.where(values.isfinite(), index, index[:, :1])
    return actions[torch.arange(len(index))[:, None], index]
