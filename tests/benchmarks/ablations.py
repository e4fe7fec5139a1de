"""Pendulum-v1 in the closed loop, with one part changed at a time: what does each contribute?

Everything else is as in pendulum.py, but for what its model is told. Evaluated after each episode
on five other starts than there, `reset(seed=5000 + i)`, against the best returns from them (see
pendulum_optimum.py).
"""

import dataclasses
import itertools
import statistics

import gymnasium as gym
from _common import finish, parser, record, recorded, run_all
from pendulum import CORRELATION, EXPLORATION, MODEL, PLANNER, TASK
from pendulum_optimum import DynamicProgramming

from mbrl_helpers import (
    ICEM,
    EnsembleModel,
    Imagination,
    MPCAgent,
    NoisyAgent,
    RandomAgent,
    ReplayBuffer,
    collect_episodes,
    evaluate,
)
from mbrl_helpers.notebook import generator

NUM_EPISODES = 5  # of 200 steps
STARTS = {"num_episodes": 5, "seed": 5000}
# Networks alone. The agent of pendulum.py knows an angle when it sees one and tries a line first:
# so little is left to learn that no change of the loop would show.
PLAIN = dataclasses.replace(MODEL, angles=(), linear_part=False)
# What is changed: settings of the model, of imagining, or of the loop.
VARIANTS = {
    "networks alone": {},
    "with angles": {"angles": TASK.angles},
    "with a linear part": {"linear_part": True},
    "with both": {"angles": TASK.angles, "linear_part": True},
    "random data only": {"explore": "random"},
    "white random data only": {"explore": "random", "correlation": 0.0},
    "starts hanging": {"correlation": 0.0, "hanging": True},
    "starts hanging, white random data only": {
        "explore": "random",
        "correlation": 0.0,
        "hanging": True,
    },
    "white first episode": {"correlation": 0.0},
    "no exploration noise": {"explore": "none"},
    "one network": {"num_members": 1},
    "no bootstrap": {"bootstrap": False},
    "no warm start": {"warm_start": False},
    "expectation": {"propagation": "expectation"},
}
IMAGINING = ("propagation",)
LOOP = ("explore", "correlation", "hanging")


def starts(seed: int, hanging: bool) -> list[int]:
    """Seeds from which the episodes start: any, or those where the pendulum hangs down."""
    seeds = itertools.count(2_000_000 + 1000 * seed)
    with gym.make(TASK.env_id) as env:
        wanted = (s for s in seeds if not hanging or env.reset(seed=s)[0][0] < -0.9)
        return list(itertools.islice(wanted, NUM_EPISODES))


def run(seed: int, variant: str) -> list[dict]:
    """One run: rows of the recording."""
    changes, rng = VARIANTS[variant], generator(seed)
    imagination = Imagination(**{k: v for k, v in changes.items() if k in IMAGINING})
    settings = {k: v for k, v in changes.items() if k not in IMAGINING + LOOP}
    model = EnsembleModel(TASK, rng, dataclasses.replace(PLAIN, **settings))
    planner = ICEM(TASK.action_space, rng, PLANNER)
    random_agent = RandomAgent(
        TASK.action_space, rng, correlation=changes.get("correlation", CORRELATION)
    )
    explorers = {
        "random": lambda agent: random_agent,
        "none": lambda agent: agent,
        "noise": lambda agent: NoisyAgent(
            TASK, agent, rng, std=EXPLORATION, correlation=CORRELATION
        ),
    }
    explore = explorers[changes.get("explore", "noise")]
    best = evaluate(TASK, DynamicProgramming(480, 321), **STARTS)
    buffer, rows, player = ReplayBuffer(), [], random_agent
    for start in starts(seed, changes.get("hanging", False)):
        collect_episodes(TASK, player, num_episodes=1, seed=start, buffer=buffer)
        agent = MPCAgent(TASK, model.fit(buffer.all()), planner, imagination)
        player = explore(agent)
        returns = evaluate(TASK, agent, **STARTS)
        rows.append({
            "variant": variant, "seed": seed, "steps": len(buffer),
            "mean_return": round(float(returns.mean()), 1),
            "regret": round(float((best - returns).mean()), 2),
        })  # fmt: skip
    return rows


def main() -> None:
    arguments = parser(__doc__, range(5))
    arguments.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = arguments.parse_args()
    rows = run_all(run, options, {"variant": options.variants})
    at_end = {}
    for variant in options.variants:
        for seed in options.seeds:
            found = [r for r in rows if (r["variant"], r["seed"]) == (variant, seed)]
            at_end.setdefault(variant, []).append(found[-1]["regret"])
            track = " ".join(f"{r['steps']}:{r['regret']:.0f}" for r in found)
            print(f"{variant:22} {seed:3}  {track}")
    for variant, regrets in at_end.items():
        print(f"{variant:22} median regret at the end {statistics.median(regrets):7.1f}")
    if options.record:
        header, old = recorded("ablations")
        kept = [row for row in old if row["variant"] not in options.variants]
        record("ablations", kept + rows, earlier=header if kept else [])
    finish("ablations", seeds=options.seeds, regret_at_end=at_end)


if __name__ == "__main__":
    main()
