"""Exercises of notebook 08, CarRacing from pixels."""

import numpy as np
import torch

from mbrl_helpers.exercises.build08 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, one_of, scale

# --- 08.2: the length of a bar --------------------------------------------------------------------


def bar_length(patch):
    return patch.mean(axis=1).sum() / 255


def _counts_bright_pixels(patch):
    return float((patch.mean(axis=1) > 127).sum())


def _sums_the_width_too(patch):
    return patch.sum() / 255


def _share_of_the_patch(patch):
    return patch.mean() / 255


def _counts_in_all_columns(patch):
    return float((patch > 127).sum())


def _in_grey_levels(patch):
    return patch.mean(axis=1).sum()


def _length_sideways(patch):
    return patch.mean(axis=0).sum() / 255


def _bar(rng):
    """A bar of a fraction of a pixel more than some whole ones, of a colour of its own."""
    rows, columns = count(rng, 2, 40), count(rng, most=12)
    full = int(rng.integers(0, rows))
    patch = np.zeros((rows, columns))
    patch[rows - full :] = 255.0
    patch[rows - full - 1] = rng.integers(1, 255)
    return (patch.astype(np.uint8) if rng.random() < 0.5 else patch,)


# --- 08.3: where am I? ----------------------------------------------------------------------------


def compose(pose, motion):
    ahead, right, turn = pose
    forward, sideways, turned = motion
    cos, sin = np.cos(turn), np.sin(turn)
    return np.array([
        ahead + forward * cos - sideways * sin,
        right + forward * sin + sideways * cos,
        turn + turned,
    ])  # fmt: skip


def _just_adds(pose, motion):
    return np.array(pose) + np.array(motion)


def _turns_too_early(pose, motion):
    ahead, right, turn = pose
    forward, sideways, turned = motion
    cos, sin = np.cos(turn + turned), np.sin(turn + turned)
    return np.array([
        ahead + forward * cos - sideways * sin,
        right + forward * sin + sideways * cos,
        turn + turned,
    ])  # fmt: skip


def _turns_the_other_way(pose, motion):
    ahead, right, turn = pose
    forward, sideways, turned = motion
    cos, sin = np.cos(turn), np.sin(turn)
    return np.array([
        ahead + forward * cos + sideways * sin,
        right - forward * sin + sideways * cos,
        turn + turned,
    ])  # fmt: skip


def _rotates_by_the_motion(pose, motion):
    turned = compose((pose[0], pose[1], motion[2]), motion)
    return np.array([*turned[:2], pose[2] + motion[2]])


def _never_slips(pose, motion):
    ahead, right, turn = pose
    forward, _, turned = motion
    return np.array([ahead + forward * np.cos(turn), right + forward * np.sin(turn), turn + turned])


def _forgets_the_turn(pose, motion):
    return np.array([*compose(pose, motion)[:2], motion[2]])


def _pose_and_motion(rng):
    """Turns of any size to both sides, and none; motions forwards, backwards and sideways."""
    turn, turned = one_of(rng, 0, 1, 4) * rng.normal(), one_of(rng, 0, 0.3, 2) * rng.normal()
    ahead, forward = scale(rng, 0.1, 100) * rng.normal(size=2), rng.normal(0, 4, size=2)
    return np.array([*ahead, turn]), np.array([*forward, turned])


# --- 08.4: bug hunt -------------------------------------------------------------------------------

# ahead, right, turn, turn rate, steering, front wheels, rear wheels, gas, road in front and behind


def mirror_as_given(state, action):
    state, action = state.copy(), action.copy()
    state[:, [1, 2, 3, 5]] *= -1
    return state, action


def mirror(state, action):
    state, action = state.copy(), action.copy()
    state[:, [1, 2, 3, 4]] *= -1
    action[:, 0] *= -1
    return state, action


def _steers_as_before(state, action):
    return mirror(state, action)[0], action.copy()


def _wheels_still_backwards(state, action):
    return mirror_as_given(state, action)[0], mirror(state, action)[1]


def _wheels_right_but_steering_not(state, action):
    state, action = state.copy(), mirror(state, action)[1]
    state[:, [1, 2, 3]] *= -1
    return state, action


def _front_wheels_too(state, action):
    state, action = state.copy(), mirror(state, action)[1]
    state[:, [1, 2, 3, 4, 5]] *= -1
    return state, action


def _steering_added(state, action):
    return _front_wheels_too(state, action)[0], action.copy()


def _wheels_dropped(state, action):
    return _wheels_right_but_steering_not(state, action)[0], action.copy()


def _gas_becomes_brake(state, action):
    return mirror(state, action)[0], -action


def _everything_backwards(state, action):
    state = mirror(state, action)[0]
    state[:, 0] *= -1
    return state, mirror(mirror(state, action)[0], action)[1]


def _states_and_actions(rng):
    num = count(rng)
    return scale(rng) * rng.normal(size=(num, 10)), rng.uniform(-1, 1, (num, 2))


# --- 08.5: progress -------------------------------------------------------------------------------


def progress(to_go, next_to_go, distance):
    return torch.clamp(to_go - next_to_go, -distance, distance)


def _backwards_without_limit(to_go, next_to_go, distance):
    return next_to_go - to_go


def _without_limit(to_go, next_to_go, distance):
    return to_go - next_to_go


def _the_wrong_way_round(to_go, next_to_go, distance):
    return torch.clamp(next_to_go - to_go, -distance, distance)


def _limits_only_gains(to_go, next_to_go, distance):
    return torch.minimum(to_go - next_to_go, distance)


def _never_loses(to_go, next_to_go, distance):
    return torch.clamp(to_go - next_to_go, torch.zeros_like(distance), distance)


def _counts_the_distance(to_go, next_to_go, distance):
    return distance * torch.sign(to_go - next_to_go)


def _steps_of_the_way(rng):
    """Moves of any size, of none too; gains and losses below, at and above the limit."""
    num = count(rng)
    distance = rng.uniform(0, 10, num) * (rng.random(num) < 0.9)
    to_go = rng.uniform(0, 1000, num)
    following = to_go - rng.choice([-3, -1, -0.4, 0, 0.7, 1, 2.5], num) * (distance + 0.5)
    return tuple(torch.as_tensor(x, dtype=torch.float32) for x in (to_go, following, distance))


EXERCISES = {
    "08.1": Question(
        answer="d",
        replies={
            "a": "So few only a model with structure needs; theirs has none. Look at the table in "
                 "section 9.",
            "b": "That many they took to train the world model: 10,000 episodes of random driving. "
                 "The controller's evolution drove in the real environment, too. See section 9.",
            "c": "The right direction, for a score over 800. See section 9.",
            "d": "Yes: the controller was evolved on real episodes, 1,024 of them for every step. "
                 "Section 9 has the figures.",
        },
        hints=("Their controller was trained by evolution: each candidate drives whole laps.",),
    ),
    "08.2": Exercise(
        reference=bar_length,
        inputs=_bar,
        wrong=(
            Wrong(_counts_bright_pixels, "Counting bright rows gives whole pixels. The dim row at "
                  "the end is a part of one: use its brightness."),
            Wrong(_counts_in_all_columns, "This counts whole bright pixels, in all columns. The "
                  "bar is as long as its rows are bright: a mean over the columns, then a sum."),
            Wrong(_sums_the_width_too, "This is the area of the bar: wider bars get longer. Take "
                  "the mean over the columns first."),
            Wrong(_share_of_the_patch, "This is the share of the patch that is bright. In pixels: "
                  "*sum* over the rows."),
            Wrong(_in_grey_levels, "A full row should count as 1, and counts 255 here."),
            Wrong(_length_sideways, "Axis 0 has the rows, axis 1 the columns: this is the width."),
        ),
        hints=(
            "The bar is white on black, and its end may lie within a pixel. How would you measure "
            "it to less than a pixel?",
            "The brightness of a row says which share of it the bar fills. Add up the shares, "
            "each from 0 to 1.",
            "Rows of brightness 255, 255, 51 and 0 fill 1, 1, 0.2 and 0: the bar is 2.2 long.",
            "`patch.mean(axis=1).sum() / 255`",
        ),
    ),
    "08.3": Exercise(
        reference=compose,
        inputs=_pose_and_motion,
        wrong=(
            Wrong(_just_adds, "Forward is not ahead any more once the car has turned. Rotate the "
                  "motion by the pose's turn first."),
            Wrong(_turns_too_early, "Nearly: the motion is given from where the car *was*. Rotate "
                  "by the old turn, not by the new one."),
            Wrong(_turns_the_other_way, "Turns are to the right: with a turn of 90 degrees, "
                  "forward is to the *right*. The signs of the sines are swapped."),
            Wrong(_rotates_by_the_motion, "Rotate by the turn of the *pose*: the motion is seen "
                  "from the car's old heading, and its own turn comes after it."),
            Wrong(_never_slips, "This car never slips. The real one does: use `sideways`."),
            Wrong(_forgets_the_turn, "Place right, heading wrong: add the turns."),
        ),
        hints=(
            "With a turn of 0 you only add. With a turn of 90 degrees to the right, where does "
            "forward go, and where does sideways?",
            "The motion is measured in the car's own directions. Turn it by the pose's angle "
            "first, then add; the angles add up themselves.",
            "Pose 1, 2 with a turn of 90 degrees, motion 3 forward and 1 sideways: ahead 1 + 3 · "
            "0 - 1 · 1 = 0, right 2 + 3 · 1 + 1 · 0 = 5.",
            "With `ahead, right, turn = pose`: `ahead + forward * cos - sideways * sin`, `right + "
            "forward * sin + sideways * cos`, `turn + turned`",
        ),
    ),
    "08.4": Exercise(
        reference=mirror,
        given=mirror_as_given,
        inputs=_states_and_actions,
        wrong=(
            Wrong(_steers_as_before, "The state is right now. One fault is left: in a mirror, a "
                  "driver who steers left steers right."),
            Wrong(_wheels_still_backwards, "The action is right now. One fault is left: count the "
                  "columns again. Do wheels spin backwards in a mirror?"),
            Wrong(_wheels_right_but_steering_not, "The wheels are right now. But the steering "
                  "wheel's own position, column 4, must be mirrored, too."),
            Wrong(_front_wheels_too, "Nearly: column 5, the front wheels, is still flipped. Do "
                  "wheels spin backwards in a mirror?"),
            Wrong(_steering_added, "The steering wheel is mirrored now. Two things are left: the "
                  "front wheels (5), and the action."),
            Wrong(_wheels_dropped, "The wheels are right now. Two things are left, both about "
                  "steering."),
            Wrong(_gas_becomes_brake, "The pedal is neither left nor right: only the steering "
                  "changes its sign."),
            Wrong(_everything_backwards, "In a mirror at the car's side, ahead stays ahead."),
        ),
        hints=(
            "Go through the ten names: which of them know left from right?",
            "Two faults: one column of the state is flipped in place of its neighbour, and "
            "something of the action is not flipped at all.",
            "In the mirror a steering of 0.3 is -0.3, and gas of 0.5 stays 0.5. Speed 20 stays "
            "20; a lateral offset of 1 becomes -1.",
            "`state[:, [1, 2, 3, 4]] *= -1`, and `action[:, 0] *= -1`",
        ),
    ),
    "08.5": Exercise(
        reference=progress,
        inputs=_steps_of_the_way,
        wrong=(
            Wrong(_without_limit, "Without a limit, a hop over the grass between two bends is "
                  "worth all the road that it leaves out."),
            Wrong(_backwards_without_limit, "The sign: progress is positive when *less* is to go. "
                  "And limit it, by the distance in both directions."),
            Wrong(_the_wrong_way_round, "The sign: progress is positive when *less* is to go."),
            Wrong(_limits_only_gains, "Gains are limited now. Limit losses, too: the map has jumps "
                  "in both directions."),
            Wrong(_never_loses, "Going back costs nothing here: the car may turn round for free."),
            Wrong(_counts_the_distance, "This pays for moving, not for coming nearer: sideways "
                  "across the road counts in full."),
        ),
        hints=(
            "The road ahead is 100 m long, then 97 m. How far has the car come? And what if the "
            "measure jumps by 50 m between two frames?",
            "What was to go, minus what is to go now; and no more, either way, than a car can "
            "drive in that time. A bound may be a tensor.",
            "To go 100, then 97, with distance 5: progress 3. Then 60: 37, cut to 5. Then 90: "
            "-30, cut to -5.",
            "`torch.clamp(to_go - next_to_go, -distance, distance)`",
        ),
    ),
    "08.6": Question(
        answer="d",
        replies={
            "a": "Each frame costs the same, whatever the plan: a constant can't choose.",
            "b": "A good guess, but it need not fear that place: beyond the goal there is nothing "
                 "to *earn*, so no plan has a reason to go there.",
            "c": "The pedal is free: there is no such term in reward or objective.",
            "d": "Yes. From the car to the upper edge are 71 px; who gets there in eight decisions "
                 "has earned all there is, and more speed earns nothing. Section 7 draws it.",
        },
        hints=("What is the most that a plan of eight decisions can earn, and how fast must it be "
               "for that?",),
    ),
    "08.7": Question(
        answer="c",
        replies={
            "a": "It is better than that. It need not know how the car slides: it sees again every "
                 "four frames. The figure below has its dots.",
            "b": "A fair guess, and that is what a straight line in the ensemble's place gets. The "
                 "rule does better: look at the figure below.",
            "c": "Yes: most of the way is in the map, which was made by hand. What learning adds, "
                 "the figure below shows.",
            "d": "Not quite that far: in bends it is too slow or too fast. But nearer than most "
                 "people think: look at the figure below.",
        },
        hints=("Which of the two is harder here: to know where the road goes, or to know what the "
               "car does?",),
    ),
    "08.b": BUILD,
}  # fmt: skip
