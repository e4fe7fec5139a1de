"""Exercises of notebook 09, playing Atari in a dream."""

import numpy as np
import torch

from mbrl_helpers.exercises.build09 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, one_of

# --- 09.2: which action stuck? --------------------------------------------------------------------


def executed_actions(chosen, cost_chosen, cost_last, margin):
    last = torch.cat([chosen[:1], chosen[:-1]])
    return torch.where(cost_last + margin < cost_chosen, last, chosen)


def _next_action(chosen, cost_chosen, cost_last, margin):
    following = torch.cat([chosen[1:], chosen[-1:]])
    return torch.where(cost_last + margin < cost_chosen, following, chosen)


def _other_way_round(chosen, cost_chosen, cost_last, margin):
    last = torch.cat([chosen[:1], chosen[:-1]])
    return torch.where(cost_last > cost_chosen + margin, last, chosen)


def _without_margin(chosen, cost_chosen, cost_last, margin):
    last = torch.cat([chosen[:1], chosen[:-1]])
    return torch.where(cost_last < cost_chosen, last, chosen)


def _margin_on_the_wrong_side(chosen, cost_chosen, cost_last, margin):
    last = torch.cat([chosen[:1], chosen[:-1]])
    return torch.where(cost_last < cost_chosen + margin, last, chosen)


def _always_chosen(chosen, cost_chosen, cost_last, margin):
    return chosen.clone()


def _last_executed(chosen, cost_chosen, cost_last, margin):
    executed = chosen.clone()
    for t in (cost_last + margin < cost_chosen)[1:].nonzero()[:, 0] + 1:
        executed[t] = executed[t - 1]
    return executed


def _wraps_around(chosen, cost_chosen, cost_last, margin):
    return torch.where(cost_last + margin < cost_chosen, chosen.roll(1), chosen)


def _only_where(chosen, cost_chosen, cost_last, margin):
    return cost_last + margin < cost_chosen


def _costs_of_actions(rng):
    """In quarters, so that some costs differ by exactly the margin."""
    num, margin = count(rng, most=100), one_of(rng, 0, 0.5, 2, 2)
    chosen = torch.as_tensor(rng.integers(count(rng, 2, 18), size=num))
    costs = torch.as_tensor(rng.exponential(4.0, size=(2, num)) * 4).round() / 4
    return chosen, costs[0], costs[1], margin


# --- 09.4: the target -----------------------------------------------------------------------------


def target(rewards, terminated, value, discount):
    total, factor = 0.0, 1.0
    for reward, end in zip(rewards, terminated, strict=True):
        total += factor * reward
        factor *= discount
        if end:
            return total
    return total + factor * value


def _value_after_the_end(rewards, terminated, value, discount):
    total, factor = 0.0, 1.0
    for reward, end in zip(rewards, terminated, strict=True):
        total += factor * reward
        factor *= discount
        if end:
            break
    return total + factor * value


def _rewards_after_the_end(rewards, terminated, value, discount):
    total = sum(discount**k * reward for k, reward in enumerate(rewards))
    return total if any(terminated) else total + discount ** len(rewards) * value


def _loses_the_last_reward(rewards, terminated, value, discount):
    total, factor = 0.0, 1.0
    for reward, end in zip(rewards, terminated, strict=True):
        if end:
            return total
        total += factor * reward
        factor *= discount
    return total + factor * value


def _value_not_discounted_enough(rewards, terminated, value, discount):
    return target(rewards, terminated, value / discount, discount)


def _no_value(rewards, terminated, value, discount):
    return target(rewards, terminated, 0.0, discount)


def _discounts_the_first(rewards, terminated, value, discount):
    return discount * target(rewards, terminated, value, discount)


def _looks_at_the_last_only(rewards, terminated, value, discount):
    total = sum(discount**k * reward for k, reward in enumerate(rewards))
    return total if terminated[-1] else total + discount ** len(rewards) * value


def _stretch(rng):
    num = count(rng, most=40)
    terminated = [bool(end) for end in rng.random(num) < one_of(rng, 0, 0.1, 0.6)]
    rewards = [float(r) for r in one_of(rng, 1, 100) * rng.normal(size=num)]
    return rewards, terminated, float(rng.normal(0, 5)), one_of(rng, 0, 1, 0.9, 0.9, 0.99)


# --- 09.3: bug hunt, a step of a dream ------------------------------------------------------------


def dream_step(frames, action, last_action, dice, sticky, predict):
    executed = np.where(dice < sticky, last_action, action)
    frame = predict(frames, executed)
    frames = np.concatenate([frames[:, 1:], frame[:, None]], axis=1)
    return frames, executed


def dream_step_as_given(frames, action, last_action, dice, sticky, predict):
    executed = np.where(dice < sticky, last_action, action)
    frame = predict(frames, executed)
    frames = np.concatenate([frames[:, :-1], frame[:, None]], axis=1)
    return frames, action


def _still_forgets_what_was_executed(frames, action, last_action, dice, sticky, predict):
    executed = np.where(dice < sticky, last_action, action)
    frame = predict(frames, executed)
    frames = np.concatenate([frames[:, 1:], frame[:, None]], axis=1)
    return frames, action


def _still_keeps_the_oldest(frames, action, last_action, dice, sticky, predict):
    executed = np.where(dice < sticky, last_action, action)
    frame = predict(frames, executed)
    frames = np.concatenate([frames[:, :-1], frame[:, None]], axis=1)
    return frames, executed


def _no_longer_sticky(frames, action, last_action, dice, sticky, predict):
    frame = predict(frames, action)
    frames = np.concatenate([frames[:, 1:], frame[:, None]], axis=1)
    return frames, action


def _newest_first(frames, action, last_action, dice, sticky, predict):
    executed = np.where(dice < sticky, last_action, action)
    frame = predict(frames, executed)
    frames = np.concatenate([frame[:, None], frames[:, 1:]], axis=1)
    return frames, executed


def _nearly_always_sticky(frames, action, last_action, dice, sticky, predict):
    executed = np.where(dice > sticky, last_action, action)
    frame = predict(frames, executed)
    frames = np.concatenate([frames[:, 1:], frame[:, None]], axis=1)
    return frames, executed


def _by_the_chosen(frames, action, last_action, dice, sticky, predict):
    executed = np.where(dice < sticky, last_action, action)
    frame = predict(frames, action)
    frames = np.concatenate([frames[:, 1:], frame[:, None]], axis=1)
    return frames, executed


def _a_dream(rng):
    num, stack, size = count(rng), count(rng, most=6), count(rng, most=6)
    frames = rng.random((num, stack, size, size))
    actions = rng.integers(18, size=(2, num))

    def predict(frames, action):
        return frames[:, -1] + 0.5 * frames[:, 0] + np.asarray(action)[:, None, None]

    return frames, actions[0], actions[1], rng.random(num), one_of(rng, 0, 1, 0.25, 0.4), predict


EXERCISES = {
    "09.1": Question(
        answer="a",
        replies={
            "a": "Yes. The rules are the same for good players and bad ones. "
                 "Section 5 measures it.",
            "b": "A model of bad play is still a model of the *game*: it says what good play would "
                 "bring. Section 5 shows how far that goes.",
            "c": "It has never seen what only good players see, and dreams of it are guesses. "
                 "Section 5 measures how far it gets.",
        },
        hints=("Does a ball bounce differently for a good player?",),
    ),
    "09.2": Exercise(
        reference=executed_actions,
        inputs=_costs_of_actions,
        wrong=(
            Wrong(_next_action, "You compare with the action *after* it. A sticky game repeats the "
                  "one before: shift the other way."),
            Wrong(_other_way_round, "You change the action where the last one explains the frame "
                  "*worse*. A small cost is a good explanation."),
            Wrong(_without_margin, "`margin` is ignored: where both explain the frame equally "
                  "well, noise would decide. The last action must be clearly better."),
            Wrong(_margin_on_the_wrong_side, "The margin is on the wrong side: the last action now "
                  "wins even where it is somewhat worse."),
            Wrong(_last_executed, "Well thought: what sticks is what was executed. But `cost_last` "
                  "was measured with the action *chosen* one row before: take that one."),
            Wrong(_wraps_around, "`roll` gives row 0 the very last action of all. Row 0 keeps its "
                  "own."),
            Wrong(_always_chosen, "Nothing is ever changed. Where the last action costs less, by "
                  "more than the margin, take it."),
            Wrong(_only_where, "This says *where* the last action was executed. Which action was "
                  "it? `torch.where` chooses between two arrays."),
        ),
        hints=(
            "A game that repeats the last action now and then: what is the *last* action of the "
            "first step?",
            "Shift the chosen actions by one, and the first stands in for itself. Where the last "
            "action explains the frame clearly better, by the margin, it was the one executed.",
            "Chosen 3, 1, 2: the last ones are 3, 3, 1. Costs chosen 5, 9, 5 and last 5, 2, 4 "
            "with margin 3: executed 3, 3, 2.",
            "`last = torch.cat([chosen[:1], chosen[:-1]])`, and `torch.where(cost_last + margin < "
            "cost_chosen, last, chosen)`",
        ),
    ),
    "09.3": Exercise(
        reference=dream_step,
        given=dream_step_as_given,
        inputs=_a_dream,
        wrong=(
            Wrong(_still_forgets_what_was_executed, "The frames are right now. One fault is left: "
                  "what may be repeated next is the action that was *executed*, not the one "
                  "chosen."),
            Wrong(_still_keeps_the_oldest, "The actions are right now. One fault is left: which of "
                  "the old frames stays? Nothing in that dream ever moves on."),
            Wrong(_no_longer_sticky, "Now actions never stick, and the agent trains for a game "
                  "that is kinder than the real one."),
            Wrong(_newest_first, "The newest frame comes last, as in the experience that the model "
                  "has learned from."),
            Wrong(_by_the_chosen, "The model must be told what was *executed*, as it was."),
            Wrong(_nearly_always_sticky, "Now the last action is repeated whenever it should not "
                  "be. `dice < sticky` was right."),
        ),
        hints=(
            "Follow two steps by hand: which frames does the second step see, and which action "
            "may it repeat?",
            "Two faults: of the frames the wrong one leaves, and of the two actions the wrong one "
            "is handed on.",
            "Frames 1, 2, 3, 4 and a new 5 make 2, 3, 4, 5. Chosen 7, last 6, and the dice say "
            "sticky: executed, and handed on, is 6.",
            "`frames = np.concatenate([frames[:, 1:], frame[:, None]], axis=1)`, and `return "
            "frames, executed`",
        ),
    ),
    "09.4": Exercise(
        reference=target,
        inputs=_stretch,
        wrong=(
            Wrong(_value_after_the_end, "After a termination nothing follows, so that there is no "
                  "value to add: return the rewards alone."),
            Wrong(_rewards_after_the_end, "The rewards after the end belong to another episode. "
                  "Stop adding there."),
            Wrong(_loses_the_last_reward, "The step that ends the episode has a reward, too: add "
                  "it before you look at `terminated`."),
            Wrong(_value_not_discounted_enough, "The value comes after *all* N rewards: it is "
                  "discounted N times, not N - 1."),
            Wrong(_no_value, "Without the value at its end the agent would see N steps far and no "
                  "further."),
            Wrong(_discounts_the_first, "The first reward comes at once: it is not discounted."),
            Wrong(_looks_at_the_last_only, "It asks only at the last step whether the episode is "
                  "over. It may end before: stop there."),
        ),
        hints=(
            "The second of four steps ends the dream. What is the value after the fourth worth?",
            "Keep two numbers: the sum so far, and the discount of the next reward. At an end the "
            "sum is all there is; without one the value follows.",
            "Rewards 1, 1 and value 10 with discount 0.5: 1 + 0.5 + 0.25 · 10 = 4. If the second "
            "step ends it: 1.5.",
            "`total += factor * reward`, then `factor *= discount`, then `if end: return total`; "
            "after the loop `return total + factor * value`",
        ),
    ),
    "09.5": Question(
        answer="c",
        replies={
            "a": "The paddle obeys the same two keys wherever it is, and random play has seen it "
                 "everywhere. See the figure below.",
            "b": "The rules are the same, but which of them has random play ever shown? See the "
                 "figure below.",
            "c": "Yes: random play hardly ever gets the ball behind the bricks, or a wall with "
                 "gaps. See the figure below.",
        },
        hints=("What has a random player never seen?",),
    ),
    "09.6": Question(
        answer="b",
        replies={
            "a": "It would be, if two frames told for how long the chicken still waits. See the "
                 "figure below.",
            "b": "Yes: of the two steps in which it has just stood still, it moves in one. Two "
                 "frames do not tell in which. See the figure below.",
            "c": "That would be worse than always to say that it stays. See the figure below.",
        },
        hints=("It moves, waits, waits, moves, … What do two frames show after each of these?",),
    ),
    "09.7": Question(
        answer="b",
        replies={
            "a": "The updates alone do not do it. See the figure below.",
            "b": "Yes: as many updates, the same rates, and it stays below the rule that runs "
                 "below the ball. See the figure below.",
            "c": "Ten thousand frames are few, but not nothing: it plays about ten times as well "
                 "as random. See the figure below.",
        },
        hints=(
            "What does a dreamt frame hold that no real one did?",
            "An update needs steps that the agent's own policy would take. Which of the two can "
            "make new ones?",
        ),
    ),
    "09.b": BUILD,
}  # fmt: skip
