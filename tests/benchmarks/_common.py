"""What the benchmarks share: one thread, arguments, tables, and the closing line of JSON."""

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import gymnasium as gym
import numpy as np
import torch

torch.set_num_threads(1)

RECORDED = Path(__file__).resolve().parents[2] / "mbrl_helpers" / "recorded"


def parser(description: str, seeds: range) -> argparse.ArgumentParser:
    """Make a command line with `--seeds` and `--record`."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    arguments.add_argument(
        "--record", action="store_true", help="write the CSV from which notebooks plot"
    )
    return arguments


def in_own_process(*arguments: object):
    """Run this benchmark with `--one` and arguments in a fresh process; gives its JSON back."""
    command = [sys.executable, sys.argv[0], "--one", *map(str, arguments)]
    child = subprocess.run(command, stdout=subprocess.PIPE, check=True)
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
    """Print the closing line of JSON."""
    print(json.dumps({"benchmark": benchmark, **results}))
