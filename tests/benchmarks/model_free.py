"""Model-free agents, with rl-baselines3-zoo's tuned settings and today's: steps until it is solved.

They are evaluated like the course's agent: greedily, on the same ten starts, after every training
episode at whose end the policy is another than at the last evaluation; PPO after every update of
its policy. No run is stopped for its result: each takes the zoo's number of steps. Steps count over
all parallel environments. Seconds are of the processor, imports included and evaluation excluded;
each run has a process of its own.

Today's (`TODAY`) take several updates a step and normalise their layers, as DroQ, CrossQ and SimBa
do; on CartPole, DQN with returns of five steps. Their settings were chosen on seed 100, which is
not recorded, by steps: for SAC among 4, 8 and 16 updates, for DQN among five settings.

It needs stable-baselines3, for today's sbx-rl (see _peers.py), and this repository in PYTHONPATH.
With `--record` a run replaces its own rows of the recording, and leaves all others: parts may be
recorded one after the other. `--recorded` runs nothing and summarises what there is.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Iterable
from itertools import chain

import numpy as np
from _common import finish, first, parser, record, recorded, run_all

from mbrl_helpers.interaction import collect_episodes

NAME = "model_free"
SUSTAINED = 3  # evaluations in a row
# Mean of the best returns there are from the ten starts (see pendulum_optimum.py).
REFERENCE = -130.66
REGRET = 25.0
THRESHOLDS = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0}
COLUMNS = {
    "steps_to_threshold": " steps", "steps_sustained": "sustained", "seconds": "seconds",
    "steps_to_regret": "regret", "steps_to_regret_sustained": "sustained",
    "final_return": "  final", "total_seconds": "all seconds",
}  # fmt: skip
# Settings of rl-baselines3-zoo at commit 22e3ff2 (hyperparams/*.yml), for these very versions of
# the tasks. What it leaves out is stable-baselines3's default.
TD3 = {
    "n_timesteps": 20_000, "learning_starts": 10_000, "gamma": 0.98, "buffer_size": 200_000,
    "noise_std": 0.1, "gradient_steps": 1, "train_freq": 1, "learning_rate": 1e-3,
    "policy_kwargs": {"net_arch": [400, 300]},
}  # fmt: skip
RUNS = {
    ("Pendulum-v1", "SAC"): {"n_timesteps": 20_000, "learning_rate": 1e-3},
    # Not the zoo's: its TD3 acts at random for half of its steps.
    ("Pendulum-v1", "TD3 (learns from 1,000)"): {**TD3, "learning_starts": 1_000},
    ("CartPole-v1", "DQN"): {
        "n_timesteps": 50_000, "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000,
        "learning_starts": 1_000, "gamma": 0.99, "target_update_interval": 10, "train_freq": 256,
        "gradient_steps": 128, "exploration_fraction": 0.16, "exploration_final_eps": 0.04,
        "policy_kwargs": {"net_arch": [256, 256]},
    },
    ("Pendulum-v1", "PPO"): {
        "n_timesteps": 100_000, "n_envs": 4, "n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9,
        "n_epochs": 10, "ent_coef": 0.0, "learning_rate": 1e-3, "clip_range": 0.2,
        "use_sde": True, "sde_sample_freq": 4,
    },
    ("CartPole-v1", "PPO"): {
        "n_timesteps": 100_000, "n_envs": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8,
        "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0,
        "learning_rate": lambda remaining: 1e-3 * remaining,  # the zoo's lin_0.001
        "clip_range": lambda remaining: 0.2 * remaining,
    },
    ("Pendulum-v1", "TD3"): TD3,
}  # fmt: skip
TODAY = {
    ("Pendulum-v1", "SAC today"): {
        "library": "sbx", "n_timesteps": 4_000, "learning_starts": 200, "learning_rate": 1e-3,
        "gradient_steps": 8, "policy_kwargs": {"layer_norm": True},
    },
    ("Pendulum-v1", "CrossQ"): {
        "library": "sbx", "n_timesteps": 5_000, "learning_starts": 200, "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": {"pi": [256, 256], "qf": [512, 512]}},
    },
    ("CartPole-v1", "DQN today"): {
        "n_timesteps": 10_000, "learning_rate": 1e-3, "batch_size": 128, "learning_starts": 200,
        "n_steps": 5, "train_freq": 1, "gradient_steps": 4, "target_update_interval": 200,
        "exploration_fraction": 0.05, "policy_kwargs": {"net_arch": [256, 256]},
    },
}  # fmt: skip
RUNS |= TODAY


class Greedy:
    """A model's deterministic policy, as an agent of the course."""

    def __init__(self, model):
        self.model = model

    def act(self, obs: np.ndarray) -> np.ndarray:
        return self.model.predict(obs, deterministic=True)[0]

    def reset(self, ended: np.ndarray | None = None) -> None:
        """It has no memory."""


def make_model(task: str, algorithm: str, seed: int, settings: dict):
    """An untrained model of stable-baselines3, or of sbx: the same in JAX, on one thread."""
    one_thread = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.setdefault("XLA_FLAGS", one_thread)
    library = importlib.import_module(settings.pop("library", "stable_baselines3"))
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.noise import NormalActionNoise

    envs = make_vec_env(task, settings.pop("n_envs", 1))
    if "noise_std" in settings:
        size, std = envs.action_space.shape, settings.pop("noise_std")
        settings["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, std))
    cls = getattr(library, algorithm.split()[0])
    policy = settings.pop("policy", "MlpPolicy")
    return cls(policy, envs, seed=1_000_000 + 1000 * seed, device="cpu", **settings)


def run(task: str, algorithm: str, seed: int) -> list[dict]:
    """Train once, and return one row for each evaluation."""
    from stable_baselines3.common.callbacks import BaseCallback

    rows, settings = [], dict(RUNS[task, algorithm])

    class Evaluate(BaseCallback):
        num_updates, seconds = 0, 0.0  # at the last evaluation; of all evaluations

        def _on_step(self) -> bool:
            if algorithm != "PPO" and self.locals["dones"].any():
                self.evaluate()
            return True

        def _on_rollout_start(self) -> None:  # or: after the update that followed the last one
            if algorithm == "PPO":
                self.evaluate()

        _on_training_end = _on_rollout_start

        def evaluate(self) -> None:
            if self.model._n_updates == self.num_updates:
                return
            self.num_updates, begin = self.model._n_updates, time.process_time()
            played = collect_episodes(task, Greedy(self.model), num_episodes=10, seed=9000)
            mean, least = float(played.returns().mean()), float(played.returns().min())
            rows.append(
                {"task": task, "algorithm": algorithm, "seed": seed, "steps": self.num_timesteps,
                 "mean_return": round(mean, 1), "min_return": round(least, 1),
                 "seconds": round(begin - self.seconds, 2)}
            )  # fmt: skip
            self.seconds += time.process_time() - begin

    num_steps = settings.pop("n_timesteps")
    make_model(task, algorithm, seed, settings).learn(num_steps, callback=Evaluate())
    return rows


def summary(rows: list[dict]) -> dict:
    """The measures of one run: null where a threshold is never reached."""
    means, task = [row["mean_return"] for row in rows], rows[0]["task"]

    def at(threshold: float, in_a_row: int, column: str) -> float | None:
        index = first(means, threshold, in_a_row)
        return None if index is None else rows[index][column]

    measures = {
        "steps_to_threshold": at(THRESHOLDS[task], 1, "steps"),
        "steps_sustained": at(THRESHOLDS[task], SUSTAINED, "steps"),
        "seconds": at(THRESHOLDS[task], 1, "seconds"),
    }
    if task == "Pendulum-v1":
        measures["steps_to_regret"] = at(REFERENCE - REGRET, 1, "steps")
        measures["steps_to_regret_sustained"] = at(REFERENCE - REGRET, SUSTAINED, "steps")
    return {**measures, "final_return": means[-1], "total_seconds": rows[-1]["seconds"]}


def by_run(rows: Iterable[dict]) -> dict[tuple, list[dict]]:
    """Rows of each (task, algorithm, seed), in the order of `RUNS`, with numbers as such."""
    runs: dict[tuple, list[dict]] = {}
    for row in rows:
        row = row | {k: int(row[k]) for k in ("seed", "steps")}
        row |= {k: float(row[k]) for k in ("mean_return", "min_return", "seconds")}
        runs.setdefault((row["task"], row["algorithm"], row["seed"]), []).append(row)
    order = list(RUNS)
    return dict(sorted(runs.items(), key=lambda run: (order.index(run[0][:2]), run[0][2])))


def keep(new: dict[tuple, list[dict]]) -> None:
    """Record runs, in place of earlier ones of the same kind."""
    header, old = recorded(NAME)
    old = by_run(old)
    runs = by_run(chain.from_iterable((old | new).values()))
    sbx = any("library" in RUNS[run[:2]] for run in new)
    libraries = ["stable-baselines3", *(["sbx-rl", "jax"] if sbx else [])]
    versions = "".join(f"{name} {importlib.metadata.version(name)}, " for name in libraries)
    rows, old_left = list(chain.from_iterable(runs.values())), old.keys() - new.keys()
    record(NAME, rows, versions=versions, earlier=header if old_left else [])


def show(rows: list[dict]) -> None:
    """Print a line of the table."""
    row, measures = rows[0], summary(rows)
    print(f"{row['task']:11}  {row['algorithm']:23}  {row['seed']:4}", end="")
    for name, title in COLUMNS.items():
        print(f"  {measures.get(name)!s:>{len(title)}}", end="")
    print(flush=True)


def main() -> None:
    arguments = parser(__doc__, range(5))
    algorithms = list(dict.fromkeys(algorithm for _, algorithm in RUNS))
    arguments.add_argument("--tasks", nargs="+", default=list(THRESHOLDS), choices=list(THRESHOLDS))
    arguments.add_argument("--algorithms", nargs="+", default=algorithms, choices=algorithms)
    arguments.add_argument("--recorded", action="store_true", help="summarise what is recorded")
    options = arguments.parse_args()
    settings = [
        {"task": task, "algorithm": algorithm}
        for task, algorithm in RUNS if task in options.tasks and algorithm in options.algorithms
    ]  # fmt: skip
    print(f"{'task':11}  {'algorithm':23}  seed", *COLUMNS.values(), sep="  ")
    if options.recorded:
        runs = {
            (task, algorithm, seed): rows
            for (task, algorithm, seed), rows in by_run(recorded(NAME)[1]).items()
            if {"task": task, "algorithm": algorithm} in settings and seed in options.seeds
        }
    elif importlib.util.find_spec("stable_baselines3"):
        runs = by_run(run_all(run, options, settings, fresh=True))
        if options.record:
            keep(runs)
    else:
        print("nothing was run: stable-baselines3 is not installed (see _peers.py)")
        runs = {}
    results = {}
    for rows in runs.values():
        show(rows)
    for (task, algorithm, seed), rows in runs.items():
        for name, value in {"seeds": seed, **summary(rows)}.items():
            results.setdefault(f"{task} {algorithm}", {}).setdefault(name, []).append(value)
    finish(NAME, **results)


if __name__ == "__main__":
    main()
