"""Exercises of notebook 07, a policy in imagination."""

import numpy as np
import torch

from mbrl_helpers.exercises.build07 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, normal, one_of, scale

# --- 07.2: learn from memory ----------------------------------------------------------------------


def learn_from_memory(q, model, remembered, rate, discount):
    q = q.copy()
    for state, action in remembered:
        next_state, reward, terminated = model[state, action]
        target = reward + discount * (1 - terminated) * q[next_state].max()
        q[state, action] += rate * (target - q[state, action])
    return q


def _forgets_the_end(q, model, remembered, rate, discount):
    endless = {key: (state, reward, False) for key, (state, reward, _) in model.items()}
    return learn_from_memory(q, endless, remembered, rate, discount)


def _value_of_the_same_state(q, model, remembered, rate, discount):
    still = {key: (key[0], reward, end) for key, (_, reward, end) in model.items()}
    return learn_from_memory(q, still, remembered, rate, discount)


def _from_an_old_table(q, model, remembered, rate, discount):
    new = q.copy()
    for state, action in remembered:
        next_state, reward, terminated = model[state, action]
        target = reward + discount * (1 - terminated) * q[next_state].max()
        new[state, action] = q[state, action] + rate * (target - q[state, action])
    return new


def _skips_the_last_step(q, model, remembered, rate, discount):
    going_on = [pair for pair in remembered if not model[tuple(pair)][2]]
    return learn_from_memory(q, model, going_on, rate, discount)


def _nothing_for_the_last_step(q, model, remembered, rate, discount):
    unpaid = {k: (state, 0.0 if end else reward, end) for k, (state, reward, end) in model.items()}
    return learn_from_memory(q, unpaid, remembered, rate, discount)


def _the_other_share(q, model, remembered, rate, discount):
    return learn_from_memory(q, model, remembered, 1 - rate, discount)


def _overwrites(q, model, remembered, rate, discount):
    return learn_from_memory(q, model, remembered, 1.0, discount)


def _no_discount(q, model, remembered, rate, discount):
    return learn_from_memory(q, model, remembered, rate, 1.0)


def _memories(rng):
    num_states, num_actions = count(rng, most=8), count(rng, most=5)
    q = scale(rng, 0.1, 10) * rng.normal(size=(num_states, num_actions))
    model = {
        (s, a): (int(rng.integers(num_states)), float(rng.normal()), bool(rng.random() < 0.3))
        for s in range(num_states)
        for a in range(num_actions)
    }
    pairs = list(model)
    remembered = [pairs[i] for i in rng.integers(len(pairs), size=count(rng, 0, 60))]
    rate, discount = one_of(rng, 0, 1, *rng.uniform(0.2, 0.8, 3)), one_of(rng, 0, 1, 0.9, 0.5)
    return q, model, remembered, rate, discount


# --- 07.3: the imagined return --------------------------------------------------------------------


def imagined_return(step, policy, obs, horizon, discount):
    total = 0.0
    for t in range(horizon):
        obs, reward = step(obs, policy(obs))
        total = total + discount**t * reward
    return total


def _one_action_for_ever(step, policy, obs, horizon, discount):
    total, action = 0.0, policy(obs)
    for t in range(horizon):
        obs, reward = step(obs, action)
        total = total + discount**t * reward
    return total


def _discounts_the_first(step, policy, obs, horizon, discount):
    return discount * imagined_return(step, policy, obs, horizon, discount)


def _stays_where_it_is(step, policy, obs, horizon, discount):
    total = 0.0
    for t in range(horizon):
        _, reward = step(obs, policy(obs))
        total = total + discount**t * reward
    return total


def _only_the_last(step, policy, obs, horizon, discount):
    reward = 0.0
    for _ in range(horizon):
        obs, reward = step(obs, policy(obs))
    return discount ** (horizon - 1) * reward


def _does_not_discount(step, policy, obs, horizon, discount):
    return imagined_return(step, policy, obs, horizon, 1.0)


def _the_last_counts_most(step, policy, obs, horizon, discount):
    total = 0.0
    for t in range(horizon):
        obs, reward = step(obs, policy(obs))
        total = total + discount ** (horizon - 1 - t) * reward
    return total


def _one_step_short(step, policy, obs, horizon, discount):
    return imagined_return(step, policy, obs, horizon - 1, discount)


def _toy_world(rng):
    num, size = count(rng), count(rng, most=5)
    gain, push, weight = normal(rng, size, size), normal(rng, 1, size), normal(rng, size, 1)
    gain = gain / torch.linalg.matrix_norm(gain, 2)

    def step(obs, action):
        return torch.sin(obs @ gain + action @ push), obs[:, 0] - action[:, 0] ** 2

    def policy(obs):
        return torch.tanh(obs @ weight)

    obs = (scale(rng, 0.1, 10) * normal(rng, num, size)).requires_grad_()
    return step, policy, obs, count(rng, most=25), one_of(rng, 0, 1, 0.9, rng.uniform(0.5, 0.99))


# --- 07.5: bug hunt -------------------------------------------------------------------------------


def targets_as_given(reward, terminated, truncated, values, next_values, discount):
    ended = terminated | truncated
    return reward + discount * (1 - ended.float()) * next_values.amax(0)


def targets(reward, terminated, truncated, values, next_values, discount):
    return reward + discount * (1 - terminated.float()) * next_values.amin(0)


def _still_ends_at_the_clock(reward, terminated, truncated, values, next_values, discount):
    ended = terminated | truncated
    return reward + discount * (1 - ended.float()) * next_values.amin(0)


def _still_the_larger(reward, terminated, truncated, values, next_values, discount):
    return reward + discount * (1 - terminated.float()) * next_values.amax(0)


def _never_ends(reward, terminated, truncated, values, next_values, discount):
    return reward + discount * next_values.amin(0)


def _value_before_the_step(reward, terminated, truncated, values, next_values, discount):
    return reward + discount * (1 - terminated.float()) * values.amin(0)


def _the_mean_of_both(reward, terminated, truncated, values, next_values, discount):
    return reward + discount * (1 - terminated.float()) * next_values.mean(0)


def _only_one_critic(reward, terminated, truncated, values, next_values, discount):
    return reward + discount * (1 - terminated.float()) * next_values[0]


def _only_the_clock(reward, terminated, truncated, values, next_values, discount):
    return reward + discount * (1 - truncated.float()) * next_values.amin(0)


def _ends(rng):
    num = count(rng)
    values, after = (scale(rng) * normal(rng, 2, num) for _ in "ab")
    terminated, truncated = (torch.as_tensor(rng.random(num) < 0.4) for _ in "ab")
    discount = one_of(rng, 0, 1, rng.uniform(0.8, 0.99))
    reward = scale(rng) * normal(rng, num)
    if rng.random() < 0.3:  # double precision stays what it is
        reward, values, after = reward.double(), values.double(), after.double()
    return reward, terminated, truncated, values, after, discount


# --- 07.6: cut where the members disagree ---------------------------------------------------------


def keep(spread, limit):
    return (spread <= limit).cumprod(dim=0).bool()


def _comes_back(spread, limit):
    return spread <= limit


def _other_way_round(spread, limit):
    return (spread > limit).cumprod(dim=0).bool()


def _along_the_rollouts(spread, limit):
    return (spread <= limit).cumprod(dim=1).bool()


def _all_or_nothing(spread, limit):
    return (spread <= limit).all(dim=0).expand(spread.shape)


def _one_step_too_many(spread, limit):
    kept = keep(spread, limit)
    return torch.cat([torch.ones_like(kept[:1]), kept[:-1]])


def _tolerates_a_little(spread, limit):
    return (spread <= 1.05 * limit).cumprod(dim=0).bool()


def _counts_in_a_byte(spread, limit):
    return (spread > limit).cumsum(dim=0, dtype=torch.uint8) == 0


def _spreads(rng):
    """Of all sizes; some spreads meet the limit exactly, which is not above it, or nearly.

    Some rollouts are longer than a byte can count; some limits are 0, in which none may differ.
    """
    steps = 600 if rng.random() < 0.1 else count(rng)
    limit, shape = one_of(rng, 0, *([1] * 9)) * scale(rng), (steps, count(rng))
    shares = [0.1, 0.5, 0.9, 0.999, 1.0, 1.001, 1.1, 3.0, np.inf]
    share = rng.choice(shares, size=shape, p=[0.3, 0.2, 0.1, 0.1, 0.2, 0.03, 0.04, 0.02, 0.01])
    if rng.random() < 0.3:  # nothing is believed again, however much disagrees
        share[rng.integers(len(share)) :] = 3.0
    limit = float(torch.tensor(limit))
    spread = np.where(limit > 0, limit, 1.0) * np.where(limit > 0, share, share > 1)
    kind = torch.float64 if rng.random() < 0.3 else torch.float32
    return torch.as_tensor(spread, dtype=torch.float32).to(kind), limit


EXERCISES = {
    "07.1": Question(
        answer="b",
        replies={
            "a": "It is a smaller thing to *do* the right action than to find it. The table in the "
                 "last section has both.",
            "b": "Yes. The table in the last section has both, measured on your machine.",
            "c": "The quality, yes. The last section has the milliseconds: guess higher.",
        },
        hints=("How many times does a planner call the model for one decision? And the policy?",),
    ),
    "07.2": Exercise(
        reference=learn_from_memory,
        inputs=_memories,
        wrong=(
            Wrong(_forgets_the_end, "After a terminal step nothing follows: the value of the next "
                  "state must not count there. Multiply it by `1 - terminated`."),
            Wrong(_value_of_the_same_state, "The best value of the *next* state belongs into the "
                  "target, not that of the state itself."),
            Wrong(_from_an_old_table, "Each update should see those before it, so that a reward "
                  "can travel several steps in one go: read from the copy, too."),
            Wrong(_skips_the_last_step, "A step after which nothing follows is left out. Its "
                  "reward counts as well: the target is then the bare reward."),
            Wrong(_nothing_for_the_last_step, "After a terminal step nothing *follows*, but its "
                  "own reward counts: the target is then the bare reward."),
            Wrong(_the_other_share, "`rate` is the share that moves: keep `1 - rate` of the old "
                  "value."),
            Wrong(_overwrites, "The target replaces the value. Move towards it by the share "
                  "`rate`: the next time it may be another one."),
            Wrong(_no_discount, "`discount` is ignored: what comes later should count less."),
        ),
        hints=(
            "Nothing is played here. Where do next state and reward come from?",
            "Ask the model, which is a dictionary, for each remembered pair; then make the very "
            "update of Q-learning. What ended has nothing after it.",
            "q is 2, rate 0.5, discount 0.9; the model says reward 1 and a next state whose best "
            "value is 10: the target is 10, and q becomes 6. At an end the target is 1.",
            "`target = reward + discount * (1 - terminated) * q[next_state].max()`, and `q[state, "
            "action] += rate * (target - q[state, action])`",
        ),
    ),
    "07.3": Exercise(
        reference=imagined_return,
        inputs=_toy_world,
        wrong=(
            Wrong(_one_action_for_ever, "The policy is asked once and the same action repeated. "
                  "Ask it again in every imagined state."),
            Wrong(_discounts_the_first, "The first reward is discounted, too. Its power is 0."),
            Wrong(_stays_where_it_is, "The imagined state never changes: go on from what `step` "
                  "returns."),
            Wrong(_only_the_last, "Only the last reward is returned. Sum all of them."),
            Wrong(_does_not_discount, "`discount` is ignored: multiply the reward of step t by "
                  "`discount**t`."),
            Wrong(_the_last_counts_most, "The powers run backwards: the *first* reward counts in "
                  "full, the last one least."),
            Wrong(_one_step_short, "One step is missing: `horizon` rewards are to be summed."),
        ),
        hints=(
            "From which observation is the second action chosen: from one that happened?",
            "A loop over the horizon. Each step replaces the observation by the imagined next "
            "one, and adds a reward that counts a little less than the one before.",
            "Rewards 1, 1, 1 and discount 0.5 give 1 + 0.5 + 0.25, which is 1.75.",
            "`obs, reward = step(obs, policy(obs))`, then `total = total + discount**t * reward`",
        ),
    ),
    "07.4": Question(
        answer="c",
        replies={
            "a": "A reward 34 steps ahead still counts half. And how many terms does the gradient "
                 "have? Count them, and look at the figure below.",
            "b": "There are H rewards, but each of them depends on *all* the actions before it: "
                 "count the pairs. The figure below has the measured norms.",
            "c": "Yes, by counting: H rewards, and each depends on all the actions before it. "
                 "Where the world is unstable, single terms grow as well: see the figure below.",
        },
        hints=("A reward depends on which actions? Count pairs of an action and a later reward.",),
    ),
    "07.5": Exercise(
        reference=targets,
        given=targets_as_given,
        inputs=_ends,
        wrong=(
            Wrong(_still_ends_at_the_clock, "The critics are right now. One fault is left: a "
                  "truncated episode was cut by the clock. Its last state is worth something."),
            Wrong(_still_the_larger, "The ends are right now. One fault is left: of two guesses "
                  "the larger one is the one that errs upwards, and the policy seeks it out."),
            Wrong(_the_mean_of_both, "The ends are right now. The mean of two guesses still errs "
                  "upwards where both do: believe the lower one."),
            Wrong(_only_one_critic, "Only the first critic is asked. Of the two, believe the "
                  "lower one, row by row."),
            Wrong(_never_ends, "Now the value leaks through terminal states as well. Nothing "
                  "follows where `terminated` is True."),
            Wrong(_value_before_the_step, "`values` are those of the state *before* the step. What "
                  "follows is in `next_values`."),
            Wrong(_only_the_clock, "The other way round: termination is a fact about the state, "
                  "truncation is the clock."),
        ),
        hints=(
            "Which of the two flags says that nothing follows? And which of two critics should "
            "you believe when you are about to learn from it?",
            "Two faults: a time limit is no end, and the more hopeful critic is believed, whose "
            "errors then grow.",
            "Reward 1, discount 0.9, critics 10 and 20: the target is 1 + 0.9 · 10, which is 10. "
            "After a termination it is 1, after a truncation still 10.",
            "`reward + discount * (1 - terminated.float()) * next_values.amin(0)`",
        ),
    ),
    "07.6": Exercise(
        reference=keep,
        inputs=_spreads,
        wrong=(
            Wrong(_comes_back, "A rollout that has left the data comes back in here. What follows "
                  "a step that is not believed is not to be believed either."),
            Wrong(_other_way_round, "This keeps the steps on which the members *disagree*."),
            Wrong(_along_the_rollouts, "This goes along the rollouts. Time is axis 0."),
            Wrong(_all_or_nothing, "The whole rollout is thrown away. Its first steps, before the "
                  "members disagree, are good data."),
            Wrong(_one_step_too_many, "Very nearly: the first step above the limit is still kept."),
            Wrong(_tolerates_a_little, "A spread just above the limit is above it."),
            Wrong(_counts_in_a_byte, "It counts in a byte, which begins again at 0 after 255: long "
                  "rollouts come back in. Count in whole numbers of full size."),
        ),
        hints=(
            "A dream was too uncertain at step 3. What should become of steps 4, 5, 6, even if "
            "they look certain?",
            "First find the steps within the limit. Then each that is not must take all after it "
            "along: a running product of ones and zeros does that.",
            "Spreads 1, 2, 9, 1 with limit 5: within it are 1, 1, 0, 1, and the running product "
            "is 1, 1, 0, 0.",
            "`(spread <= limit).cumprod(dim=0).bool()`",
        ),
    ),
    "07.b": BUILD,
}  # fmt: skip
