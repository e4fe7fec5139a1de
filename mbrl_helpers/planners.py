"""Planners: search for the action sequences with the highest predicted return.

A planner never sees a model. It is given `score(actions [B, N, H, A]) -> returns [B, N]`, bound
to the current observations of B environments; discrete actions are one-hot. All planners share one
loop: sample candidates, score them, update what the next ones are sampled from. A planner is its
`sample` and its `update`. What it carries from one decision to the next is a value, `PlannerState`:
a plan that fails leaves the old one as it was.

Axes: B environments, N population (candidates), K elites, H horizon, A encoded action.
"""

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

import gymnasium as gym
import torch
from torch import Tensor

from mbrl_helpers.actions import Actions
from mbrl_helpers.checks import check_counts, check_range, check_setting
from mbrl_helpers.interfaces import Score


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
        best_return: [B] the highest return predicted for any candidate; that of `actions` where
            these are the best candidate, and not a mean plan.
        num_failed: how many candidates scored NaN or infinity.
        trace: the iterations, if they were asked for.
    """

    actions: Tensor
    best_return: Tensor
    num_failed: int
    trace: tuple[Iteration, ...] = ()


@dataclass(frozen=True)
class PlannerState:
    """What a planner carries from one decision to the next, for B environments.

    Attributes:
        mean: [B, H, A] the plan to draw around; of discrete actions probabilities, which is what
            the mean of one-hot actions is.
        std: [B, H, A] its standard deviation; of discrete actions 0.
        kept: [B, K, H, A] plans that compete again.
    """

    mean: Tensor
    std: Tensor
    kept: Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.mean)


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
        check_counts(type(self).__name__, num_iterations=self.num_iterations)
        check_range(self, "init_std", 0, 1, ends="(]")
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
        check_counts(type(self).__name__, num_elites=self.num_elites)
        check_setting(self, "num_elites", self.num_elites <= self.population_size,
                    f"<= population_size {self.population_size}")  # fmt: skip
        check_range(self, "min_std", 0, 1)
        check_range(self, "momentum", 0, 1, ends="[)")


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
        check_range(self, "noise_exponent", 0, math.inf)
        check_range(self, "population_decay", 1, math.inf)
        check_range(self, "keep_fraction", 0, 1)


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
        check_range(self, "temperature", 0, math.inf, ends="()")


AnyConfig = TypeVar("AnyConfig", bound=RandomShootingConfig)
AnySearch = TypeVar("AnySearch", bound=SearchConfig)
AnyCEM = TypeVar("AnyCEM", bound=CEMConfig)


class Planner(ABC, Generic[AnyConfig]):
    """The loop that all planners share.

    Attributes:
        Config: the planner's own settings.
        num_iterations: how often it samples, scores and updates for one decision.
    """

    Config: type[RandomShootingConfig]
    num_iterations = 1

    def __init__(
        self,
        action_space: gym.Space,
        generator: torch.Generator,
        config: AnyConfig | None = None,
    ) -> None:
        """Plan in an environment's action space, Discrete or Box with finite bounds."""
        where = type(self).__name__
        chosen = self.Config() if config is None else config
        if type(chosen) is not self.Config:
            raise TypeError(
                f"{where}: expected a {self.Config.__name__}, got {type(chosen).__name__}. Each "
                "planner has settings of its own."
            )
        self.config: AnyConfig = chosen  # type: ignore[assignment]
        self.actions, self.generator = Actions.bounded(where, action_space), generator
        self.init_mean = self.actions.middle.expand(self.config.horizon, -1)  # [H, A]

    @property
    def action_space(self) -> gym.Space:
        """In which it plans."""
        return self.actions.space

    @property
    def remembers(self) -> bool:
        """Whether a decision depends on the one before."""
        return False

    def start(self, num_envs: int) -> PlannerState:
        """The state before the first decision in B = num_envs environments."""
        check_counts(f"{type(self).__name__}.start", num_envs=num_envs)
        mean = self.init_mean.expand(num_envs, -1, -1)
        std = self.actions.half_range.expand_as(mean)
        return PlannerState(mean, std, kept=mean[:, None][:, :0])

    def restart(self, state: PlannerState, ended: Tensor) -> PlannerState:
        """The state in which the environments where ended [B] is True begin anew."""
        where = f"{type(self).__name__}.restart"
        self._check_state(where, state)
        if ended.shape != (len(state),):
            raise ValueError(
                f"{where}: expected ended of shape ({len(state)},), a flag "
                f"for each environment, got {tuple(ended.shape)}. Pass what is true of each."
            )
        mean = torch.where(ended[:, None, None], self.init_mean, state.mean)
        # Elites of an old episode say nothing of a new one.
        fresh = self.actions.likeliest(mean)[:, None].expand_as(state.kept)
        kept = torch.where(ended[:, None, None, None], fresh, state.kept)
        return replace(state, mean=mean, kept=kept)

    def plan(
        self,
        score: Score,
        state: PlannerState,
        *,
        trace: bool = False,
        proposal: Tensor | None = None,
    ) -> tuple[Plan, PlannerState]:
        """Plan for B environments at once.

        Args:
            score: see the module.
            state: of `start`, or of the last decision.
            trace: whether to keep the iterations.
            proposal: [B, H, A] encoded plans, such as a policy's, that compete; a planner that
                draws around a mean draws half of the first candidates around them.

        Returns:
            The plans, and the state for the next decision.

        Raises:
            RuntimeError: if every candidate of an environment scored NaN or infinity.
        """
        where = f"{type(self).__name__}.plan"
        self._check_state(where, state)
        if proposal is not None and proposal.shape != state.mean.shape:
            raise ValueError(
                f"{where}: expected a proposal of shape {tuple(state.mean.shape)}, got "
                f"{tuple(proposal.shape)}. Imagine as many steps as the planner's horizon."
            )
        state = self.begin(state)
        best: Tensor | None = None
        best_return, num_failed, steps = torch.empty(0), 0, []
        for iteration in range(self.num_iterations):
            actions = self.sample(state, iteration)
            if iteration == 0 and proposal is not None:
                actions = self.with_proposal(state, actions, proposal)
            returns, failed = checked_returns(where, score, actions)
            state, elites = self.update(state, actions, returns)
            candidate, value = best_plan(actions, returns)
            if best is None:
                best, best_return = candidate, value
            else:
                better = value > best_return
                best = torch.where(better[:, None, None], candidate, best)
                best_return = torch.where(better, value, best_return)
            num_failed += failed
            if trace:
                steps.append(Iteration(actions, returns, elites, state.mean, state.std))
        assert best is not None
        plan = Plan(self.choose(state, best), best_return, num_failed, tuple(steps))
        return plan, self.shift(state)

    def _check_state(self, where: str, state: PlannerState) -> None:
        """Refuse the state of another kind of plan: broadcast in silence, it would go unseen."""
        begin = f"Begin with {type(self).__name__}.start(num_envs)."
        if not isinstance(state, PlannerState):
            raise TypeError(f"{where}: expected a PlannerState, got {state!r}. {begin}")
        if state.mean.shape[1:] != self.init_mean.shape:
            raise ValueError(
                f"{where}: expected the state of plans of shape {tuple(self.init_mean.shape)} "
                f"(horizon, action), got {tuple(state.mean.shape[1:])}. {begin}"
            )

    @abstractmethod
    def sample(self, state: PlannerState, iteration: int) -> Tensor:
        """Draw candidates [B, N, H, A]."""

    @abstractmethod
    def update(
        self, state: PlannerState, actions: Tensor, returns: Tensor
    ) -> tuple[PlannerState, Tensor]:
        """Update the state from candidates and their returns; give the elites back, too."""

    def begin(self, state: PlannerState) -> PlannerState:
        """What the first candidates of a decision are drawn from."""
        return state

    def with_proposal(self, state: PlannerState, actions: Tensor, proposal: Tensor) -> Tensor:
        """Candidates [B, N, H, A], among them a proposed plan."""
        return torch.cat([proposal[:, None], actions[:, 1:]], dim=1)

    def choose(self, state: PlannerState, best: Tensor) -> Tensor:
        """The plans [B, H, A] to execute."""
        return best

    def shift(self, state: PlannerState) -> PlannerState:
        """The state once the first step of the plan is executed."""
        return state


class RandomShooting(Planner[RandomShootingConfig]):
    """Draw candidate plans at random and keep the best one.

    Source: Nagabandi et al. 2018, section IV.C. Taught in notebook 03.
    """

    Config = RandomShootingConfig

    def sample(self, state: PlannerState, iteration: int) -> Tensor:
        """Draw candidates [B, N, H, A] uniformly."""
        shape = (len(state), self.config.population_size, self.config.horizon)
        return self.actions.uniform(shape, self.generator)

    def update(
        self, state: PlannerState, actions: Tensor, returns: Tensor
    ) -> tuple[PlannerState, Tensor]:
        """Learn nothing from them."""
        return state, actions[:, :0]


class SearchPlanner(Planner[AnySearch]):
    """What the planners share that search around a mean plan, and may begin with the last one."""

    @property
    def num_iterations(self) -> int:  # type: ignore[override]
        """How often it samples, scores and updates for one decision."""
        return self.config.num_iterations

    @property
    def remembers(self) -> bool:
        """Whether a decision depends on the one before: with a warm start."""
        return self.config.warm_start

    def begin(self, state: PlannerState) -> PlannerState:
        """Begin with the last plan, or with nothing; the deviation always starts anew."""
        if not self.remembers:
            state = self.start(len(state))
        std = (self.config.init_std * self.actions.half_range).expand_as(state.mean)
        return replace(state, mean=self._opened(state.mean), std=std)

    def with_proposal(self, state: PlannerState, actions: Tensor, proposal: Tensor) -> Tensor:
        """Candidates [B, N, H, A], the first half of them a proposed plan and what is around it."""
        around = self.sample(replace(state, mean=self._opened(proposal)), 0)
        half = max(1, actions.shape[1] // 2)
        around[:, 0] = proposal
        return torch.cat([around[:, :half], actions[:, half:]], dim=1)

    def choose(self, state: PlannerState, best: Tensor) -> Tensor:
        """The best candidate, or the plan that the mean stands for."""
        return best if self.config.execute == "best" else self.actions.likeliest(state.mean)

    def shift(self, state: PlannerState) -> PlannerState:
        """Drop the step that is executed now; the new last one is open."""
        last = self.init_mean[-1:].expand(len(state), -1, -1)
        mean = torch.cat([state.mean[:, 1:], last], dim=1)
        kept = torch.cat([state.kept[:, :, 1:], state.kept[:, :, -1:]], dim=2)
        return replace(state, mean=mean, kept=kept)

    def sample(self, state: PlannerState, iteration: int) -> Tensor:
        """Draw candidates [B, N, H, A] around the mean."""
        return self._around(state, self._noise(state, self.config.population_size))

    def _opened(self, plan: Tensor) -> Tensor:
        """A plan [B, H, A] as a mean to draw around; of discrete actions a share stays uniform."""
        return self.actions.opened(plan, self.config.init_std)

    def _around(self, state: PlannerState, noise: Tensor) -> Tensor:
        """Candidates from standard normal noise [B, N, H, ...] (see `_noise`)."""
        return self.actions.around(state.mean[:, None], state.std[:, None], noise)

    def _noise(self, state: PlannerState, num: int) -> Tensor:
        """Standard normal noise for `num` candidates of each environment."""
        shape = (len(state), num, self.config.horizon, self.actions.noise_size)
        return torch.randn(shape, generator=self.generator)


class CEM(SearchPlanner[AnyCEM]):
    """Cross-entropy method: sample, and refit the distribution to the best candidates.

    Source: Chua et al. 2018 (PETS), section 5; Rubinstein and Kroese 2004. Taught in notebook 04.
    """

    Config = CEMConfig

    def update(
        self, state: PlannerState, actions: Tensor, returns: Tensor
    ) -> tuple[PlannerState, Tensor]:
        """Refit mean and deviation to the elites [B, K, H, A]."""
        config = self.config
        elites = best_candidates(actions, returns, config.num_elites)
        old, new = config.momentum, 1 - config.momentum
        # Of choices the mean must not close, of numbers the deviation.
        mean = self.actions.opened(old * state.mean + new * elites.mean(1), config.min_std)
        std = old * state.std + new * elites.std(1, correction=0) * (self.actions.half_range > 0)
        std = torch.maximum(std, config.min_std * self.actions.half_range)
        return replace(state, mean=mean, std=std), elites


class ICEM(CEM[ICEMConfig]):
    """Improved CEM: slow noise, elites that stay, fewer candidates in each iteration.

    Source: Pinneri et al. 2020. Taught in notebook 04.
    """

    Config = ICEMConfig

    def sample(self, state: PlannerState, iteration: int) -> Tensor:
        """Draw coloured noise around the mean; kept elites and, at last, the mean compete too."""
        config = self.config
        num = round(config.population_size / config.population_decay**iteration)
        colour = coloured(config.horizon, config.noise_exponent)
        white = self._noise(state, max(num, config.num_elites))
        parts = [self._around(state, torch.einsum("bnha,hk->bnka", white, colour)), state.kept]
        if iteration == config.num_iterations - 1:
            parts.append(self.actions.likeliest(state.mean)[:, None])
        return torch.cat(parts, dim=1)

    def update(
        self, state: PlannerState, actions: Tensor, returns: Tensor
    ) -> tuple[PlannerState, Tensor]:
        """Refit to the elites, and keep the best of them."""
        state, elites = super().update(state, actions, returns)
        num = round(self.config.keep_fraction * self.config.num_elites)
        return replace(state, kept=elites[:, :num]), elites


class MPPI(SearchPlanner[MPPIConfig]):
    """Model-predictive path integral control: the mean of all candidates, weighted by return.

    Source: Williams et al. 2017, without the cost of its noise. Taught in notebook 04.
    """

    Config = MPPIConfig

    def update(
        self, state: PlannerState, actions: Tensor, returns: Tensor
    ) -> tuple[PlannerState, Tensor]:
        """Move the mean to the weighted mean of the candidates; the deviation stays."""
        gap = (returns - returns.amax(1, keepdim=True)).double()  # for any temperature
        weights = torch.softmax(gap / self.config.temperature, dim=1)  # 0 for -inf
        mean = torch.einsum("bn,bnha->bha", weights.float(), actions)
        return replace(state, mean=mean), actions[:, :0]


# By name, as files of agents know them: enter a new one here.
PLANNERS = {kind.__name__: kind for kind in (RandomShooting, CEM, ICEM, MPPI)}


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


def checked_returns(where: str, score: Score, actions: Tensor) -> tuple[Tensor, int]:
    """Score candidates so that a failed prediction can't win.

    Args:
        where: what the user called.
        score: see the module.
        actions: [B, N, H, A].

    Returns:
        [B, N] returns with -inf in place of NaN and infinities, and how many there were.
    """
    returns = score(actions)
    if returns.shape != actions.shape[:2]:
        raise ValueError(
            f"{where}: expected score to return shape {tuple(actions.shape[:2])} (environments, "
            f"candidates), got {tuple(returns.shape)}. Sum over the horizon, average the members."
        )
    failed = ~returns.isfinite()
    if failed.all(dim=1).any():
        raise RuntimeError(
            f"{where}: expected finite predicted returns, got none among {actions.shape[1]} "
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
