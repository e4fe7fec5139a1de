"""Imagining: what a model says of futures, step by step, and what they return.

Whether true or learned, a model is imagined with in the same way; an `Imagination` says how.

Axes: E members, K rollouts side by side, B environments, N candidates, H horizon, O observation,
A encoded action.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mbrl_helpers.checks import check_counts, check_range, check_setting, check_states, check_tensor
from mbrl_helpers.data import Batch, join
from mbrl_helpers.interfaces import (
    Model,
    Objective,
    Sampler,
    Step,
    TerminalValue,
    noise_from,
    num_members,
)
from mbrl_helpers.uncertainty import PredictiveModel, disagreement

PROPAGATIONS = ("tsinf", "ts1", "expectation")
ROWS_AT_ONCE = 512  # of candidates: the activations of five small members then stay in the cache

# Encoded actions [K, H, A], or H functions obs [E, K, O] -> action [E, K, A].
Plans: TypeAlias = Tensor | Sequence[Callable[[Tensor], Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Imagination:
    """How futures are imagined.

    Attributes:
        discount: weight of a reward a step later, in (0, 1].
        propagation: "tsinf": a future stays with its member for good. "ts1": it goes to another
            one at each step. "expectation": all go on from the mean of the members' predictions.
        num_particles: futures imagined of each candidate plan, a multiple of the number of members;
            one for each member if None. More are of use where there is noise.
        spread_weight: how much of the standard deviation of the members' returns is added to their
            mean: below 0 plans are shunned that the members disagree about, above 0 sought.
        generator: source of the noise that a learned model expects; without it there is none. It
            also deals the members out for "ts1", which needs one.

    Source: Chua et al. 2018, section 5 (trajectory sampling). Taught in notebook 05.
    """

    discount: float = 1.0
    propagation: str = "tsinf"
    num_particles: int | None = None
    spread_weight: float = 0.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_range(self, "discount", 0, 1, ends="(]")
        check_range(self, "spread_weight", -math.inf, math.inf)
        known = self.propagation in PROPAGATIONS
        check_setting(self, "propagation", known, f"to be one of {PROPAGATIONS}")
        if self.num_particles is not None:
            check_counts("Imagination", num_particles=self.num_particles)
        if self.generator is not None and not isinstance(self.generator, torch.Generator):
            raise TypeError(
                f"Imagination: expected generator as a torch.Generator, got {self.generator!r}. "
                "Pass torch.Generator().manual_seed(0)."
            )
        if self.propagation == "ts1" and self.generator is None:
            raise ValueError(
                "Imagination: expected a generator that deals the members out for 'ts1', got None. "
                "Pass generator=torch.Generator()."
            )

    def particles_each(self, where: str, model: Model) -> int:
        """How many futures each member imagines of a candidate.

        Raises:
            ValueError: for a number of particles that is no multiple of the model's members.
        """
        members = num_members(model)
        if self.num_particles is None:
            return 1
        if self.num_particles % members:
            raise ValueError(
                f"{where}: expected num_particles as a multiple of the {members} members, got "
                f"{self.num_particles}. Each member imagines as many."
            )
        return self.num_particles // members


PLAIN = Imagination()


def propagate(
    model: Model, obs: Tensor, actions: Plans, imagination: Imagination = PLAIN
) -> Iterator[tuple[Tensor, Tensor, Step]]:
    """Imagine futures step by step, one in each of the E places of a batch.

    Args:
        model: true dynamics or a learned model.
        obs: [E, K, O] where they start.
        actions: [K, H, A] encoded; or H policies, functions `obs [E, K, O] -> action [E, K, A]`.
        imagination: how.

    Yields:
        Observation, action and step, each part [E, K, ...].
    """
    members, generator = num_members(model), imagination.generator
    averaged = imagination.propagation == "expectation"
    noise = noise_from(model, None if averaged else generator)
    if isinstance(actions, Tensor):
        actions = actions.transpose(0, 1).contiguous()  # slices of it are fast to join
    for how in actions:
        action = how.expand(members, -1, -1) if isinstance(how, Tensor) else how(obs)
        if imagination.propagation == "ts1":
            # The futures move, not the weights, each column by itself; then back to their places.
            column = torch.arange(obs.shape[1])
            there = torch.rand(obs.shape[:2], generator=generator).argsort(0)  # [E, K]
            step = _step(model, obs[there, column], action[there, column], noise)
            back = there.argsort(0)
            reward = None if step.reward is None else step.reward[back, column]
            step = Step(step.next_obs[back, column], reward, step.terminated[back, column])
        else:
            step = _step(model, obs, action, noise)
        yield obs, action, step
        obs = step.next_obs
        if averaged:
            obs = obs.mean(0, keepdim=True).expand(members, -1, -1)


def _step(model: Model, obs: Tensor, action: Tensor, noise: dict[str, Any]) -> Step:
    """A step of any model; one of your own may give a plain tuple, and a yes or no as its end."""
    next_obs, reward, terminated = model.step(obs, action, **noise)
    if terminated.dtype is torch.bool:
        terminated = terminated.to(next_obs.dtype)
    return Step(next_obs, reward, terminated)


def rollout(model: Model, obs: Tensor, actions: Tensor, imagination: Imagination = PLAIN) -> Tensor:
    """Predict k = 1 … H steps ahead: each member goes on from where it has imagined itself to be.

    Args:
        model: true dynamics or a learned model.
        obs: [K, O] where the rollouts start.
        actions: [K, H, A] encoded.
        imagination: how.

    Returns:
        [E, K, H+1, O] states, the start included.

    Source: taught in notebook 02.
    """
    check_tensor("rollout", "obs", obs)
    check_tensor("rollout", "actions", actions)
    if obs.ndim != 2 or actions.ndim != 3 or len(obs) != len(actions):
        raise ValueError(
            f"rollout: expected obs [K, O] and actions [K, H, A], got {tuple(obs.shape)} and "
            f"{tuple(actions.shape)}. Give each start a row of actions, encoded."
        )
    start = obs.expand(num_members(model), -1, -1)
    with torch.inference_mode():
        steps = propagate(model, start, actions, imagination)
        states = [start, *(step.next_obs for _, _, step in steps)]
    return torch.stack(states, dim=2)


def rollout_returns(
    model: Model,
    obs: Tensor,
    actions: Tensor,
    imagination: Imagination = PLAIN,
    *,
    objective: Objective | None = None,
    terminal_value: TerminalValue | None = None,
) -> Tensor:
    """Predict the return of every candidate by imagining it step by step.

    Each member imagines its own future, in which rewards count until it finds the end more likely
    than not; the result is the mean over the members. (Weighing by the probability instead lets
    the small ones, which a head learns by accident from a few falls, pile up over the horizon.)

    Args:
        model: true dynamics or a learned model.
        obs: [B, O] where the B environments are now.
        actions: [B, N, H, A] encoded candidates.
        imagination: how.
        objective: `(obs, action, step) -> reward [...]`; the model's reward unless given.
        terminal_value: `obs [..., O] -> value [...]` of what lies beyond the horizon.

    Returns:
        [B, N] predicted returns.
    """
    check_tensor("rollout_returns", "obs", obs)
    check_tensor("rollout_returns", "actions", actions)
    if obs.ndim != 2 or actions.ndim != 4 or len(obs) != len(actions):
        raise ValueError(
            f"rollout_returns: expected obs [B, O] and actions [B, N, H, A], got "
            f"{tuple(obs.shape)} and {tuple(actions.shape)}. Give each environment its candidates, "
            "encoded."
        )
    each = imagination.particles_each("rollout_returns", model)
    num_envs, population = actions.shape[:2]
    obs = obs[:, None].expand(-1, population, -1).flatten(0, 1)  # [B*N, O]
    size = max(1, ROWS_AT_ONCE // each)
    parts = []
    for o, a in zip(obs.split(size), actions.flatten(0, 1).split(size), strict=True):
        if each > 1:
            o, a = o.repeat_interleave(each, 0), a.repeat_interleave(each, 0)
        parts.append(
            _member_returns("rollout_returns", model, o, a, imagination, objective, terminal_value)
        )  # [E, ...]
    returns = torch.cat(parts, 1).view(num_members(model), -1, each).mean(-1)
    mean = returns.mean(0)
    if imagination.spread_weight:
        mean = mean + imagination.spread_weight * returns.std(0, correction=0)
    return mean.view(num_envs, population)


def imagined_returns(
    model: Model,
    obs: Tensor,
    actions: Plans,
    imagination: Imagination = PLAIN,
    *,
    objective: Objective | None = None,
    terminal_value: TerminalValue | None = None,
) -> Tensor:
    """Predict with each member what K futures return; gradients flow from the returns to actions.

    Args:
        model: true dynamics or a learned model.
        obs: [K, O] where they start.
        actions: [K, H, A] encoded; or H policies, see `propagate`.
        imagination: how; what it says of particles and of the members' spread is for
            `rollout_returns`.
        objective: see `rollout_returns`.
        terminal_value: see `rollout_returns`.

    Returns:
        [E, K]; NaN where an imagined state is not finite.
    """
    check_tensor("imagined_returns", "obs", obs)
    shape = actions.shape if isinstance(actions, Tensor) else (len(obs), len(actions), 0)
    if obs.ndim != 2 or len(shape) != 3 or shape[0] != len(obs):
        raise ValueError(
            "imagined_returns: expected obs [K, O] and actions [K, H, A], got "
            f"{tuple(obs.shape)} and {tuple(shape)}. Give each start a row of actions, encoded."
        )
    return _member_returns(
        "imagined_returns", model, obs, actions, imagination, objective, terminal_value
    )


def _member_returns(
    where: str, model: Model, obs: Tensor, actions: Plans, imagination: Imagination,
    objective: Objective | None, terminal_value: TerminalValue | None,
) -> Tensor:  # fmt: skip
    """See `imagined_returns`; for all that imagine returns, in the name of what was called."""
    # Members are a batch of matrices, all futures one tall matrix: [E, K, ...].
    obs = obs.expand(num_members(model), -1, -1)
    all_rewards, all_ends = [], []
    for before, action, step in propagate(model, obs, actions, imagination):
        all_rewards.append(checked_reward(where, before, action, step, objective))
        all_ends.append(step.terminated.detach())  # rounded below: it has no gradient
        obs = step.next_obs
    # Over the whole horizon at once: many small sums would take longer than a small model.
    rewards, ends = torch.stack(all_rewards), torch.stack(all_ends)  # [H, E, K]
    going_on = (1 - ends.round()).cumprod(0)  # after each step; NaN stays NaN
    counts = torch.cat([torch.ones_like(ends[:1]), going_on[:-1]])
    weight = imagination.discount ** torch.arange(len(rewards))
    rewards = rewards.masked_fill(counts == 0, 0.0)  # NaN after the end is of no account
    returns = (weight[:, None, None] * counts * rewards).sum(0)
    running = going_on[-1]
    # A constant reward stays finite where the imagined state is not: such a plan has failed.
    lost = (running != 0) & ~(running * obs.sum(-1)).isfinite()
    returns = returns.masked_fill(lost, torch.nan)
    if terminal_value is not None:
        value = _checked(where, "terminal value", terminal_value(obs), returns)
        value = value.masked_fill(running == 0, 0.0)
        returns = returns + imagination.discount ** len(rewards) * running * value
    return returns


def checked_reward(
    where: str, obs: Tensor, action: Tensor, step: Step, objective: Objective | None = None
) -> Tensor:
    """Reward [...] of an imagined step: of the objective, or the model's own."""
    reward = step.reward if objective is None else objective(obs, action, step)
    what = "model's reward" if objective is None else "objective"
    return _checked(where, what, reward, obs[..., 0])


def _checked(where: str, what: str, values: Tensor | None, returns: Tensor) -> Tensor:
    """Refuse a wrong shape: broadcast in silence, it would make plans tie."""
    if values is None:
        raise ValueError(
            f"{where}: expected the {what}, got None. Imagine with a model that "
            "predicts rewards, or pass an objective."
        )
    if not isinstance(values, Tensor):
        raise TypeError(
            f"{where}: expected the {what} to return a torch tensor, got {type(values).__name__}. "
            "Write it with PyTorch's functions."
        )
    if values.shape != returns.shape:
        raise ValueError(
            f"{where}: expected the {what} to return shape {tuple(returns.shape)}, a "
            f"number for each imagined state, got {tuple(values.shape)}. Index features as "
            "obs[..., i], and do not sum over members or candidates."
        )
    return values


def _of_drawn_members(obs: Tensor, action: Tensor, step: Step, generator: torch.Generator) -> Batch:
    """Imagined transitions of K rows, each by a member drawn anew."""
    rows = torch.arange(len(obs))
    member = torch.randint(len(step.reward), rows.shape, generator=generator)
    next_obs, reward, terminated = (part[member, rows] for part in step)
    return Batch(obs, action, reward, next_obs, terminated.round(), rows >= 0)


def _check_comparable(model: Model, compared: bool) -> None:
    """Refuse to ask how far the members of a model disagree that has no units for it."""
    if compared and not isinstance(model, PredictiveModel):
        raise TypeError(
            "branch: expected a model with `predict` and the `units` of its data, which say how "
            f"far its members disagree, got {type(model).__name__}. Leave max_spread and "
            "spread_weight out, or give the model both."
        )


@torch.no_grad()
def branch(
    model: Model,
    policy: Sampler,
    obs: Tensor,
    length: int,
    generator: torch.Generator,
    *,
    objective: Objective | None = None,
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
            (see `uncertainty.disagreement`).
        spread_weight: how much of that disagreement is added to the reward; below 0 a penalty.

    Returns:
        At most K times `length` imagined transitions.

    Raises:
        RuntimeError: if not one step was finite and within max_spread.
        TypeError: for max_spread or spread_weight with members that can't be compared.

    Source: Janner et al. 2019 (MBPO); a penalty on disagreement stands where Yu et al. 2020 (MOPO)
    have one on the members' largest standard deviation. Taught in notebook 07.
    """
    check_counts("branch", length=length)
    obs = check_states("branch", obs, policy.num_obs)
    members, noise = num_members(model), noise_from(model, generator)
    compared = members > 1 and (max_spread is not None or spread_weight != 0)
    _check_comparable(model, compared)
    limit, parts = math.inf if max_spread is None else max_spread, []
    for _ in range(length):
        action, _ = policy.sample(obs, generator)
        before, taken = (part.expand(members, -1, -1) for part in (obs, action))
        step = _step(model, before, taken, noise)
        step = step._replace(reward=checked_reward("branch", before, taken, step, objective))
        part = _of_drawn_members(obs, action, step, generator)
        spread = torch.zeros_like(part.reward)  # of one member: nobody to disagree with
        if compared:
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
