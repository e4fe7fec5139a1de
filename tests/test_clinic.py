"""The patients of notebook 12: each has its own fault, and no other."""

import gymnasium as gym
import numpy as np
import pytest

from mbrl_helpers.exercises.nb12 import Patient1, Patient2, Patient3

TORQUES = np.linspace(-2, 2, 8, dtype=np.float32)[:, None]


def episode(wrapper, torques=TORQUES, seed=3):
    """Observations [T+1, 3] and rewards [T] of Pendulum."""
    env = wrapper(gym.make("Pendulum-v1"))
    obs, _ = env.reset(seed=seed)
    rows, rewards = [obs], []
    for torque in torques:
        obs, reward, *_ = env.step(torque)
        rows.append(obs)
        rewards.append(reward)
    return np.array(rows), np.array(rewards, dtype=float)


@pytest.mark.parametrize("patient", [Patient1, Patient2, Patient3])
def test_patients_follow_their_seed(patient):
    for first, second in zip(episode(patient), episode(patient), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_first_has_noise_around_the_truth():
    seen, rewards = episode(Patient1)
    true, true_rewards = episode(lambda env: env)
    np.testing.assert_allclose(rewards, true_rewards)
    noise = seen - true
    assert 0.03 < noise.std() < 0.07
    assert seen.dtype == true.dtype


def test_the_second_acts_two_steps_late():
    late = np.concatenate([np.zeros((2, 1), np.float32), TORQUES[:-2]])
    for delayed, shifted in zip(episode(Patient2), episode(lambda env: env, late), strict=True):
        np.testing.assert_array_equal(delayed, shifted)


def test_the_third_has_a_price_for_each_episode():
    prices = []
    for seed in range(5):
        (obs, rewards), (true, true_rewards) = (
            episode(wrapper, seed=seed) for wrapper in (Patient3, lambda env: env)
        )
        np.testing.assert_array_equal(obs, true)
        prices.append(rewards[0] / true_rewards[0])
        np.testing.assert_allclose(rewards, prices[-1] * true_rewards)
    assert 0 < min(prices) < 1 < max(prices) < 3
