"""Agents: what turns observations into actions.

Axes: B environments, E members, N candidates, H horizon, O observation, A encoded action.
"""

import math

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mbrl_helpers.dynamics import propagate
from mbrl_helpers.envs import (
    Model,
    Step,
    Task,
    action_size,
    check_counts,
    check_obs,
    decode_actions,
)
from mbrl_helpers.planners import Plan, Planner, sample_actions

ROWS_AT_ONCE = 512  # of candidates: the activations of five small members then stay in the cache


class CorrelatedNoise:
    """Standard normal noise [B, A] of which each step resembles the one before.

    Source: first-order autoregression (Ornstein-Uhlenbeck noise in steps). Taught in notebook 01.
    """

    def __init__(self, size: int, generator: torch.Generator, correlation: float) -> None:
        """Make noise for A = size actions; correlation 0 is white noise."""
        if not 0 <= correlation < 1:
            raise ValueError(
                f"CorrelatedNoise: expected 0 <= correlation < 1, got {correlation}. Try 0.9."
            )
        self.size, self.generator, self.correlation = size, generator, correlation
        self.last: Tensor | None = None

    def sample(self, num_envs: int) -> Tensor:
        """Draw the next step [B, A]."""
        if self.last is not None and len(self.last) != num_envs:
            raise ValueError(
                f"CorrelatedNoise: expected the {len(self.last)} environments of the last call, "
                f"got {num_envs}. Call reset() before acting in others."
            )
        noise = torch.randn(num_envs, self.size, generator=self.generator)
        if self.last is not None:
            noise = self.correlation * self.last + math.sqrt(1 - self.correlation**2) * noise
        self.last = noise
        return noise

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the last step of all environments, or of those where ended [B] is True."""
        if ended is None or self.last is None:
            self.last = None
        else:  # another draw of the same distribution
            fresh = torch.randn(self.last.shape, generator=self.generator)
            self.last = torch.where(torch.as_tensor(ended)[:, None], fresh, self.last)


class RandomAgent:
    """Picks actions uniformly at random; with a correlation, each one like the one before."""

    def __init__(
        self, action_space: gym.Space, generator: torch.Generator, *, correlation: float = 0.0
    ) -> None:
        """Act in the action space of one environment."""
        sample_actions(action_space, (0,), generator)  # refuses a space without bounds
        self.action_space = action_space
        self.generator = generator
        self.noise = CorrelatedNoise(action_size(action_space), generator, correlation)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Random actions for obs [B, O]."""
        if not self.noise.correlation:
            actions = sample_actions(self.action_space, (len(obs),), self.generator)
        elif isinstance(self.action_space, gym.spaces.Discrete):
            best = self.noise.sample(len(obs)).argmax(-1)  # each action as often as any other
            actions = torch.nn.functional.one_hot(best, self.noise.size).float()
        else:
            low, high = map(torch.as_tensor, (self.action_space.low, self.action_space.high))
            actions = low + (high - low) * torch.special.ndtr(self.noise.sample(len(obs)))
        return decode_actions(self.action_space, actions)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the last actions of all environments, or of those where ended [B] is True."""
        self.noise.reset(ended)


class NoisyAgent:
    """Adds exploration noise to the continuous actions of an agent."""

    def __init__(
        self, agent: "MPCAgent", generator: torch.Generator, *, std: float, correlation: float = 0.0
    ) -> None:
        """Explore around an agent.

        Args:
            agent: whose actions are disturbed.
            generator: source of the noise.
            std: standard deviation of the noise, as a share of half the range of an action.
            correlation: of the noise from step to step.

        Raises:
            TypeError: for discrete actions.
            ValueError: for a negative std.
        """
        space = agent.task.action_space
        if not isinstance(space, gym.spaces.Box):
            raise TypeError(
                f"NoisyAgent: expected continuous actions, got {space}. There is nothing to add "
                "noise to: explore with random episodes."
            )
        if not 0 <= std < math.inf:
            raise ValueError(f"NoisyAgent: expected std >= 0, got {std}. Try 0.3.")
        self.agent, self.space, self.std = agent, space, std
        self.noise = CorrelatedNoise(action_size(space), generator, correlation)

    @property
    def model(self) -> Model:
        """What the agent plans with."""
        return self.agent.model

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions for obs [B, O]."""
        half_range = (self.space.high - self.space.low) / 2
        noise = self.std * half_range * self.noise.sample(len(obs)).numpy()
        action = self.agent.act(obs) + noise
        return np.clip(action, self.space.low, self.space.high).astype(self.space.dtype)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the past of all environments, or of those where ended [B] is True."""
        self.agent.reset(ended)
        self.noise.reset(ended)


def rollout_returns(
    model: Model, obs: Tensor, actions: Tensor, *, objective=None, terminal_value=None,
    discount: float = 1.0, num_particles: int | None = None, spread_weight: float = 0.0, **how,
) -> Tensor:  # fmt: skip
    """Predict the return of every candidate by imagining it step by step.

    Each member imagines its own future, in which rewards count until it finds the end more likely
    than not; the result is the mean over the members. (Weighing by the probability instead lets
    the small ones, which a head learns by accident from a few falls, pile up over the horizon.)

    Args:
        model: true dynamics or a learned model.
        obs: [B, O] where the B environments are now.
        actions: [B, N, H, A] encoded candidates.
        objective: `(obs, action, step) -> reward [...]`; the model's reward unless given.
        terminal_value: `obs [..., O] -> value [...]` of what lies beyond the horizon.
        discount: weight of a reward a step later, in (0, 1].
        num_particles: futures imagined of each candidate, a multiple of the number of members;
            one for each member unless given. More are of use where there is noise.
        spread_weight: how much of the standard deviation of the members' returns is added: below 0
            it makes the planner shun what the members disagree about, above 0 seek it.
        how: `propagation`, and `generator` of the noise, see `propagate`.

    Returns:
        [B, N] predicted returns.
    """
    num_particles = model.num_members if num_particles is None else num_particles
    check_counts("rollout_returns", num_particles=num_particles)
    if num_particles % model.num_members:
        raise ValueError(
            f"rollout_returns: expected num_particles as a multiple of the {model.num_members} "
            f"members, got {num_particles}. Each member imagines as many."
        )
    num_envs, population = actions.shape[:2]
    obs = obs[:, None].expand(-1, population, -1).flatten(0, 1)  # [B*N, O]
    each = num_particles // model.num_members
    size = max(1, ROWS_AT_ONCE // each)
    returns = []
    for o, a in zip(obs.split(size), actions.flatten(0, 1).split(size), strict=True):
        if each > 1:
            o, a = o.repeat_interleave(each, 0), a.repeat_interleave(each, 0)
        returns.append(imagined_returns(
            model, o, a, objective=objective, terminal_value=terminal_value, discount=discount,
            **how,
        ))  # [E, ...]  # fmt: skip
    returns = torch.cat(returns, 1).view(model.num_members, -1, each).mean(-1)
    mean = returns.mean(0)
    if spread_weight:
        mean = mean + spread_weight * returns.std(0, correction=0)
    return mean.view(num_envs, population)


def imagined_returns(
    model: Model, obs: Tensor, actions, *, objective=None, terminal_value=None,
    discount: float = 1.0, **how,
) -> Tensor:  # fmt: skip
    """Predict with each member what K futures return; gradients flow from the returns to actions.

    Args:
        model: true dynamics or a learned model.
        obs: [K, O] where they start.
        actions: [K, H, A] encoded; or H policies, see `propagate`.
        objective: see `rollout_returns`.
        terminal_value: see `rollout_returns`.
        discount: see `rollout_returns`.
        how: `propagation` and `generator`, see `propagate`.

    Returns:
        [E, K]; NaN where an imagined state is not finite.
    """
    # Members are a batch of matrices, all futures one tall matrix: [E, K, ...].
    obs = obs.expand(model.num_members, -1, -1)
    rewards, ends = [], []
    for before, action, step in propagate(model, obs, actions, **how):
        rewards.append(checked_reward(before, action, step, objective))
        ends.append(step.terminated.detach())  # rounded below: it has no gradient
        obs = step.next_obs
    # Over the whole horizon at once: many small sums would take longer than a small model.
    rewards, ends = torch.stack(rewards), torch.stack(ends)  # [H, E, K]
    going_on = (1 - ends.round()).cumprod(0)  # after each step; NaN stays NaN
    counts = torch.cat([torch.ones_like(ends[:1]), going_on[:-1]])
    weight = discount ** torch.arange(len(rewards))
    rewards = rewards.masked_fill(counts == 0, 0.0)  # NaN after the end is of no account
    returns = (weight[:, None, None] * counts * rewards).sum(0)
    running = going_on[-1]
    # A constant reward stays finite where the imagined state is not: such a plan has failed.
    lost = (running != 0) & ~(running * obs.sum(-1)).isfinite()
    returns = returns.masked_fill(lost, torch.nan)
    if terminal_value is not None:
        value = _checked("terminal value", terminal_value(obs), returns)
        value = value.masked_fill(running == 0, 0.0)
        returns = returns + discount ** len(rewards) * running * value
    return returns


def checked_reward(obs: Tensor, action: Tensor, step: Step, objective=None) -> Tensor:
    """Reward [...] of an imagined step: of the objective, or the model's own."""
    reward = step.reward if objective is None else objective(obs, action, step)
    return _checked("model's reward" if objective is None else "objective", reward, obs[..., 0])


def _checked(what: str, values: Tensor | None, returns: Tensor) -> Tensor:
    """Refuse a wrong shape: broadcast in silence, it would make plans tie."""
    if values is None:
        raise ValueError(
            f"imagined_returns: expected the {what}, got None. Imagine with a model that "
            "predicts rewards, or pass an objective."
        )
    if values.shape != returns.shape:
        raise ValueError(
            f"imagined_returns: expected the {what} to return shape {tuple(returns.shape)}, a "
            f"number for each imagined state, got {tuple(values.shape)}. Index features as "
            "obs[..., i], and do not sum over members or candidates."
        )
    return values


class MPCAgent:
    """Model-predictive control: plan, execute the first action, plan again.

    The model may be fitted anew between decisions; the agent always uses its current state.
    """

    def __init__(
        self,
        task: Task,
        model: Model,
        planner: Planner,
        *,
        objective="task",
        terminal_value=None,
        discount: float = 1.0,
        policy=None,
        **how,
    ) -> None:
        """Put a model and a planner together.

        Args:
            task: what to act in.
            model: true dynamics or a learned model.
            planner: searches over action sequences.
            objective: see `rollout_returns`; "task" for the task's own, None for the bare reward.
            terminal_value: see `rollout_returns`.
            discount: see `rollout_returns`.
            policy: what this policy would do is proposed to the planner, see `policies.Policy`.
            how: `num_particles`, `spread_weight`, `propagation` and `generator`, see
                `rollout_returns`.
        """
        if not (objective in ("task", None) or callable(objective)):
            raise TypeError(
                f"MPCAgent: expected objective as a function, None or 'task', got {objective!r}. "
                "Pass the function itself."
            )
        if not 0 < discount <= 1:
            raise ValueError(f"MPCAgent: expected 0 < discount <= 1, got {discount}. Try 1.")
        if planner.action_space != task.action_space:
            raise ValueError(
                f"MPCAgent: expected a planner for {task.action_space} of {task.env_id}, got one "
                f"for {planner.action_space}. Make it with task.action_space."
            )
        self.task = task
        self.model = model
        self.planner = planner
        self.objective = task.objective if objective == "task" else objective
        self.terminal_value = terminal_value
        self.discount, self.policy, self.how = discount, policy, how
        self.num_failed = 0

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Plan from obs [B, O] and return the first action of each plan."""
        return decode_actions(self.task.action_space, self.plan(obs).actions[:, 0])

    @torch.inference_mode()
    def plan(self, obs: np.ndarray) -> Plan:
        """Plan from obs [B, O] for all environments together."""
        start = check_obs("MPCAgent.plan", self.task, obs)

        def score(actions: Tensor) -> Tensor:
            return rollout_returns(
                self.model, start, actions, objective=self.objective,
                terminal_value=self.terminal_value, discount=self.discount, **self.how,
            )  # fmt: skip

        plan = self.planner.plan(score, num_envs=len(obs), proposal=self._proposal(start))
        self.num_failed += plan.num_failed
        return plan

    def _proposal(self, obs: Tensor) -> Tensor | None:
        """The plan [B, H, A] that the policy makes in the members' mean; None without a policy."""
        if self.policy is None:
            return None
        actions = [self.policy.action] * self.planner.config.horizon
        obs = obs.expand(self.model.num_members, -1, -1)
        steps = propagate(self.model, obs, actions, propagation="expectation")
        return torch.stack([action[0] for _, action, _ in steps], dim=1)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the plans of all environments, or of those where ended [B] is True."""
        self.planner.reset(None if ended is None else torch.as_tensor(ended))
