"""Tasks: true dynamics are Gymnasium's, files keep what a task is, bad environments are named."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from mbrl_helpers.envs import (
    CARTPOLE_LIMITS,
    TASKS,
    Task,
    cartpole_margin,
    cartpole_step,
    get_task,
    make_envs,
    pendulum_step,
)
from mbrl_helpers.interfaces import Step

X_LIMIT, THETA_LIMIT = CARTPOLE_LIMITS

# --- true dynamics -------------------------------------------------------------------------------


def cartpole_states(rng, num):
    """States inside, and at the very edge of both limits, on both sides."""
    inside = rng.uniform(-1, 1, size=(num, 4)) * [1.1 * X_LIMIT, 3.0, 1.1 * THETA_LIMIT, 3.0]
    edge = [
        np.eye(4)[column] * sign * limit * (1 + nudge)
        for column, limit in ((0, X_LIMIT), (2, THETA_LIMIT))
        for sign in (-1, 1)
        for nudge in (-1e-9, 0, 1e-9, 0.5)
    ]
    return np.concatenate([inside, edge])


def gymnasium_cartpole(states, actions):
    env = gym.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    results = []
    for state, action in zip(states, actions, strict=True):
        env.state, env.steps_beyond_terminated = state, None
        next_obs, reward, terminated, _, _ = env.step(action)
        results.append((next_obs, reward, terminated))
    return [np.array(column, dtype=np.float64) for column in zip(*results, strict=True)]


def gymnasium_pendulum(states, torques):
    env = gym.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    results = []
    for state, torque in zip(states, torques, strict=True):
        env.state = state
        next_obs, reward, terminated, _, _ = env.step(torque)
        results.append((next_obs, reward, terminated))
    return [np.array(column, dtype=np.float64) for column in zip(*results, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cartpole_is_gymnasiums(dtype):
    rng = np.random.default_rng(0)
    states = cartpole_states(rng, 4000)
    actions = rng.integers(2, size=len(states))
    next_obs, reward, terminated = gymnasium_cartpole(states, actions)
    step = cartpole_step(torch.tensor(states, dtype=dtype), torch.eye(2, dtype=dtype)[actions])
    np.testing.assert_allclose(step.next_obs, next_obs, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(step.reward, reward)
    # Single precision can't tell which side of a limit a state is on that is 1e-9 away from it.
    clear = np.abs(np.abs(next_obs[:, [0, 2]]) - CARTPOLE_LIMITS).min(1) > 1e-6
    told = clear | (dtype == torch.float64)
    np.testing.assert_array_equal(step.terminated[told], terminated[told])
    cart_out, pole_out = (np.abs(next_obs[:, [0, 2]]) > CARTPOLE_LIMITS).T
    for only, column in ((cart_out & ~pole_out, 0), (pole_out & ~cart_out, 2)):
        assert set(np.sign(next_obs[only, column])) == {-1, 1}  # each limit, on both sides


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pendulum_is_gymnasiums(dtype):
    rng = np.random.default_rng(1)
    states = rng.uniform(-1, 1, size=(3000, 2)) * [3 * np.pi, 8.5]  # several turns, over the limit
    torques = rng.uniform(-4, 4, size=(3000, 1))  # twice the limit
    next_obs, reward, terminated = gymnasium_pendulum(states, torques)
    angle, speed = states.T
    obs = torch.tensor(np.stack([np.cos(angle), np.sin(angle), speed], axis=1), dtype=dtype)
    step = pendulum_step(obs, torch.tensor(torques, dtype=dtype))
    np.testing.assert_allclose(step.next_obs, next_obs, atol=1e-5, rtol=0)
    np.testing.assert_allclose(step.reward, reward, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(step.terminated, terminated)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.env_id)
def test_true_dynamics_take_any_leading_axes(task):
    rng = torch.Generator().manual_seed(0)
    obs = torch.randn(3, 4, 5, len(task.obs_names), generator=rng)
    action = torch.randn(3, 4, 5, task.actions.size, generator=rng)
    whole = task.true_dynamics.step(obs, action)
    assert [part.shape for part in whole] == [obs.shape, obs.shape[:-1], obs.shape[:-1]]
    one = task.true_step(obs[2, 1, 3], action[2, 1, 3])
    for of_all, alone in zip(whole, one, strict=True):
        torch.testing.assert_close(of_all[2, 1, 3], alone)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.env_id)
def test_task_describes_its_environment(task):
    with gym.make(task.env_id) as env:
        assert env.observation_space.shape == (len(task.obs_names),)
        assert env.action_space == task.action_space
    assert task.num_obs == len(task.obs_names)
    assert task.actions.space is task.action_space
    assert task.actions is task.actions  # made once
    assert task.true_dynamics.num_members == 1
    assert get_task(task.env_id) is task


def test_a_task_needs_no_equations():
    task = Task(env_id="CartPole-v1", obs_names=("x", "x_dot", "theta", "theta_dot"))
    assert task.action_space == Discrete(2)
    with pytest.raises(RuntimeError, match=r"of CartPole-v1, got true_step=None\. Write them"):
        _ = task.true_dynamics


def test_margin_is_highest_in_the_middle_and_keeps_the_reward():
    states = torch.zeros(5, 4)
    states[1, 0], states[2, 2], states[3, [0, 2]] = X_LIMIT, -THETA_LIMIT, torch.tensor(
        [-X_LIMIT, THETA_LIMIT]
    )  # fmt: skip
    states[4, [1, 3]] = 5.0  # velocities do not matter
    step = Step(states, torch.tensor([1.0, 1.0, 1.0, 2.0, 1.0]), torch.zeros(5))
    expected = torch.tensor([1.0, 0.7, 0.7, 0.8, 1.0])
    torch.testing.assert_close(cartpole_margin(states, torch.zeros(5, 2), step), expected)


# --- what a file keeps of a task -----------------------------------------------------------------


def from_a_file(task):
    return Task.of_settings(json.loads(json.dumps(task.settings())))


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.env_id)
def test_the_courses_tasks_come_back_whole(task):
    assert from_a_file(task) is task


OWN = [
    Task(env_id="Own-v0", obs_names=("x", "y"), space=Discrete(3, start=-1)),
    Task(env_id="Ünïcode Own", obs_names=("winkel φ [rad]", "b"), angles=((1, 0),),
         space=Box(np.array([0, -1e9, 1 / 3]), np.array([0.1, 1e9, 9]), dtype=np.float64)),
    Task(env_id="Pendulum-v1", obs_names=("cos", "sin", "speed")),
    Task(env_id="Pendulum-v1", obs_names=TASKS["Pendulum-v1"].obs_names),
    Task(env_id="CartPole-v1", obs_names=TASKS["CartPole-v1"].obs_names, space=Discrete(3)),
]  # fmt: skip


@pytest.mark.parametrize("task", OWN, ids=str)
def test_other_tasks_come_back_without_their_code(task):
    """Also those of a course's environment that are not quite the course's."""
    task = dataclasses.replace(task, objective=cartpole_margin, true_step=pendulum_step)
    again = from_a_file(task)
    for name in ("env_id", "obs_names", "angles"):
        assert getattr(again, name) == getattr(task, name)
    assert again.action_space == task.action_space
    assert again.action_space.dtype == task.action_space.dtype
    assert again.actions == task.actions
    assert again.objective is again.true_step is None
    if isinstance(task.action_space, Box):  # to the bit
        np.testing.assert_array_equal(again.action_space.low, task.action_space.low)
        np.testing.assert_array_equal(again.action_space.high, task.action_space.high)


def test_a_task_with_a_space_need_not_be_an_environment():
    task = Task(env_id="no such thing", obs_names=("x",), space=Discrete(3))
    assert task.action_space == Discrete(3)
    assert task.actions.size == 3


@pytest.mark.parametrize(
    ("angles", "error", "says"),
    [(((0, 3),), ValueError, "among the 3 of the observation"),
     (((1, 1),), ValueError, "different columns"), ([(0, 1)], TypeError, "pairs of columns")],
)  # fmt: skip
def test_angles_of_a_task_are_checked_where_it_is_written(angles, error, says):
    with pytest.raises(error, match=f"Task: expected angles as .*{says}"):
        dataclasses.replace(TASKS["Pendulum-v1"], angles=angles)


# --- environments that we can't use --------------------------------------------------------------


class Tiny(gym.Env):
    """An environment of any spaces."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


@pytest.fixture
def register_tiny():
    def register(observation_space, action_space):
        spaces = {"observation_space": observation_space, "action_space": action_space}
        gym.register("MbrlTiny-v0", entry_point=Tiny, kwargs=spaces)
        return "MbrlTiny-v0"

    yield register
    gym.registry.pop("MbrlTiny-v0", None)


VECTOR = Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("obs_space", "action_space", "error", "says"),
    [
        (Dict({"camera": VECTOR}), Discrete(2), ValueError, "vector observations.* got Dict"),
        (Box(0, 255, (8, 8, 3), np.uint8), Discrete(2), ValueError, r"\(8, 8, 3\).* MbrlTiny-v0"),
        (Discrete(16), Discrete(4), ValueError, r"vector observations.* got Discrete\(16\)"),
        (VECTOR, MultiDiscrete([2, 2]), TypeError, "Discrete or a Box.* got MultiDiscrete"),
        (VECTOR, Dict({"left": VECTOR}), TypeError, "Discrete or a Box.* got Dict"),
        (VECTOR, Box(0, 9, (2,), np.int64), TypeError, "of floats, got Box.*int64"),
    ],
)
def test_environments_of_other_spaces_are_refused(
    register_tiny, obs_space, action_space, error, says
):
    with pytest.raises(error, match=says):
        make_envs(register_tiny(obs_space, action_space), 2)


@pytest.mark.parametrize("find", [get_task, lambda name: make_envs(name, 1)])
def test_unknown_environment_lists_the_known_ones(find):
    with pytest.raises(ValueError, match=r"CartPole-v1.*Pendulum-v1") as error:
        find("Cartpole-v7")
    assert "'Cartpole-v7'" in str(error.value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError), ("3", TypeError)],
)
def test_counts_are_whole_and_positive(value, error):
    with pytest.raises(error, match=r"make_envs: expected num_envs .*, got") as message:
        make_envs("CartPole-v1", value)
    assert repr(value) in str(message.value)
    make_envs("CartPole-v1", np.int64(3)).close()  # what np.arange gives is fine


def test_environments_of_a_task_wait_for_us():
    envs = make_envs(get_task("CartPole-v1"), 2)
    assert envs.num_envs == 2
    assert envs.metadata["autoreset_mode"] == gym.vector.AutoresetMode.DISABLED
    envs.close()


def test_environments_are_drawn_if_that_is_asked_for(register_tiny):
    """One that can't be drawn need not know the word."""
    envs = make_envs("CartPole-v1", 1, render_mode="rgb_array")
    envs.reset(seed=0)
    (picture,) = envs.render()
    assert picture.ndim == 3
    envs.close()
    make_envs(register_tiny(VECTOR, Discrete(2)), 1).close()
