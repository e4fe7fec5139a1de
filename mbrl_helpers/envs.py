"""Tasks: Gymnasium environments, how their actions are encoded, and their true dynamics.

The true dynamics are written in PyTorch over any leading axes, so that a planner can try
thousands of actions at once, and use them and a learned model through the same face.

Axes: ... any leading axes, B environments, O observation, A encoded action.
"""

import functools
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
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
    """What a planner needs of a model: true dynamics and learned ones alike.

    Attributes:
        num_members: E, how many predictions the model makes of each step.
    """

    num_members: int

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """Predict one step of K rollouts: obs [E, K, O], encoded action [E, K, A].

        It is given a generator only where noise is asked for (see `dynamics.propagate`).
        """
        ...


@dataclass(frozen=True)
class TrueDynamics:
    """The environment's own equations, as a model of one member (see `Model`)."""

    true_step: Callable[[Tensor, Tensor], Step]
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
    """

    env_id: str
    obs_names: tuple[str, ...]
    true_step: Callable[[Tensor, Tensor], Step] | None = None
    objective: Callable[[Tensor, Tensor, Step], Tensor] | None = None
    angles: tuple[tuple[int, int], ...] = ()

    @property
    def true_dynamics(self) -> TrueDynamics:
        """The environment's own equations as a model, to tell search error from model error.

        Raises:
            RuntimeError: for a task without them.
        """
        if self.true_step is None:
            raise RuntimeError(
                f"Task.true_dynamics: expected equations of {self.env_id}, got true_step=None. "
                "Write them, or plan in copies of the environment, as notebook 10 does."
            )
        return TrueDynamics(self.true_step)

    @functools.cached_property
    def action_space(self) -> gym.spaces.Discrete | gym.spaces.Box:
        """Gymnasium's action space."""
        with gym.make(self.env_id) as env:
            return env.action_space


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


def make_envs(env_id: str, num_envs: int) -> SyncVectorEnv:
    """Make B copies of an environment that wait, after an episode's end, until we reset them.

    Raises:
        ValueError: for an unknown name, or other than vector observations.
        TypeError: for actions that are neither discrete nor a vector.
    """
    check_counts("make_envs", num_envs=num_envs)
    if env_id not in gym.registry:
        raise ValueError(
            f"make_envs: expected an environment that Gymnasium knows, got {env_id!r}. "
            f"The course uses {sorted(TASKS)}; gymnasium.pprint_registry() lists all."
        )
    makers = [functools.partial(gym.make, env_id, disable_env_checker=True)] * num_envs
    envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    obs_space, action_space = envs.single_observation_space, envs.single_action_space
    try:
        if not (isinstance(obs_space, gym.spaces.Box) and len(obs_space.shape) == 1):
            raise ValueError(
                f"make_envs: expected vector observations, a Box of shape (O,), got {obs_space} "
                f"from {env_id}. Flatten or encode them with a wrapper first."
            )
        action_size(action_space)
    except (ValueError, TypeError):
        envs.close()
        raise
    return envs


def action_size(space: gym.Space) -> int:
    """A, the length of an encoded action: one-hot for discrete actions, the vector otherwise.

    Raises:
        TypeError: for another kind of action space.
    """
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return int(space.shape[0])
    raise TypeError(
        f"action_size: expected a Discrete or a Box space of shape (A,), got {space}. "
        "Wrap the environment so that its actions are one of these."
    )


def encode_actions(space: gym.Space, actions: np.ndarray) -> Tensor:
    """Turn environment actions into what models and planners see.

    Args:
        space: the action space of one environment.
        actions: [...] integers for a Discrete space, [..., A] numbers for a Box.

    Returns:
        [..., A] float32: one-hot, or the actions as they are.

    Raises:
        TypeError: for other than numbers, and for fractions where the space is Discrete.
        ValueError: for numbers that are no actions of the space, or the wrong shape.
    """
    size, actions = action_size(space), np.asarray(actions)
    discrete = isinstance(space, gym.spaces.Discrete)
    if actions.dtype.kind not in ("iu" if discrete else "iuf"):
        raise TypeError(
            f"encode_actions: expected {'integers' if discrete else 'numbers'} for {space}, got "
            f"an array of {actions.dtype}. Is this data of another environment?"
        )
    if discrete:
        index = torch.as_tensor(actions.astype(np.int64) - int(space.start))
        if index.numel() and not (index.min() >= 0 and index.max() < size):
            raise ValueError(
                f"encode_actions: expected actions of {space}, got values from {actions.min()} to "
                f"{actions.max()}. Is this data of another environment?"
            )
        return torch.nn.functional.one_hot(index, size).float()
    encoded = torch.as_tensor(actions.astype(np.float32))
    if encoded.ndim == 0 or encoded.shape[-1] != size:
        raise ValueError(
            f"encode_actions: expected actions of shape [..., {size}], got {tuple(encoded.shape)}."
            " Give one row of A numbers an action."
        )
    return encoded


def decode_actions(space: gym.Space, encoded: Tensor) -> np.ndarray:
    """Turn encoded actions [..., A] back into what the environment takes."""
    if isinstance(space, gym.spaces.Discrete):
        return encoded.argmax(-1).numpy() + int(space.start)
    return encoded.numpy().astype(space.dtype)


def check_setting(config: object, name: str, holds: bool, wanted: str) -> None:
    """Refuse a setting that is out of range.

    Raises:
        ValueError: if it does not hold, with what was wanted.
    """
    if not holds:
        raise ValueError(
            f"{type(config).__name__}: expected {name} {wanted}, got {getattr(config, name)}. "
            "Change it, or leave it out for the default."
        )


def check_obs(where: str, task: Task, obs: np.ndarray) -> Tensor:
    """Observations [B, O] of a task as float32, if they are that, and finite.

    Raises:
        ValueError: for another shape, NaN or infinity.
    """
    num_obs = len(task.obs_names)
    if obs.ndim != 2 or obs.shape[1] != num_obs:
        raise ValueError(
            f"{where}: expected observations [B, {num_obs}] of {task.env_id}, got shape "
            f"{obs.shape}. For one observation pass obs[None]."
        )
    checked = torch.as_tensor(obs, dtype=torch.float32)
    if not checked.isfinite().all():
        raise ValueError(
            f"{where}: expected finite observations, got NaN or infinity in row "
            f"{int((~checked.isfinite()).any(1).nonzero()[0])}. Look at what produced it."
        )
    return checked


def check_counts(where: str, **counts: int) -> None:
    """Refuse what can't be a number of things: settings come from notebooks, and have typos.

    Raises:
        TypeError: for other than a whole number.
        ValueError: for less than 1.
    """
    for name, value in counts.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise TypeError(f"{where}: expected {name} as an int, got {value!r}. Give 1 or more.")
        if value < 1:
            raise ValueError(f"{where}: expected {name} >= 1, got {value}. Give 1 or more.")
