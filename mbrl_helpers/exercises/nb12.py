"""Exercises of notebook 12, your own environment, and the patients of its clinic."""

import gymnasium as gym
import numpy as np

from mbrl_helpers.exercises.build12 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, one_of, scale

# --- 12.2: bug hunt -------------------------------------------------------------------------------


def play_as_given(forces, seed):
    rng = np.random.default_rng(0)
    state = rng.uniform(-0.5, 0.5, size=2)
    observations = [state]
    for t, force in enumerate(forces):
        state += 0.1 * np.array([state[1], force])
        observations.append(state)
        terminated = abs(state[0]) > 1 or t == len(forces) - 1
        if terminated:
            break
    return np.array(observations), terminated


def play(forces, seed):
    rng = np.random.default_rng(seed)
    state = rng.uniform(-0.5, 0.5, size=2)
    observations = [state.copy()]
    for force in forces:
        state += 0.1 * np.array([state[1], force])
        observations.append(state.copy())
        terminated = abs(state[0]) > 1
        if terminated:
            break
    return np.array(observations), terminated


def _played(forces, seed, copies, by_the_clock):
    observations, terminated = play(forces, seed)
    if not copies:
        observations = np.broadcast_to(observations[-1], observations.shape)
    return observations, bool(terminated or (by_the_clock and len(observations) > len(forces)))


def _all_three_left(forces, seed):
    return _played(forces, 0, copies=False, by_the_clock=True)


def _only_the_seed(forces, seed):
    return _played(forces, seed, copies=False, by_the_clock=True)


def _only_the_copies(forces, seed):
    return _played(forces, 0, copies=True, by_the_clock=True)


def _only_the_clock(forces, seed):
    return _played(forces, 0, copies=False, by_the_clock=False)


def _seed_left(forces, seed):
    return _played(forces, 0, copies=True, by_the_clock=False)


def _copies_left(forces, seed):
    return _played(forces, seed, copies=False, by_the_clock=False)


def _clock_left(forces, seed):
    return _played(forces, seed, copies=True, by_the_clock=True)


def _never_terminates(forces, seed):
    return _played(forces, seed, copies=True, by_the_clock=False)[0], False


def _forces_and_a_seed(rng):
    """In two episodes of three the forces all push one way, so that it leaves the track."""
    forces = one_of(rng, 0.3, 1, 1, 20) * rng.uniform(-1, 1, size=count(rng, most=60))
    one_way = [np.abs(forces), -np.abs(forces), forces][rng.integers(3)]
    return one_way, int(rng.integers(1, 10_000))


# --- 12.3: memory ---------------------------------------------------------------------------------


def with_memory(obs, action, k):
    rows = len(obs) - k
    past = [np.hstack([obs[i : i + rows], action[i : i + rows]]) for i in range(k)]
    return np.hstack([*past, obs[k:]])


def _without_actions(obs, action, k):
    rows = len(obs) - k
    return np.hstack([obs[i : i + rows] for i in range(k + 1)])


def _action_too_late(obs, action, k):
    rows = len(obs) - k
    past = [np.hstack([obs[i : i + rows], action[i + 1 : i + 1 + rows]]) for i in range(k)]
    return np.hstack([*past, obs[k:]])


def _one_step_less(obs, action, k):
    return with_memory(obs[1:], action[1:], k - 1)


def _newest_first(obs, action, k):
    rows = len(obs) - k
    past = [np.hstack([obs[i : i + rows], action[i : i + rows]]) for i in reversed(range(k))]
    return np.hstack([obs[k:], *past])


def _round_the_corner(obs, action, k):
    past = [np.hstack([np.roll(obs, k - i, 0), np.roll(action, k - i, 0)]) for i in range(k)]
    return np.hstack([*past, obs])


def _all_actions_last(obs, action, k):
    rows = len(obs) - k
    past = [part[i : i + rows] for part in (obs, action) for i in range(k)]
    return np.hstack([*past, obs[k:]])


def _action_of_now(obs, action, k):
    return np.hstack([with_memory(obs, action, k), action[k:]])


def _an_episode(rng):
    k = count(rng, most=12)
    num = k + count(rng)
    obs, action = (scale(rng) * rng.normal(size=(num, count(rng, most=6))) for _ in "oa")
    return obs, action, k


# --- 12.4: whom to blame --------------------------------------------------------------------------


def losses(learned, true, few, short):
    return tuple((true - other).mean() for other in (learned, few, short))


def _signs(learned, true, few, short):
    return tuple((other - true).mean() for other in (learned, few, short))


def _swapped(learned, true, few, short):
    return losses(learned, true, short, few)


def _chained(learned, true, few, short):
    return (true - learned).mean(), (true - few).mean(), (few - short).mean()


def _against_the_learned(learned, true, few, short):
    return (true - learned).mean(), (learned - few).mean(), (learned - short).mean()


def _each_start(learned, true, few, short):
    return true - learned, true - few, true - short


def _best_start(learned, true, few, short):
    return tuple(true.max() - other.max() for other in (learned, few, short))


def _no_negative(learned, true, few, short):
    return tuple(np.maximum(true - other, 0).mean() for other in (learned, few, short))


def _no_sign(learned, true, few, short):
    return tuple(np.abs(true - other).mean() for other in (learned, few, short))


def _four_results(rng):
    """At one start each rival is luckier than the true model with all of the search."""
    true = scale(rng) * rng.normal(size=count(rng))
    others = true - rng.uniform(0, 40, size=(3, len(true)))
    others[range(3), rng.integers(len(true), size=3)] += 45
    learned, few, short = others
    return learned, true, few, short


# --- 12.5: the clinic -----------------------------------------------------------------------------


class Patient1(gym.Wrapper):
    """Noise: the sensors tremble."""

    def reset(self, **how):
        obs, info = self.env.reset(**how)
        return self._trembling(obs), info

    def step(self, action):
        obs, *rest = self.env.step(action)
        return self._trembling(obs), *rest

    def _trembling(self, obs):
        return obs + self.np_random.normal(0, 0.05, size=obs.shape).astype(obs.dtype)


class Patient2(gym.Wrapper):
    """Delay: an action arrives two steps late."""

    def reset(self, **how):
        self.waiting = [np.zeros(self.action_space.shape, self.action_space.dtype)] * 2
        return self.env.reset(**how)

    def step(self, action):
        self.waiting = [*self.waiting, np.array(action)]
        return self.env.step(self.waiting.pop(0))


class Patient3(gym.Wrapper):
    """Hidden reward: each episode has a price of its own, and no observation shows it."""

    def reset(self, **how):
        obs, info = self.env.reset(**how)
        self.price = self.np_random.uniform(0, 3)
        return obs, info

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        return obs, self.price * reward, *rest


EXERCISES = {
    "12.1": Question(
        answer="b",
        replies={
            "a": "So it would be, were the error one of too few data. But from the same "
                 "observation different things happen, and data can't change that. Section 2 "
                 "measures it.",
            "b": "Yes. The same observation, the same action, and two different successors: no "
                 "amount of data tells them apart. Section 2 measures it, and mends it.",
            "c": "Some of it may be: a network learns the average better. But what the average "
                 "leaves over is nearly all of it. Section 2 measures it.",
        },
        hints=("Two cranes look the same, but one load swings left and the other right. What can "
               "the best of all models say of the next observation?",),
    ),
    "12.2": Exercise(
        reference=play,
        given=play_as_given,
        inputs=_forces_and_a_seed,
        wrong=(
            Wrong(_all_three_left, "All three faults are still there. Print the observations: they "
                  "are all the same."),
            Wrong(_only_the_seed, "The seed counts now. Two faults are left: look at rows of the "
                  "result, and at when `terminated` is true."),
            Wrong(_only_the_copies, "The observations are right now, for one seed. Two faults are "
                  "left: try another seed, and forces too weak to leave the track."),
            Wrong(_only_the_clock, "The clock no longer terminates. Two faults are left: print the "
                  "observations, and try two seeds."),
            Wrong(_seed_left, "One fault is left: every episode begins in the same place, whatever "
                  "the seed. Then ten evaluation episodes are one, ten times."),
            Wrong(_copies_left, "One fault is left: `+=` changes the very array that was returned "
                  "before. Return a copy."),
            Wrong(_clock_left, "One fault is left: the end of the forces is the clock, which is "
                  "truncation. Only leaving the track terminates."),
            Wrong(_never_terminates, "Leaving the track *is* terminal. Only the clock is not."),
        ),
        hints=(
            "What should come back for two different seeds, and for forces of 0? Call it, and "
            "compare.",
            "Three faults: a seed that nothing uses, an array that is handed out and then changed "
            "in place, and a time limit taken for a terminal state.",
            "A state 0.5, 1 with force 2 becomes 0.6, 1.2; the observations are then 2 different "
            "rows. Beyond 1 or below -1 it is terminated; after the last force it is not.",
            "`rng = np.random.default_rng(seed)`, `observations.append(state.copy())`, and "
            "`terminated = abs(state[0]) > 1`",
        ),
    ),
    "12.3": Exercise(
        reference=with_memory,
        inputs=_an_episode,
        wrong=(
            Wrong(_without_actions, "The past actions are missing. An observation may hide what "
                  "was done, too: an action that arrives late, for one."),
            Wrong(_action_too_late, "Each past observation stands beside the action of the *next* "
                  "step. The last of these is what the model will be told anyway."),
            Wrong(_one_step_less, "One step less than asked for: k counts the steps *before* the "
                  "current observation."),
            Wrong(_newest_first, "The right numbers in another order: oldest first, the current "
                  "observation last."),
            Wrong(_round_the_corner, "`np.roll` wraps around: the first rows remember the end of "
                  "the episode. The first k steps have no past: leave them out."),
            Wrong(_all_actions_last, "All past observations come first here, and then all actions. "
                  "Each past step is to be its observation *and* its action."),
            Wrong(_action_of_now, "The action of now has come in as well. The model is told it "
                  "anyway: a row ends with the current observation."),
        ),
        hints=(
            "Of T rows, how many have k rows before them?",
            "Part i of the past begins at row i, and all parts are as long. Side by side, oldest "
            "first, and the newest observation at last.",
            "obs 1, 2, 3 and action 7, 8, 9 with k = 1: the rows are 1, 7, 2 and 2, 8, 3.",
            "`past = [np.hstack([obs[i : i + rows], action[i : i + rows]]) for i in range(k)]`, "
            "and `np.hstack([*past, obs[k:]])`",
        ),
    ),
    "12.4": Exercise(
        reference=losses,
        inputs=_four_results,
        wrong=(
            Wrong(_signs, "A loss is positive where something is lost: the better return first."),
            Wrong(_swapped, "Two are swapped: the model first, then the search (`few`), then the "
                  "horizon (`short`)."),
            Wrong(_chained, "The short horizon is compared with few candidates: two things differ "
                  "between them. Compare each with the true model with all of the search."),
            Wrong(_against_the_learned, "Few candidates and the short horizon were tried in the "
                  "*true* model: compare them with that, or two things differ."),
            Wrong(_each_start, "A loss for each start: take the mean of each."),
            Wrong(_no_negative, "A start at which nothing was lost counts, too: take the plain "
                  "mean, negative ones included."),
            Wrong(_no_sign, "Without the sign, luck at one start counts as a loss. Take the plain "
                  "mean."),
            Wrong(_best_start, "These are differences of the luckiest starts. Take the mean over "
                  "all of them."),
        ),
        hints=(
            "Which of the four returns differs from each of the others in one thing alone?",
            "Three differences of means, each from the true model with all of the search: what it "
            "gains over a run is lost to what that run lacked.",
            "Returns 130 true, 100 learned, 125 few, 60 short: the model costs 30, the search 5, "
            "the horizon 70.",
            "`(true - learned).mean(), (true - few).mean(), (true - short).mean()`",
        ),
    ),
    "12.5": Question(
        answer="b",
        replies={
            "a": "Patient 1's twins differ from each other, which no delay explains: the same "
                 "state, the same action, another result.",
            "b": "Yes: twins that differ are noise; an error that falls only with two steps of "
                 "memory is a delay of two; a reward that nothing foretells, while the observation "
                 "is foreseen, hangs on something unseen.",
            "c": "Patient 1's twins differ from each other, which a hidden reward does not "
                 "explain; and patient 2's do not.",
            "d": "Patient 1 is right. Of the other two, which one's *reward* is the trouble, with "
                 "observations that are foreseen well?",
        },
        hints=("Begin with the column of the twins: it can't be explained away.",
               "Then read along the columns of memory: where does the error fall?"),
    ),
    "12.b": BUILD,
}  # fmt: skip
