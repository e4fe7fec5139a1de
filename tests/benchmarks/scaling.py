"""How cost grows: with data, members, candidates, horizon, environments side by side, and cores.

Pendulum-v1, one thread, each measurement in a process of its own: seconds of the processor (the
best of three; of cores by the clock), the megabytes that it adds at its peak, and its matrix
products as a share of the most that this core can do in a product of 1,024 x 1,024.

- rows, members: a fit of the course's model, to its own stopping rule, of so many rows (five
  members), or of 1,000 rows;
- rows of a Gaussian process: a fit of classics.py's, once (left out without scikit-learn);
- candidates, horizon: a decision of random shooting, 25 steps or 500 candidates, five members;
- environments: 16,000 random steps in so many environments side by side;
- cores: eight runs of `over_seeds`, each a fit of 4,000 rows, on so many workers.

Cores are by the clock: let nothing else run beside it.
"""

import functools
import importlib.util
import os
import resource
import time
from collections.abc import Callable

import torch
from _common import finish, parser, record, recorded, run_all
from torch.utils.flop_counter import FlopCounterMode

from mbrl_helpers import (
    DynamicsConfig,
    EnsembleModel,
    MPCAgent,
    RandomAgent,
    RandomShooting,
    RandomShootingConfig,
    Transitions,
    collect_episodes,
    get_task,
    over_seeds,
)
from mbrl_helpers.notebook import generator

TASK = get_task("Pendulum-v1")
GAUSSIAN_PROCESS = "rows of a Gaussian process"
SIZES = {
    "rows": (250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000),
    GAUSSIAN_PROCESS: (125, 250, 500, 1_000, 1_600),
    "members": (1, 2, 5, 10, 20, 40),
    "candidates": (10, 30, 100, 300, 1_000, 3_000, 10_000),
    "horizon": (5, 10, 20, 40, 80),
    "environments": (1, 2, 4, 8, 16, 40, 80),  # which share out 80 episodes evenly
    "cores": tuple(range(1, (os.cpu_count() or 1) + 1)),
}
REPEATS, NUM_RUNS, NUM_STEPS = 3, 8, 16_000
EPISODE = 200  # steps


def experience(num_rows: int, num_envs: int = 20) -> Transitions:
    """Rows of random episodes with slow noise."""
    agent = RandomAgent(TASK.action_space, generator(0), correlation=0.9)
    num_episodes = -(-num_rows // EPISODE)
    envs = min(num_envs, num_episodes)
    return collect_episodes(TASK, agent, num_episodes=num_episodes, num_envs=envs, seed=1)[
        :num_rows
    ]


def fit(data: Transitions, num_members: int = 5) -> None:
    """From new weights, the same ones each time."""
    EnsembleModel(TASK, generator(0), DynamicsConfig(num_members=num_members)).fit(data)


def fit_again(seed: int) -> float:
    """One run of a sweep."""
    fit(experience(4_000))
    return float(seed)


def work(what: str, size: int) -> Callable[[], object]:
    """What is measured, all before it done."""
    if what == "rows":
        return functools.partial(fit, experience(size))
    if what == GAUSSIAN_PROCESS:
        from classics import GaussianProcess

        return functools.partial(GaussianProcess().fit, experience(size))
    if what == "members":
        return functools.partial(fit, experience(1_000), size)
    if what == "environments":
        return functools.partial(experience, NUM_STEPS, size)
    if what == "cores":
        return functools.partial(over_seeds, fit_again, range(NUM_RUNS), num_workers=size)
    horizon, population_size = (size, 500) if what == "horizon" else (25, size)
    data, rng = experience(1_000), generator(1)
    model = EnsembleModel(TASK, rng, DynamicsConfig(max_updates=25)).fit(data)
    config = RandomShootingConfig(horizon=horizon, population_size=population_size)
    agent = MPCAgent(TASK, model, RandomShooting(TASK.action_space, rng, config))
    return functools.partial(agent.act, data.obs[:1])


def best_of(run: Callable[[], object], clock: Callable[[], float], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of a few."""
    seconds = []
    for _ in range(repeats):
        begin = clock()
        run()
        seconds.append(clock() - begin)
    return min(seconds)


def peak() -> float:
    """Floating-point operations a second in a large product of matrices."""
    a, b, out = torch.randn(3, 1024, 1024)
    return 2 * 1024**3 / best_of(lambda: torch.mm(a, b, out=out), time.process_time)


def megabytes() -> float:
    """The most memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(seed: int, what: str, size: int) -> dict:
    """One measurement; there is one seed."""
    task = work(what, size)
    before = megabytes()
    clock = time.perf_counter if what == "cores" else time.process_time
    seconds = best_of(task, clock, 1 if what == GAUSSIAN_PROCESS else REPEATS)
    added, share = megabytes() - before, ""
    if what not in ("cores", "environments", GAUSSIAN_PROCESS):
        with FlopCounterMode(display=False) as counter:
            task()
        share = round(counter.get_total_flops() / seconds / peak(), 4)
    return {
        "what": what, "size": size, "seconds": round(seconds, 5),
        "megabytes": "" if what == "cores" else round(added, 1), "share_of_peak": share,
    }  # fmt: skip


def main() -> None:
    arguments = parser(__doc__, range(1), jobs=1)
    arguments.add_argument(
        "--parts", nargs="+", choices=SIZES, default=list(SIZES),
        help="only these; a recording keeps its rows of the others",
    )  # fmt: skip
    options = arguments.parse_args()
    parts = options.parts
    if importlib.util.find_spec("sklearn") is None and GAUSSIAN_PROCESS in parts:
        print("the Gaussian process is left out: scikit-learn is not installed")
        parts = [what for what in parts if what != GAUSSIAN_PROCESS]
    settings = [{"what": what, "size": size} for what in parts for size in SIZES[what]]
    rows = run_all(run, options, settings, fresh=True)
    rows = [{key: row[key] for key in row if key != "seed"} for row in rows]
    for row in rows:
        print(
            "{what:27}{size:7,}{seconds:12.5f} s {megabytes:>8} MB {share_of_peak:>8}".format(**row)
        )
    if options.record:
        header, old = recorded("scaling")
        kept = [row for row in old if row["what"] not in parts]
        record("scaling", kept + rows, earlier=header if kept else [])
    finish("scaling", **{
        what: {row["size"]: row["seconds"] for row in rows if row["what"] == what}
        for what in parts
    })  # fmt: skip


if __name__ == "__main__":
    main()
