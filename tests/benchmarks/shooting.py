"""CartPole-v1: random shooting over horizons and populations, with true and with learned dynamics.

Ten evaluation episodes a setting and seed; the learned model of a seed has seen five random
episodes. "reward" plans with the environment's own reward, "margin" with the task's objective.
"""

import time
from functools import partial

from _common import finish, parser, record, run_all

from mbrl_helpers import (
    EnsembleModel,
    MPCAgent,
    RandomAgent,
    RandomShooting,
    RandomShootingConfig,
    collect_episodes,
    evaluate,
    get_task,
)
from mbrl_helpers.notebook import generator

HORIZONS, POPULATIONS = (1, 2, 4, 7, 10, 15, 30), (3, 10, 30, 100, 300)
DEFAULT_HORIZON, DEFAULT_POPULATION = 10, 100


def settings(horizons: list[int], populations: list[int]) -> list[tuple]:
    """Settings to run, each once, as (dynamics, objective, horizon, population)."""
    chosen = [("margin", DEFAULT_HORIZON, population) for population in populations]
    for objective in ("reward", "margin"):
        chosen += [(objective, horizon, DEFAULT_POPULATION) for horizon in horizons]
    return [(dynamics, *rest) for dynamics in ("true", "learned") for rest in dict.fromkeys(chosen)]


def run(seed: int, horizons: list[int], populations: list[int]) -> list[dict]:
    """All settings of one seed."""
    task, rng, rows = get_task("CartPole-v1"), generator(seed), []
    space = task.action_space
    data = collect_episodes(
        task, RandomAgent(space, rng), num_episodes=5, seed=1_000_000 + 1000 * seed
    )
    learned = EnsembleModel(task, rng).fit(data)
    for dynamics, objective, horizon, population in settings(horizons, populations):
        config = RandomShootingConfig(horizon=horizon, population_size=population)
        agent = MPCAgent(
            task,
            task.true_dynamics if dynamics == "true" else learned,
            RandomShooting(space, generator(seed), config),
            objective=task.objective if objective == "margin" else None,
        )
        begin = time.process_time()
        returns = evaluate(task, agent)
        rows.append({
            "seed": seed, "dynamics": dynamics, "objective": objective, "horizon": horizon,
            "population": population, "mean_return": round(float(returns.mean()), 1),
            "seconds": round(time.process_time() - begin, 1),
        })  # fmt: skip
    return rows


def main() -> None:
    arguments = parser(__doc__, range(5))
    arguments.add_argument("--horizons", type=int, nargs="+", default=list(HORIZONS))
    arguments.add_argument("--populations", type=int, nargs="+", default=list(POPULATIONS))
    options = arguments.parse_args()
    chosen = {"horizons": options.horizons, "populations": options.populations}
    rows = run_all(partial(run, **chosen), options)
    for row in rows:
        print(*row.values())
    if options.record:
        record("shooting", rows)
    results = {}
    for dynamics in ("true", "learned"):
        for objective in ("reward", "margin"):
            chosen = [r for r in rows if (r["dynamics"], r["objective"]) == (dynamics, objective)]
            results[f"{dynamics}_{objective}_by_horizon"] = [
                [r["mean_return"] for r in sorted(chosen, key=lambda r: r["horizon"])
                 if r["seed"] == seed and r["population"] == DEFAULT_POPULATION]
                for seed in options.seeds
            ]  # fmt: skip
    finish("shooting", seeds=options.seeds, horizons=options.horizons, **results)


if __name__ == "__main__":
    main()
