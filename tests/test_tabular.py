"""Dyna-Q in a table: against Q-learning, value iteration, and updates by hand."""

import gymnasium as gym
import numpy as np
import pytest

from mbrl_helpers.tabular import dyna_q, learn_from_memory

GRID = ["SFF", "HFF", "FFG"]


def grid(seed=0):
    env = gym.make("FrozenLake-v1", desc=GRID, is_slippery=False)
    env.reset(seed=seed)
    return env


def q_learning(env, rng, num_episodes, rate=0.5, discount=0.95, exploration=0.1):
    q, lengths = np.zeros((9, 4)), []
    for _ in range(num_episodes):
        (s, _), ended, lengths = env.reset(), False, [*lengths, 0]
        while not ended:
            best = rng.choice(np.flatnonzero(q[s] == q[s].max()))
            a = rng.integers(4) if rng.random() < exploration else best
            s_next, r, terminated, truncated, _ = env.step(a)
            target = r if terminated else r + discount * q[s_next].max()
            q[s, a] += rate * (target - q[s, a])
            s, ended, lengths[-1] = s_next, terminated or truncated, lengths[-1] + 1
    return q, lengths


def test_dyna_q_without_planning_is_q_learning():
    ours = dyna_q(grid(), np.random.default_rng(3), 60, 0)
    oracle = q_learning(grid(), np.random.default_rng(3), 60)
    assert oracle[0].max() > 0.5  # it has found the goal
    np.testing.assert_array_equal(ours[0], oracle[0])
    assert ours[1] == oracle[1]


def test_dyna_q_with_enough_planning_is_value_iteration():
    q, lengths = dyna_q(grid(), np.random.default_rng(0), 30, 300)
    assert lengths[-1] <= 8
    env, state, values = grid(), 0, []
    while state != 8:
        values.append(q[state].max())
        state = env.step(q[state].argmax())[0]
    assert values == pytest.approx([0.95**k for k in (3, 2, 1, 0)], rel=0.02)
    assert q[0, 1] == 0  # into the hole


# --- one stretch of memory -----------------------------------------------------------------------

MEMORY = {(0, 0): (1, 0.5, False), (1, 1): (2, 1.0, True), (1, 0): (0, -0.25, False)}


def test_an_update_goes_a_share_of_the_way_to_its_target():
    q = np.array([[1.0, 2.0], [3.0, -1.0], [7.0, 7.0]])
    learned = learn_from_memory(q, MEMORY, [(0, 0)], 0.5, 0.9)
    expected = q.copy()
    expected[0, 0] = 1.0 + 0.5 * (0.5 + 0.9 * 3.0 - 1.0)
    np.testing.assert_allclose(learned, expected)
    ended = learn_from_memory(q, MEMORY, [(1, 1)], 1.0, 0.9)
    assert ended[1, 1] == 1.0  # nothing follows the end, whatever the table says of it


def test_updates_build_on_each_other_in_their_order():
    q = np.zeros((3, 2))
    backwards, forwards = (
        learn_from_memory(q, MEMORY, pairs, 1.0, 0.9)
        for pairs in ([(1, 1), (0, 0)], [(0, 0), (1, 1)])
    )
    assert backwards[0, 0] == pytest.approx(0.5 + 0.9 * 1.0)
    assert forwards[0, 0] == pytest.approx(0.5)
    assert not q.any()  # the table that was given stays as it was
    assert np.array_equal(learn_from_memory(q, MEMORY, [], 1.0, 0.9), q)


def test_the_same_generator_learns_the_same():
    runs = [dyna_q(grid(), np.random.default_rng(seed), 10, 5) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1] and len(runs[0][1]) == 10
    assert not np.array_equal(runs[0][0], runs[2][0])
