"""Observations that hold the steps before them."""

import gymnasium as gym
import numpy as np
import pytest
import worlds
from gymnasium.utils.env_checker import check_env

from mbrl_helpers import RandomAgent, RememberSteps, Task, collect_episodes, diagnose, notebook
from mbrl_helpers.exercises.nb12 import Patient2, with_memory


def mass_env():
    return gym.make(worlds.HEALTHY["mass"].env_id).unwrapped


def make(env_id="Pendulum-v1", num_steps=2):
    return RememberSteps(gym.make(env_id), num_steps)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_gymnasium_finds_no_fault(env_id, num_steps):
    check_env(make(env_id, num_steps), skip_render_check=True)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_rows_are_those_of_the_exercise(env_id):
    """Once the past is full: oldest first, look and action, the present last."""
    env, plain = make(env_id), gym.make(env_id)
    env.action_space.seed(0)
    seen, past, acted = [env.reset(seed=5)[0]], [plain.reset(seed=5)[0]], []
    for _ in range(8):
        action = env.action_space.sample()
        seen.append(env.step(action)[0])
        past.append(plain.step(action)[0])
        acted.append(np.eye(2)[action] if env_id == "CartPole-v1" else action)
    acted.append(np.zeros_like(acted[0]))
    expected = with_memory(np.array(past), np.array(acted), 2)
    np.testing.assert_allclose(np.array(seen)[2:], expected, rtol=1e-6)


def test_a_reset_forgets():
    env = make()
    first, _ = env.reset(seed=1)
    for _ in range(3):
        env.step(np.array([2.0], np.float32))
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(first, again)
    look = first[-3:]
    np.testing.assert_array_equal(first, np.concatenate([look, [0], look, [0], look]))


def test_what_was_returned_stays():
    env = make()
    first, _ = env.reset(seed=1)
    kept = first.copy()
    env.step(np.array([1.0], np.float32))
    np.testing.assert_array_equal(first, kept)


def test_actions_of_a_space_without_zero_are_within_bounds():
    inner = gym.make("Pendulum-v1")
    env = gym.wrappers.RescaleAction(inner, np.float32(1.0), np.float32(3.0))
    env = RememberSteps(env, 1)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    obs, *_ = env.step(np.array([3.0], np.float32))
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize(
    ("num_steps", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_refuses_a_number_of_steps(num_steps, error):
    with pytest.raises(error, match="RememberSteps: expected num_steps"):
        make(num_steps=num_steps)


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Blackjack-v1"])
def test_refuses_observations_without_numbers(env_id):
    with pytest.raises(TypeError, match="RememberSteps: expected a flat Box observation"):
        make(env_id)


def test_refuses_actions_by_its_own_name():
    class Many(gym.Wrapper):
        action_space = gym.spaces.MultiDiscrete([2, 2])

    with pytest.raises(TypeError, match="RememberSteps: expected a Discrete or a Box"):
        RememberSteps(Many(gym.make("CartPole-v1")), 1)


def test_cures_a_delay():
    """The report finds the hidden state, and with the wrapper finds none."""
    mass = worlds.HEALTHY["mass"]
    ways = {
        "sick": (lambda env: Patient2(env), 2),
        "cured": (lambda env: RememberSteps(Patient2(env), 2), 8),
    }
    found = {}
    for name, (wrap, size) in ways.items():
        env_id = f"Late-{name}-v0"
        gym.register(env_id, lambda wrap=wrap: wrap(mass_env()), max_episode_steps=60)
        task = Task(env_id=env_id, obs_names=tuple(f"number {i}" for i in range(size)))
        agent = RandomAgent(mass.action_space, notebook.generator(0), correlation=0.5)
        data = collect_episodes(task, agent, num_episodes=20, seed=0)
        report = diagnose(task, data, notebook.generator(0))
        found[name] = [finding.kind for finding in report.findings]
    assert "hidden" in found["sick"]
    assert "hidden" not in found["cured"]
