"""Exercises of notebook 00, start here."""

import numpy as np

from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import one_of

# --- 00.1: a first policy -------------------------------------------------------------------------


def push_where_it_leans(obs):
    pole_angle = obs[2]
    return 1 if pole_angle > 0 else 0


def _other_way(obs):
    return 0 if obs[2] > 0 else 1


def _cart_position(obs):
    return 1 if obs[0] > 0 else 0


def _cart_velocity(obs):
    return 1 if obs[1] > 0 else 0


def _pole_velocity(obs):
    return 1 if obs[3] > 0 else 0


def _always_right(obs):
    return 1


def _signs(obs):
    return 1 if obs[2] > 0 else -1


def _observation(rng):
    """Observations of every kind, among them poles that hardly lean, and states far away."""
    scale = np.array([1, 1, one_of(rng, 0.0001, 0.01, 0.1, 1), 1])
    return ((one_of(rng, 0.1, 1, 10) * scale * rng.normal(size=4)).astype(np.float32),)


EXERCISES = {
    "00.1": Exercise(
        reference=push_where_it_leans,
        inputs=_observation,
        wrong=(
            Wrong(_other_way, "This pushes away from where the pole leans, and it falls faster. "
                  "Hold a broom on your palm: where do you move your hand?"),
            Wrong(_cart_position, "`obs[0]` is the position of the cart. The pole's angle is "
                  "`obs[2]`."),
            Wrong(_cart_velocity, "`obs[1]` is the velocity of the cart. The pole's angle is "
                  "`obs[2]`."),
            Wrong(_pole_velocity, "`obs[3]` is how fast the pole turns: not a bad idea at all, but "
                  "the exercise asks for its angle, `obs[2]`."),
            Wrong(_always_right, "It pushes right whatever it sees. Look at `obs[2]`."),
            Wrong(_signs, "The actions are numbered 0 (push left) and 1 (push right); there is no "
                  "-1."),
        ),
        hints=(
            "The pole leans to the right. Where must the cart go, to come under the pole again?",
            "The angle is positive when the pole leans to the right, and action 1 pushes right. So "
            "only the sign of one of the four numbers matters.",
            "obs = [0.1, 0.0, -0.05, 0.3]: the angle is -0.05, the pole leans to the left, and the "
            "answer is 0.",
            "`return 1 if obs[2] > 0 else 0`",
        ),
    ),
    "00.2": Question(
        answer="c",
        replies={
            "a": "That is the reward of one step. The return is a sum.",
            "b": "This would be the value: an expectation over many episodes. The return is of "
                 "the one episode that was played.",
            "c": "Yes: the sum of the rewards of one episode, here undiscounted.",
        },
        hints=("It is a number for a whole episode.",),
    ),
    "00.3": Question(
        answer="b",
        replies={
            "a": "That is the environment's dynamics (or a model of it).",
            "b": "Yes: what to do in each situation.",
            "c": "That is a plan: fixed beforehand, it does not look at where it really got to.",
        },
        hints=("It is a function. Of what?",),
    ),
    "00.4": Question(
        answer="a",
        replies={
            "a": "Yes: axis 0 is summed away, and 3 columns are left.",
            "b": "This would be the sum over the columns, `axis=1`.",
            "c": "A sum over one axis leaves the other.",
        },
        hints=("The axis that you name is the one that disappears.",),
    ),
    "00.5": Question(
        answer="a",
        replies={
            "a": "Yes: clear the old gradients, compute the new ones, take a step.",
            "b": "Nothing would ever be learned: the gradients are cleared before the step can use "
                 "them.",
            "c": "After the step it is too late for `backward` to be of use.",
        },
        hints=("Which of the three uses the gradients? What must have happened to them by then?",),
    ),
    "00.6": Question(
        answer="c",
        replies={
            "a": "The training error falls with the size of the net, and says nothing on new data.",
            "b": "Test data that you choose by are no test any more.",
            "c": "Yes: data that the net was not trained on, and that you do not report.",
        },
        hints=("You want to know how it does on data that it has not seen.",),
    ),
    "00.7": Question(
        answer="a",
        replies={
            "a": "Yes: each fault hides the others. What they are worth shows only together.",
            "b": "Look at the left column of the table, bottom row: our model, and nothing else.",
            "c": "Look at the third column, top row: the margin, and nothing else.",
        },
        hints=("A plan may be excellent. What of it is executed?",),
    ),
}  # fmt: skip
