"""Tasks: Gymnasium environments, and their true dynamics.

The true dynamics are written in PyTorch over any leading axes, so that a planner can try
thousands of actions at once, and use them and a learned model through the same face.

Axes: ... any leading axes, B environments, O observation, A encoded action.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from mbrl_helpers.actions import Actions
from mbrl_helpers.angles import Angles, check_angles
from mbrl_helpers.checks import check_counts
from mbrl_helpers.interfaces import Objective, Step, TrueStep


@dataclass(frozen=True)
class TrueDynamics:
    """The environment's own equations, as a model of one member (see `interfaces.Model`)."""

    true_step: TrueStep
    num_members: int = 1

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """One step; there is no noise to draw."""
        return self.true_step(obs, action)


CARTPOLE_LIMITS = (2.4, 12 * 2 * math.pi / 360)  # cart [m], pole [rad]: beyond them it ends


def cartpole_step(obs: Tensor, action: Tensor) -> Step:
    """One step of CartPole-v1.

    Args:
        obs: [..., 4] cart position [m], cart velocity [m/s], pole angle [rad] and velocity [rad/s].
        action: [..., 2] one-hot: push left, push right (10 N).

    Returns:
        The step; terminated is 0 or 1, and the reward is always 1.

    Source: Barto, Sutton and Anderson 1983; equal to Gymnasium's equations, Euler step of 20 ms.
    """
    gravity, mass_pole, mass_total, half_length, tau = 9.8, 0.1, 1.1, 0.5, 0.02
    x, x_dot, theta, theta_dot = obs.unbind(-1)
    force = 10.0 * (action[..., 1] - action[..., 0])
    sin, cos = theta.sin(), theta.cos()
    temp = (force + mass_pole * half_length * theta_dot**2 * sin) / mass_total
    theta_acc = (gravity * sin - cos * temp) / (
        half_length * (4 / 3 - mass_pole * cos**2 / mass_total)
    )
    x_acc = temp - mass_pole * half_length * theta_acc * cos / mass_total
    next_obs = torch.stack(
        [
            x + tau * x_dot,
            x_dot + tau * x_acc,
            theta + tau * theta_dot,
            theta_dot + tau * theta_acc,
        ],
        dim=-1,
    )
    x_limit, theta_limit = CARTPOLE_LIMITS
    fell = (next_obs[..., 0].abs() > x_limit) | (next_obs[..., 2].abs() > theta_limit)
    return Step(next_obs, torch.ones_like(x), fell.to(obs.dtype))


def cartpole_margin(obs: Tensor, action: Tensor, step: Step) -> Tensor:
    """Reward for planning in CartPole: 1 in the middle and upright, less towards the limits.

    The environment's reward is 1 for every step, so that all plans which do not fall within the
    horizon tie. This breaks the tie: it is what *we* tell the planner, and is not learned.

    Args:
        obs: [..., 4] observation before the step (not used).
        action: [..., 2] encoded action (not used).
        step: what the model predicts.

    Returns:
        [...] predicted reward times a margin of at most 1.
    """
    x_limit, theta_limit = CARTPOLE_LIMITS
    x, theta = step.next_obs[..., 0] / x_limit, step.next_obs[..., 2] / theta_limit
    return step.reward * (1 - 0.3 * x**2 - 0.3 * theta**2)


def pendulum_step(obs: Tensor, action: Tensor) -> Step:
    """One step of Pendulum-v1.

    Args:
        obs: [..., 3] cosine and sine of the angle from upright, angular velocity [rad/s].
        action: [..., 1] torque [N m], clipped to -2 … 2.

    Returns:
        The step; it never terminates. The reward is one of the state *before* the step.

    Source: Gymnasium's equations, semi-implicit Euler step of 50 ms.
    """
    gravity, dt, max_speed = 10.0, 0.05, 8.0
    cos, sin, speed = obs.unbind(-1)
    theta = torch.atan2(sin, cos)
    torque = action[..., 0].clamp(-2.0, 2.0)
    reward = -(theta**2 + 0.1 * speed**2 + 0.001 * torque**2)
    new_speed = (speed + (1.5 * gravity * sin + 3.0 * torque) * dt).clamp(-max_speed, max_speed)
    new_theta = theta + new_speed * dt
    next_obs = torch.stack([new_theta.cos(), new_theta.sin(), new_speed], dim=-1)
    return Step(next_obs, reward, torch.zeros_like(reward))


@dataclass(frozen=True, kw_only=True)
class Task:
    """An environment as the kit sees it: one of the course's (`TASKS`), or one of your own.

    Attributes:
        env_id: Gymnasium's name of it.
        obs_names: O names with units, in order.
        true_step: its true dynamics, `(obs, action) -> Step`; None where nobody has written them.
        objective: reward for planning, `(obs, action, step) -> reward`; None for the model's own.
        angles: pairs of columns of the observation that are cosine and sine of one angle.
        space: its action space, where that is not to be asked of Gymnasium.

    Raises:
        ValueError: for angles that are no pairs of different columns of the observation.
    """

    env_id: str
    obs_names: tuple[str, ...]
    true_step: TrueStep | None = None
    objective: Objective | None = None
    angles: Angles = ()
    space: gym.Space | None = None

    def __post_init__(self) -> None:
        check_angles("Task", self.angles, self.num_obs)

    @property
    def num_obs(self) -> int:
        """O, how many numbers are observed."""
        return len(self.obs_names)

    @property
    def true_dynamics(self) -> TrueDynamics:
        """The environment's own equations as a model, to tell search error from model error.

        Raises:
            RuntimeError: for a task without them.
        """
        if self.true_step is None:
            raise RuntimeError(
                f"Task.true_dynamics: expected equations of {self.env_id}, got true_step=None. "
                "Write them, or plan in copies of the environment, as notebook 12 does."
            )
        return TrueDynamics(self.true_step)

    @functools.cached_property
    def action_space(self) -> gym.Space:
        """Gymnasium's action space."""
        if self.space is not None:
            return self.space
        env = gym.make(self.env_id)
        env.close()
        return env.action_space

    @functools.cached_property
    def actions(self) -> Actions:
        """The actions, as models and planners see them."""
        # What is first asked for while imagining must be of use in learning, too.
        with torch.inference_mode(False):
            return Actions.of(self.action_space)

    def settings(self) -> dict[str, Any]:
        """What a file keeps of it: no equations and no objective, which are code."""
        space = self.action_space
        kept: dict[str, Any] = {"env_id": self.env_id, "obs_names": self.obs_names}
        kept["angles"] = self.angles
        if isinstance(space, gym.spaces.Discrete):
            return kept | {"discrete": [int(space.n), int(space.start)]}
        assert isinstance(space, gym.spaces.Box)
        return kept | {"box": [space.low.tolist(), space.high.tolist(), space.dtype.name]}

    @staticmethod
    def of_settings(kept: dict[str, Any]) -> "Task":
        """The task that a file speaks of: one of the course's if it is one, or as it was kept."""
        if "discrete" in kept:
            count, first = kept["discrete"]
            space: gym.Space = gym.spaces.Discrete(count, start=first)
        else:
            low, high, dtype = kept["box"]
            low, high = np.array(low, dtype), np.array(high, dtype)
            space = gym.spaces.Box(low, high, dtype=np.dtype(dtype).type)
        names = tuple(kept["obs_names"])
        angles = tuple((int(cos), int(sin)) for cos, sin in kept["angles"])
        known = TASKS.get(kept["env_id"])
        if known and (known.obs_names, known.angles, known.action_space) == (names, angles, space):
            return known
        return Task(env_id=kept["env_id"], obs_names=names, angles=angles, space=space)


TASKS = {
    task.env_id: task
    for task in (
        Task(
            env_id="CartPole-v1",
            obs_names=("cart position [m]", "cart velocity [m/s]", "pole angle [rad]",
                       "pole velocity [rad/s]"),
            true_step=cartpole_step,
            objective=cartpole_margin,
        ),
        Task(
            env_id="Pendulum-v1",
            obs_names=("cos angle", "sin angle", "angular velocity [rad/s]"),
            true_step=pendulum_step,
            angles=((0, 1),),
        ),
    )
}  # fmt: skip


def get_task(env_id: str) -> Task:
    """Look up one of the course's tasks.

    Raises:
        ValueError: for a name that is not one of them.
    """
    if env_id not in TASKS:
        raise ValueError(f"get_task: expected one of {sorted(TASKS)}, got {env_id!r}. Pick one.")
    return TASKS[env_id]


def make_envs(task: Task | str, num_envs: int, *, render_mode: str | None = None) -> SyncVectorEnv:
    """Make B copies of an environment that wait, after an episode's end, until we reset them.

    Args:
        task: the task, or Gymnasium's name of the environment.
        num_envs: B.
        render_mode: what `render` of the copies gives; see Gymnasium.

    Raises:
        ValueError: for an unknown name, or other than vector observations.
        TypeError: for actions that are neither discrete nor a vector.
    """
    check_counts("make_envs", num_envs=num_envs)
    env_id = task if isinstance(task, str) else task.env_id
    if env_id not in gym.registry:
        raise ValueError(
            f"make_envs: expected an environment that Gymnasium knows, got {env_id!r}. "
            f"The course uses {sorted(TASKS)}; gymnasium.pprint_registry() lists all."
        )
    # An environment that draws nothing need not know the word.
    mode: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    make = functools.partial(gym.make, env_id, disable_env_checker=True, **mode)
    envs = SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
    obs_space, action_space = envs.single_observation_space, envs.single_action_space
    try:
        if not (isinstance(obs_space, gym.spaces.Box) and len(obs_space.shape) == 1):
            raise ValueError(
                f"make_envs: expected vector observations, a Box of shape (O,), got {obs_space} "
                f"from {env_id}. Flatten or encode them with a wrapper first."
            )
        Actions.of(action_space)
    except (ValueError, TypeError):
        envs.close()
        raise
    return envs
