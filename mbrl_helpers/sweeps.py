"""One function over many seeds and settings, on the cores of this machine or on many machines.

joblib carries the runs out; where, is for its `parallel_config` to say. What is ours is around it:
a run that fails or dies leaves the others alone, and what is done is kept, so that an interrupted
sweep goes on where it was.
"""

import contextlib
import itertools
import json
import random
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from mbrl_helpers.checks import check_counts
from mbrl_helpers.kept import Kept, plain

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """A run that came to nothing.

    Attributes:
        seed: of the run.
        setting: of the run, as it stands in the table.
        error: what went wrong, in one line.
        details: the traceback, where there is one.
    """

    seed: int
    setting: dict[str, Any]
    error: str
    details: str = ""

    def __str__(self) -> str:
        given = "".join(f", {name}={value}" for name, value in self.setting.items())
        return f"seed {self.seed}{given}: {self.error}"


@dataclass(frozen=True)
class Sweep:
    """What came of a sweep.

    Attributes:
        rows: a dict each, with seed, setting and what the run gave; in the order of settings, then
            seeds, whatever the order in which they came.
        failures: of the runs that failed.
    """

    rows: list[dict[str, Any]]
    failures: list[Failure]

    def column(self, name: str, **where: Any) -> np.ndarray:
        """The values of one column, [number of rows].

        Args:
            name: of the column.
            **where: only rows that have these values, such as `planner="CEM"`.

        Raises:
            KeyError: if no row, or not every one, has such a column.
        """
        known = set().union(*self.rows) if self.rows else set()
        if missing := {name, *where} - known:
            raise KeyError(
                f"Sweep.column: expected columns out of {sorted(known)}, got {sorted(missing)}. "
                "Name one of those."
            )
        wanted = {key: _label(key, value) for key, value in where.items()}
        chosen = [r for r in self.rows if all(r.get(k) == v for k, v in wanted.items())]
        if any(name not in row for row in chosen):
            raise KeyError(
                f"Sweep.column: expected {name!r} in every row, got rows without. Narrow them "
                "down, as in column(name, planner=...)."
            )
        return np.array([row[name] for row in chosen])


def over_seeds(
    run: Callable[..., Any],
    seeds: Iterable[int],
    settings: Mapping[str, Sequence[Any]] | Sequence[Setting] | None = None,
    *,
    path: str | Path | None = None,
    restart: bool = False,
    num_workers: int | None = None,
    progress: bool = False,
) -> Sweep:
    """Call `run(seed, **setting)` for each seed and setting, side by side.

    Every run has one thread of its own, and random numbers that begin anew from its seed: the
    numbers are the same whatever carries the runs out, and in whatever order. On this machine's
    cores by default; under `joblib.parallel_config(backend="dask")` the same call goes to a
    cluster.

    Args:
        run: gives back a number, a dict, or a list of dicts, of what JSON can hold.
        seeds: whole numbers, each once.
        settings: what else to vary: names with values, of which every combination is run; or a
            list of combinations.
        path: a file in which every finished run is kept at once. If it is there already, runs that
            stand in it are not done again.
        restart: whether to forget what the file holds.
        num_workers: how many at a time; 1 runs in this process. All cores, if not given.
        progress: whether to show a progress bar.

    Returns:
        The table, and what failed (which is also warned of). Failed runs are not kept in the file:
        the next call tries them again.

    Raises:
        TypeError: if run is no function or can't be sent to a worker, or a setting has no name.
        ValueError: for no or doubled seeds or settings, and for a file of another sweep.
        RuntimeError: if another sweep is writing to the file, or if every run failed.
    """
    table = _check_settings(settings)
    tasks = list(itertools.product(table, _check_seeds(seeds)))
    if num_workers is not None:
        check_counts("over_seeds", num_workers=num_workers)
    _check_sendable(run, table)
    keys = [_key(seed, setting) for setting, seed in tasks]
    done: dict[str, list[dict]] = {}
    failures: dict[str, Failure] = {}
    with contextlib.closing(Kept("over_seeds", path, run, restart)) as kept:
        done |= {key: kept.found[key] for key in keys if key in kept.found}
        waiting = {key: task for key, task in zip(keys, tasks, strict=True) if key not in done}
        bar = tqdm(total=len(tasks), initial=len(done), desc="runs", disable=not progress)
        with bar, contextlib.closing(_outcomes(run, waiting, num_workers)) as outcomes:
            for key, outcome in outcomes:
                if isinstance(outcome, Failure):
                    failures[key] = outcome
                    bar.set_postfix(failed=len(failures))
                else:
                    done[key] = outcome
                    kept.add(key, outcome)
                bar.update()
    failed = [failures[key] for key in keys if key in failures]
    _report(failed, len(tasks))
    rows = []
    for key, (setting, seed) in zip(keys, tasks, strict=True):
        given = {"seed": seed, **_labels(setting)}
        for row in done.get(key, []):  # in the run's own order of columns, if it names these too
            rows.append({k: v for k, v in given.items() if k not in row} | row)
    return Sweep(rows, failed)


def _report(failures: list[Failure], num_runs: int) -> None:
    if not failures:
        return
    first = f"The first: {failures[0]}"
    if len(failures) == num_runs:
        raise RuntimeError(
            f"over_seeds: expected results, got an error in each of {num_runs} runs. {first}. Try "
            f"one here: run({failures[0].seed}).\n{failures[0].details}"
        )
    warnings.warn(
        f"over_seeds: {len(failures)} of {num_runs} runs failed; the others are whole. {first}. "
        "All stand in `failures`; calling it again with the same path tries just those.",
        stacklevel=3,
    )


# --- carrying out ---------------------------------------------------------------------------------


def _outcomes(
    run: Callable[..., Any], tasks: Mapping[str, tuple], num_workers: int | None
) -> Generator[tuple[str, list[dict] | Failure], None, None]:
    """Rows or a failure of each run, as they come.

    What a run raises comes back as a failure, so what joblib itself raises is the death of a
    worker, by which it gives up all the runs. Nobody knows whose fault it was: those that may have
    been under way are tried again, each by itself.
    """
    waiting = dict(tasks)
    while waiting:
        try:
            for key, outcome in _parallel(run, dict(waiting), num_workers):
                del waiting[key]
                yield key, outcome
        except Exception as death:
            warnings.warn(
                f"over_seeds: a worker died ({type(death).__name__}: {str(death)[:200]}). The runs "
                "that it may have been at are tried again, each by itself.",
                stacklevel=3,
            )
            for key in list(waiting)[: joblib.effective_n_jobs(num_workers or -1)]:
                setting, seed = task = waiting.pop(key)
                try:
                    [(_, outcome)] = _parallel(run, {key: task}, 2)  # 2: not in this process
                except Exception as death:
                    error = f"its worker died ({type(death).__name__}: {str(death)[:200]})"
                    outcome = Failure(seed, _labels(setting), error, str(death))
                yield key, outcome


def _parallel(
    run: Callable[..., Any], tasks: Mapping[str, tuple], num_workers: int | None
) -> Generator[tuple[str, list[dict] | Failure], None, None]:
    jobs = [joblib.delayed(_one)(run, key, *task) for key, task in tasks.items()]
    # One at a time: else short runs would wait for each other, and be lost together.
    how = {"n_jobs": num_workers or -1, "batch_size": 1, "pre_dispatch": "n_jobs"}
    try:
        parallel = joblib.Parallel(return_as="generator_unordered", **how)
    except ValueError:  # Ray's backend gives back what it was given as a whole: give it little
        with joblib.Parallel(**how) as parallel:
            size = joblib.effective_n_jobs(num_workers or -1)
            for first in range(0, len(jobs), size):
                yield from parallel(jobs[first : first + size])
    else:
        yield from parallel(jobs)


def _one(
    run: Callable[..., Any], key: str, setting: Setting, seed: int
) -> tuple[str, list[dict] | Failure]:
    """One run, in a worker."""
    try:
        with _alone(seed):
            return key, _rows(run(seed, **setting), seed, _labels(setting))
    except (Exception, SystemExit) as error:
        failure = f"{type(error).__name__}: {error}"
        return key, Failure(seed, _labels(setting), failure, traceback.format_exc())


@contextlib.contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread, and the libraries' own random numbers anew; afterwards all is as it was."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    try:
        with threadpool_limits(1):
            torch.set_num_threads(1)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _rows(result: Any, seed: int, setting: dict[str, Any]) -> list[dict]:
    """What a run gave, as rows of what JSON can hold."""
    many = isinstance(result, Sequence) and not isinstance(result, (str, bytes))
    rows = list(result) if many else [result]
    if not many and not isinstance(result, Mapping):
        rows = [{"result": result}]
    if result is None or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(
            "over_seeds: expected run to give back a number, a dict or a list of dicts, got "
            f"{result!r:.80}. End it with `return {{'mean_return': ...}}`, say."
        )
    try:
        rows = json.loads(json.dumps([dict(row) for row in rows], default=plain))
    except (TypeError, ValueError) as error:
        raise TypeError(
            "over_seeds: expected run to give back numbers, texts and lists of them, got other "
            f"things ({error}). Save what is large to a file of its own, and give back its name."
        ) from error
    for row in rows:
        for name, value in {"seed": seed, **setting}.items():
            if row.get(name, value) != value:
                raise ValueError(
                    f"over_seeds: expected {name}={value!r} in what run gives back, got "
                    f"{row[name]!r}. Call that column by another name."
                )
    return rows


# --- what may be asked for ------------------------------------------------------------------------


def _check_seeds(seeds: Iterable[int]) -> list[int]:
    wanted = "expected seeds as whole numbers >= 0, each once, such as range(10)"
    if not isinstance(seeds, Iterable) or isinstance(seeds, (str, bytes)):
        raise TypeError(f"over_seeds: {wanted}, got {seeds!r}. For one seed: [{seeds!r}].")
    given = [plain(seed) if isinstance(seed, np.generic) else seed for seed in seeds]
    if wrong := [s for s in given if not isinstance(s, int) or isinstance(s, bool) or s < 0]:
        raise TypeError(f"over_seeds: {wanted}, got {wrong[0]!r}. Count from 0.")
    if not given or len(set(given)) < len(given):
        raise ValueError(f"over_seeds: {wanted}, got {given}. Name at least one, and none twice.")
    return given


def _check_settings(settings: Any) -> list[Setting]:
    """All combinations."""
    wanted = 'expected settings such as {"horizon": [10, 20]} or [{"horizon": 10}, ...]'
    if settings is None:
        return [{}]
    if isinstance(settings, Mapping):
        for name, values in settings.items():
            if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping)):
                raise TypeError(
                    f"over_seeds: {wanted}, got {name}={values!r}. For one value: [{values!r}]."
                )
        table: list[Setting] = [
            dict(zip(settings, combination, strict=True))
            for combination in itertools.product(*settings.values())
        ]
    else:
        table = list(settings) if isinstance(settings, Iterable) else [settings]
        if not all(isinstance(setting, Mapping) for setting in table):
            raise TypeError(f"over_seeds: {wanted}, got {settings!r:.80}. Make each a dict.")
    names = {tuple(sorted(map(str, setting))) for setting in table}
    if len(names) > 1 or any("seed" in setting for setting in table):
        raise ValueError(f"over_seeds: {wanted}, with the same names in each and no seed.")
    labels = [_key(0, setting) for setting in table]
    if not table or len(set(labels)) < len(labels):
        raise ValueError(f"over_seeds: {wanted}, got none, or one twice. Name each once.")
    return table


def _check_sendable(run: Any, table: list[Setting]) -> None:
    if not callable(run):
        raise TypeError(
            f"over_seeds: expected run as a function of a seed, got {type(run).__name__}. Pass "
            "the function, not what it gives back."
        )
    try:
        cloudpickle.dumps((run, table))
    except Exception as error:  # pickling raises all kinds of things
        raise TypeError(
            "over_seeds: expected a run and settings that can be sent to another process, got "
            f"{getattr(run, '__name__', type(run).__name__)} ({error}). Open files, environments "
            "and windows inside of run."
        ) from error


def _label(name: str, value: Any) -> Any:
    """How a value stands in the table."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, partial) or " at 0x" in (label := getattr(value, "__name__", repr(value))):
        raise TypeError(
            f"over_seeds: expected {name} as something with a name for the table, got {value!r}. "
            "Pass a text or a number, and make the thing inside of run."
        )
    return label


def _labels(setting: Setting) -> dict[str, Any]:
    return {name: _label(name, value) for name, value in setting.items()}


def _key(seed: int, setting: Setting) -> str:
    return json.dumps([seed, _labels(setting)], sort_keys=True)
