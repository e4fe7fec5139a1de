"""Pendulum-v1 in the closed loop, with one part changed at a time: what does each contribute?

Everything else is as in pendulum.py. Evaluated after each episode on five other starts than there,
`reset(seed=5000 + i)`, against the best returns from them (see pendulum_optimum.py).
"""

import dataclasses
import statistics

from _common import finish, parser, write
from pendulum import CORRELATION, EXPLORATION, MODEL, PLANNER, TASK
from pendulum_optimum import DynamicProgramming

from mbrl_helpers.agents import MPCAgent, NoisyAgent, RandomAgent
from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.dynamics import EnsembleModel
from mbrl_helpers.notebook import generator
from mbrl_helpers.planners import ICEM
from mbrl_helpers.training import closed_loop, evaluate

NUM_EPISODES = 5  # of 200 steps
STARTS = {"num_episodes": 5, "seed": 5000}
# What is changed: settings of the model, of imagining, or of the loop.
VARIANTS = {
    "the whole agent": {},
    "one network": {"num_members": 1},
    "no angles": {"angles": ()},
    "no linear part": {"linear_part": False},
    "neither of these": {"angles": (), "linear_part": False},
    "no bootstrap": {"bootstrap": False},
    "no warm start": {"warm_start": False},
    "random data only": {"explore": "random"},
    "no exploration noise": {"explore": "none"},
    "white first episode": {"correlation": 0.0},
    "expectation": {"propagation": "expectation"},
    "TS1 with noise": {"propagation": "ts1", "noise": True},
    "pessimism, weight -1": {"spread_weight": -1.0},
}
IMAGINING = ("propagation", "spread_weight")
LOOP = ("explore", "correlation", "noise")


def run(variant: str, seed: int) -> list[dict]:
    """One run: rows of the recording."""
    changes, rng = VARIANTS[variant], generator(seed)
    how = {k: v for k, v in changes.items() if k in IMAGINING}
    if changes.get("noise"):
        how["generator"] = rng
    settings = {k: v for k, v in changes.items() if k not in IMAGINING + LOOP}
    model = EnsembleModel(3, TASK.action_space, rng, dataclasses.replace(MODEL, **settings))
    agent = MPCAgent(TASK, model, ICEM(TASK.action_space, rng, PLANNER), **how)
    random_agent = RandomAgent(
        TASK.action_space, rng, correlation=changes.get("correlation", CORRELATION)
    )
    if changes.get("explore") == "random":
        explorer = random_agent
        explorer.model = model
    elif changes.get("explore") == "none":
        explorer = agent
    else:
        explorer = NoisyAgent(agent, rng, std=EXPLORATION, correlation=CORRELATION)
    best = evaluate(TASK, DynamicProgramming(480, 321), **STARTS)
    rows = []
    for episode in closed_loop(
        TASK, explorer, model, ReplayBuffer(), num_episodes=NUM_EPISODES, num_random_episodes=1,
        random_agent=random_agent, seed=2_000_000 + 1000 * seed,
    ):  # fmt: skip
        returns = evaluate(TASK, agent, **STARTS)
        rows.append({
            "variant": variant, "seed": seed, "steps": episode.num_steps,
            "seconds": round(episode.seconds, 2), "mean_return": round(float(returns.mean()), 1),
            "regret": round(float((best - returns).mean()), 2),
        })  # fmt: skip
    return rows


def main() -> None:
    arguments = parser(__doc__, range(5))
    arguments.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = arguments.parse_args()
    rows, at_end = [], {}
    for variant in options.variants:
        for seed in options.seeds:
            rows += run(variant, seed)
            if options.record:
                write("ablations", rows)  # an interrupt leaves what has been done
            track = " ".join(f"{r['steps']}:{r['regret']:.0f}" for r in rows[-NUM_EPISODES:])
            print(f"{variant:22} {seed:3}  {rows[-1]['seconds']:6} s  {track}", flush=True)
        last = [r["regret"] for r in rows if r["variant"] == variant]
        at_end[variant] = last[NUM_EPISODES - 1 :: NUM_EPISODES]
    for variant, regrets in at_end.items():
        print(f"{variant:22} median regret at the end {statistics.median(regrets):7.1f}")
    finish("ablations", seeds=options.seeds, regret_at_end=at_end)


if __name__ == "__main__":
    main()
