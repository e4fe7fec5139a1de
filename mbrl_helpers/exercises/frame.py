"""How exercises answer back.

An exercise is a reference, a way to draw fresh random inputs, and typical wrong answers, each with
the hint it deserves. An answer is called on the inputs and compared with the reference; if they
differ, the wrong answer that behaves the same names the mistake.
"""

import copy
import dis
import importlib
import inspect
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeVar

import numpy as np
import torch
from IPython.display import Code

from mbrl_helpers.console import say

NUM_TRIALS = 32  # inputs drawn for one check


@dataclass(frozen=True)
class Wrong:
    """A typical wrong answer.

    Attributes:
        answer: the code.
        hint: what to say to who wrote it, or something that behaves the same.
    """

    answer: Callable
    hint: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """Code to write.

    Attributes:
        reference: a right answer.
        inputs: draws the arguments of one call.
        wrong: typical wrong answers.
        hints: more and more of the way there.
        given: the code of a bug hunt as the learner finds it; other exercises begin empty.
        tolerance: relative difference that still agrees.
    """

    reference: Callable
    inputs: Callable[[np.random.Generator], tuple]
    wrong: tuple[Wrong, ...]
    hints: tuple[str, ...]
    given: Callable | None = None
    tolerance: float = 1e-4


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


Kind = TypeVar("Kind", Exercise, Question)

_hints_given: dict[str, int] = {}


def find(number: str) -> Exercise | Question:
    """Look an exercise up by its number, such as "03.2"."""
    try:
        module = importlib.import_module(f"mbrl_helpers.exercises.nb{number[:2]}")
        task = module.EXERCISES[number]
    except (ModuleNotFoundError, KeyError, TypeError) as error:
        raise ValueError(
            f"exercise: expected the number of an exercise, such as '03.2', got {number!r}. "
            "Copy it from the heading of the exercise."
        ) from error
    assert isinstance(task, Exercise | Question)
    return task


def _find(number: str, kind: type[Kind]) -> Kind:
    """Look up an exercise of a kind: code to write, or a question."""
    task = find(number)
    if not isinstance(task, kind):
        question = isinstance(task, Question)
        raise ValueError(
            f"exercise: expected the number of {'code to write' if question else 'a question'}, "
            f"got {number!r}. Answer it with "
            + (f"predict({number!r}, ...)." if question else f"@exercise({number!r}).")
        )
    return task


def exercise(number: str) -> Callable[[Callable], Callable]:
    """Check the decorated answer and say how it went.

    Returns:
        The answer itself if it is correct; otherwise the reference, so that the cells below can
        run. The answer stays callable as `.yours`.
    """
    task = _find(number, Exercise)

    def check(answer: Callable) -> Callable:
        outcome, text = judge(number, task, answer)
        if outcome == "correct":
            _say("✅", number, "correct", text)
            return answer

        def reference(*args: Any, **kwargs: Any) -> Any:
            return task.reference(*args, **kwargs)

        vars(reference)["yours"] = answer
        _say({"not attempted": "✏️", "not yet": "🔎"}.get(outcome, "💥"), number, outcome,
             f"{text}\nUntil it is correct, the cells below use the reference.")  # fmt: skip
        return reference

    return check


def judge(number: str, task: Exercise, answer: Callable) -> tuple[str, str]:
    """Compare an answer with the reference on fresh random inputs.

    Returns:
        The outcome ("not attempted", "your code raised", "not yet", "correct"), and what to say.
    """
    if _same_code(answer, task.given or _stub):
        return "not attempted", (
            "Find what is wrong in this code and mend it." if task.given
            else "Replace the ... with your code and run the cell again."
        )  # fmt: skip
    rng = np.random.default_rng()
    trials = [task.inputs(rng) for _ in range(NUM_TRIALS)]
    expected, _, slopes = zip(*(_call(task.reference, trial) for trial in trials), strict=True)
    try:
        got, clean, theirs = zip(*(_call(answer, trial) for trial in trials), strict=True)
    except Exception as error:
        return "your code raised", _where(error, answer)
    if not all(clean):
        return "not yet", (
            "It changes its inputs, which the cells below go on using. Make something new: "
            "`x = x / 2` instead of `x /= 2`, or work on a copy (`x.clone()`, `x.copy()`)."
        )
    right = [same(g, e, task.tolerance) for g, e in zip(got, expected, strict=True)]
    if all(right):
        for kind in (torch.Tensor, np.ndarray):
            if isinstance(expected[0], kind) and not isinstance(got[0], kind):
                return "not yet", _wrong_kind(got[0], expected[0])
        if not all(map(same, theirs, slopes)):
            return "not yet", (
                "The numbers are right, but the gradient does not come back all the way. Something "
                "cuts it: `detach`, `no_grad`, `item`, `numpy`, or a new tensor made of numbers."
            )
        return "correct", "It agrees with the reference on fresh random inputs."
    for wrong in task.wrong:
        typical = (_quiet(wrong.answer, trial) for trial in trials)
        if all(same(w, g, task.tolerance) for w, g in zip(typical, got, strict=True)):
            return "not yet", wrong.hint
    first = right.index(False)
    text = _difference(got[first], expected[first], task.tolerance)
    return "not yet", f"{text} hint({number!r}) says more."


def predict(number: str, choice: object = ...) -> None:
    """Answer a prediction question and say how it went."""
    question = _find(number, Question)
    choices = "/".join(question.replies)
    choice = choice.strip(" .)").lower() if isinstance(choice, str) else choice
    if choice is ...:
        _say("✏️", number, "not attempted", f"Put your choice in place of the ... ({choices}).")
    elif not isinstance(choice, str) or choice not in question.replies:
        _say("🔎", number, "not yet", f"{choice!r} is not a choice: pick one of {choices}.")
    elif choice == question.answer:
        _say("✅", number, "correct", question.replies[choice])
    else:
        _say("🔎", number, "not yet", question.replies[choice])


def hint(number: str) -> None:
    """Say a little more with each call."""
    hints = find(number).hints
    given = min(_hints_given.get(number, 0), len(hints) - 1)
    _hints_given[number] = given + 1
    _say("💡", number, f"hint {given + 1} of {len(hints)}", hints[given])


def solution(number: str) -> Code | None:
    """Show the reference: the very code that stands in for an answer."""
    task = find(number)
    if isinstance(task, Question):
        _say("💡", number, f"the answer is {task.answer}", task.replies[task.answer])
        return None
    return Code(inspect.getsource(task.reference), language="python")


def same(a: object, b: object, tolerance: float = 1e-4) -> bool:
    """Whether two results agree: in structure and shape exactly, in numbers nearly."""
    if isinstance(a, (tuple, list)) or isinstance(b, (tuple, list)):
        if not (isinstance(a, (tuple, list)) and isinstance(b, (tuple, list))):
            return False
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if a is None or b is None:
        return a is b
    try:
        a, b = _as_array(a), _as_array(b)
    except (TypeError, ValueError, RuntimeError):
        return False
    if a.shape != b.shape or a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
        return False
    return np.allclose(a.astype(float), b.astype(float), rtol=tolerance, atol=1e-5, equal_nan=True)


def _call(function: Callable, trial: tuple) -> tuple[object, bool, list[torch.Tensor]]:
    """Result for a copy of the inputs, whether it left them alone, and its gradients."""
    arguments = copy.deepcopy(trial)
    result = function(*arguments)
    clean = all(map(_unchanged, arguments, trial))
    return result, clean, _gradients(result, arguments)


def _unchanged(after: object, before: object) -> bool:
    """Whether an argument still has its numbers; other objects (an environment) may change."""
    return not isinstance(before, (torch.Tensor, np.ndarray, list)) or same(after, before)


def _gradients(result: object, arguments: tuple) -> list[torch.Tensor]:
    """Gradients of a result with respect to those arguments that ask for one; 0 where cut off."""
    asking = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    if not asking or not isinstance(result, torch.Tensor) or not result.requires_grad:
        return [torch.zeros_like(a) for a in asking]
    found = torch.autograd.grad(result.sum(), asking, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for a, g in zip(asking, found, strict=True)]


def _as_array(value: object) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _stub() -> None:
    """Compare with this to find an answer that is only a docstring and `...`."""
    ...


def _same_code(answer: Callable, other: Callable) -> bool:
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


def _quiet(function: Callable, arguments: tuple) -> object:
    """Result of a wrong answer; something that equals nothing if it fails on these inputs."""
    try:
        return function(*copy.deepcopy(arguments))
    except Exception:
        return object()


def _where(error: Exception, answer: Callable) -> str:
    """The error and the learner's line that led to it."""
    file = getattr(getattr(answer, "__code__", None), "co_filename", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    line = f"\nin line {frames[-1].lineno} of the cell: {frames[-1].line}" if frames else ""
    return f"{type(error).__name__}: {error}{line}"


def _difference(got: Any, expected: Any, tolerance: float) -> str:
    """Say what differs, as far as can be told without knowing the mistake."""
    if got is None:
        return "It returned None. Is there a return, whatever happens?"
    if isinstance(expected, (tuple, list)):
        kind = type(expected).__name__
        if not isinstance(got, (tuple, list)):
            return f"It should return a {kind} of {len(expected)}; yours: {type(got).__name__}."
        if len(got) != len(expected):
            return f"It should return a {kind} of {len(expected)}; yours has {len(got)}."
        pairs = zip(got, expected, strict=True)
        which = next(i for i, pair in enumerate(pairs) if not same(*pair, tolerance))
        return f"In part {which}: {_difference(got[which], expected[which], tolerance)}"
    if isinstance(got, (tuple, list)):
        wanted = (
            "one array: np.array or torch.stack makes one of it"
            if np.ndim(expected)
            else "one number"
        )
        return f"It returned a {type(got).__name__} where the answer is {wanted}."
    try:
        a, b = _as_array(got), _as_array(expected)
    except (TypeError, ValueError, RuntimeError):
        return f"It returned {type(got).__name__}, not numbers."
    if a.dtype.kind not in "biuf":
        return f"It returned {type(got).__name__}, not numbers."
    if a.shape != b.shape:
        return f"The result should have shape {list(b.shape)}; yours has {list(a.shape)}."
    if b.ndim == 0:
        return (
            f"It returns a number, but not the right one: for one of the inputs {float(a):.4g}, "
            f"where {float(b):.4g} is right."
        )
    differs = ~np.isclose(
        a.astype(float), b.astype(float), rtol=tolerance, atol=1e-5, equal_nan=True
    )
    at = tuple(np.argwhere(differs)[0].tolist())
    return (
        f"The shape is right, the numbers are not. The first that differs is "
        f"{list(at)}: {float(a[at]):.4g}, where {float(b[at]):.4g} is right."
    )


def _wrong_kind(got: object, expected: object) -> str:
    torch_wanted = isinstance(expected, torch.Tensor)
    wanted = "a torch tensor" if torch_wanted else "a NumPy array"
    how = "torch.as_tensor(...)" if torch_wanted else "np.array(...), or .numpy() of a tensor"
    return (
        f"The numbers are right, but the cells below need {wanted}, and this is a "
        f"{type(got).__name__}. Use {how}."
    )


def _say(icon: str, number: str, outcome: str, text: str) -> None:
    say(f"{icon} Exercise {number}: {outcome}")
    for line in text.splitlines():
        say(textwrap.fill(line, 92, initial_indent="   ", subsequent_indent="   "))
