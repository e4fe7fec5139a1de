"""What the benchmarks share: one thread, arguments, tables, and the closing line of JSON."""

import argparse
import csv
import datetime
import json
import os
import platform
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


def machine() -> str:
    """Name the processor, without naming the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def record(name: str, rows: list[dict]) -> None:
    """Write a recording, with the command, date, versions and machine above the table."""
    path = RECORDED / f"{name}.csv"
    command = " ".join(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    with path.open("w", newline="") as file:
        file.write(f"# {command}\n# {datetime.date.today()}, one core of {machine()}\n")
        file.write(
            f"# torch {torch.__version__}, gymnasium {gym.__version__}, numpy {np.__version__}\n"
        )
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path.name}")


def finish(benchmark: str, **results: object) -> None:
    """Print the closing line of JSON."""
    print(json.dumps({"benchmark": benchmark, **results}))
