"""Agents: what turns observations into actions.

Axes: B environments, E members, N candidates, H horizon, O observation, A encoded action.
"""

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mbrl_helpers.envs import Model, Task, decode_actions
from mbrl_helpers.planners import Plan, Planner, sample_actions

ROWS_AT_ONCE = 512  # of candidates: the activations of five small members then stay in the cache


class RandomAgent:
    """Picks actions uniformly at random."""

    def __init__(self, action_space: gym.Space, generator: torch.Generator) -> None:
        """Act in the action space of one environment."""
        self.action_space = action_space
        self.generator = generator

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Random actions for obs [B, O]."""
        return decode_actions(
            self.action_space, sample_actions(self.action_space, (len(obs),), self.generator)
        )

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget nothing: it has no memory."""


def rollout_returns(
    model: Model, obs: Tensor, actions: Tensor, *, objective=None, terminal_value=None,
    discount: float = 1.0,
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

    Returns:
        [B, N] predicted returns.
    """
    num_envs, population = actions.shape[:2]
    obs = obs[:, None].expand(-1, population, -1).flatten(0, 1)  # [B*N, O]
    returns = [
        _imagine(model, o, a, objective, terminal_value, discount)
        for o, a in zip(
            obs.split(ROWS_AT_ONCE), actions.flatten(0, 1).split(ROWS_AT_ONCE), strict=True
        )
    ]
    return torch.cat(returns).view(num_envs, population)


def _imagine(model, obs, actions, objective, terminal_value, discount) -> Tensor:
    """Predicted returns [K] of K candidates [K, H, A], each from its own obs [K, O]."""
    horizon = actions.shape[1]
    # Members are a batch of matrices, all candidates one tall matrix: [E, K, ...].
    obs = obs.expand(model.num_members, -1, -1)
    actions = actions.expand(model.num_members, -1, -1, -1)
    returns = obs.new_zeros(obs.shape[:-1])
    running = obs.new_ones(obs.shape[:-1])  # [E, K] 1 until the end
    for t in range(horizon):
        step = model.step(obs, actions[:, :, t])
        reward = step.reward if objective is None else objective(obs, actions[:, :, t], step)
        returns = returns + discount**t * running * _checked("objective", reward, returns)
        running = running * (1 - step.terminated.round())  # and NaN stays NaN
        obs = step.next_obs
    # A constant reward stays finite where the imagined state is not: such a plan has failed.
    lost = (running != 0) & ~(running * obs.sum(-1)).isfinite()
    returns = returns.masked_fill(lost, torch.nan)
    if terminal_value is not None:
        value = _checked("terminal value", terminal_value(obs), returns)
        returns = returns + discount**horizon * running * value
    return returns.mean(0)


def _checked(what: str, values: Tensor, returns: Tensor) -> Tensor:
    """Refuse a wrong shape: broadcast in silence, it would make plans tie."""
    if values.shape != returns.shape:
        raise ValueError(
            f"plan: expected the {what} to return shape {tuple(returns.shape)}, a number for each "
            f"imagined state, got {tuple(values.shape)}. Index features as obs[..., i], and do not "
            "sum over members or candidates."
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
    ) -> None:
        """Put a model and a planner together.

        Args:
            task: what to act in.
            model: true dynamics or a learned model.
            planner: searches over action sequences.
            objective: see `rollout_returns`; "task" for the task's own, None for the bare reward.
            terminal_value: see `rollout_returns`.
            discount: see `rollout_returns`.
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
        self.discount = discount
        self.num_failed = 0

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Plan from obs [B, O] and return the first action of each plan."""
        return decode_actions(self.task.action_space, self.plan(obs).actions[:, 0])

    @torch.inference_mode()
    def plan(self, obs: np.ndarray) -> Plan:
        """Plan from obs [B, O] for all environments together."""
        num_obs = len(self.task.obs_names)
        if obs.ndim != 2 or obs.shape[1] != num_obs:
            raise ValueError(
                f"MPCAgent.plan: expected observations [B, {num_obs}] of {self.task.env_id}, got "
                f"shape {obs.shape}. For one observation pass obs[None]."
            )
        start = torch.as_tensor(obs, dtype=torch.float32)
        if not start.isfinite().all():
            raise ValueError(
                "MPCAgent.plan: expected finite observations, got NaN or infinity in environment "
                f"{int((~start.isfinite()).any(1).nonzero()[0])}. Look at what produced it."
            )

        def score(actions: Tensor) -> Tensor:
            return rollout_returns(
                self.model, start, actions, objective=self.objective,
                terminal_value=self.terminal_value, discount=self.discount,
            )  # fmt: skip

        plan = self.planner.plan(score, num_envs=len(obs))
        self.num_failed += plan.num_failed
        return plan

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the plans of all environments, or of those where ended [B] is True."""
        self.planner.reset(None if ended is None else torch.as_tensor(ended))
