"""Agents that act in B environments side by side: at random, by planning, or with noise.

Axes: B environments, H horizon, O observation, A encoded action.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from mbrl_helpers import saving
from mbrl_helpers.actions import Actions, ContinuousActions
from mbrl_helpers.checks import check_obs
from mbrl_helpers.dynamics import FittedModel
from mbrl_helpers.envs import Task, TrueDynamics
from mbrl_helpers.futures import PLAIN, Imagination, propagate, rollout_returns
from mbrl_helpers.interfaces import (
    Agent,
    Model,
    Objective,
    Proposer,
    TerminalValue,
    num_members,
)
from mbrl_helpers.planners import PLANNERS, Plan, Planner, PlannerState
from mbrl_helpers.policies import Policy


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
        self.actions, self.generator = Actions.bounded("RandomAgent", action_space), generator
        self.noise = CorrelatedNoise(self.actions.size, generator, correlation)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Random actions for obs [B, O]."""
        if self.noise.correlation:
            return self.actions.decode(self.actions.from_noise(self.noise.sample(len(obs))))
        return self.actions.decode(self.actions.uniform((len(obs),), self.generator))

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the last actions of all environments, or of those where ended [B] is True."""
        self.noise.reset(ended)


class NoisyAgent:
    """Adds exploration noise to the continuous actions of an agent."""

    def __init__(
        self,
        task: Task,
        agent: Agent,
        generator: torch.Generator,
        *,
        std: float,
        correlation: float = 0.0,
    ) -> None:
        """Explore around an agent.

        Args:
            task: what to act in.
            agent: whose actions are disturbed.
            generator: source of the noise.
            std: standard deviation of the noise, as a share of half the range of an action.
            correlation: of the noise from step to step.

        Raises:
            TypeError: for discrete actions.
            ValueError: for a negative std.
        """
        if not isinstance(task.actions, ContinuousActions):
            raise TypeError(
                f"NoisyAgent: expected continuous actions, got {task.action_space}. There is "
                "nothing to add noise to: explore with random episodes."
            )
        if not 0 <= std < math.inf:
            raise ValueError(f"NoisyAgent: expected std >= 0, got {std}. Try 0.3.")
        self.agent, self.actions, self.std = agent, task.actions, std
        self.noise = CorrelatedNoise(task.actions.size, generator, correlation)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions for obs [B, O]."""
        low, high = self.actions.low.numpy(), self.actions.high.numpy()
        noise = self.std * ((high - low) / 2) * self.noise.sample(len(obs)).numpy()
        action = self.agent.act(obs) + noise
        return np.clip(action, low, high).astype(self.actions.space.dtype)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the past of all environments, or of those where ended [B] is True."""
        self.agent.reset(ended)
        self.noise.reset(ended)


class MPCAgent:
    """Model-predictive control: plan, execute the first action, plan again.

    Attributes:
        model: another one may be given between decisions.
        state: what the planner carries from one decision to the next; None before the first.
        num_failed: how many candidates scored NaN or infinity so far.
    """

    def __init__(
        self,
        task: Task,
        model: Model,
        planner: Planner[Any],
        imagination: Imagination = PLAIN,
        *,
        objective: Objective | Literal["task"] | None = "task",
        terminal_value: TerminalValue | None = None,
        policy: Proposer | None = None,
    ) -> None:
        """Put a model and a planner together.

        Args:
            task: what to act in.
            model: true dynamics, a fitted model, or one of your own with nothing but `step`.
            planner: searches over action sequences.
            imagination: how the model imagines their futures.
            objective: see `rollout_returns`; "task" for the task's own, None for the bare reward.
            terminal_value: see `rollout_returns`.
            policy: what this policy would do is proposed to the planner, see `policies.Policy`.
        """
        _check_made_of(task, model, planner, imagination, objective)
        imagination.particles_each("MPCAgent", model)
        self.task = task
        self.model = model
        self.planner = planner
        self.imagination = imagination
        self.objective = task.objective if objective == "task" else objective
        self.terminal_value = terminal_value
        self.policy = policy
        self.state: PlannerState | None = None
        self.num_failed = 0

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Plan from obs [B, O] and return the first action of each plan."""
        return self.task.actions.decode(self._plan("MPCAgent.act", obs).actions[:, 0])

    def plan(self, obs: np.ndarray) -> Plan:
        """Plan from obs [B, O] for all environments together."""
        return self._plan("MPCAgent.plan", obs)

    @torch.inference_mode()
    def _plan(self, where: str, obs: np.ndarray) -> Plan:
        start = check_obs(where, obs, self.task.num_obs)
        state = self.state if self.planner.remembers else None
        if state is None:
            state = self.planner.start(len(start))
        if len(state) != len(start):
            raise ValueError(
                f"{where}: expected the {len(state)} environments of the last call, got "
                f"{len(start)}. Call reset() before acting in others."
            )

        def score(actions: Tensor) -> Tensor:
            return rollout_returns(
                self.model, start, actions, self.imagination,
                objective=self.objective, terminal_value=self.terminal_value,
            )  # fmt: skip

        proposal = None if self.policy is None else self._proposal(self.policy, start)
        plan, self.state = self.planner.plan(score, state, proposal=proposal)
        self.num_failed += plan.num_failed
        return plan

    def _proposal(self, policy: Proposer, obs: Tensor) -> Tensor:
        """The plan [B, H, A] that the policy makes in the members' mean."""
        actions = [policy.action] * self.planner.config.horizon
        obs = obs.expand(num_members(self.model), -1, -1)
        steps = propagate(self.model, obs, actions, Imagination(propagation="expectation"))
        return torch.stack([action[0] for _, action, _ in steps], dim=1)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the plans of all environments, or of those where ended [B] is True."""
        if ended is None or self.state is None:
            self.state = None
        else:
            self.state = self.planner.restart(self.state, torch.as_tensor(ended))

    def save(self, path: str | Path) -> None:
        """Write it to a file of numbers and settings (see `saving`), in the middle of its plans.

        Functions are code, and stay out: an objective or terminal value of your own is given again
        when the agent is loaded.

        Raises:
            TypeError: for a model, planner or policy of your own, which no file can hold.
            ValueError: if there is something else at this path.
        """
        saving.save("MPCAgent.save", path, "MPC agent", *_contents(self))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        task: Task | None = None,
        objective: Objective | None = None,
        terminal_value: TerminalValue | None = None,
    ) -> "MPCAgent":
        """Read what `save` wrote; the agent goes on, to the bit, where it was saved.

        Args:
            path: of the file.
            task: what it acts in, where that is a task of your own with an objective.
            objective: the one with which it was saved, if it was one of your own.
            terminal_value: the one with which it was saved, if it had one.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is cut off, of something else, or of a newer version; or without the
                functions that it was saved with.
        """
        settings, arrays = saving.load("MPCAgent.load", path, "MPC agent")
        with saving.reading("MPCAgent.load", path):
            kept = Task.of_settings(settings["task"])
            parts = _parts(settings, arrays, kept)
        task = kept if task is None else task
        _check_given(settings, kept, task, objective, terminal_value)
        chosen = objective if settings["objective"] == "own" else settings["objective"]
        agent = cls(
            task, parts["model"], parts["planner"], parts["imagination"], objective=chosen,
            terminal_value=terminal_value, policy=parts["policy"],
        )  # fmt: skip
        agent.state, agent.num_failed = parts["state"], settings["num_failed"]
        return agent


def _check_made_of(
    task: Task, model: object, planner: object, imagination: object, objective: object
) -> None:
    """Refuse what can't be the parts of an agent."""
    if not callable(getattr(model, "step", None)):
        cure = "Pass what fit returns" if hasattr(model, "fit") else "Give it one"
        raise TypeError(
            f"MPCAgent: expected a model with a method `step`, got {type(model).__name__}. {cure}."
        )
    if not isinstance(planner, Planner):
        raise TypeError(
            f"MPCAgent: expected a planner such as RandomShooting, got {planner!r}. Make it "
            "with task.action_space."
        )
    if not isinstance(imagination, Imagination):
        raise TypeError(
            f"MPCAgent: expected an Imagination, got {imagination!r}. Pass Imagination(...) "
            "with its settings by name."
        )
    if not (objective in ("task", None) or callable(objective)):
        raise TypeError(
            f"MPCAgent: expected objective as a function, None or 'task', got {objective!r}. "
            "Pass the function itself."
        )
    if planner.action_space != task.action_space:
        raise ValueError(
            f"MPCAgent: expected a planner for {task.action_space} of {task.env_id}, got one "
            f"for {planner.action_space}. Make it with task.action_space."
        )


def _contents(agent: MPCAgent) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays that a file keeps of an agent."""
    task, how, planner = agent.task, agent.imagination, agent.planner
    if type(planner) is not PLANNERS.get(type(planner).__name__):
        raise TypeError(
            f"MPCAgent.save: expected one of the planners {sorted(PLANNERS)}, got "
            f"{type(planner).__name__}. A file holds no code: save the model alone, and plan with "
            "your own planner where it is loaded."
        )
    generators = [planner.generator]
    which = None
    if how.generator is not None:
        generators += [] if how.generator is planner.generator else [how.generator]
        which = len(generators) - 1
    arrays = {"generators": np.stack([g.get_state().numpy() for g in generators])}
    settings: dict[str, Any] = {
        "task": task.settings(),
        "planner": {
            "kind": type(planner).__name__, "config": dataclasses.asdict(planner.config),
        },
        "imagination": {
            "discount": how.discount, "propagation": how.propagation, "generator": which,
            "num_particles": how.num_particles, "spread_weight": how.spread_weight,
        },
        "objective": "own", "terminal_value": None if agent.terminal_value is None else "own",
        "model": None, "policy": None, "num_failed": agent.num_failed,
    }  # fmt: skip
    if agent.objective is None or agent.objective is task.objective:
        settings["objective"] = None if agent.objective is None else "task"
    for name, kept in _learned(agent).items():
        settings[name] = kept[0]
        arrays |= {f"{name}/{key}": value for key, value in kept[1].items()}
    if agent.state is not None:
        arrays |= {f"state/{name}": part.numpy() for name, part in vars(agent.state).items()}
    return settings, arrays


def _learned(agent: MPCAgent) -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Settings and arrays of what an agent has learned: model and policy."""
    kept, model, policy = {}, agent.model, agent.policy
    if isinstance(model, FittedModel):
        kept["model"] = model.contents()
    elif not (isinstance(model, TrueDynamics) and model.true_step is agent.task.true_step):
        raise TypeError(
            "MPCAgent.save: expected a fitted model or the task's true dynamics, got "
            f"{type(model).__name__}. A file holds no code: save what was learned yourself."
        )
    if isinstance(policy, Policy):
        kept["policy"] = policy.contents()
    elif policy is not None:
        raise TypeError(
            f"MPCAgent.save: expected a Policy, got {type(policy).__name__}. A file holds no code: "
            "save the agent without it."
        )
    return kept


def _parts(settings: dict[str, Any], arrays: dict[str, np.ndarray], task: Task) -> dict[str, Any]:
    """What an agent is made of, of what a file has kept."""
    generators = []
    for state in arrays["generators"]:
        generators.append(torch.Generator())
        generators[-1].set_state(torch.tensor(state))
    how, policy, model, state = dict(settings["imagination"]), None, None, None
    if how["generator"] is not None:
        how["generator"] = generators[how["generator"]]
    kind: Any = PLANNERS[settings["planner"]["kind"]]
    config = kind.Config(**settings["planner"]["config"])
    if settings["model"] is not None:
        model = FittedModel.of_contents(settings["model"], saving.under("model/", arrays))
    if settings["policy"] is not None:
        policy = Policy.of_contents(settings["policy"], saving.under("policy/", arrays))
    if "state/mean" in arrays:
        plans = saving.under("state/", arrays)
        state = PlannerState(**{name: torch.tensor(values) for name, values in plans.items()})
    return {
        "model": model or task.true_dynamics, "policy": policy, "state": state,
        "planner": kind(task.action_space, generators[0], config),
        "imagination": Imagination(**how),
    }  # fmt: skip


def _check_given(
    settings: dict[str, Any], kept: Task, task: Task, objective: Objective | None,
    terminal_value: TerminalValue | None,
) -> None:  # fmt: skip
    """Refuse to load an agent without the code that it was saved with."""
    if task.settings() != kept.settings():
        raise ValueError(
            f"MPCAgent.load: expected the task that the agent was saved with, {kept.env_id} with "
            f"{kept.obs_names}, got {task.env_id} with {task.obs_names}. Pass that one."
        )
    for name, given in (("objective", objective), ("terminal_value", terminal_value)):
        own = settings[name] == "own"
        if (given is not None) != own:
            wanted = "the function that it was saved with" if own else "left out, as it was saved"
            raise ValueError(
                f"MPCAgent.load: expected {name} {wanted}, got {given!r}. A file holds no code: "
                "give what the agent was made with, and nothing else."
            )
    if settings["objective"] == "task" and task.objective is None:
        raise ValueError(
            f"MPCAgent.load: expected the task {kept.env_id} with its objective, got none. A file "
            "holds no code: pass task=..."
        )
