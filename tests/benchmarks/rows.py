"""CartPole-v1: what false rows do to a model, and what it knows beyond its data (notebook 01).

False rows: eight copies that reset themselves, 4,000 rows, all of them or without those that never
happened; error of the pole velocity on 200 clean random episodes. Beyond the data: a model of those
200 episodes, asked where a planning agent goes: at cart positions inside of the central 98 % of the
data, and outside. Models: least squares; the course's; its networks alone, without a linear part.
"""

import gymnasium as gym
import numpy as np
import torch
from _common import finish, parser, record, run_all

from mbrl_helpers import (
    DynamicsConfig,
    EnsembleModel,
    MPCAgent,
    RandomAgent,
    RandomShooting,
    Transitions,
    collect_episodes,
    get_task,
)
from mbrl_helpers.notebook import generator

TASK = get_task("CartPole-v1")
NUM_COPIES, NUM_STEPS = 8, 500
NAMES = ("least squares", "the course's model", "networks alone")


def naive_rows(seed: int) -> tuple[Transitions, np.ndarray]:
    """Rows of a collector that stores every step, and which of them never happened."""
    rng, envs = np.random.default_rng(seed), gym.make_vec(TASK.env_id, NUM_COPIES)
    obs, _ = envs.reset(seed=seed)
    kept, false, ended, episode = [], [], np.zeros(NUM_COPIES, bool), np.arange(NUM_COPIES)
    for _ in range(NUM_STEPS):
        action = rng.integers(2, size=NUM_COPIES)
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        episode = episode + NUM_COPIES * ended  # what never happened opens an episode
        kept.append((obs, action, reward, next_obs, terminated, truncated, episode))
        false.append(ended)
        obs, ended = next_obs, terminated | truncated
    columns = [np.swapaxes(np.array(c), 0, 1) for c in zip(*kept, strict=True)]  # copy by copy
    columns = [c.reshape(NUM_COPIES * NUM_STEPS, *c.shape[2:]) for c in columns]
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "episode")
    return Transitions(**dict(zip(names, columns, strict=True))), np.array(false).T.ravel()


def predictions(name: str, data: Transitions, asked: Transitions, seed: int) -> np.ndarray:
    """Next observations [T, O] that a model of some data predicts for others."""
    if name == "least squares":
        x, xs = ([d.obs, d.action[:, None], np.ones((len(d), 1))] for d in (data, asked))
        weights, *_ = np.linalg.lstsq(np.hstack(x), data.next_obs, rcond=None)
        return np.hstack(xs) @ weights
    config = DynamicsConfig(linear_part=name != "networks alone")
    model = EnsembleModel(TASK, generator(seed), config).fit(data)
    batch = asked.tensors(TASK.actions)
    with torch.inference_mode():
        obs, action = (t.expand(model.num_members, -1, -1) for t in (batch.obs, batch.action))
        return model.step(obs, action).next_obs.mean(0).numpy()


def error(predicted: np.ndarray, asked: Transitions, rows: object = slice(None)) -> float:
    """Root mean squared error of the pole velocity [rad/s]."""
    return float(np.sqrt(np.square(predicted - asked.next_obs)[rows, 3].mean()))


def run(seed: int) -> list[dict]:
    """Both experiments of one seed."""
    first, space = 1_000_000 + 10_000 * seed, TASK.action_space
    naive, false = naive_rows(first)
    beginner = RandomAgent(space, generator(seed))
    clean = collect_episodes(TASK, beginner, num_episodes=200, num_envs=50, seed=first + 1_000)
    planner = RandomShooting(space, generator(seed))
    good = MPCAgent(TASK, TASK.true_dynamics, planner)
    visited = collect_episodes(TASK, good, num_episodes=5, seed=first + 2_000)
    edge = np.quantile(np.abs(clean.obs[:, 0]), 0.98)
    outside = np.abs(visited.obs[:, 0]) > edge
    rows = []
    for name in NAMES:
        asked = predictions(name, clean, visited, seed)
        rows.append({
            "seed": seed, "model": name,
            "all_rows": error(predictions(name, naive, clean, seed), clean),
            "true_rows": error(predictions(name, naive[~false], clean, seed), clean),
            "inside": error(asked, visited, ~outside), "outside": error(asked, visited, outside),
            "share_outside": float(outside.mean()),
        })  # fmt: skip
    return rows


def main() -> None:
    options = parser(__doc__, range(10)).parse_args()
    rows = run_all(run, options)
    if options.record:
        record("rows", rows)
    measures = ("all_rows", "true_rows", "inside", "outside")
    results = {
        name: {m: [round(r[m], 6) for r in rows if r["model"] == name] for m in measures}
        for name in NAMES
    }
    for name, found in results.items():
        print(f"{name:20}" + "  ".join(f"{m} {np.median(v):.5f}" for m, v in found.items()))
    finish("rows", seeds=options.seeds, **results)


if __name__ == "__main__":
    main()
