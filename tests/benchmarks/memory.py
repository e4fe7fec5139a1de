"""Pendulum-v1, true dynamics: what a memory is worth to a planner, and what refitting is.

Forty starts a seed, its own. Decisions: the best of all candidates around a mean, or the mean of
elites in several iterations (CEM), each cold (the mean is 0 at every decision) or warm (it is the
last plan, shifted), at equal numbers of model calls; and iCEM with one of its parts taken away.
Regret is against
the best returns there are from the same starts (see pendulum_optimum.py). One decision: predicted
return of the plan that each finds from each start with many more candidates, from scratch.
"""

import numpy as np
import torch
from _common import finish, parser, record, run_all
from pendulum_optimum import DynamicProgramming

from mbrl_helpers import CEM, ICEM, MPCAgent, collect_episodes, evaluate, get_task, rollout_returns
from mbrl_helpers.notebook import generator

TASK = get_task("Pendulum-v1")
NUM_STARTS, HORIZON = 40, 20
BEST = {"num_iterations": 1, "num_elites": 1, "momentum": 0.0}  # around the mean; no refit
DECISIONS = {
    1_000: {"best of N": {"population_size": 50, **BEST},
            "refit": {"population_size": 16, "num_iterations": 3, "num_elites": 3}},
    10_000: {"best of N": {"population_size": 500, **BEST},
             "refit": {"population_size": 100, "num_iterations": 5, "num_elites": 10}},
}  # fmt: skip
ICEM_SMALL = {"population_size": 20, "num_iterations": 3, "num_elites": 4}
PARTS = {
    "iCEM": {},
    "white noise": {"noise_exponent": 0.0},
    "keeps no elites": {"keep_fraction": 0.0},
    "no decay": {"population_decay": 1.0, "population_size": 16},  # as many candidates in all
    "executes the mean": {"execute": "mean"},
    "cold": {"warm_start": False, "keep_fraction": 0.0},
}
ONE = {"best of N": {"population_size": 20_000, **BEST},
       "refit": {"population_size": 2_000, "num_iterations": 10, "num_elites": 50}}  # fmt: skip


def planner(kind: type, seed: int, **settings):
    """A planner of 20 steps with these settings."""
    return kind(TASK.action_space, generator(seed), kind.Config(horizon=HORIZON, **settings))


def run(seed: int) -> list[dict]:
    """A row for each setting and start."""
    starts = {"num_episodes": NUM_STARTS, "seed": 30_000 + 1_000 * seed}
    best, rows = evaluate(TASK, DynamicProgramming(480, 321), **starts), []

    def add(what: str, name: str, calls: int, values: np.ndarray) -> None:
        rows.extend(
            {"seed": seed, "start": i, "what": what, "planner": name, "calls": calls,
             "value": round(float(value), 2)}
            for i, value in enumerate(values)
        )  # fmt: skip

    for calls, kinds in DECISIONS.items():
        for name, settings in kinds.items():
            for warm in (False, True):
                player = planner(CEM, seed, warm_start=warm, **settings)
                returns = evaluate(TASK, MPCAgent(TASK, TASK.true_dynamics, player), **starts)
                add("warm" if warm else "cold", name, calls, best - returns)
    for name, changes in PARTS.items():
        player = planner(ICEM, seed, **ICEM_SMALL | changes)
        returns = evaluate(TASK, MPCAgent(TASK, TASK.true_dynamics, player), **starts)
        add("iCEM's parts", name, 1_000, best - returns)
    rule = collect_episodes(TASK, DynamicProgramming(480, 321), **starts)
    obs = torch.tensor(np.stack([rule.obs[rule.episode == e][0] for e in rule.episodes]))
    for name, settings in ONE.items():
        found = [
            search(planner(CEM, seed, **settings), obs[i : i + 1]) for i in range(NUM_STARTS)
        ]  # one by one: all together would not fit into memory
        add("one decision", name, HORIZON * 20_000, np.array(found))
    return rows


@torch.inference_mode()
def search(player, obs: torch.Tensor) -> float:
    """Predicted return of the plan that is found from obs [1, O]."""

    def score(actions):
        return rollout_returns(TASK.true_dynamics, obs, actions)

    plan, _ = player.plan(score, player.start(1))
    return float(score(plan.actions[:, None])[0, 0])


def main() -> None:
    options = parser(__doc__, range(5)).parse_args()
    rows = run_all(run, options)
    if options.record:
        record("memory", rows)
    means: dict[str, list[float]] = {}
    for row in rows:
        name = f"{row['what']}, {row['planner']}, {row['calls']} calls"
        means.setdefault(name, []).append(row["value"])
    results = {}
    for name, values in means.items():
        by_seed = np.array(values).reshape(len(options.seeds), NUM_STARTS)
        results[name] = by_seed.mean(1).round(1).tolist()
        lost = (by_seed > 60).sum()
        print(f"{name:42} mean {by_seed.mean():7.2f}  of seeds {results[name]}  above 60: {lost}")
    finish("memory", seeds=options.seeds, **results)


if __name__ == "__main__":
    main()
