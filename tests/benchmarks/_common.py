"""What the benchmarks share: arguments, runs side by side, tables, and the closing line of JSON."""

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import gymnasium as gym
import numpy as np
import torch

from mbrl_helpers import over_seeds

torch.set_num_threads(1)

RECORDED = Path(__file__).resolve().parents[2] / "mbrl_helpers" / "recorded"
UNFINISHED = Path(__file__).parent / ".unfinished"  # what interrupted benchmarks have done


def parser(description: str, seeds: range, jobs: int | None = None) -> argparse.ArgumentParser:
    """Make the command line of a benchmark.

    Args:
        description: of the benchmark.
        seeds: that it runs, if not told otherwise.
        jobs: runs at a time; one per core, if not given. Where seconds on the wall count: 1.
    """
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    arguments.add_argument(
        "--jobs", type=int, default=jobs or os.cpu_count(), help="runs at a time"
    )
    arguments.add_argument(
        "--restart", action="store_true", help="forget what an interrupted benchmark has done"
    )
    arguments.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments.add_argument(
        "--record", action="store_true", help="write the CSV from which notebooks plot"
    )
    return arguments


def run_all(
    run: Callable,
    options: argparse.Namespace,
    settings: object = None,
    *,
    seeds: list[int] | None = None,
    fresh: bool = False,
) -> list[dict]:
    """All the runs of a benchmark, side by side; an interrupted one goes on where it was.

    Args:
        run: as `over_seeds` calls it. A benchmark has one such function.
        options: of the command line.
        settings: as for `over_seeds`.
        seeds: other than those of the command line.
        fresh: whether each run has a process of its own, so that its seconds count from a start.

    Returns:
        The rows, in the order of settings and seeds.
    """
    if options.one is not None:  # this is that process
        print(json.dumps(run(**options.one)))
        sys.exit()
    UNFINISHED.mkdir(exist_ok=True)
    sweep = over_seeds(
        partial(_in_own_process, run=run, script=sys.argv[0]) if fresh else run,
        options.seeds if seeds is None else seeds,
        settings,
        path=_unfinished(),
        restart=options.restart,
        num_workers=options.jobs,
        progress=True,
    )
    options.restart = False  # the next part of this benchmark adds to the file
    if sweep.failures:
        sys.exit("\n".join(f"{failure}\n{failure.details}" for failure in sweep.failures))
    return sweep.rows


def _unfinished() -> Path:
    return UNFINISHED / f"{Path(sys.argv[0]).stem}.jsonl"


def _in_own_process(seed: int, *, run: Callable, script: str, **setting: object):
    """Call a benchmark's run in a fresh process; gives its JSON back."""
    command = [sys.executable, script, "--one", json.dumps({"seed": seed, **setting})]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(child.stderr)
    return json.loads(child.stdout.splitlines()[-1])


def machine() -> str:
    """Name the processor, without naming the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def first(means: list[float], threshold: float, in_a_row: int) -> int | None:
    """Index of the first of so many evaluations in a row at or above the threshold."""
    for i in range(len(means) - in_a_row + 1):
        if all(mean >= threshold for mean in means[i : i + in_a_row]):
            return i
    return None


def record(name: str, rows: list[dict], **more: object) -> None:
    """Write a recording (see `write`), and say so."""
    write(name, rows, **more)
    print(f"wrote {name}.csv")


def write(name: str, rows: list[dict], *, versions: str = "", earlier: list[str] = ()) -> None:
    """Write a recording, with the command, date, versions and machine above the table.

    Args:
        name: of the table.
        rows: of the table.
        versions: of what was used beside torch, Gymnasium and NumPy, such as "pandas 3.1.1, ".
        earlier: header of an older recording of which there are still rows.
    """
    command = " ".join(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    versions += f"torch {torch.__version__}, gymnasium {gym.__version__}, numpy {np.__version__}"
    header = [f"# {command}", f"# {datetime.date.today()}, one core of {machine()}"]
    header.append(f"# {versions}")
    header = [line for line in earlier if line not in header] + header
    path = RECORDED / f"{name}.csv"
    partial = path.with_name(path.name + ".part")
    with partial.open("w", newline="") as file:
        file.writelines(f"{line}\n" for line in header)
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)  # in one step, so that an interrupt leaves the old file whole


def recorded(name: str) -> tuple[list[str], list[dict]]:
    """Header and rows of a recording, all values as text; both empty where there is none."""
    path = RECORDED / f"{name}.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    header = [line for line in lines if line.startswith("#")]
    return header, list(csv.DictReader(lines[len(header) :]))


def finish(benchmark: str, **results: object) -> None:
    """End a benchmark: nothing is unfinished any more; print the closing line of JSON."""
    _unfinished().unlink(missing_ok=True)
    print(json.dumps({"benchmark": benchmark, **results}))
