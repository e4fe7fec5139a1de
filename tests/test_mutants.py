"""Generated mutants of every reference: each is refused, or means the same for a reason given here.

All of them are tried: about thirteen hundred, in half a minute.
"""

import dataclasses

import numpy as np
import pytest
from mutants import cast, mutants
from test_exercises import TASKS, arguments_of

from mbrl_helpers.exercises.frame import judge

MOST_EQUAL = 0.05
LIKE = "it only says of which shape and type: that of the other array is the same"
TIE = "it matters only where two random numbers are exactly equal, of which the task says nothing"
SIGNS = "to divide by 1 or -1 is to multiply by it"
COLUMN = "each of its rows is one number"
LENGTHS = "the two have the same length"

# What means the same, by exercise: start of the mutant's name, and why.
EQUAL = {
    ("00.1", "a comparison: pole_angle > 0 -> pole_angle >= 0"): "an upright pole leans nowhere",
    ("00.1", "a dtype: bool"): "True and False are 1 and 0, to Gymnasium as well",
    ("01.4", "an argument: np.zeros(envs.num_envs, dtype=bool)"): "0.0 is as false as False",
    ("02.6", "a sign: -1 -> 1"): "of two axes the last is the second",
    ("03.2", "a name: reward -> terminated"): LIKE,
    ("03.2", "a constant: 0 -> -1"): LIKE,
    ("03.4", "an order: (next_obs"): "cart and pole are treated alike",
    ("03.6", "a comparison: total > best_return"): TIE,
    ("03.6", "a constant: 0.0 -> 1.0"): "every plan gains the same",
    ("05.4", "a comparison: (target - mean).abs() <= width"): TIE,
    ("09.3", "a comparison: dice < sticky"): TIE,
    ("09.4", "an argument: zip("): LENGTHS,
    ("09.4", "a flag: True -> False"): LENGTHS,
    ("09b.2", "an operator: speed * sign"): SIGNS,
    ("09b.2", "an operator: place * sign"): SIGNS,
    ("11.2", "a call: int("): "a tensor of one whole number is as good an index, and made an int",
    ("11.2", "a call: (visits > 0).nonzero()"): COLUMN,
    ("11.3", "a call: (legal & (visits == 0)).nonzero()"): COLUMN,
    ("11.3", "a call: int("): "a tensor of one whole number is as good an index, and made an int",
    ("11.4", "a dtype: int64"): "a result is 1, 0 or -1",
    ("11.5", "an operator: value * (-1)"): SIGNS,
    ("11.5", "an operator: depth - step -> depth + step"): "one is odd when the other is",
    ("12.2", "a comparison: abs(state[0]) > 1 -> abs(state[0]) >= 1"): TIE,
    ("12.3", "a name: obs -> action (again)"): LENGTHS,
}


def all_of(number):
    task = TASKS[number]
    return mutants(task.reference) | cast(task.reference, arguments_of(task))


def why_equal(number, name):
    return next(
        (why for (n, how), why in EQUAL.items() if n == number and name.startswith(how)), ""
    )


def accepted(number):
    """Mutants that are judged correct. What they are told is of no interest here."""
    task = dataclasses.replace(TASKS[number], wrong=())
    with np.errstate(all="ignore"):
        found = {name: judge(number, task, mutant)[0] for name, mutant in all_of(number).items()}
    return [name for name, outcome in found.items() if outcome == "correct"]


ACCEPTED: dict[str, list[str]] = {}


@pytest.mark.parametrize("number", TASKS)
def test_mutants_are_refused(number):
    ACCEPTED[number] = accepted(number)
    assert [name for name in ACCEPTED[number] if not why_equal(number, name)] == []


def test_few_mean_the_same():
    """And none is listed in vain."""
    total = sum(len(all_of(number)) for number in TASKS)
    for number in set(TASKS) - set(ACCEPTED):  # each alone, and in any order
        ACCEPTED[number] = accepted(number)
    assert total > 1000
    assert sum(map(len, ACCEPTED.values())) <= MOST_EQUAL * total
    for number, start in EQUAL:
        assert any(name.startswith(start) for name in ACCEPTED[number]), f"{number}: {start}"


def twice(x, scale):
    return scale * x[1:].sum() + 2


def test_mutants_of_a_function():
    found = mutants(twice)
    assert {
        "a constant: 2 -> 3", "a constant: 2 -> 1", "a slice: 1: -> 1 + 1:", "a slice: 1: -> :",
        "an operator: scale * x[1:].sum() -> scale / x[1:].sum()", "a name: x -> scale",
        "a name: x[1:].sum() -> x[1:].mean()", "a call: x[1:].sum() -> x[1:]",
    } <= set(found)  # fmt: skip
    numbers = np.arange(4.0)
    assert twice(numbers, 3) == 20
    assert found["a constant: 2 -> 3"](numbers, 3) == 21
    assert found["a slice: 1: -> 1:-1"](numbers, 3) == 11
    assert set(cast(twice, (numbers, 3))) == {"a dtype: int64", "a dtype: bool"}
