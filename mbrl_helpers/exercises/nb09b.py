"""Exercises of notebook 09b: games that resist a dream, and Pong."""

import numpy as np
import torch

from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, normal, scale

# --- 09b.1: what is worth seeing ------------------------------------------------------------------


def bonus(seen, curiosity):
    return curiosity / np.sqrt(1 + seen.sum(0))


def _nothing_added(seen, curiosity):
    with np.errstate(divide="ignore"):
        return curiosity / np.sqrt(seen.sum(0))


def _no_root(seen, curiosity):
    return curiosity / (1 + seen.sum(0))


def _share(seen, curiosity):
    return curiosity / np.sqrt(1 + seen.mean(0))


def _all_cells_together(seen, curiosity):
    return curiosity / np.sqrt(1 + seen.sum())


def _never_or_ever(seen, curiosity):
    return curiosity * (seen.sum(0) == 0)


def _root_above_all(seen, curiosity):
    return np.sqrt(curiosity / (1 + seen.sum(0)))


def _more_where_often(seen, curiosity):
    return curiosity * np.sqrt(1 + seen.sum(0))


def _one_outside_the_root(seen, curiosity):
    return curiosity / (np.sqrt(seen.sum(0)) + 1)


def _an_object(rng):
    """An object that comes to a few cells often, and in some frames is not there at all."""
    num = count(rng, most=300)
    seen = np.zeros((num, 10, 10), bool)
    row, column = rng.integers(count(rng, 1, 10), size=num), rng.integers(10, size=num)
    seen[np.arange(num), row, column] = True
    seen[rng.random(num) < 0.2] = False
    return seen, scale(rng, 0.01, 10)


# --- 09b.2: the ball, always to the right and down ------------------------------------------------


def mirrored(place, speed):
    sign = torch.where(speed < 0, -1.0, 1.0)
    return place * sign, speed * sign, sign


def _sign_of_zero(place, speed):
    return place * speed.sign(), speed * speed.sign(), speed.sign()


def _place_stays(place, speed):
    sign = torch.where(speed < 0, -1.0, 1.0)
    return place, speed * sign, sign


def _by_the_place(place, speed):
    sign = torch.where(place < 0, -1.0, 1.0)
    return place * sign, speed * sign, sign


def _only_across(place, speed):
    sign = torch.where(speed < 0, -1.0, 1.0)
    sign[:, 1] = 1.0
    return place * sign, speed * sign, sign


def _absolute(place, speed):
    return place.abs(), speed.abs(), torch.where(speed < 0, -1.0, 1.0)


def _to_the_left_and_up(place, speed):
    sign = torch.where(speed > 0, -1.0, 1.0)
    return place * sign, speed * sign, sign


def _zero_the_other_way(place, speed):
    sign = torch.where(speed > 0, 1.0, -1.0)
    return place * sign, speed * sign, sign


def _balls(rng):
    num = count(rng)
    speed = scale(rng, 0.05, 10) * rng.integers(-2, 3, size=(num, 2))  # 0: it flies level
    return 30 * normal(rng, num, 2), torch.as_tensor(speed, dtype=torch.float32)


EXERCISES = {
    "09b.1": Exercise(
        reference=bonus,
        inputs=_an_object,
        wrong=(
            Wrong(_nothing_added, "Where the object never was you divide by 0. The map needs the "
                  "root of `n + 1`."),
            Wrong(_no_root, "The root is missing: you divide by `n + 1` itself."),
            Wrong(_share, "`mean` gives the share of the frames. Count them: `sum`."),
            Wrong(_all_cells_together, "You count all cells together, and pay the same everywhere. "
                  "Add up along the first axis alone."),
            Wrong(_never_or_ever, "You pay only where it never was. Where it was rarely, it should "
                  "earn something, too."),
            Wrong(_root_above_all, "You take the root of `curiosity`, too. Only `n + 1` is under "
                  "it."),
            Wrong(_more_where_often, "You pay most where it has been most often: divide by the "
                  "root."),
            Wrong(_one_outside_the_root, "The 1 belongs under the root: n + 1, and then the root "
                  "of it."),
        ),
        hints=(
            "`seen` has a count of each cell in each of several games. How often has a cell been "
            "seen in all of them together?",
            "Add up over the first axis; then a bonus that falls with the root of the count, and "
            "is finite where nothing was seen.",
            "Seen 3 and 0 in one game, 5 and 0 in another, curiosity 6: counts 8 and 0, bonus 6 / "
            "3 = 2 and 6 / 1 = 6.",
            "`curiosity / np.sqrt(1 + seen.sum(0))`",
        ),
    ),
    "09b.2": Exercise(
        reference=mirrored,
        inputs=_balls,
        wrong=(
            Wrong(_sign_of_zero, "`sign` makes 0 of a speed of 0: a ball that flies level would "
                  "lose its height. Its sign must be 1: use `torch.where`."),
            Wrong(_place_stays, "The speed is mirrored, the place is not: in a mirror both are."),
            Wrong(_by_the_place, "You mirror by where the ball *is*. It should always *fly* to the "
                  "right and down: the sign is that of the speed."),
            Wrong(_only_across, "Right is right now, but a ball that flies up still flies up. "
                  "Mirror both columns, each by its own sign."),
            Wrong(_absolute, "Absolute values fold the court: a ball left of the middle that flies "
                  "to the right would change sides. Multiply the place by the sign of the speed."),
            Wrong(_zero_the_other_way, "Nearly: a speed of 0 counts as right, or down, so that its "
                  "sign is 1."),
            Wrong(_to_the_left_and_up, "Yours always flies to the left, or up. The sign is -1 "
                  "where the speed is negative."),
        ),
        hints=(
            "A ball flies to the left. What do place and speed look like in a mirror that makes "
            "it fly to the right?",
            "The mirror multiplies by -1, the place and the speed alike; or by 1, where the speed "
            "is not below 0.",
            "Place 3 and speed -2 become -3 and 2, with sign -1. Place 3 and speed 0 stay as they "
            "are, with sign 1.",
            "`sign = torch.where(speed < 0, -1.0, 1.0)`, then `place * sign, speed * sign, sign`",
        ),
    ),
    "09b.3": Question(
        answer="c",
        replies={
            "a": "Whose random play hardly ever crosses, hardly ever sees a reward. See the figure "
                 "below.",
            "b": "A fine rival, and it beats more than one might think; not all of them. See the "
                 "figure below.",
            "c": "Yes; and mind the dashed line, the hand on one key. See the figure below.",
        },
        hints=(
            "Who of the three has a reason to go where nobody has been?",
            "A crossing takes many steps up without a hit. How often does chance do that?",
        ),
    ),
}  # fmt: skip
