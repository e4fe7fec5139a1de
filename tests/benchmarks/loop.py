"""When is the loop needed? Pendulum-v1 with other data, a weaker motor, other members.

Everything else is as in pendulum.py, but for what its model is told. Evaluated after the first,
third and fifth episode on five other starts than there, `reset(seed=5000 + i)`, against the best
returns from them (see pendulum_optimum.py).

1. hanging: every episode begins with the pendulum hanging down. Random episodes with white or slow
   noise, alone or only as the first one of a loop; networks alone, or with structure (the angle,
   and a linear part).
2. weak motor: the same with half the torque, so that slow noise does not get to the top, either.
3. members: one network or five, deterministic or Gaussian, without bootstrap; one deterministic
   network then learns from 960 of 1,000 rows, one of five from 760 to 960.
4. what the planner imagines, and what the explorer does.

`ablations.py` changes other parts of the same agent. What a headline rests on should have five
seeds; a recording says in its rows how many there are.
"""

import dataclasses
import functools
import itertools
import statistics

import gymnasium as gym
import numpy as np
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
    Task,
    collect_episodes,
    evaluate,
)
from mbrl_helpers.notebook import generator

NUM_EPISODES, EVALUATED = 5, (1, 3, 5)  # episodes of 200 steps; after which it is evaluated
STARTS = {"num_episodes": 5, "seed": 5000}
WEAK = 1.0  # N m, half of what the motor has
# Networks alone. The agent of pendulum.py knows an angle when it sees one and tries a line first:
# so little is left to learn that no change of the loop would show.
PLAIN = dataclasses.replace(MODEL, angles=(), linear_part=False)
STRUCTURE = {"angles": TASK.angles, "linear_part": True}
KNOWLEDGE = {"networks": {}, "structure": STRUCTURE}
DATA = {
    "white random": {"explore": "random", "correlation": 0.0},
    "slow random": {"explore": "random"},
    "loop from white": {"correlation": 0.0},
    "loop from slow": {},
}
HANGING, WEAK_MOTOR = {"hanging": True}, {"hanging": True, "torque": WEAK}
PLAIN_ONE = {"num_members": 1, "bootstrap": False}
NOISY = {"propagation": "ts1", "num_particles": 20, "noise": True}
# What is changed: settings of the model, of imagining, or of the loop.
VARIANTS = {
    **{f"hanging, {known}, {data}": HANGING | told | how
       for known, told in KNOWLEDGE.items() for data, how in DATA.items()},
    **{f"weak motor, {known}, {data}": WEAK_MOTOR | told | DATA[data]
       for known, told in KNOWLEDGE.items() for data in ("slow random", "loop from slow")},
    "networks alone": {},
    "five, Gaussian": {"bootstrap": False},
    "five, deterministic": {"bootstrap": False, "gaussian": False},
    "one, deterministic": PLAIN_ONE | {"gaussian": False},
    "one, Gaussian": PLAIN_ONE,
    "one, Gaussian, bootstrap": {"num_members": 1},
    "with angles": {"angles": TASK.angles},
    "with a linear part": {"linear_part": True},
    "with both": STRUCTURE,
    "slow random data only": DATA["slow random"],
    "no exploration noise": {"explore": "none"},
    "hanging, no exploration noise": HANGING | DATA["loop from white"] | {"explore": "none"},
    "hanging, optimism for noise": HANGING | DATA["loop from white"]
    | {"explore": "optimism"},
    "expectation": {"propagation": "expectation"},
    "TS1, noise, 20 particles": NOISY,
    "no warm start": {"warm_start": False},
}  # fmt: skip
IMAGINING = ("propagation", "num_particles", "noise")
LOOP = ("explore", "correlation", "hanging", "torque")


@functools.cache
def task_and_best(torque: float) -> tuple[Task, np.ndarray]:
    """Pendulum with a motor of so many N m, and the best returns from the starts."""
    task = TASK
    if torque < 2:
        task = dataclasses.replace(TASK, space=gym.spaces.Box(-torque, torque, (1,), np.float32))
    return task, evaluate(task, DynamicProgramming(480, 321, torque=torque), **STARTS)


def starts(seed: int, hanging: bool) -> list[int]:
    """Seeds from which the episodes start: any, or those where the pendulum hangs down."""
    seeds = itertools.count(2_000_000 + 1000 * seed)
    with gym.make(TASK.env_id) as env:
        wanted = (s for s in seeds if not hanging or env.reset(seed=s)[0][0] < -0.9)
        return list(itertools.islice(wanted, NUM_EPISODES))


def run(seed: int, variant: str) -> list[dict]:
    """One run: rows of the recording."""
    changes, rng = VARIANTS[variant], generator(seed)
    task, best = task_and_best(changes.get("torque", 2.0))
    imagining = {k: v for k, v in changes.items() if k in IMAGINING}
    noise = rng if imagining.pop("noise", False) else None
    imagination = Imagination(**imagining, generator=noise)
    settings = {k: v for k, v in changes.items() if k not in IMAGINING + LOOP}
    model = EnsembleModel(task, rng, dataclasses.replace(PLAIN, **settings))
    planner = ICEM(task.action_space, rng, PLANNER)
    random_agent = RandomAgent(
        task.action_space, rng, correlation=changes.get("correlation", CORRELATION)
    )
    optimist = dataclasses.replace(imagination, spread_weight=1.0)
    explorers = {
        "random": lambda agent: random_agent,
        "none": lambda agent: agent,
        "optimism": lambda agent: MPCAgent(task, agent.model, planner, optimist),
        "noise": lambda agent: NoisyAgent(
            task, agent, rng, std=EXPLORATION, correlation=CORRELATION
        ),
    }
    explore = explorers[changes.get("explore", "noise")]
    buffer, rows, player = ReplayBuffer(), [], random_agent
    for number, start in enumerate(starts(seed, changes.get("hanging", False)), 1):
        collect_episodes(task, player, num_episodes=1, seed=start, buffer=buffer)
        agent = MPCAgent(task, model.fit(buffer.all()), planner, imagination)
        player = explore(agent)
        if number in EVALUATED:
            returns = evaluate(task, agent, **STARTS)
            rows.append({
                "variant": variant, "seed": seed, "steps": len(buffer),
                "mean_return": round(float(returns.mean()), 1),
                "regret": round(float((best - returns).mean()), 2),
                "share_near_top": round(float((buffer.all().obs[:, 0] > 0.9).mean()), 4),
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
            print(f"{variant:38} {seed:3}  {track}")
    for variant, regrets in at_end.items():
        print(f"{variant:38} median regret at the end {statistics.median(regrets):7.1f}")
    if options.record:
        header, old = recorded("loop")
        new = {(row["variant"], row["seed"]) for row in rows}
        kept = [row for row in old if (row["variant"], int(row["seed"])) not in new]
        record("loop", kept + rows, earlier=header if kept else [])
    finish("loop", seeds=options.seeds, regret_at_end=at_end)


if __name__ == "__main__":
    main()
