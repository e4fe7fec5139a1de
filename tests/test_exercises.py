"""Every exercise of every notebook: each answer gets the outcome and the hint that it deserves."""

import copy
import importlib
import inspect
import pkgutil
import re
import sys
from types import ModuleType

import course
import nbformat
import numpy as np
import pytest
import torch

from mbrl_helpers import exercises
from mbrl_helpers.exercises import compare, exercise, frame, hint, predict, solution
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong, same

STAND_IN = "the cells below use the reference"


def discover():
    """All exercises by number, and the module of each."""
    found, modules = {}, {}
    for info in pkgutil.iter_modules(exercises.__path__):
        if info.name.startswith("nb"):
            module = importlib.import_module(f"{exercises.__name__}.{info.name}")
            found |= module.EXERCISES
            modules |= dict.fromkeys(module.EXERCISES, module)
    return found, modules


ALL, MODULES = discover()
TASKS = {number: task for number, task in ALL.items() if isinstance(task, Exercise)}
QUESTIONS = {number: task for number, task in ALL.items() if isinstance(task, Question)}
WRONG = [(number, wrong) for number, task in TASKS.items() for wrong in task.wrong]
every_task = pytest.mark.parametrize("number", TASKS)
every_wrong = pytest.mark.parametrize(
    ("number", "wrong"), WRONG, ids=[f"{n}-{w.answer.__name__}" for n, w in WRONG]
)


@pytest.fixture
def submit(capsys):
    """Hand an answer in; return what the cells below get, and what is said, as one line."""

    def submit(number, answer):
        capsys.readouterr()
        result = exercise(number)(answer)
        return result, words(capsys.readouterr().out)

    return submit


def words(text):
    return " ".join(text.split())


def from_source(source, globals_):
    """A function from source text, as a notebook cell makes it."""
    namespace = dict(globals_)
    exec(source, namespace)
    return namespace[re.match(r"def (\w+)", source).group(1)]


def arguments_of(task, seed=0):
    return task.inputs(np.random.default_rng(seed))


def wants_gradients(task):
    """Whether the answer's gradients with respect to its inputs are compared, too."""
    return any(getattr(argument, "requires_grad", False) for argument in arguments_of(task))


def change(result, function):
    """Apply to every array in a result."""
    if isinstance(result, (tuple, list)):
        return type(result)(change(part, function) for part in result)
    return function(result)


# --- all exercises: how they are made ------------------------------------------------------------


def test_exercises_are_found():
    assert TASKS
    assert QUESTIONS
    for number, module in MODULES.items():
        assert module.__name__.endswith(f"nb{number[:2]}")
        assert frame.find(number) is ALL[number]


@every_task
def test_has_three_to_eight_wrong_answers_with_hints_of_their_own(number):
    hints = [wrong.hint for wrong in TASKS[number].wrong]
    assert 3 <= len(hints) <= 8
    assert len(set(hints)) == len(hints)
    assert all(TASKS[number].hints)


LADDERS = [number for number in TASKS if number < "05"]  # the others have hints of older kinds


@pytest.mark.parametrize("number", LADDERS)
def test_hints_are_a_ladder(number):
    """A question to think about; the idea; a worked example in numbers; only then the line."""
    question, _, example, line = TASKS[number].hints
    assert "?" in question
    assert "?" not in example
    assert len(re.findall(r"(?<!\w)-?\d", example)) >= 3
    assert re.search(r"`[^`]{15,}`", line)
    names = set(inspect.signature(TASKS[number].reference).parameters)
    assert not re.search("`.*=.*`", question)
    assert names & set(re.findall(r"\w+", line)) or "plan[0]" in line


@pytest.mark.parametrize("number", LADDERS)
def test_only_the_last_rung_gives_the_code_away(number):
    """No code of an earlier rung is as long as that of the last."""
    longest = [max(map(len, re.findall("`([^`]*)`", h)), default=0) for h in TASKS[number].hints]
    assert max(longest[:2]) < longest[3]


@every_task
def test_inputs_differ(number):
    """Draws are not all alike, or one answer could be written down."""
    task, rng = TASKS[number], np.random.default_rng(0)
    results = [task.reference(*task.inputs(rng)) for _ in range(frame.NUM_TRIALS)]
    assert not all(same(result, results[0]) for result in results)


# --- all exercises: outcomes ---------------------------------------------------------------------


@every_task
def test_reference_is_correct(submit, number):
    for right in (TASKS[number].reference, *TASKS[number].also):
        result, said = submit(number, right)
        assert result is right
        assert f"Exercise {number}: correct" in said
        assert STAND_IN not in said


@every_wrong
def test_wrong_answer_draws_its_own_hint(submit, number, wrong):
    result, said = submit(number, wrong.answer)
    assert f"Exercise {number}: not yet" in said
    assert words(wrong.hint) in said
    assert STAND_IN in said
    assert result.yours is wrong.answer
    frame._trials.cache_clear()
    assert submit(number, wrong.answer)[1] == said  # drawn anew, and the same


@every_task
@pytest.mark.parametrize("body", ["...", '"""Say what it does."""\n    ...', '"""Only this."""'])
def test_untouched_stub_is_not_attempted(submit, number, body):
    signature = inspect.signature(TASKS[number].reference)
    stub = from_source(f"def stub{signature}:\n    {body}\n", {})
    if TASKS[number].given is None:
        _, said = submit(number, stub)
        assert f"Exercise {number}: not attempted" in said
        assert STAND_IN in said


@pytest.mark.parametrize("number", [n for n, task in TASKS.items() if task.given])
def test_untouched_bug_is_not_attempted(submit, number):
    """Nor with another name, a docstring and comments; but a change of the code counts."""
    given, module = TASKS[number].given, MODULES[number]
    source = inspect.getsource(given)
    head, body = source.split(":\n", 1)
    head = head.replace(given.__name__, "find_the_bug")
    copies = [source, f"{head}:\n    '''Mend me.'''\n    # Where is it?\n{body}"]
    for text in copies:
        _, said = submit(number, from_source(text, vars(module)))
        assert f"Exercise {number}: not attempted" in said
    _, said = submit(number, from_source(f"{head}:\n    x = 1\n{body}", vars(module)))
    assert f"Exercise {number}: not yet" in said  # it is still wrong


def with_everything(x):
    total = torch.stack([row * 2 for row in x])
    for row in total:
        if np.sum(row.numpy()) > 0:
            total = total + row
    return total


def test_the_same_code_is_recognised_however_it_was_compiled():
    """Here the imports stand in the same file, in a cell they don't; with loops and nested code."""
    source = inspect.getsource(with_everything)
    apart = from_source(source, {"torch": torch, "np": np})
    assert frame.same_code(apart, with_everything)
    assert frame.same_code(from_source(source.replace(")\n", ")  # so\n", 1), {}), with_everything)
    assert not frame.same_code(from_source(source.replace("* 2", "* 3"), {}), with_everything)
    assert not frame.same_code(from_source(source.replace("np.sum", "np.max"), {}), with_everything)


@every_task
def test_stand_in_is_the_reference_and_the_answer_stays_callable(submit, number):
    task = TASKS[number]

    def mine(*arguments):
        return "mine"

    result, _ = submit(number, mine)
    arguments = arguments_of(task)
    assert same(result(*copy.deepcopy(arguments)), task.reference(*copy.deepcopy(arguments)))
    assert result.yours(*arguments) == "mine"


@every_task
def test_answer_that_raises_is_reported_with_its_line(submit, number):
    def answer(*arguments):
        helper = None
        return helper.append(arguments)

    result, said = submit(number, answer)
    assert f"Exercise {number}: your code raised" in said
    assert "AttributeError: 'NoneType' object has no attribute 'append'" in said
    line = inspect.getsourcelines(answer)[1] + 2
    assert f"in line {line} of the cell: return helper.append(arguments)" in said
    assert STAND_IN in said
    assert result.yours is answer


@every_task
def test_answer_with_too_few_arguments_is_reported(submit, number):
    _, said = submit(number, lambda: 0)
    assert "your code raised" in said
    assert "takes 0 positional arguments" in said


JUNK = {
    "None": (lambda right: None, "It returned None. Is there a return"),
    "text": (lambda right: "abc", "str"),
    "shape": (lambda right: np.zeros((2, 3, 5, 7, 1)), "should"),
    "tuple": (lambda right: (right, right, right, right), "tuple|should"),
    "empty": (lambda right: (), "tuple|should"),
    "dict": (lambda right: {"result": right}, "dict"),
    "function": (lambda right: print, "builtin|function"),
    "nan": (lambda right: change(right, lambda x: x * np.nan), "number"),
}


@every_task
@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_not_yet_and_told_apart(submit, number, junk):
    make, says = JUNK[junk]
    reference = TASKS[number].reference
    _, said = submit(number, lambda *arguments: make(reference(*arguments)))
    assert f"Exercise {number}: not yet" in said
    hints = [words(wrong.hint) for wrong in TASKS[number].wrong]
    assert any(word in said for word in says.split("|")) or any(h in said for h in hints)


def arrays(result):
    """All arrays in a result that are more than a number."""
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in arrays(part)]
    return [result] if np.ndim(result) else []


@every_task
@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray])
def test_the_kind_of_array_matters_where_cells_below_use_it(submit, number, kind):
    """A number may be of any kind; an array must be as in the reference's result, inside, too."""
    task = TASKS[number]
    if wants_gradients(task):
        pytest.skip("another kind of array has lost the gradient, and is told so")
    make = {torch.Tensor: torch.as_tensor, np.ndarray: np.asarray}[kind]
    _, said = submit(number, lambda *arguments: change(
        task.reference(*arguments), lambda x: make(np.asarray(x)) if np.ndim(x) else x
    ))  # fmt: skip
    if all(isinstance(array, kind) for array in arrays(task.reference(*arguments_of(task)))):
        assert f"Exercise {number}: correct" in said
    else:
        assert f"Exercise {number}: not yet" in said
        assert "numbers are right, but the cells below need a" in said
        assert f"this is a {kind.__name__}." in said


@every_task
def test_gradients_do_not_get_in_the_way(submit, number):
    task = TASKS[number]

    def weighted(x):
        ours = isinstance(x, torch.Tensor) and x.is_floating_point()
        return torch.ones((), requires_grad=True) * x if ours else x

    _, said = submit(number, lambda *arguments: change(task.reference(*arguments), weighted))
    assert f"Exercise {number}: correct" in said


def spoil(argument):
    """Change an argument in place, if it is of a kind that can be."""
    if isinstance(argument, torch.Tensor):
        argument.detach()[...] = 0
    elif isinstance(argument, np.ndarray):
        argument[...] = 0
    elif isinstance(argument, list):
        argument.clear()


@every_task
def test_changing_the_inputs_is_not_correct(submit, number):
    """It would spoil what the cells below use, and might make a wrong answer agree."""
    reference, kinds = TASKS[number].reference, (torch.Tensor, np.ndarray, list)
    if not any(isinstance(argument, kinds) for argument in arguments_of(TASKS[number])):
        pytest.skip("its inputs are numbers, functions or environments, which are there to be used")

    def right(*arguments):
        result = reference(*copy.deepcopy(arguments))
        for argument in arguments:
            spoil(argument)
        return result

    def wrong(*arguments):
        for argument in arguments:
            spoil(argument)
        return reference(*arguments)

    for answer in (right, wrong):
        said = submit(number, answer)[1]
        assert f"Exercise {number}: not yet" in said
        assert "It changes its inputs" in said


CUTS = {
    "no_grad": torch.no_grad()(lambda *a: TASKS["07.3"].reference(*a)),
    "detach": lambda *a: TASKS["07.3"].reference(*a).detach(),
    "on the way": lambda step, policy, *a: TASKS["07.3"].reference(
        lambda obs, action: step(obs.detach(), action), policy, *a
    ),
    "numbers": lambda *a: torch.tensor(TASKS["07.3"].reference(*a).tolist()),
}


@pytest.mark.parametrize("cut", CUTS)
def test_an_answer_that_is_to_be_differentiated_must_have_a_gradient(submit, cut):
    _, said = submit("07.3", CUTS[cut])
    assert "Exercise 07.3: not yet" in said
    assert "the gradient does not come back all the way" in said


# --- the frame -----------------------------------------------------------------------------------


def scaled_sum(x, factor):
    return (x * factor).sum(0), x.max()


def _wrong_axis(x, factor):
    return (x * factor).sum(1), x.max()


def _ignores_factor(x, factor):
    return x.sum(0), x.max()


def _sometimes_fails(x, factor):
    return (x[:4] * factor).sum(0).reshape(3), x.min()


def _drawn(rng):
    return torch.as_tensor(rng.normal(size=(5, 3))), float(rng.uniform(2, 3))


@pytest.fixture
def made_up(monkeypatch):
    """A notebook 99 of its own, whatever the others become."""
    module = ModuleType("mbrl_helpers.exercises.nb99")
    module.EXERCISES = {
        "99.1": Exercise(
            reference=scaled_sum,
            inputs=_drawn,
            wrong=(
                Wrong(_wrong_axis, "The axis is the wrong one."),
                Wrong(_ignores_factor, "The factor is not used."),
                Wrong(_sometimes_fails, "Not the first four rows."),
            ),
            hints=("Multiply first.", "Then sum over axis 0."),
        ),
        "99.2": Question(
            answer="b", replies={"a": "No, because.", "b": "Yes, because."}, hints=("Think.",)
        ),
    }
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(frame, "_hints_given", {})


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("answer", "outcome", "says"),
    [
        (scaled_sum, "correct", "random inputs of all sizes"),
        (lambda x, factor: list(scaled_sum(x, factor)), "correct", ""),
        (lambda x, factor: (scaled_sum(x, factor)[0] + 1e-7, x.max()), "correct", ""),
        (lambda x, f: ((x * 2).sum(0), x.max()), "not yet", "part 0: The shape is right"),
        (lambda x, f: ((x * f).sum(0), x.sum()), "not yet", "part 1: .* not the right one"),
        (lambda x, f: ((x * f).sum(0, keepdim=True), x.max()), "not yet",
         r"part 0: .* shape \[3\]; yours has \[1, 3\]"),
        (lambda x, f: (*scaled_sum(x, f), 0), "not yet", "return a tuple of 2; yours has 3"),
        (lambda x, f: ([1, 2, 3], x.max()), "not yet", "part 0: .* a list where"),
        (lambda x, f: (x * f).sum(0), "not yet", "return a tuple of 2; yours: Tensor"),
        (lambda x, f: (x.max(), (x * f).sum(0)), "not yet", r"part 0: .* shape \[3\]; yours has"),
        (lambda x, f: (x.sum(0), x.max()), "not yet", "The factor is not used"),
        (lambda x, f: ((x * f).sum(1), x.max()), "not yet", "The axis is the wrong one"),
        (lambda x, f: [(x * f).sum(0), x.sum()], "not yet", "part 1: .* not the right one"),
        (lambda x, f: (None, x.max()), "not yet", "None"),
        (lambda x, f: ((x * f).sum(0), "abc"), "not yet", "str"),
        (lambda x, f: torch.stack([x.max(), x.min()]), "not yet", "part 0: The result should have"),
        (lambda x, f: tuple(part.numpy() for part in scaled_sum(x, f)), "not yet",
         "part 0: The numbers are right, but the cells below need a torch tensor"),
        (lambda x, f: tuple(part.float() for part in scaled_sum(x, f)), "not yet",
         "part 0: The numbers are right, but of dtype float32, .* need float64"),
        (lambda x, f: x.no_such_method(), "your code raised", "AttributeError: .*no_such_method"),
        (lambda x: x, "your code raised", "TypeError"),
    ],
)  # fmt: skip
def test_outcomes(submit, answer, outcome, says):
    result, said = submit("99.1", answer)
    assert f"Exercise 99.1: {outcome}" in said
    assert re.search(says, said)
    assert (result is answer) == (outcome == "correct")
    assert (STAND_IN in said) == (outcome != "correct")


@pytest.mark.usefixtures("made_up")
def test_answer_that_fails_on_some_inputs_only(submit):
    calls = []

    def answer(x, factor):
        calls.append(factor)
        if len(calls) == frame.NUM_TRIALS:
            raise ZeroDivisionError("at last")
        return scaled_sum(x, factor)

    _, said = submit("99.1", answer)
    assert "your code raised" in said
    assert "ZeroDivisionError: at last" in said


NUMBERS = [
    (3, 3.0, "can't use as a whole number"),
    (3, np.float64(3), "can't use as a whole number"),
    (1, np.bool_(True), "can't use as a whole number"),
    (3, np.int32(3), ""),
    (3, torch.tensor(3), ""),
    (True, 1, "make it True or False"),
    (True, np.bool_(True), ""),
    (2.0, 2, ""),
    (2.0, torch.tensor(2.0), ""),
    (torch.tensor([True]), torch.ones(1), "of dtype float32, where the cells below need bool"),
    (torch.ones(1), torch.ones(1).double(), "of dtype float64, where the cells below need float32"),
    (torch.ones(1).long(), torch.ones(1).int(), ""),
    (np.ones(1), np.ones(1, int), "of dtype int64, where the cells below need float64"),
    (np.ones(1), np.ones(1, np.float32), ""),
    ((np.ones(1), 3), (np.ones(1), 3.0), "In part 1: The value is right, but this is a float"),
]


@pytest.mark.parametrize(("expected", "got", "says"), NUMBERS)
def test_what_the_cells_below_can_use(expected, got, says):
    said = compare.wrong_kind(got, expected)
    assert says in said
    assert bool(said) == bool(says)


@pytest.mark.usefixtures("made_up")
def test_what_comes_apart_like_a_tuple_is_as_good(submit):
    def answer(x):
        return np.stack([x.min(), x.max()])

    task = Exercise(reference=lambda x: (x.min(), x.max()), wrong=(), hints=("Look.",),
                    inputs=lambda rng: (rng.normal(size=3),))  # fmt: skip
    assert frame.judge("99.4", task, answer)[0] == "correct"
    assert frame.judge("99.4", task, lambda x: answer(x)[::-1])[0] == "not yet"


@pytest.mark.usefixtures("made_up")
def test_what_an_answer_prints_is_shown_once(submit):
    def answer(x, factor):
        print("factor", factor)
        return scaled_sum(x, factor)

    _, said = submit("99.1", answer)
    assert "correct" in said
    assert said.count("It printed, for one of the inputs: factor 2.") == said.count("factor") == 1

    def flood(x, factor):
        print("\n".join(["again"] * 1000))

    _, said = submit("99.1", flood)
    assert said.count("again") == frame.MOST_PRINTED
    assert "and 980 lines more" in said
    calls = []

    def fails_later(x, factor):
        calls.append(factor)
        print("call", len(calls))
        return 1 / (len(calls) < 7) and scaled_sum(x, factor)

    _, said = submit("99.1", fails_later)
    assert "division by zero" in said
    assert "call 7" in said  # the one that raised
    assert "Arrays among the inputs had shape [5, 3]" in said


@pytest.mark.usefixtures("made_up")
def test_a_mistake_that_raises_for_some_inputs_only_is_named_all_the_same(submit):
    """As long as the known mistake raises for the same ones."""
    task = Exercise(
        reference=lambda x: x[:1].sum() + len(x), hints=("Look.",),
        inputs=lambda rng: (rng.normal(size=rng.integers(0, 3)),),
        wrong=(Wrong(lambda x: x[0] + len(x), "There may be none."),),
    )  # fmt: skip
    first = frame.judge("99.5", task, lambda x: x[[0]].sum() + len(x))
    assert first == ("not yet", "There may be none.")
    assert frame.judge("99.5", task, lambda x: x[3])[0] == "your code raised"


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("right", [True, False])
def test_a_function_that_was_renamed_in_a_notebook(submit, right):
    """The cells below find it by the name that they use; elsewhere no name is touched."""
    source = "def mine(x, factor):\n    return (x * factor).sum(0), x.max()"
    source = source if right else source.replace("max", "min")
    cell = from_source(source, {"__name__": "__main__"})
    result, said = submit("99.1", cell)
    assert "The cells below call it scaled_sum, not mine" in said
    assert cell.__globals__["scaled_sum"] is result
    assert ("Exercise 99.1: correct" in said) == right
    cell = from_source(source, {"__name__": "elsewhere"})
    assert "The cells below call it" not in submit("99.1", cell)[1]
    assert "scaled_sum" not in cell.__globals__


def test_the_notebooks_call_each_answer_as_its_reference():
    named = {}
    for path in course.notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            found = re.search(r'^@exercise\("([\w.]+)"\)\ndef (\w+)', cell.source, re.MULTILINE)
            if found:
                named[found.group(1)] = found.group(2)
    assert named == {number: task.reference.__name__ for number, task in TASKS.items()}


@pytest.mark.usefixtures("made_up")
def test_interrupt_is_not_an_outcome():
    def answer(x, factor):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exercise("99.1")(answer)


@pytest.mark.usefixtures("made_up")
def test_hints_go_on_to_the_last(capsys):
    said = []
    for _ in range(4):
        hint("99.1")
        said.append(words(capsys.readouterr().out))
    assert "hint 1 of 2 Multiply first." in said[0]
    assert ["hint 2 of 2 Then sum over axis 0." in text for text in said[1:]] == [True] * 3
    hint("99.2")
    assert "hint 1 of 1 Think." in words(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1, 1.0, True),
        (True, 1, True),
        (np.float32(0.1), 0.1, True),
        (torch.ones(2), [1, 1], False),  # a list is a structure, not an array
        ((1, 2), [1, 2], True),
        ((1, 2), (1, 2, 3), False),
        ((1, (2, 3)), (1, (2, 3)), True),
        (torch.ones(2), torch.ones(2, 1), False),
        (torch.ones(1), 1, False),
        (np.nan, np.nan, True),
        (np.nan, 0.0, False),
        (1.0, 1.001, False),
        (1e6, 1e6 + 1, True),
        (None, None, True),
        ("a", "a", False),
        (torch.ones(2, requires_grad=True), np.ones(2), True),
    ],
)
def test_same(a, b, expected):
    assert same(a, b) is expected
    assert same(b, a) is expected


# --- questions, hints and solutions --------------------------------------------------------------


@pytest.mark.parametrize("number", QUESTIONS)
def test_every_choice_has_its_reply(capsys, number):
    question = QUESTIONS[number]
    assert question.answer in question.replies
    assert len(set(question.replies.values())) == len(question.replies) >= 2
    for choice, reply in question.replies.items():
        predict(number, choice)
        said = words(capsys.readouterr().out)
        outcome = "correct" if choice == question.answer else "not yet"
        assert f"Exercise {number}: {outcome}" in said
        assert words(reply) in said


@pytest.mark.parametrize("number", QUESTIONS)
def test_prediction_not_made_or_unknown(capsys, number):
    choices = "/".join(QUESTIONS[number].replies)
    predict(number, ...)
    predict(number)
    said = words(capsys.readouterr().out)
    assert said.count(f"Exercise {number}: not attempted") == 2
    assert said.count(choices) == 2
    for choice in ("z", "", 1, None, ["a"]):
        predict(number, choice)
        said = words(capsys.readouterr().out)
        assert f"Exercise {number}: not yet" in said
        assert f"{choice!r} is not a choice: pick one of {choices}" in said


@pytest.mark.parametrize("number", [*TASKS, *QUESTIONS])
def test_hints_and_solution(capsys, monkeypatch, number):
    task = ALL[number]
    monkeypatch.setattr(frame, "_hints_given", {})
    for text in (*task.hints, task.hints[-1]):
        hint(number)
        assert words(text) in words(capsys.readouterr().out)
    shown = solution(number)
    if isinstance(task, Question):
        said = words(capsys.readouterr().out)
        assert shown is None
        assert f"the answer is {task.answer} {words(task.replies[task.answer])}" in said
    else:  # what is shown is what is judged correct
        reference = from_source(shown.data, vars(MODULES[number]))
        exercise(number)(reference)
        assert f"Exercise {number}: correct" in capsys.readouterr().out


@pytest.mark.parametrize("call", [exercise, predict, hint, solution])
@pytest.mark.parametrize("number", ["03.99", "98.1", "", "exercise", 3.2, None])
def test_unknown_numbers(call, number):
    with pytest.raises(ValueError, match=r"expected the number of an exercise, .*Copy it") as e:
        call(number)
    assert f"got {number!r}" in str(e.value)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    "call", [lambda: exercise("99.2")(scaled_sum), lambda: predict("99.1", "b")]
)
def test_question_taken_for_an_exercise(call):
    """A wrong number is named, not answered with an error of our own code."""
    with pytest.raises((ValueError, TypeError), match=r"expected .*99\.[12]"):
        call()
