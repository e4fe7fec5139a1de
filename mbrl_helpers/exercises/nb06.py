"""Exercises of notebook 06, the closed loop."""

import math

import numpy as np
import torch

from mbrl_helpers.exercises.build06 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, normal, one_of, scale

# --- 06.2: the loop -------------------------------------------------------------------------------


def improve(play, fit, num_episodes):
    rows, model = [], None
    for _ in range(num_episodes):
        rows.append(play(model))
        model = fit(np.concatenate(rows))
    return np.concatenate(rows), model


def _fits_the_last_episode(play, fit, num_episodes):
    rows, model = [], None
    for _ in range(num_episodes):
        rows.append(play(model))
        model = fit(rows[-1])
    return np.concatenate(rows), model


def _always_random(play, fit, num_episodes):
    rows = np.concatenate([play(None) for _ in range(num_episodes)])
    return rows, fit(rows)


def _fits_once(play, fit, num_episodes):
    rows = [play(None)]
    model = fit(rows[0])
    rows += [play(model) for _ in range(num_episodes - 1)]
    return np.concatenate(rows), model


def _fits_too_early(play, fit, num_episodes):
    rows, model = [play(None)], None
    for _ in range(num_episodes - 1):
        model = fit(np.concatenate(rows))
        rows.append(play(model))
    return np.concatenate(rows), model


def _returns_the_last_episode(play, fit, num_episodes):
    rows, model = [], None
    for _ in range(num_episodes):
        rows.append(play(model))
        model = fit(np.concatenate(rows))
    return rows[-1], model


def _one_episode_more(play, fit, num_episodes):
    return improve(play, fit, num_episodes + 1)


def _toy_loop(rng):
    """Episodes whose rows depend on the model, as does their number, and a model that is a number.

    It depends on the order of the rows.
    """
    start = float(rng.uniform(-2.0, 2.0))

    def play(model):
        level = start if model is None else 0.5 * model + 1
        rows = np.array([[1.0, 2.0], [3.0, 5.0], [-1.0, 4.0]])
        return level * rows[: 1 + int(10 * abs(level)) % 3]

    def fit(rows):
        return float(np.average(rows[:, 0], weights=np.arange(1, len(rows) + 1)) % 3)

    return play, fit, count(rng, most=20)


# --- 06.3: optimism and pessimism -----------------------------------------------------------------


def with_spread(returns, weight):
    return returns.mean(dim=0) + weight * returns.std(dim=0, correction=0)


def _only_the_mean(returns, weight):
    return returns.mean(dim=0)


def _over_candidates(returns, weight):
    return returns.mean(dim=1) + weight * returns.std(dim=1, correction=0)


def _variance(returns, weight):
    return returns.mean(dim=0) + weight * returns.var(dim=0, correction=0)


def _wrong_sign(returns, weight):
    return returns.mean(dim=0) - weight * returns.std(dim=0, correction=0)


def _spread_of_everything(returns, weight):
    return returns.mean(dim=0) + weight * returns.std(correction=0)


def _divides_by_one_less(returns, weight):
    return returns.mean(dim=0) + weight * returns.std(dim=0)


def _returns_of_members(rng):
    members, population = count(rng, most=12), count(rng, most=100)
    spread = scale(rng) * rng.uniform(0.5, 20.0, size=population)
    returns = one_of(rng, -100, 0, 100) + spread * rng.normal(size=(members, population))
    return torch.as_tensor(returns, dtype=torch.float32), one_of(rng, -1.5, 0, 0.7, 2.0)


# --- 06.5: bug hunt -------------------------------------------------------------------------------


def end_data_as_given(obs, next_obs, terminated, truncated):
    inputs = obs
    ended = terminated | truncated
    return inputs, ended.float()


def end_data(obs, next_obs, terminated, truncated):
    return next_obs, terminated.float()


def _still_truncation(obs, next_obs, terminated, truncated):
    return next_obs, (terminated | truncated).float()


def _still_before_the_step(obs, next_obs, terminated, truncated):
    return obs, terminated.float()


def _drops_all_ends(obs, next_obs, terminated, truncated):
    return next_obs, (terminated & ~truncated & False).float()


def _only_truncation(obs, next_obs, terminated, truncated):
    return next_obs, truncated.float()


def _forgives_the_last_tick(obs, next_obs, terminated, truncated):
    return next_obs, (terminated & ~truncated).float()


def _half_of_each(obs, next_obs, terminated, truncated):
    return obs, (terminated & ~truncated).float()


def _ends_of_episodes(rng):
    """Some fall as time runs out: both flags at once."""
    num, size = count(rng), count(rng, most=8)
    terminated, truncated = (torch.as_tensor(rng.random(num) < 0.4) for _ in "ab")
    return normal(rng, num, size), normal(rng, num, size), terminated, truncated


# --- 06.6: first of three in a row ----------------------------------------------------------------


def sustained(steps, returns, threshold):
    for i in range(len(returns) - 2):
        if min(returns[i : i + 3]) >= threshold:
            return steps[i]
    return math.inf


def _first_crossing(steps, returns, threshold):
    return next((s for s, r in zip(steps, returns, strict=True) if r >= threshold), math.inf)


def _last_of_the_three(steps, returns, threshold):
    for i in range(len(returns) - 2):
        if min(returns[i : i + 3]) >= threshold:
            return steps[i + 2]
    return math.inf


def _never_starts_again(steps, returns, threshold):
    crossings = [s for s, r in zip(steps, returns, strict=True) if r >= threshold]
    return crossings[0] if len(crossings) >= 3 else math.inf


def _never_the_last_three(steps, returns, threshold):
    return sustained(steps[:-1], returns[:-1], threshold)


def _too_short_at_the_end(steps, returns, threshold):
    for i in range(len(returns)):
        if min(returns[i : i + 3]) >= threshold:
            return steps[i]
    return math.inf


def _until_the_end(steps, returns, threshold):
    for i in range(len(returns)):
        if min(returns[i:]) >= threshold:
            return steps[i]
    return math.inf


def _more_than_reaches(steps, returns, threshold):
    for i in range(len(returns) - 2):
        if min(returns[i : i + 3]) > threshold:
            return steps[i]
    return math.inf


def _the_number_of_the_evaluation(steps, returns, threshold):
    for i in range(len(returns) - 2):
        if min(returns[i : i + 3]) >= threshold:
            return i
    return math.inf


def _evaluations(rng):
    """A learning curve: luck at first, and an end that lasts, falls off again, or comes too late.

    From a single evaluation on. Thresholds are met exactly, too, and may be below 0.
    """
    num, threshold = count(rng, most=30), one_of(rng, 475, -150, 0)
    ways = rng.choice([-30.0, -1.0, 0.0, 3.0, 25.0], size=num, p=[0.2, 0.15, 0.25, 0.25, 0.15])
    if rng.random() < 0.3:
        ways[:-2] = -abs(ways[:-2]) - 1  # at most the last two reach it
    steps = np.cumsum(rng.integers(50, 200, size=num))
    return [int(s) for s in steps], [float(threshold + way) for way in ways], threshold


EXERCISES = {
    "06.1": Question(
        answer="c",
        replies={
            "a": "It plans well, but is it that cheap to learn a policy? Section 7 has the "
                 "measured figure.",
            "b": "The right direction. Section 7 has the measured figure: it is more.",
            "c": "Yes. Section 7 shows it, with seeds, and with what the figure hides.",
        },
        hints=("One real step teaches a model something about *every* plan that passes there.",),
    ),
    "06.2": Exercise(
        reference=improve,
        inputs=_toy_loop,
        wrong=(
            Wrong(_fits_the_last_episode, "Each fit sees only the newest episode and forgets the "
                  "others. Fit to all rows so far."),
            Wrong(_always_random, "Every episode is played at random: the model never acts, so "
                  "that the data never come from where a good agent would be."),
            Wrong(_fits_once, "The model is fitted once, after the first episode. Fit again after "
                  "each one: that closes the loop."),
            Wrong(_fits_too_early, "Very nearly: the model that you return has not seen the last "
                  "episode."),
            Wrong(_returns_the_last_episode, "The model is right. Return the rows of *all* "
                  "episodes."),
            Wrong(_one_episode_more, "One episode too many: the random one counts."),
        ),
        hints=(
            "What does the agent play with before there is a model? And from which rows is the "
            "third model fitted?",
            "Before the first fit there is nothing: the model is `None`. In each round play, keep "
            "what was played, and fit to *all* that was kept.",
            "Three rounds of 200 rows each: the fits see 200, 400 and 600 rows, and the model "
            "that comes back is the third.",
            "`rows.append(play(model))`, and then `model = fit(np.concatenate(rows))`",
        ),
    ),
    "06.3": Exercise(
        reference=with_spread,
        inputs=_returns_of_members,
        wrong=(
            Wrong(_only_the_mean, "`weight` is ignored: that is the planner that we had."),
            Wrong(_over_candidates, "One number a *member* comes out, for mean and deviation go "
                  "over the candidates. Axis 0 has the members."),
            Wrong(_variance, "The variance is in squared units of return: it can't be added to a "
                  "return. Take the standard deviation."),
            Wrong(_wrong_sign, "A positive weight should *add* the spread (optimism), a negative "
                  "one take it away (pessimism)."),
            Wrong(_spread_of_everything, "The same number is added for all candidates, which "
                  "changes no choice. Each has a spread of its own, over the members."),
            Wrong(_divides_by_one_less, "Very nearly: `std` divides by E - 1 unless told otherwise "
                  "(`correction=0`), and would give NaN for a single member."),
        ),
        hints=(
            "Returns [E, N]: five members have judged each plan. Along which axis do they "
            "disagree?",
            "A mean and a standard deviation over the members, and the second weighed: above 0 it "
            "seeks what is uncertain, below 0 it avoids it.",
            "Members say 1, 3 of one plan and 2, 2 of another: means 2 and 2, deviations 1 and 0. "
            "With weight 0.5 the values are 2.5 and 2.",
            "`returns.mean(dim=0) + weight * returns.std(dim=0, correction=0)`",
        ),
    ),
    "06.4": Question(
        answer="a",
        replies={
            "a": "Yes, for the worse: after 200 steps it loses some ten times as much. After 1,000 "
                 "the difference is gone. Whether it lacks a second opinion, or the half of the "
                 "rows that it never sees, is another question.",
            "b": "It helps at once: see the row *with both*. But look at the row *one network*, "
                 "and mind the logarithmic axis.",
            "c": "The first fit has none before it to go on from: here it makes no difference at "
                 "all yet.",
        },
        hints=("What happens to a planner that has nobody to contradict its model?",),
    ),
    "06.5": Exercise(
        reference=end_data,
        given=end_data_as_given,
        inputs=_ends_of_episodes,
        wrong=(
            Wrong(_still_truncation, "The inputs are right now. One fault is left: a truncated "
                  "episode was cut by the clock. Its last state is no worse than any other, often "
                  "the best of all."),
            Wrong(_still_before_the_step, "The labels are right now. One fault is left: `obs` is "
                  "the state *before* the step. Whether it is over shows in the state after it."),
            Wrong(_forgives_the_last_tick, "A pole may fall just as time runs out: both flags are "
                  "set, and it *has* fallen. Take `terminated` as it is."),
            Wrong(_drops_all_ends, "Now nothing ever ends. Keep `terminated`."),
            Wrong(_only_truncation, "The other way round: termination is what happened to the "
                  "pole, truncation is the clock."),
            Wrong(_half_of_each, "One fault is left, and half of the other: `obs` is the state "
                  "*before* the step, and who falls as time runs out has fallen all the same."),
        ),
        hints=(
            "The time ran out, and the pole was upright. Does that say anything about the "
            "*state*?",
            "Two faults: which of the two flags is learned, and to which of the two states it "
            "belongs.",
            "States 1, 2, 3 in a row, and the second step terminates: inputs 2, 3 with labels 0, "
            "1. A truncation leaves its label at 0.",
            "`return next_obs, terminated.float()`",
        ),
    ),
    "06.6": Exercise(
        reference=sustained,
        inputs=_evaluations,
        wrong=(
            Wrong(_first_crossing, "This is the first crossing. A single lucky evaluation passes "
                  "for success."),
            Wrong(_last_of_the_three, "This is where the third of the three was. Return the steps "
                  "of the first: there the agent had already learned it."),
            Wrong(_never_starts_again, "The count never starts again: three crossings anywhere "
                  "are enough for it. After an evaluation that misses, begin with none."),
            Wrong(_never_the_last_three, "Very nearly: the last three are never looked at. With n "
                  "evaluations the last i that has two more after it is n - 3, and range(n - 2) "
                  "ends there."),
            Wrong(_too_short_at_the_end, "At the end of a list `returns[i : i + 3]` is shorter "
                  "than three, without an error: there one or two pass for three. Stop where "
                  "three are left."),
            Wrong(_until_the_end, "This asks that *all* later evaluations reach the threshold. "
                  "The next two are enough, whatever comes then."),
            Wrong(_more_than_reaches, "To meet the threshold exactly is to reach it: `>=`."),
            Wrong(_the_number_of_the_evaluation, "This is the number of the evaluation. Return the "
                  "real steps at it, `steps[i]`."),
        ),
        hints=(
            "The returns go 480, 100, 480, 480, 480. From which of them on has the agent solved "
            "it for good, as far as can be told?",
            "Look at three in a row, beginning with each i that has two more after it. All three "
            "are good enough if the smallest is.",
            "Steps 10, 20, 30, 40 and returns 5, 9, 9, 9 with threshold 8: it holds from the "
            "second on, and the answer is 20.",
            "`if min(returns[i : i + 3]) >= threshold:` return `steps[i]`, and `math.inf` after "
            "the loop",
        ),
    ),
    "06.b": BUILD,
}  # fmt: skip
