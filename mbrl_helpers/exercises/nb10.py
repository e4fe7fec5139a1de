"""Exercises of notebook 10, hidden state."""

import torch

from mbrl_helpers.exercises.build10 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, normal, scale

# --- 10.2: a look corrects ------------------------------------------------------------------------


def correct(mean, var, look, noise_var):
    gain = var / (var + noise_var)
    return mean + gain * (look - mean), (1 - gain) * var


def _believes_the_look(mean, var, look, noise_var):
    return look, noise_var + 0 * var


def _half_and_half(mean, var, look, noise_var):
    return (mean + look) / 2, (var + noise_var) / 4


def _gain_turned_round(mean, var, look, noise_var):
    gain = noise_var / (var + noise_var)
    return mean + gain * (look - mean), (1 - gain) * var


def _surprise_turned_round(mean, var, look, noise_var):
    gain = var / (var + noise_var)
    return mean + gain * (mean - look), (1 - gain) * var


def _as_unsure_as_before(mean, var, look, noise_var):
    return mean + var / (var + noise_var) * (look - mean), var


def _less_sure(mean, var, look, noise_var):
    gain = var / (var + noise_var)
    return mean + gain * (look - mean), (1 + gain) * var


def _widths_for_variances(mean, var, look, noise_var):
    gain = var**0.5 / (var**0.5 + noise_var**0.5)
    return mean + gain * (look - mean), (1 - gain) * var


def _beliefs(rng):
    num, size = count(rng, 1, 40), scale(rng)
    mean = size * normal(rng, num)
    var = torch.as_tensor(10 ** rng.uniform(-2, 2, num), dtype=torch.float32)
    noise = torch.as_tensor(10 ** rng.uniform(-2, 2, num), dtype=torch.float32)
    return mean, var, mean + size * normal(rng, num), noise


# --- 10.3: divergence -----------------------------------------------------------------------------


def kl(q_mean, q_std, p_mean, p_std):
    each = (p_std / q_std).log() + (q_std**2 + (q_mean - p_mean) ** 2) / (2 * p_std**2) - 0.5
    return each.sum(-1)


def _turned_round(q_mean, q_std, p_mean, p_std):
    return kl(p_mean, p_std, q_mean, q_std)


def _no_half(q_mean, q_std, p_mean, p_std):
    return kl(q_mean, q_std, p_mean, p_std) + 0.5 * q_mean.shape[-1]


def _no_logarithm(q_mean, q_std, p_mean, p_std):
    each = (q_std**2 + (q_mean - p_mean) ** 2) / (2 * p_std**2) - 0.5
    return each.sum(-1)


def _mean_of_all(q_mean, q_std, p_mean, p_std):
    return kl(q_mean, q_std, p_mean, p_std) / q_mean.shape[-1]


def _means_alone(q_mean, q_std, p_mean, p_std):
    return ((q_mean - p_mean) ** 2 / (2 * p_std**2)).sum(-1)


def _sums_over_all(q_mean, q_std, p_mean, p_std):
    return kl(q_mean, q_std, p_mean, p_std).sum()


def _gaussians(rng):
    shape = (count(rng, 1, 12), count(rng, 2, 12))
    if rng.random() < 0.2:
        shape = (int(rng.integers(1, 4)), *shape)
    q_std, p_std = (torch.as_tensor(10 ** rng.uniform(-1, 1, shape), dtype=torch.float32)
                    for _ in range(2))  # fmt: skip
    return normal(rng, *shape), q_std, normal(rng, *shape), p_std


# --- 10.5: a bug hunt -----------------------------------------------------------------------------


def believe(looks, actions, ended, start, predict, correct):
    beliefs = []
    for t in range(len(looks)):
        if t == 0 or ended[t - 1]:
            belief = start
        else:
            belief = predict(belief, actions[t - 1])
        belief = correct(belief, looks[t])
        beliefs.append(belief)
    return beliefs


def believe_as_found(looks, actions, ended, start, predict, correct):
    beliefs, belief = [], start
    for t in range(len(looks)):
        if t > 0:
            belief = predict(belief, actions[t])
        belief = correct(belief, looks[t])
        beliefs.append(belief)
    return beliefs


def _still_shifted(looks, actions, ended, start, predict, correct):
    beliefs, belief = [], start
    for t in range(len(looks)):
        if t == 0 or ended[t - 1]:
            belief = start
        else:
            belief = predict(belief, actions[t])
        belief = correct(belief, looks[t])
        beliefs.append(belief)
    return beliefs


def _never_forgets(looks, actions, ended, start, predict, correct):
    beliefs, belief = [], start
    for t in range(len(looks)):
        if t > 0:
            belief = predict(belief, actions[t - 1])
        belief = correct(belief, looks[t])
        beliefs.append(belief)
    return beliefs


def _forgets_a_step_early(looks, actions, ended, start, predict, correct):
    beliefs, belief = [], start
    for t in range(len(looks)):
        if t == 0 or ended[t]:
            belief = start
        else:
            belief = predict(belief, actions[t - 1])
        belief = correct(belief, looks[t])
        beliefs.append(belief)
    return beliefs


def _predicts_from_the_start(looks, actions, ended, start, predict, correct):
    beliefs, belief = [], start
    for t in range(len(looks)):
        if t > 0:
            belief = predict(start if ended[t - 1] else belief, actions[t - 1])
        belief = correct(belief, looks[t])
        beliefs.append(belief)
    return beliefs


def _keeps_priors(looks, actions, ended, start, predict, correct):
    beliefs, belief = [], start
    for t in range(len(looks)):
        belief = start if t == 0 or ended[t - 1] else predict(belief, actions[t - 1])
        beliefs.append(belief)
        belief = correct(belief, looks[t])
    return beliefs


def _experience(rng):
    num = count(rng, 2, 40)
    more = num + int(rng.integers(1, 3))  # who has seen a look may have acted already
    looks, actions = rng.normal(size=num).tolist(), rng.normal(size=more).tolist()
    ended = (rng.random(more) < rng.choice([0.1, 0.4])).tolist()
    ended[int(rng.integers(num - 1))] = True
    pull, push, gain = rng.uniform(0.3, 1.2), rng.normal(), rng.uniform(0.1, 0.9)

    def predict(belief, action):
        return pull * belief + push * action

    def correct(belief, look):
        return belief + gain * (look - belief)

    return looks, actions, ended, float(rng.normal()), predict, correct


# --- 10.7: what an imagined step is worth ---------------------------------------------------------


def lambda_returns(reward, value, discount, decay):
    result, returns = value[-1], []
    for t in reversed(range(len(reward))):
        result = reward[t] + discount * ((1 - decay) * value[t + 1] + decay * result)
        returns.append(result)
    return torch.stack(returns[::-1])


def _last_first(reward, value, discount, decay):
    return lambda_returns(reward, value, discount, decay).flip(0)


def _mixes_the_other_way(reward, value, discount, decay):
    return lambda_returns(reward, value, discount, 1 - decay)


def _one_step(reward, value, discount, decay):
    return reward + discount * value[1:]


def _rewards_alone(reward, value, discount, decay):
    return lambda_returns(reward, 0 * value, discount, decay)


def _value_before(reward, value, discount, decay):
    result, returns = value[-1], []
    for t in reversed(range(len(reward))):
        result = reward[t] + discount * ((1 - decay) * value[t] + decay * result)
        returns.append(result)
    return torch.stack(returns[::-1])


def _discounts_the_critic_alone(reward, value, discount, decay):
    result, returns = value[-1], []
    for t in reversed(range(len(reward))):
        result = reward[t] + (1 - decay) * discount * value[t + 1] + decay * result
        returns.append(result)
    return torch.stack(returns[::-1])


def _discounts_the_reward(reward, value, discount, decay):
    return discount * lambda_returns(reward, value / discount, discount, decay)


def _ends_with_nothing(reward, value, discount, decay):
    result, returns = 0 * value[-1], []
    for t in reversed(range(len(reward))):
        result = reward[t] + discount * ((1 - decay) * value[t + 1] + decay * result)
        returns.append(result)
    return torch.stack(returns[::-1])


def _forwards(reward, value, discount, decay):
    result, returns = value[0], []
    for t in range(len(reward)):
        result = reward[t] + discount * ((1 - decay) * value[t + 1] + decay * result)
        returns.append(result)
    return torch.stack(returns)


def _real_rewards_only(reward, value, discount, decay):
    return lambda_returns(reward, value, discount, 1.0)


def _no_discount(reward, value, discount, decay):
    return lambda_returns(reward, value, 1.0, decay)


def _ends_with_the_reward(reward, value, discount, decay):
    returns = [reward[-1]]
    for t in reversed(range(len(reward) - 1)):
        returns.append(reward[t] + discount * ((1 - decay) * value[t + 1] + decay * returns[-1]))
    return torch.stack(returns[::-1])


def _discounts_the_return_alone(reward, value, discount, decay):
    result, returns = value[-1], []
    for t in reversed(range(len(reward))):
        result = reward[t] + (1 - decay) * value[t + 1] + discount * decay * result
        returns.append(result)
    return torch.stack(returns[::-1])


def _rollouts(rng):
    steps, num = count(rng, 2, 15), count(rng, 1, 12)
    reward, value = normal(rng, steps, num), normal(rng, steps + 1, num)
    reward.requires_grad_()  # the actor's gradient goes through both
    value.requires_grad_()
    return reward, value, float(rng.uniform(0.6, 0.95)), float(rng.uniform(0.55, 0.95))


EXERCISES = {
    "10.1": Question(
        answer="b",
        replies={
            "a": "Look at the figure above: the same look, and two futures. What a plan is worth "
            "depends on which of them it is.",
            "b": "Yes: the change of the angle from one look to the next is the velocity, but for "
            "the units. Here two looks are the state.",
            "c": "It can remember more; but what more is there to remember, if nothing is blanked? "
            "Look at the claim.",
        },
        hints=("From which numbers, both seen, could you work the velocity out?",),
    ),
    "10.2": Exercise(
        reference=correct,
        inputs=_beliefs,
        wrong=(
            Wrong(_believes_the_look, "That is the look alone: what was believed before counts."),
            Wrong(_half_and_half, "Half and half, whoever is surer. Weigh them by variances."),
            Wrong(
                _gain_turned_round,
                "The gain is turned round: a look that is noisy should count for less.",
            ),
            Wrong(_surprise_turned_round, "It moves away from the look: surprise is look - mean."),
            Wrong(
                _as_unsure_as_before,
                "The mean is right; but a look makes surer: the variance shrinks by 1 - gain.",
            ),
            Wrong(_less_sure, "The mean is right; but a look makes *surer*, not less sure."),
            Wrong(
                _widths_for_variances,
                "These are standard deviations in the gain: variances add, widths do not.",
            ),
        ),
        hints=(
            "You believe 2, give or take 1, and see 4, give or take 1. And if you were surer?",
            "gain = var / (var + noise_var): 0 for who is sure already, 1 for a perfect look. The "
            "mean moves by the gain times the surprise, and 1 - gain of the variance is left.",
            "mean 2, var 3, look 4, noise_var 1: gain 3/4, so 3.5; variance 3 / 4 = 0.75.",
            "`gain = var / (var + noise_var)`, then "
            "`mean + gain * (look - mean), (1 - gain) * var`",
        ),
    ),
    "10.3": Exercise(
        reference=kl,
        inputs=_gaussians,
        wrong=(
            Wrong(
                _turned_round,
                "That is the divergence from p to q: the two are not the same. It is p's width "
                "that the surprise is divided by.",
            ),
            Wrong(_no_half, "Without the -1/2 the divergence of equal Gaussians would not be 0."),
            Wrong(_no_logarithm, "The logarithm of the widths is missing."),
            Wrong(_mean_of_all, "Nats add up: sum over the last axis, and don't average."),
            Wrong(_means_alone, "That compares the means alone: the widths differ, too."),
            Wrong(_sums_over_all, "Sum over the last axis only: one number a row."),
        ),
        hints=(
            "What should come out where both are the same, and what if q is far outside of p?",
            "For each number log(p_std / q_std) + (q_std² + (q_mean - p_mean)²) / (2 p_std²) - "
            "1/2; then the sum over the last axis.",
            "q: mean 1, std 1; p: mean 0, std 1: 0 + (1 + 1) / 2 - 0.5 = 0.5 nats.",
            "`((p_std / q_std).log() + (q_std**2 + (q_mean - p_mean)**2) / (2 * p_std**2) - "
            "0.5).sum(-1)`",
        ),
    ),
    "10.4": Question(
        answer="c",
        replies={
            "a": "Six looks, each seen or blank: 64 patterns, each with a rule of its own. It "
            "has to learn as many as it meets. Look at the figure of section 8.",
            "b": "It does learn something. Look at the figure of section 8.",
            "c": "Yes: it can learn each pattern of blanks, but has to learn it from its own few "
            "examples. A belief is carried on by one rule, whatever was seen.",
        },
        hints=("How many patterns of seen and blank are there in six looks?",),
    ),
    "10.5": Exercise(
        reference=believe,
        given=believe_as_found,
        inputs=_experience,
        wrong=(
            Wrong(
                _still_shifted,
                "One is left: what is seen at step t came of the action *before* it.",
            ),
            Wrong(
                _never_forgets,
                "One is left: a new episode has nothing to do with the old one. After `ended`, "
                "begin with `start`.",
            ),
            Wrong(
                _forgets_a_step_early,
                "It forgets a step early: `ended[t]` says that step t was the last of its episode, "
                "so that t + 1 begins anew.",
            ),
            Wrong(
                _predicts_from_the_start,
                "Nearly: at the first look of an episode nothing was done yet, so there is nothing "
                "to predict.",
            ),
            Wrong(_keeps_priors, "These are the priors: keep what is believed *after* the look."),
        ),
        hints=(
            "Write one episode down: look 0, action 0, look 1, ... Which action lies between the "
            "looks t - 1 and t? And what lies between two episodes?",
            "Two bugs. The action is the one after the look, not before it; and the belief goes on "
            "into the next episode.",
            "Three steps, ended after step 1: correct(start, look 0); predict with action 0 and "
            "correct with look 1; correct(start, look 2).",
            "`belief = start if t == 0 or ended[t - 1] else predict(belief, actions[t - 1])`, then "
            "correct",
        ),
    ),
    "10.6": Question(
        answer="a",
        replies={
            "a": "Yes: each step works on the error of the one before. Near the top, where the "
            "pendulum falls away from itself, it is multiplied; the figure's axis is logarithmic.",
            "b": "That would be so if errors only added up. But each step begins from a wrong "
            "state, and the pendulum does something with that. Look at the figure.",
            "c": "It is good for ten steps. Look at the figure, and at what becomes of the *true* "
            "equations from a start that is a little wrong.",
        },
        hints=("A pencil stands on its point, a little askew. And a moment later?",),
    ),
    "10.7": Exercise(
        reference=lambda_returns,
        inputs=_rollouts,
        wrong=(
            Wrong(_last_first, "The numbers are right, but the last step comes first. Turn them."),
            Wrong(
                _mixes_the_other_way,
                "The mixture is turned round: decay is the weight of the next step's *return*.",
            ),
            Wrong(
                _one_step,
                "That is decay 0: one reward, and then the critic. Mix in the next step's return.",
            ),
            Wrong(_rewards_alone, "Where is the critic? What it says is what lies beyond."),
            Wrong(
                _value_before,
                "The value of the state *after* the step is meant: value[t + 1] for reward[t].",
            ),
            Wrong(
                _discounts_the_critic_alone,
                "Both parts of the mixture come a step later: discount the whole of it.",
                like=(_no_discount, _discounts_the_return_alone),
            ),
            Wrong(
                _discounts_the_reward,
                "The reward of a step is paid at once: only what follows is discounted.",
            ),
            Wrong(
                _ends_with_nothing,
                "Where the imagination ends the world does not: after the last step comes "
                "value[-1].",
                like=(_ends_with_the_reward,),
            ),
            Wrong(_forwards, "What comes later is not known yet: begin with the last step."),
            Wrong(
                _real_rewards_only,
                "That is decay 1: real rewards, and the critic at their end alone. Mix it in at "
                "each step.",
            ),
        ),
        hints=(
            "The last step first: what is it worth, if only the critic knows what follows? And the "
            "one before it?",
            "Go backwards. A return is the reward plus discount times a mixture: (1 - decay) "
            "of the next state's value, and decay of the next step's return.",
            "Rewards 1, 2, values 0, 4, 8, discount 1, decay 0.5: the last step is 2 + 8 = 10, the "
            "first 1 + (0.5 * 4 + 0.5 * 10) = 8.",
            "`result = value[-1]`, then for t from the last to the first `result = reward[t] + "
            "discount * ((1 - decay) * value[t + 1] + decay * result)`; keep each, and turn them.",
        ),
    ),
    "10.b": BUILD,
}
