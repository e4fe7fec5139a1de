"""Exercises of notebook 12b, more than one seed."""

import numpy as np

from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, scale

# --- 12b.2: the regulator -------------------------------------------------------------------------


def regulator(a, b, q, r, horizon):
    p = q
    for _ in range(horizon):
        gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        p = q + a.T @ p @ (a - b @ gain)
    return gain


def _one_round_short(a, b, q, r, horizon):
    return regulator(a, b, q, r, max(1, horizon - 1))


def _one_round_more(a, b, q, r, horizon):
    return regulator(a, b, q, r, horizon + 1)


def _never_backwards(a, b, q, r, horizon):
    return regulator(a, b, q, r, 1)


def _free_actions(a, b, q, r, horizon):
    return regulator(a, b, q, 0 * r, horizon)


def _as_if_nobody_acted(a, b, q, r, horizon):
    p = q
    for _ in range(horizon):
        gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        p = q + a.T @ p @ a
    return gain


def _only_the_end_counts(a, b, q, r, horizon):
    p = q
    for _ in range(horizon):
        gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        p = a.T @ p @ (a - b @ gain)
    return gain


def _with_the_sign_of_the_action(a, b, q, r, horizon):
    return -regulator(a, b, q, r, horizon)


def _transposed(a, b, q, r, horizon):
    return regulator(a.T, b, q, r, horizon)


def _system(rng):
    """A system of a few numbers and fewer actions, shaky or calm, and what they cost."""
    size = count(rng, most=6)
    num_actions = int(rng.integers(1, size + 1))
    a = rng.normal(size=(size, size)) * rng.choice([0.3, 0.8]) / size**0.5
    a += np.eye(size) * rng.choice([0, 0.5, 1])
    b = rng.normal(size=(size, num_actions))
    q = np.diag(rng.uniform(0.1, 2, size=size))
    r = np.diag(rng.uniform(0.1, 2, size=num_actions))
    return a, b, q, r, count(rng, most=30)


# --- 12b.3: the interquartile mean ----------------------------------------------------------------


def iqm(values):
    cut = len(values) // 4
    return np.sort(values)[cut : len(values) - cut].mean()


def _not_sorted(values):
    cut = len(values) // 4
    return values[cut : len(values) - cut].mean()


def _only_the_lowest_left_out(values):
    return np.sort(values)[len(values) // 4 :].mean()


def _only_the_highest_left_out(values):
    return np.sort(values)[: len(values) - len(values) // 4].mean()


def _all_of_them(values):
    return values.mean()


def _the_middle_one(values):
    return np.median(values)


def _a_quarter_rounded_up(values):
    cut = min(-(-len(values) // 4), (len(values) - 1) // 2)
    return np.sort(values)[cut : len(values) - cut].mean()


def _three_quarters(values):
    cut = len(values) // 8
    return np.sort(values)[cut : len(values) - cut].mean()


def _scores(rng):
    """So many, with ties, of either sign; not in order."""
    values = rng.normal(size=count(rng)) * scale(rng) + rng.normal() * scale(rng)
    if rng.random() < 0.3:
        values = np.round(values)
    if rng.random() < 0.3:
        values[rng.integers(len(values))] -= 1000
    return (values,)


# --- 12b.4: the probability of improvement --------------------------------------------------------


def probability_of_improvement(ours, theirs):
    return (ours[:, None] > theirs).mean() + 0.5 * (ours[:, None] == theirs).mean()


def _ties_are_lost(ours, theirs):
    return (ours[:, None] > theirs).mean()


def _ties_are_won(ours, theirs):
    return (ours[:, None] >= theirs).mean()


def _the_other_is_better(ours, theirs):
    return probability_of_improvement(theirs, ours)


def _seed_by_seed(ours, theirs):
    num = min(len(ours), len(theirs))
    return (ours[:num] > theirs[:num]).mean() + 0.5 * (ours[:num] == theirs[:num]).mean()


def _of_the_mean(ours, theirs):
    return (ours > theirs.mean()).mean()


def _how_much(ours, theirs):
    return ours.mean() - theirs.mean()


def _two_agents(rng):
    """Scores of two agents, not always as many, with ties; the worse one may be the first."""
    ours, theirs = (rng.normal(size=count(rng)) for _ in range(2))
    theirs = theirs + rng.choice([-3, -0.5, 0, 0.5, 3])
    size = scale(rng, 0.3, 3)
    if rng.random() < 0.6:
        ours, theirs = np.round(ours * size), np.round(theirs * size)
    return ours, theirs


EXERCISES = {
    "12b.1": Question(
        answer="c",
        replies={
            "a": "They do well, both times. What would a line and a formula lack here? Look at the "
                 "figure before you say.",
            "b": "It does well, both times. Do ten seeds say *better*? Look at the intervals.",
            "c": "Yes: where a straight line is nearly true, a formula of 1960 does what networks "
                 "and a search do, in a fraction of the time.",
        },
        hints=(
            "How curved is the motion of a pole that stays near upright?",
            "What has a network to add to the least squares of notebook 02?",
        ),
    ),
    "12b.2": Exercise(
        reference=regulator,
        inputs=_system,
        wrong=(
            Wrong(_one_round_short, "This is the gain of one round too few. With a horizon of 1 "
                  "it is that for p = q, and each round more looks one step further."),
            Wrong(_one_round_more, "This is the gain of one round too many. With a horizon of 1 "
                  "it is that for p = q."),
            Wrong(_never_backwards, "p stays as it was. After each gain it becomes the cost of "
                  "being there with one step more to go: q + aT p (a - b gain)."),
            Wrong(_free_actions, "Actions cost nothing here. r belongs to what is inverted."),
            Wrong(_as_if_nobody_acted, "p grows as if nobody acted. With the gain, the state after "
                  "a step is (a - b gain) times the state before."),
            Wrong(_only_the_end_counts, "Only the last state costs anything here. Each round adds "
                  "q."),
            Wrong(_with_the_sign_of_the_action, "Return the gain itself: the action is *minus* the "
                  "gain times the state."),
            Wrong(_transposed, "It is a's transpose where a belongs, and the other way round. The "
                  "state after a step is a times the state, a column."),
        ),
        hints=(
            "What would you do if only the very next state counted? And if what comes after "
            "that were already known as a cost of being there?",
            "Begin at the end, with p = q. In each round: the gain that is best for this p, then "
            "the p of one step earlier, under that gain.",
            "In numbers, a = b = q = r = 1: p = 1 gives the gain 1 / (1 + 1) = 0.5; then p = "
            "1 + 1 (1 - 0.5) = 1.5, and the gain is 1.5 / 2.5 = 0.6.",
            "`gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)`, then "
            "`p = q + a.T @ p @ (a - b @ gain)`",
        ),
    ),
    "12b.3": Exercise(
        reference=iqm,
        inputs=_scores,
        wrong=(
            Wrong(_not_sorted, "What is left out is first and last in the *order of the list*. "
                  "Sort them first."),
            Wrong(_only_the_lowest_left_out, "Only the lowest quarter is left out. The highest "
                  "goes, too."),
            Wrong(_only_the_highest_left_out, "Only the highest quarter is left out. The lowest "
                  "goes, too."),
            Wrong(_all_of_them, "This is the mean of all. A quarter at either end is left out."),
            Wrong(_the_middle_one, "This is the median. Take the mean of the middle *half*."),
            Wrong(_a_quarter_rounded_up, "A quarter is rounded *down*: of seven, one at either "
                  "end."),
            Wrong(_three_quarters, "This leaves out an eighth at either end. The middle *half* is "
                  "left, so a quarter goes at either end."),
        ),
        hints=(
            "A mean is moved by one disaster, a median ignores nearly all the values. What lies "
            "between?",
            "Sort, leave out `len(values) // 4` at either end, take the mean of the rest.",
            "Of 1, 100, 3, 2, 4: one at either end goes; the mean of 2, 3, 4 is 3.",
            "`np.sort(values)[cut : len(values) - cut].mean()`",
        ),
    ),
    "12b.4": Exercise(
        reference=probability_of_improvement,
        inputs=_two_agents,
        wrong=(
            Wrong(_ties_are_lost, "A tie counts as lost here. It counts half."),
            Wrong(_ties_are_won, "A tie counts as won here. It counts half."),
            Wrong(_the_other_is_better, "This is how probable it is that *theirs* is better."),
            Wrong(_seed_by_seed, "Only runs of the same place in the list meet here. Every run of "
                  "ours meets every run of theirs."),
            Wrong(_of_the_mean, "Compare with each run of theirs, not with their mean."),
            Wrong(_how_much, "This says by how much. How *often* was asked: a number from 0 to 1."),
        ),
        hints=(
            "Draw one run of ours and one of theirs at random. How often is ours the better one?",
            "Compare every run of ours with every run of theirs: a table of so many rows and "
            "columns. The share of wins, plus half the share of ties.",
            "Ours 3 and 1, theirs 1: a win and a tie, (1 + 0.5) / 2 = 0.75.",
            "`ours[:, None] > theirs` is the whole table; take its mean, and half of the mean of "
            "`==`.",
        ),
    ),
    "12b.5": Question(
        answer="a",
        replies={
            "a": "Yes: so few candidates do not fill the processor. Most of the time goes into "
                 "starting each product of matrices, not into the products.",
            "b": "It is still less. Look at the left end of the curve: what does the time go into?",
            "c": "It would, if each candidate cost the same, as from 1,000 to 10,000. Look at the "
                 "left end of the curve.",
        },
        hints=("How long is a processor at work with a product of 50 rows by 64 columns?",),
    ),
}  # fmt: skip
