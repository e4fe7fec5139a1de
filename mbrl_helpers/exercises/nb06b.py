"""Exercises of notebook 06b, changed worlds."""

import math

from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, scale

# --- 06b.2: who notices ---------------------------------------------------------------------------


def alarm(errors, usual, window):
    for steps in range(window, len(errors) + 1):
        if errors[steps - window : steps].mean() > usual:
            return steps
    return math.inf


def _where_the_window_begins(errors, usual, window):
    return alarm(errors, usual, window) - window


def _one_step_early(errors, usual, window):
    return alarm(errors, usual, window) - 1


def _a_single_step(errors, usual, window):
    return alarm(errors, usual, 1)


def _before_the_window_is_full(errors, usual, window):
    for steps in range(1, len(errors) + 1):
        if errors[max(0, steps - window) : steps].mean() > usual:
            return steps
    return math.inf


def _all_steps_so_far(errors, usual, window):
    for steps in range(window, len(errors) + 1):
        if errors[:steps].mean() > usual:
            return steps
    return math.inf


def _each_of_them(errors, usual, window):
    for steps in range(window, len(errors) + 1):
        if errors[steps - window : steps].min() > usual:
            return steps
    return math.inf


def _when_as_usual(errors, usual, window):
    for steps in range(window, len(errors) + 1):
        if errors[steps - window : steps].mean() >= usual:
            return steps
    return math.inf


def _all_steps_if_never(errors, usual, window):
    return min(alarm(errors, usual, window), len(errors))


def _errors(rng):
    """Errors that rise at some time, at the last step alone, or never; ties with the usual one."""
    num, window = count(rng), count(rng, most=6)
    errors = rng.integers(0, 5, size=num) * scale(rng, 0.1, 10)
    errors[rng.integers(num + 1) :] *= rng.choice([1, 1, 3])
    means = [errors[i : i + window].mean() for i in range(num - window + 1)] or [errors.mean()]
    if rng.random() < 0.35:
        errors[-1] += window * (max(means) + 1)
        return errors, float(max(means)), window
    between = 0.5 * (min(means) + max(means))
    usual = rng.choice([means[rng.integers(len(means))], between, 2 * max(means) + 1])
    return errors, float(usual), window


EXERCISES = {
    "06b.1": Question(
        answer="b",
        replies={
            "a": "They contradict each other: from one and the same state the old rows say one "
                 "thing and the new ones another. The figure shows what a model makes of that.",
            "b": "Yes, if the model learns from so few. The figure has a model that knows its "
                 "structure, and one that doesn't.",
            "c": "Better than all alike, and still the old rows pull: look at the figure.",
        },
        hints=("Which law do the old rows obey, and which the new ones?",),
    ),
    "06b.2": Exercise(
        reference=alarm,
        inputs=_errors,
        wrong=(
            Wrong(_one_step_early, "This is the index of the last step of the window. Return how "
                  "many steps were taken: one more."),
            Wrong(_where_the_window_begins, "This is where the window begins. The alarm rings at "
                  "its end, when all of its steps were taken."),
            Wrong(_a_single_step, "A single large error is no alarm: take the mean of the last "
                  "`window` errors."),
            Wrong(_before_the_window_is_full, "It rings before the window is full. Wait for "
                  "`window` steps."),
            Wrong(_all_steps_so_far, "The mean of *all* steps so far takes long to rise. Only the "
                  "last `window` count."),
            Wrong(_each_of_them, "It waits until each error of the window is large. Their mean "
                  "should be."),
            Wrong(_when_as_usual, "As large as usual is usual. It should ring above."),
            Wrong(_all_steps_if_never, "If it never rings, return infinity, `math.inf`."),
        ),
        hints=(
            "One error may be large by chance. What of ten errors in a row would not be?",
            "Slide a window over the errors, from the first full one on; the first whose mean is "
            "above the usual rings, and the answer is where it *ends*.",
            "Errors 1, 1, 1, 5, 5 with usual 2 and window 2: means 1, 1, 3: it rings after 4 "
            "steps.",
            "`for steps in range(window, len(errors) + 1):` and "
            "`errors[steps - window : steps].mean() > usual`",
        ),
    ),
    "06b.3": Question(
        answer="a",
        replies={
            "a": "Yes: the world is as it was, and so is its model. The planner takes the new "
                 "objective; the policy has to be trained again, but in the model, where steps "
                 "cost nothing.",
            "b": "The policy must learn again, that is right. But where? The model still holds, "
                 "and imagined steps are free.",
            "c": "What would new rows tell? The world obeys the laws that the model has learned; "
                 "only the wish is another.",
        },
        hints=("What does the model predict, and what of that has changed?",),
    ),
}  # fmt: skip
