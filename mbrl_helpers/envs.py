"""Tasks: Gymnasium environments, and their true dynamics.

The true dynamics are written in PyTorch over any leading axes, so that a planner can try
thousands of actions at once, and use them and a learned model through the same face.

Axes: ... any leading axes, B environments, O observation, A encoded action.
"""

import functools
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import OrderEnforcing, TimeLimit
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
        env_id: Gymnasium's name of it, as `gymnasium.make` takes it.
        obs_names: O names with units, in order.
        true_step: its true dynamics, `(obs, action) -> Step`; None where nobody has written them.
        objective: reward for planning, `(obs, action, step) -> reward`; None for the model's own,
            which may be wrong where nothing was learned: if you can write it down, do.
        angles: pairs of columns of the observation that are cosine and sine of one angle.
        space: its action space, where that is not to be asked of Gymnasium.

    Raises:
        ValueError: for angles that are no pairs of different columns of the observation, or a space
            in which one can't plan; one that Gymnasium is asked for is refused when it is needed.
    """

    env_id: str
    obs_names: tuple[str, ...]
    true_step: TrueStep | None = None
    objective: Objective | None = None
    angles: Angles = ()
    space: gym.Space | None = None

    def __post_init__(self) -> None:
        check_angles("Task", self.angles, self.num_obs)
        if self.space is not None:
            Actions.bounded("Task", self.space)

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
        env = _make("Task", self.env_id)
        env.close()
        _check_spaces("Task", self.env_id, env.observation_space, env.action_space)
        if env.observation_space.shape != (self.num_obs,):
            raise ValueError(
                f"Task: expected a name for each number that {self.env_id} observes, of shape "
                f"{env.observation_space.shape}, got obs_names {self.obs_names}. Name them all."
            )
        return env.action_space

    @functools.cached_property
    def actions(self) -> Actions:
        """The actions, as models and planners see them."""
        # What is first asked for while imagining must be of use in learning, too.
        with torch.inference_mode(False):
            return Actions.bounded("Task", self.action_space)

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
    """Look up one of the course's tasks, by its name with or without the version.

    Raises:
        ValueError: for a name that is not one of them.
    """
    names = TASKS | {name.rpartition("-v")[0]: task for name, task in TASKS.items()}
    if env_id not in names:
        raise ValueError(f"get_task: expected one of {sorted(TASKS)}, got {env_id!r}. Pick one.")
    return names[env_id]


def make_envs(
    task: Task | str, num_envs: int, *, render_mode: str | None = None, where: str = "make_envs"
) -> SyncVectorEnv:
    """Make B copies of an environment that wait, after an episode's end, until we reset them.

    What they answer is looked at, see `CheckedEnv`.

    Args:
        task: the task, or Gymnasium's name of the environment, as `gymnasium.make` takes it.
        num_envs: B.
        render_mode: what `render` of the copies gives; see Gymnasium.
        where: in whose name errors are told.

    Raises:
        ValueError: for an unknown name, other than vector observations, or actions without bounds.
        TypeError: for actions that are neither discrete nor a vector.
    """
    check_counts(where, num_envs=num_envs)
    env_id, space = (task, None) if isinstance(task, str) else (task.env_id, task.space)
    # An environment that draws nothing need not know the word.
    mode: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    made: list[gym.Env] = []

    def make() -> gym.Env:
        made.append(_make(where, env_id, **mode))
        return _checked(where, env_id, made[-1])

    try:
        envs = SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        actions = envs.single_action_space if space is None else space
        _check_spaces(where, env_id, envs.single_observation_space, actions)
        Actions.of(envs.single_action_space, where)
        return envs
    except BaseException:  # an interrupt, too, leaves none of them open
        for env in made:
            env.close()
        raise


def _make(where: str, env_id: str, **mode: Any) -> gym.Env:
    """An environment by its name, "module:Name-v0" or without a version among them."""
    try:
        return gym.make(env_id, disable_env_checker=True, **mode)
    except gym.error.Error as error:
        # The others are of the environment: a package that it lacks, say.
        if type(error) is not gym.error.Error and not isinstance(
            error, gym.error.UnregisteredEnv | gym.error.DeprecatedEnv
        ):
            raise
        raise ValueError(
            f"{where}: expected an environment that Gymnasium knows, got {env_id!r}. The course "
            f"uses {sorted(TASKS)}; gymnasium.pprint_registry() lists all."
        ) from error


def _check_spaces(where: str, env_id: str, obs: gym.Space, actions: gym.Space) -> None:
    """Refuse an environment that the kit can't learn or act in."""
    if not (isinstance(obs, gym.spaces.Box) and len(obs.shape) == 1 and obs.shape[0] > 0):
        raise ValueError(
            f"{where}: expected vector observations, a Box of shape (O,), got {obs} from {env_id}. "
            "Flatten them: gymnasium.wrappers.FlattenObservation; or encode them with a wrapper."
        )
    Actions.bounded(where, actions)


class CheckedEnv(gym.Wrapper):
    """An environment whose answers are looked at, before anybody computes with them.

    Gymnasium's own checker looks at the first answers only, and warns. Observations are copied, for
    an environment may fill one array again and again, and share it with others.
    """

    def __init__(self, env: gym.Env, where: str, env_id: str) -> None:
        """Look at the answers of an environment.

        Raises:
            TypeError: for one whose reset takes no seed: it speaks the language before 0.26.
        """
        super().__init__(env)
        self.where, self.env_id, self.space = where, env_id, env.observation_space
        self._shape, self._dtype = self.space.shape, np.dtype(self.space.dtype)
        try:
            inspect.signature(env.unwrapped.reset).bind(seed=0, options={})
        except TypeError:
            raise TypeError(
                f"{where}: expected a reset of {env_id} that takes seed and options, got "
                f"reset{inspect.signature(env.unwrapped.reset)}. Write it as def reset(self, *, "
                "seed=None, options=None), and begin with super().reset(seed=seed)."
            ) from None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Raises:
            TypeError: for other than an observation and a dict.
            ValueError: for an observation of another shape than the space says.
        """
        answer = self.env.reset(seed=seed, options=options)
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
            self._refuse(TypeError, "reset to return an observation and a dict",
                         answer, "End it with `return obs, {}`.")  # fmt: skip
        return self._observed(answer[0]), answer[1]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step.

        Raises:
            TypeError: for other than an observation, a number, two flags and a dict.
            ValueError: for an observation of another shape than the space says, several rewards,
                NaN or infinity.
        """
        answer = self.env.step(action)
        if not (isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[4], dict)):
            self._refuse(TypeError, "step to return obs, reward, terminated, truncated and a dict",
                         answer, "`done` of old became two flags: whether the state is terminal, "
                         "and whether the episode was cut.")  # fmt: skip
        obs, reward, terminated, truncated, info = answer
        terminated = self._flag("terminated", terminated)
        truncated = self._flag("truncated", truncated)
        return self._observed(obs), self._number(reward), terminated, truncated, info

    def _flag(self, name: str, value: Any) -> bool:
        if value is True or value is False:
            return value
        if np.ndim(value) > 0 or value not in (0, 1):
            self._refuse(TypeError, f"{name} as True or False", value, f"Return bool({name}).")
        return bool(value)

    def _number(self, reward: Any) -> float:
        if not isinstance(reward, float):
            if np.ndim(reward) > 0:
                one = np.size(reward) == 1
                cure = "Return float(reward[0])." if one else "Add its parts up."
                self._refuse(ValueError, "the reward as a number", reward, cure)
            if np.asarray(reward).dtype.kind not in "biuf":
                self._refuse(TypeError, "the reward as a number", reward, "Return a float.")
        if not math.isfinite(reward):
            self._refuse(ValueError, "a finite reward", reward, "Look at what its step computes.")
        return float(reward)

    def _observed(self, obs: Any) -> Any:
        """A copy in the dtype of the space."""
        if not isinstance(self.space, gym.spaces.Box):  # a wrapper above makes a vector of it
            return obs
        try:
            seen = np.array(obs)
        except ValueError:  # rows of different lengths
            seen = np.array(None)
        if seen.shape == self._shape and seen.dtype == self._dtype:
            return seen
        if seen.shape != self._shape or not np.can_cast(seen.dtype, self._dtype, "same_kind"):
            self._refuse(ValueError, f"observations as its observation_space says, {self.space}",
                         obs, "Mend the space, or what reset and step return.")  # fmt: skip
        return seen.astype(self._dtype)

    def _refuse(self, kind: type[Exception], wanted: str, value: Any, cure: str) -> NoReturn:
        got = repr(value)[:80]
        if isinstance(value, np.ndarray):
            got = f"{value.dtype} of shape {value.shape}"
        elif isinstance(value, tuple):
            got = f"{len(value)} values"
        raise kind(f"{self.where}: expected {wanted} from {self.env_id}, got {got}. {cure}")


def _checked(where: str, env_id: str, env: gym.Env) -> gym.Env:
    """Look at an environment's answers below what `gymnasium.make` wraps around, and relies on."""
    for lowest in (OrderEnforcing, TimeLimit):  # in the order in which it adds them
        for wrapper in _wrappers(env):
            if isinstance(wrapper, lowest):
                wrapper.env = CheckedEnv(wrapper.env, where, env_id)
                return env
    return CheckedEnv(env, where, env_id)


def _wrappers(env: gym.Env) -> Iterator[gym.Wrapper]:
    """From the outside in."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def has_time_limit(envs: SyncVectorEnv) -> bool:
    """Whether Gymnasium cuts the episodes of these environments."""
    return any(isinstance(wrapper, TimeLimit) for wrapper in _wrappers(envs.envs[0]))
