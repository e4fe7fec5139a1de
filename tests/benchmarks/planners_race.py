"""Pendulum-v1: planners at equal numbers of model calls a decision, with true and learned dynamics.

A model call is one member's prediction for one state and action. Ten evaluation episodes a setting
and seed. The learned model (reward, too) of a seed has seen five random episodes and then five
that iCEM played with the model so far: 2,000 transitions. Budgets are shared out over iterations
by one rule for all planners that iterate; no setting was tuned to a budget.
"""

import time
from functools import partial

from _common import finish, parser, record, run_all

from mbrl_helpers import (
    CEM,
    ICEM,
    MPPI,
    EnsembleModel,
    FittedModel,
    MPCAgent,
    RandomAgent,
    RandomShooting,
    ReplayBuffer,
    Task,
    collect_episodes,
    evaluate,
    get_task,
)
from mbrl_helpers.notebook import generator
from mbrl_helpers.planners import Planner

PLANNERS = {"RS": RandomShooting, "CEM": CEM, "iCEM": ICEM, "MPPI": MPPI}
CALLS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
LEARNED_CALLS = (1_000, 3_000, 10_000)
HORIZON, HORIZONS, HORIZON_CALLS = 20, (2, 5, 10, 15, 20, 30, 50, 80), 3_000


def setting(name: str, candidates: int) -> dict:
    """Population, iterations and elites with which a planner scores at most so many candidates."""
    if name in ("RS", "MPPI"):
        return {"population_size": candidates, "num_iterations": 1, "num_elites": 0}
    iterations = 1 + sum(candidates >= least for least in (10, 40, 100, 1_000))
    for population in range(candidates, 0, -1):
        elites = max(1, round(population / 6))
        if num_scored(name, population, iterations, elites) <= candidates:
            break
    return {"population_size": population, "num_iterations": iterations, "num_elites": elites}


def num_scored(name: str, population: int, iterations: int, elites: int) -> int:
    """How many candidates are scored: those drawn; for iCEM kept elites and the mean as well."""
    if name == "CEM":
        return iterations * population
    drawn = sum(max(round(population / 1.25**i), elites) for i in range(iterations))
    return drawn + iterations * round(0.3 * elites) + 1


def make_planner(name: str, task: Task, seed: int, horizon: int, chosen: dict) -> Planner:
    """A planner with its default settings but for the size of its search."""
    cls = PLANNERS[name]
    names = vars(cls.Config(horizon=horizon))
    config = cls.Config(horizon=horizon, **{k: v for k, v in chosen.items() if k in names})
    return cls(task.action_space, generator(seed), config)


def learn(task: Task, seed: int) -> FittedModel:
    """A model of dynamics and reward from 2,000 transitions: random first, then its own."""
    rng, buffer = generator(seed), ReplayBuffer()
    first = 1_000_000 + 1000 * seed
    model, beginner = EnsembleModel(task, rng), RandomAgent(task.action_space, rng)
    planner = make_planner("iCEM", task, seed, HORIZON, setting("iCEM", 150))
    collect_episodes(task, beginner, num_episodes=5, seed=first, buffer=buffer)
    agent = MPCAgent(task, model.fit(buffer.all()), planner)
    collect_episodes(task, agent, num_episodes=5, seed=first + 500, buffer=buffer)
    return model.fit(buffer.all())


def settings(calls: tuple[int, ...]) -> list[tuple]:
    """What to run for each seed, as (dynamics, planner, calls, horizon)."""
    race = [("true", name, budget, HORIZON) for budget in calls for name in PLANNERS]
    race += [
        ("learned", name, budget, HORIZON)
        for budget in calls if budget in LEARNED_CALLS for name in PLANNERS
    ]  # fmt: skip
    race += [
        ("true", name, HORIZON_CALLS, horizon)
        for horizon in HORIZONS if horizon != HORIZON for name in PLANNERS
    ]  # fmt: skip
    return race


def run(seed: int, calls: tuple[int, ...]) -> list[dict]:
    """All planners of one seed."""
    task, rows = get_task("Pendulum-v1"), []
    models = {"true": task.true_dynamics, "learned": learn(task, seed)}
    for dynamics, name, budget, horizon in settings(calls):
        model = models[dynamics]
        chosen = setting(name, budget // (horizon * model.num_members))
        planner = make_planner(name, task, seed, horizon, chosen)
        begin = time.process_time()
        returns = evaluate(task, MPCAgent(task, model, planner))
        rows.append(
            {"seed": seed, "dynamics": dynamics, "planner": name, "calls": budget,
             "mean_return": round(float(returns.mean()), 1), "horizon": horizon, **chosen,
             "seconds": round(time.process_time() - begin, 1)}
        )  # fmt: skip
    return rows


def main() -> None:
    arguments = parser(__doc__, range(3))
    arguments.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
    options = arguments.parse_args()
    rows = run_all(partial(run, calls=tuple(options.calls)), options)
    for row in rows:
        print(*row.values())
    if options.record:
        record("planners_race", rows)
    results = {
        f"{dynamics}_{name}": [
            [r["mean_return"] for r in rows
             if (r["seed"], r["dynamics"], r["planner"], r["horizon"])
             == (seed, dynamics, name, HORIZON)]
            for seed in options.seeds
        ]
        for dynamics in ("true", "learned") for name in PLANNERS
    }  # fmt: skip
    finish("planners_race", seeds=options.seeds, calls=options.calls, **results)


if __name__ == "__main__":
    main()
