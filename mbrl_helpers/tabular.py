"""Dyna-Q and Q-learning: values in a table, from real steps and from remembered ones.

Axes: S states, A actions.
"""

from typing import Any

import numpy as np

# What a table remembers: (state, action) -> (next state, reward, terminated).
Memory = dict[tuple[int, int], tuple[int, float, bool]]


def learn_from_memory(
    q: np.ndarray,
    model: Memory,
    remembered: list[tuple[int, int]],
    rate: float,
    discount: float,
) -> np.ndarray:
    """Update a table of values from transitions that a table remembers.

    Args:
        q: [S, A] values.
        model: (state, action) -> (next state, reward, terminated).
        remembered: pairs (state, action), in the order of the updates.
        rate: share of the way to the target.
        discount: weight of a reward a step later.

    Returns:
        The new values; those given stay as they were.

    Source: Watkins 1989 (Q-learning). Taught in notebook 07.
    """
    q = q.copy()
    for state, action in remembered:
        next_state, reward, terminated = model[state, action]
        target = reward + discount * (1 - terminated) * q[next_state].max()
        q[state, action] += rate * (target - q[state, action])
    return q


def dyna_q(
    env: Any, rng: np.random.Generator, num_episodes: int, num_planning_steps: int
) -> tuple[np.ndarray, list[int]]:
    """Learn a table of values from real steps, and between them from remembered ones.

    Args:
        env: a gymnasium.Env, deterministic, with S states and A actions (both spaces Discrete).
        rng: explores, breaks ties, and picks what is remembered.
        num_episodes: real ones.
        num_planning_steps: updates from the model after each real step; 0 is Q-learning.

    Returns:
        Values [S, A], and the real steps of each episode.

    Source: Sutton 1990; Sutton and Barto 2018, section 8.2. Taught in notebook 07.
    """
    q = np.zeros((env.observation_space.n, env.action_space.n))
    model, lengths = {}, []
    for _ in range(num_episodes):
        (obs, _), ended = env.reset(), False
        lengths.append(0)
        while not ended:
            best = rng.choice(np.flatnonzero(q[obs] == q[obs].max()))
            action = int(rng.integers(q.shape[1]) if rng.random() < 0.1 else best)
            next_obs, reward, terminated, truncated, _ = env.step(action)
            model[obs, action] = next_obs, reward, terminated
            remembered = rng.choice(list(model), num_planning_steps)
            pairs = [(obs, action), *map(tuple, remembered)]
            q = learn_from_memory(q, model, pairs, 0.5, 0.95)
            obs, ended = next_obs, terminated or truncated
            lengths[-1] += 1
    return q, lengths
