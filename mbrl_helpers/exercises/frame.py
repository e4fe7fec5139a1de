"""How exercises answer back.

An exercise is a reference, a way to draw inputs, and typical wrong answers, each with the hint it
deserves. An answer is called on the inputs and compared with the reference; if they differ, the
wrong answer that behaves the same names the mistake. The inputs of an exercise are drawn from a
seed of its own: the same answer gets the same verdict on every run.
"""

import contextlib
import copy
import dis
import functools
import importlib
import inspect
import io
import textwrap
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeVar

import numpy as np
import torch
from IPython.display import Code

from mbrl_helpers.console import say
from mbrl_helpers.exercises.compare import difference, same, unpacked, wrong_kind
from mbrl_helpers.exercises.limit import Late, at_most

NUM_TRIALS = 32  # inputs drawn for one check
SECONDS = 20.0  # for all inputs together; references take less than one
MOST_PRINTED = 20  # lines that an answer printed are shown
HINTED = "💡"  # tells something, and judges nothing
RUNGS = ("a question", "the idea", "an example", "the line")  # of a ladder of hints


@dataclass(frozen=True)
class Wrong:
    """A typical wrong answer.

    Attributes:
        answer: the code.
        hint: what to say to who wrote it, or something that behaves the same.
        like: other code with the same mistake.
    """

    answer: Callable
    hint: str
    like: tuple[Callable, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """Code to write.

    Attributes:
        reference: a right answer, with the name that the cells below call it by.
        inputs: draws the arguments of one call: all that could tell answers apart.
        wrong: typical wrong answers.
        hints: more and more of the way there.
        given: the code of a bug hunt as the learner finds it; other exercises begin empty.
        also: other right answers, which need not agree with the reference to the last digit.
    """

    reference: Callable
    inputs: Callable[[np.random.Generator], tuple]
    wrong: tuple[Wrong, ...]
    hints: tuple[str, ...]
    given: Callable | None = None
    also: tuple[Callable, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prediction to make before looking.

    Attributes:
        answer: the right choice.
        replies: choice to what to say to who made it.
        hints: more and more of the way there.
    """

    answer: str
    replies: dict[str, str]
    hints: tuple[str, ...]


class _Raised:
    """In place of a result: the answer raised."""

    def __init__(self, error: Exception):
        self.error = error


@dataclass(frozen=True)
class _Call:
    """What came of one call; `clean` says that it left its inputs alone."""

    result: object
    clean: bool
    slopes: list[torch.Tensor]
    printed: str


Kind = TypeVar("Kind")

_hints_given: dict[str, int] = {}
_outcomes: dict[str, str] = {}


def find(number: str) -> Any:
    """Look an exercise, a question or a build up by its number, such as "03.2"."""
    try:
        module = importlib.import_module(
            f"mbrl_helpers.exercises.nb{str(number).partition('.')[0]}"
        )
        task = module.EXERCISES[number]
    except (ModuleNotFoundError, KeyError, TypeError) as error:
        raise ValueError(
            f"exercise: expected the number of an exercise, such as '03.2', got {number!r}. "
            "Copy it from the heading of the exercise."
        ) from error
    return task


def find_kind(number: str, kind: type[Kind]) -> Kind:
    """Look up what is of a kind: code to write, a question, or a build."""
    task = find(number)
    if isinstance(task, kind):
        return task
    names = {"Exercise": "code to write", "Question": "a question", "Build": "a build"}
    ways = {"Exercise": "@exercise({})", "Question": "predict({}, ...)", "Build": "@build({})"}
    raise ValueError(
        f"exercise: expected the number of {names[kind.__name__]}, got {number!r}. "
        f"Answer it with {ways[type(task).__name__].format(repr(number))}."
    )


def exercise(number: str) -> Callable[[Callable], Callable]:
    """Check the decorated answer and say how it went.

    Returns:
        The answer itself if it is correct; otherwise the reference, so that the cells below can
        run. The answer stays callable as `.yours`.
    """
    task = find_kind(number, Exercise)

    def check(answer: Callable) -> Callable:
        outcome, text = judge(number, task, answer)
        result = answer
        if outcome != "correct":

            def result(*args: Any, **kwargs: Any) -> Any:
                return task.reference(*args, **kwargs)

            vars(result)["yours"] = answer
            text += "\nUntil it is correct, the cells below use the reference."
        text += _call_it(task.reference.__name__, answer, result)
        icons = {"correct": "✅", "not attempted": "✏️", "not yet": "🔎"}
        tell(icons.get(outcome, "💥"), number, outcome, text)
        return result

    return check


def judge(number: str, task: Exercise, answer: Callable) -> tuple[str, str]:
    """Compare an answer with the reference, on the same inputs each time.

    Returns:
        The outcome ("not attempted", "your code raised", "not yet", "correct"), and what to say.
    """
    if same_code(answer, task.given or _stub):
        return "not attempted", (
            "Find what is wrong in this code and mend it." if task.given
            else "Replace the ... with your code and run the cell again."
        )  # fmt: skip
    trials, right = _trials(number, task)
    try:
        calls = at_most(SECONDS, lambda: [_call(answer, trial) for trial in trials])
    except Late:
        return "not yet", (
            f"It has not come back after {SECONDS:g} s: does anything in the loop change?"
        )
    outcome, text = _verdict(number, task, answer, trials, calls, right)
    raised = next((call for call in calls if isinstance(call.result, _Raised)), calls[0])
    return outcome, text + _printed(raised.printed)


def _verdict(
    number: str,
    task: Exercise,
    answer: Callable,
    trials: list[tuple],
    calls: list[_Call],
    right: list[list[_Call]],
) -> tuple[str, str]:
    """What `judge` says, printing aside."""
    if not all(call.clean for call in calls):
        return "not yet", (
            "It changes its inputs, which the cells below go on using. Make something new: "
            "`x = x / 2` instead of `x /= 2`, or work on a copy (`x.clone()`, `x.copy()`)."
        )
    expected = [call.result for call in right[0]]
    got = [unpacked(call.result, e) for call, e in zip(calls, expected, strict=True)]
    if any(all(map(_agree, got, [call.result for call in one])) for one in right):
        text = _no_use(got, calls, right[0])
        if text:
            return "not yet", text
        return "correct", "It agrees with the reference on random inputs of all sizes."
    if not all(isinstance(result, _Raised) for result in got):
        for wrong in task.wrong:
            if any(_behaves(mistake, trials, got) for mistake in (wrong.answer, *wrong.like)):
                return "not yet", wrong.hint
    for trial, result in zip(trials, got, strict=True):
        if isinstance(result, _Raised):
            return "your code raised", where(result.error, answer) + _shapes(trial)
    first = next(i for i in range(len(got)) if not same(got[i], expected[i]))
    return "not yet", f"{difference(got[first], expected[first])} hint({number!r}) says more."


def _no_use(got: list, calls: list[_Call], right: list[_Call]) -> str:
    """Why the cells below can't use right numbers; "" if they can."""
    for own, call in zip(got, right, strict=True):
        text = wrong_kind(own, call.result)
        if text:
            return text
    if all(same(own.slopes, call.slopes) for own, call in zip(calls, right, strict=True)):
        return ""
    return (
        "The numbers are right, but the gradient does not come back all the way. Something "
        "cuts it: `detach`, `no_grad`, `item`, `numpy`, or a new tensor made of numbers."
    )


def predict(number: str, choice: object = ...) -> None:
    """Answer a prediction question and say how it went."""
    question = find_kind(number, Question)
    choices = "/".join(question.replies)
    choice = choice.strip(" .)").lower() if isinstance(choice, str) else choice
    if choice is ...:
        tell("✏️", number, "not attempted", f"Put your choice in place of the ... ({choices}).")
    elif not isinstance(choice, str) or choice not in question.replies:
        tell("🔎", number, "not yet", f"{choice!r} is not a choice: pick one of {choices}.")
    elif choice == question.answer:
        tell("✅", number, "correct", question.replies[choice])
    else:
        tell("🔎", number, "not yet", question.replies[choice])


def hint(number: str) -> None:
    """Say a little more with each call."""
    hints = find(number).hints
    given = min(_hints_given.get(number, 0), len(hints) - 1)
    _hints_given[number] = given + 1
    rung = f", {RUNGS[given]}" if len(hints) == len(RUNGS) else ""
    tell(HINTED, number, f"hint {given + 1} of {len(hints)}{rung}", hints[given])


def solution(number: str) -> Code | None:
    """Show the reference: the very code that stands in for an answer."""
    task = find(number)
    if isinstance(task, Question):
        tell(HINTED, number, f"the answer is {task.answer}", task.replies[task.answer])
        return None
    return Code(inspect.getsource(task.reference), language="python")


def _call(function: Callable, trial: tuple) -> _Call:
    """Call a function with a copy of the inputs."""
    arguments, heard = copy.deepcopy(trial), io.StringIO()
    slopes: list[torch.Tensor] = []
    try:
        with contextlib.redirect_stdout(heard):
            result = function(*arguments)
            slopes = _gradients(result, arguments)
    except Exception as error:
        result = _Raised(error)
    return _Call(result, all(map(_unchanged, arguments, trial)), slopes, heard.getvalue())


@functools.lru_cache(maxsize=4)
def _trials(number: str, task: Exercise) -> tuple[list[tuple], list[list[_Call]]]:
    """The inputs of an exercise, always the same, and what each right answer makes of them."""
    rng = np.random.default_rng(zlib.crc32(number.encode()))
    trials = [task.inputs(rng) for _ in range(NUM_TRIALS)]
    right = [[_call(f, trial) for trial in trials] for f in (task.reference, *task.also)]
    for call in right[0]:
        if isinstance(call.result, _Raised):
            raise call.result.error
    return trials, right


def _agree(a: object, b: object) -> bool:
    """Whether two calls came out alike, be it that both raised."""
    if isinstance(a, _Raised) or isinstance(b, _Raised):
        return isinstance(a, _Raised) and isinstance(b, _Raised)
    return same(a, b)


def _behaves(mistake: Callable, trials: list[tuple], got: list) -> bool:
    """Whether a known mistake gives the same results."""
    pairs = zip(trials, got, strict=True)
    return all(_agree(_call(mistake, trial).result, own) for trial, own in pairs)


def _call_it(name: str, answer: Callable, result: Callable) -> str:
    """Make up for a function that was renamed in its cell: what to say of it."""
    own = getattr(answer, "__name__", name)
    if own == name or getattr(answer, "__module__", None) != "__main__":
        return ""
    answer.__globals__[name] = result
    return f"\nThe cells below call it {name}, not {own}: it can now be called by both names."


def _printed(text: str) -> str:
    """What an answer printed, in one call of many."""
    lines = text.splitlines()
    if len(lines) > MOST_PRINTED:
        lines[MOST_PRINTED:] = [f"… and {len(lines) - MOST_PRINTED} lines more"]
    return "\n".join(["\nIt printed, for one of the inputs:", *lines]) if lines else ""


def _shapes(trial: tuple) -> str:
    """Sizes of the inputs on which an answer raised: it may have been the only such ones."""
    shapes = [list(a.shape) for a in trial if isinstance(a, (torch.Tensor, np.ndarray))]
    return "\nArrays among the inputs had shape " + ", ".join(map(str, shapes)) if shapes else ""


def _unchanged(after: object, before: object) -> bool:
    """Whether an argument still has its numbers; other objects (an environment) may change."""
    if isinstance(before, dict) and isinstance(after, dict):
        return list(after) == list(before) and same([*after.values()], [*before.values()])
    return not isinstance(before, (torch.Tensor, np.ndarray, list)) or same(after, before)


def _gradients(result: object, arguments: tuple) -> list[torch.Tensor]:
    """Gradients of a result with respect to those arguments that ask for one; 0 where cut off."""
    asking = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    if not asking or not isinstance(result, torch.Tensor) or not result.requires_grad:
        return [torch.zeros_like(a) for a in asking]
    found = torch.autograd.grad(result.sum(), asking, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for a, g in zip(asking, found, strict=True)]


def _stub() -> None:
    """Compare with this to find an answer that is only a docstring and `...`."""
    ...


def is_stub(answer: Callable) -> bool:
    """Whether an answer is only a docstring and `...`."""
    return same_code(answer, _stub)


def same_code(answer: Callable, other: Callable) -> bool:
    """Whether two functions are compiled to the same steps over the same names and constants."""
    if not hasattr(answer, "__code__"):
        return False
    # Compiled alone, as a cell is: Python compiles calls of `torch` otherwise where it is imported.
    scope: dict[str, Callable] = {}
    exec(inspect.getsource(other), scope)
    return _steps(answer.__code__) == _steps(scope[other.__name__].__code__)


def _steps(code: CodeType) -> list[tuple]:
    """Instructions, with names and constants by value: a docstring shifts their places."""
    return [
        (i.opname, _steps(i.argval) if isinstance(i.argval, CodeType) else i.argval)
        for i in dis.get_instructions(code)
    ]


def where(error: Exception, answer: Callable) -> str:
    """The error and the learner's line that led to it."""
    file = getattr(getattr(answer, "__code__", None), "co_filename", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    line = f"\nin line {frames[-1].lineno} of the cell: {frames[-1].line}" if frames else ""
    return f"{type(error).__name__}: {error}{line}"


def outcomes() -> dict[str, str]:
    """{number: outcome} of what was answered since this kernel began."""
    return dict(_outcomes)


def tell(icon: str, number: str, outcome: str, text: str) -> None:
    """Say how something went: a line, and below it what there is to say."""
    if icon != HINTED:
        _outcomes[number] = outcome
    say(f"{icon} Exercise {number}: {outcome}")
    for line in text.splitlines():
        say(textwrap.fill(line, 92, initial_indent="   ", subsequent_indent="   "))
