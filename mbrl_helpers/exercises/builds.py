"""Builds: a whole algorithm on a blank page, judged by what it does.

A build has a contract and an empty cell. Its judge runs the answer through stages, each of which
measures one thing against a bound, watches what the answer does on its way, and from that says
which of the known faults behaves like this. A judge never hangs and never raises, whatever it gets.
"""

import dis
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np
from IPython.display import Code

from mbrl_helpers import notebook
from mbrl_helpers.exercises import frame
from mbrl_helpers.exercises.compare import apart
from mbrl_helpers.exercises.limit import Late, at_most

SECONDS = 300.0  # for each stage; those of the references take seconds, half a minute at most


class Unfit(Exception):
    """What breaks the contract, in a sentence for who wrote it."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What was measured of an answer.

    Attributes:
        name: what it had to do.
        measured: how it did, in `unit`.
        at_least: it passes from here on.
        at_most: it passes up to here.
        fault: what to say if it does not pass.
    """

    name: str
    measured: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    fault: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is within its bound; what is no number is not."""
        return (self.at_least is None or self.measured >= self.at_least) and (
            self.at_most is None or self.measured <= self.at_most
        )

    def __str__(self) -> str:
        bound = self.at_most if self.at_least is None else self.at_least
        measured = f"{self.measured:.4g}"
        if not self.passed and bound is not None:  # never "475, at least 475"
            measured = apart(self.measured, bound)[0]
        side = "at most" if self.at_least is None else "at least"
        return f"{self.name}: {measured} {self.unit} ({side} {bound:g})"


Judge = Callable[[Callable], Iterator[Stage]]


@dataclass(frozen=True, kw_only=True)
class Build:
    """An algorithm to write.

    Attributes:
        reference: an answer that passes, in plain Python, NumPy, torch and Gymnasium.
        starter: its skeleton, with dots where the thoughts belong.
        judge: runs an answer, and yields a stage after the other.
        hints: more and more of the way there.
        faulty: answers that fail, each with a part of what must be said of it.
    """

    reference: Callable
    starter: Callable
    judge: Judge
    hints: tuple[str, ...]
    faulty: tuple[frame.Wrong, ...]


def build(number: str) -> Callable[[Callable], Callable]:
    """Judge the decorated answer by what it does, and say how it went; it stays what it is."""
    task = frame.find_kind(number, Build)

    def check(answer: Callable) -> Callable:
        outcome, stages, text = judge(task, answer)
        icons = {"correct": "✅", "not attempted": "✏️", "not yet": "🔎"}
        shown = [f"{'✓' if stage.passed else '✗'} {stage}" for stage in stages]
        if outcome == "not attempted":
            shown = ["A recorded run of a reference reached:", *recorded_run(number)]
        frame.tell(icons.get(outcome, "💥"), number, outcome, "\n".join([*shown, text]))
        return answer

    return check


def judge(task: Build, answer: Callable) -> tuple[str, list[Stage], str]:
    """Run an answer through the stages of its judge, up to the first that it fails.

    Returns:
        The outcome as of an exercise, the stages, and what to say.
    """
    stages: list[Stage] = []
    if frame.is_stub(answer) or frame.same_code(answer, task.starter):
        return "not attempted", stages, (
            "Write it in this cell, with nothing from the course's package. The starter() of its "
            "number shows a skeleton, hint() a first thought."
        )  # fmt: skip
    if used := borrowed(answer):
        return "not yet", stages, (
            f"It uses {', '.join(used)} of the course's package. The page is blank on purpose: "
            "plain Python, NumPy, PyTorch and Gymnasium."
        )  # fmt: skip
    running = task.judge(answer)
    try:
        while True:
            stages.append(at_most(SECONDS, lambda: next(running)))
            if not stages[-1].passed:
                return "not yet", stages, stages[-1].fault
    except StopIteration:
        return "correct", stages, "Written on a blank page, and it does what it should."
    except Unfit as fault:
        return "not yet", stages, str(fault)
    except Late:
        return "not yet", stages, (
            f"It has not finished within {SECONDS:g} seconds; a reference takes a few. Is there a "
            "loop that never ends, or far more work than is needed?"
        )  # fmt: skip
    except Raised as error:
        return "your code raised", stages, frame.where(error.error, answer)


class Raised(Exception):
    """The answer raised."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


def attempt(answer: Callable, *arguments: Any) -> Any:
    """Call what a learner wrote: its errors are told apart from those of the judge."""
    try:
        return answer(*arguments)
    except Unfit:
        raise
    except Exception as error:
        raise Raised(error) from error


def borrowed(answer: Callable, seen: set[str] | None = None) -> list[str]:
    """Names of the course's package that an answer uses, or a function that it calls."""
    seen, found = set() if seen is None else seen, []
    code, scope = getattr(answer, "__code__", None), getattr(answer, "__globals__", {})
    for how, name in _names(code) if code else ():
        thing = scope.get(name)
        home = getattr(thing, "__module__", None) or getattr(thing, "__name__", "")
        home = name if how == "IMPORT_NAME" else home
        if not isinstance(home, str) or name in seen:
            continue
        seen.add(name)
        if home.split(".")[0] == "mbrl_helpers":
            found.append(name)
        elif inspect.isfunction(thing) and home == "__main__":
            found += borrowed(thing, seen)
    return found


def _names(code: CodeType) -> list[tuple[str, str]]:
    """What it imports, and globals that it reads: not `step` in `env.step`, as `co_names` has."""
    found = [(one.opname, one.argval) for one in dis.get_instructions(code)
             if one.opname in ("IMPORT_NAME", "LOAD_GLOBAL", "LOAD_NAME")]  # fmt: skip
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return found + [name for part in inner for name in _names(part)]


def recorded_run(number: str) -> list[str]:
    """What a reference reached when it was last measured, a line for each stage."""
    rows = [row for row in notebook.read_recorded("builds") if row["build"] == number]
    return [f"  {row['stage']}: {row['measured']:.4g} {row['unit']}" for row in rows]


def starter(number: str) -> Code:
    """Show the skeleton of a build: copy it into the cell, and fill in the dots."""
    return Code(inspect.getsource(frame.find_kind(number, Build).starter), language="python")


def finite_array(value: Any, shape: tuple[int, ...], what: str) -> Any:
    """What an answer returned, as an array of numbers of a shape.

    Raises:
        Unfit: if it is none.
    """
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError, RuntimeError):
        raise Unfit(f"{what} should be an array of numbers; yours is a {_kind(value)}.") from None
    if value is None or array.shape != shape:
        kind = _kind(value) if value is None else f"of shape {list(array.shape)}"
        raise Unfit(f"{what} should be an array of shape {list(shape)}; yours is {kind}.")
    if not np.isfinite(array).all():
        raise Unfit(f"{what} has NaN or infinite numbers in it.")
    return array


def _kind(value: Any) -> str:
    return "None: is there a return?" if value is None else type(value).__name__
