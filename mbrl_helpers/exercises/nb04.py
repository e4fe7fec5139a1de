"""Exercises of notebook 04, the cross-entropy method and its relatives."""

import numpy as np
import torch

from mbrl_helpers.exercises.build04 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, normal, one_of, scale

# --- 04.2: refit to the elites --------------------------------------------------------------------


def refit(actions, returns, num_elites):
    elites = actions[returns.topk(num_elites).indices]
    return elites.mean(dim=0), elites.std(dim=0, correction=0)


def _refits_to_the_worst(actions, returns, num_elites):
    return refit(actions, -returns, num_elites)


def _lowest(actions, returns, num_elites):
    elites = actions[returns.topk(num_elites, largest=False).indices]
    return elites.mean(dim=0), elites.std(dim=0, correction=0)


def _first_of_the_sorted(actions, returns, num_elites):
    elites = actions[returns.argsort()[:num_elites]]
    return elites.mean(dim=0), elites.std(dim=0, correction=0)


def _all_that_reach(actions, returns, num_elites):
    elites = actions[returns >= returns.topk(num_elites).values[-1]]
    return elites.mean(dim=0), elites.std(dim=0, correction=0)


def _refits_to_all(actions, returns, num_elites):
    return actions.mean(dim=0), actions.std(dim=0, correction=0)


def _refits_to_the_first(actions, returns, num_elites):
    return refit(actions[:num_elites], returns[:num_elites], num_elites)


def _one_number_for_all_steps(actions, returns, num_elites):
    elites = actions[returns.topk(num_elites).indices]
    return elites.mean(dim=1), elites.std(dim=1, correction=0)


def _spread_of_everybody(actions, returns, num_elites):
    return refit(actions, returns, num_elites)[0], actions.std(dim=0, correction=0)


def _divides_by_one_less(actions, returns, num_elites):
    elites = actions[returns.topk(num_elites).indices]
    return elites.mean(dim=0), elites.std(dim=0)


def _swapped(actions, returns, num_elites):
    return refit(actions, returns, num_elites)[::-1]


def _loses_the_best(actions, returns, num_elites):
    elites = actions[returns.argsort()[-num_elites - 1 : -1]]
    return elites.mean(dim=0), elites.std(dim=0, correction=0)


def _population(rng):
    """Candidates of any number and size, some of which failed, at times with equals among them.

    Where the last elites have equals outside, these are equal plans: it is all one which are taken.
    """
    population, horizon, size = count(rng, most=200), count(rng), count(rng, most=6)
    num_elites = int(rng.integers(1, population + 1))
    returns = scale(rng) * rng.normal(one_of(rng, -9, 0, 9), size=population)
    returns[np.argsort(returns)[: (population - num_elites) // 2]] = -np.inf
    actions = scale(rng, 0.1, 10) * normal(rng, population, horizon, size)
    if rng.random() < 0.4:
        order = np.argsort(-returns)
        equals = order[max(num_elites - count(rng, most=3), 0) : num_elites + count(rng, most=4)]
        returns[equals], actions[equals] = returns[order[num_elites - 1]], actions[equals[:1]]
    return actions, torch.as_tensor(returns, dtype=torch.float32), num_elites


# --- 04.3: warm start -----------------------------------------------------------------------------


def shift(mean, last):
    return torch.cat([mean[1:], last[None]])


def _goes_round(mean, last):
    return mean.roll(-1, dims=0)


def _wrong_way(mean, last):
    return torch.cat([last[None], mean[:-1]])


def _does_not_shift(mean, last):
    return torch.cat([mean[:-1], last[None]])


def _repeats_the_end(mean, last):
    return torch.cat([mean[1:], mean[-1:]])


def _grows(mean, last):
    return torch.cat([mean, last[None]])


def _shrinks(mean, last):
    return mean[1:]


def _mean_plan(rng):
    numbers = scale(rng) * normal(rng, count(rng, most=60) + 1, count(rng, most=6))
    return numbers[:-1], numbers[-1]


# --- 04.5: the weights of MPPI --------------------------------------------------------------------


def mppi_weights(returns, temperature):
    scores = (returns - returns.max()) / temperature
    weights = scores.exp()
    return weights / weights.sum()


def _softmax(returns, temperature):
    return torch.softmax(returns / temperature, dim=0)


def _by_logarithms(returns, temperature):
    scores = returns / temperature
    return (scores - scores.logsumexp(dim=0)).exp()


def _categorical(returns, temperature):
    return torch.distributions.Categorical(logits=returns / temperature).probs


def _multiplies(returns, temperature):
    return torch.softmax(returns * temperature, dim=0)


def _overflows(returns, temperature):
    weights = (returns / temperature).exp()
    return weights / weights.sum()


def _of_costs(returns, temperature):
    return torch.softmax(-returns / temperature, dim=0)


def _not_normalised(returns, temperature):
    return ((returns - returns.max()) / temperature).exp()


def _no_temperature(returns, temperature):
    return torch.softmax(returns, dim=0)


def _cools_the_weights(returns, temperature):
    return torch.softmax(returns, dim=0) / temperature


def _divided_by_the_best(returns, temperature):
    weights = ((returns - returns.max()) / temperature).exp()
    return weights / weights.mean()


def _returns_of_candidates(rng):
    """Returns near some level, which may be far from 0 either way; hot and cold temperatures.

    Not so cold that float32 rounds the weights away when returns are divided by it first.
    """
    returns = scale(rng, 0.1, 1000) * rng.normal(size=count(rng, most=300))
    temperature = scale(rng, 0.05, 50)
    level = one_of(rng, -2000, 0, 1000)
    temperature = max(temperature, float(np.abs(level + returns).max()) / 400)
    return torch.as_tensor(level + returns, dtype=torch.float32), temperature


# --- 04.6: elites that are choices ----------------------------------------------------------------


def probabilities(elites, share):
    return (1 - share) * elites.mean(dim=0) + share / elites.shape[-1]


def _no_floor(elites, share):
    return elites.mean(dim=0)


def _adds_up_to_more(elites, share):
    return elites.mean(dim=0) + share / elites.shape[-1]


def _turned_round(elites, share):
    return share * elites.mean(dim=0) + (1 - share) / elites.shape[-1]


def _counts(elites, share):
    return (1 - share) * elites.sum(dim=0) + share / elites.shape[-1]


def _forgets_to_divide(elites, share):
    return (1 - share) * elites.mean(dim=0) + share


def _assumes_two_actions(elites, share):
    return (1 - share) * elites.mean(dim=0) + share * 0.5


def _mean_over_time(elites, share):
    return (1 - share) * elites.mean(dim=1) + share / elites.shape[-1]


def _divides_by_the_horizon(elites, share):
    return (1 - share) * elites.mean(dim=0) + share / elites.shape[1]


def _one_hot_elites(rng):
    num, horizon, size = count(rng), count(rng), count(rng, most=8)
    index = torch.as_tensor(rng.integers(size, size=(num, horizon)))
    return torch.eye(size)[index], one_of(rng, 0, 1, rng.uniform(0.05, 0.4), 0.1)


# --- 04.7: bug hunt -------------------------------------------------------------------------------


def library_planner_as_given(score, mean, noise):
    actions = mean + noise
    returns = torch.nan_to_num(score(actions))
    return actions[returns.argmax()]


def library_planner(score, mean, noise):
    actions = (mean + noise).clamp(-2, 2)
    returns = score(actions)
    returns = returns.masked_fill(returns.isnan(), -torch.inf)
    return actions[returns.argmax()]


def _still_nan_as_zero(score, mean, noise):
    actions = (mean + noise).clamp(-2, 2)
    returns = torch.nan_to_num(score(actions))
    return actions[returns.argmax()]


def _as_a_number(number):
    """NaN replaced by some number."""

    def answer(score, mean, noise):
        actions = (mean + noise).clamp(-2, 2)
        return actions[torch.nan_to_num(score(actions), nan=number).argmax()]

    return answer


def _as_one_of_the_others(worth):
    """NaN replaced by what is made of the other returns."""

    def answer(score, mean, noise):
        actions = (mean + noise).clamp(-2, 2)
        returns = score(actions)
        return actions[torch.where(returns.isnan(), worth(returns), returns).argmax()]

    return answer


def _worst_of_the_finite(score, mean, noise):
    actions = (mean + noise).clamp(-2, 2)
    return actions[torch.nan_to_num(score(actions), nan=torch.inf).argmin()]


def _still_unbounded(score, mean, noise):
    actions = mean + noise
    returns = torch.nan_to_num(score(actions), nan=-torch.inf)
    return actions[returns.argmax()]


def _clips_too_late(score, mean, noise):
    actions = mean + noise
    returns = torch.nan_to_num(score(actions), nan=-torch.inf)
    return actions[returns.argmax()].clamp(-2, 2)


def _clips_the_noise(score, mean, noise):
    actions = mean + noise.clamp(-2, 2)
    returns = torch.nan_to_num(score(actions), nan=-torch.inf)
    return actions[returns.argmax()]


def _failing_model(rng):
    """A score that is negative, best near a random plan, and NaN for some plans.

    How negative differs from draw to draw, so that no number can stand in for NaN; and at times all
    plans fail but one, which is not the first, so that neither can a mean of the others.
    """
    population, horizon, size = count(rng, 3, 80), count(rng, most=12), count(rng, most=3)
    wanted = torch.as_tensor(rng.uniform(-3, 3, size=(horizon, size)), dtype=torch.float32)
    limit, unit = float(rng.uniform(0.8, 1.5)), scale(rng, 1e-3, 1e15)
    mean = torch.as_tensor(rng.uniform(-1.5, 1.5, size=(horizon, size)), dtype=torch.float32)
    noise = normal(rng, population, horizon, size)

    def score(actions):
        values = -1 - (actions - wanted).square().sum(dim=(-2, -1))
        return unit * values.masked_fill(actions[:, -1, 0] > limit, torch.nan)

    noise[0, -1] = -mean[-1]  # one plan at least that does not fail, and one that does
    noise[1, -1] = 2 - mean[-1]
    noise = 2.5 * noise if rng.random() < 0.5 else noise
    if rng.random() < 0.3:
        noise[:, -1, 0] = 2 - mean[-1, 0] + noise[:, -1, 0].abs()
        noise[int(rng.integers(1, population)), -1, 0] = -mean[-1, 0]
    return score, mean, noise


EXERCISES = {
    "04.1": Question(
        answer="b",
        replies={
            "a": "Section 7 shows the race: it does come closer, but how slowly! Every decision "
                 "buys all its tickets anew.",
            "b": "Yes. What does CEM have that a hundred times as many draws have not? Section 3 "
                 "takes it apart, and the answer is not in its name.",
            "c": "With a true model, more candidates do no harm. But do they do enough good? "
                 "Section 7 shows the race.",
        },
        hints=("What is left of a decision's search when the next one begins?",),
    ),
    "04.2": Exercise(
        reference=refit,
        inputs=_population,
        wrong=(
            Wrong(_refits_to_the_worst, "These are the *worst* candidates. Returns are maximised; "
                  "many papers minimise costs instead.", (_lowest, _first_of_the_sorted)),
            Wrong(_refits_to_all, "All candidates count here, whatever they return. Then nothing "
                  "is learned: pick the elites first."),
            Wrong(_refits_to_the_first, "These are the *first* num_elites candidates, not those "
                  "with the highest returns."),
            Wrong(_one_number_for_all_steps, "The mean goes over time, so that each elite becomes "
                  "one number. Average over the elites, `dim=0`: each step keeps its own."),
            Wrong(_spread_of_everybody, "The mean is right. The deviation must be that of the "
                  "elites too, or the search never narrows."),
            Wrong(_divides_by_one_less, "Very nearly: `std` divides by K - 1 unless told otherwise "
                  "(`correction=0`), and would give NaN for a single elite."),
            Wrong(_all_that_reach, "Where several candidates share the return of the last elite, "
                  "this takes more than num_elites. `topk` takes exactly as many."),
            Wrong(_swapped, "The two are swapped: the mean first, then the deviation."),
            Wrong(_loses_the_best, "The best candidate of all is missing: a slice that ends with "
                  "-1 leaves the last one out. `[-num_elites:]` takes it in."),
        ),
        hints=(
            "If you could keep only `num_elites` rows of `actions`, which would you keep?",
            "`returns.topk(num_elites).indices` says which candidates are the elites; with these "
            "numbers as an index, `actions[...]` is [K, H, A]. Mean and deviation go over the "
            "elites, axis 0.",
            "returns 5, 9, 7 and 2 elites: candidates 1 and 2. If their first actions are 0.4 and "
            "0.8: mean 0.6, deviation 0.2.",
            "`elites = actions[returns.topk(num_elites).indices]`, then `elites.mean(dim=0), "
            "elites.std(dim=0, correction=0)`",
        ),
    ),
    "04.3": Exercise(
        reference=shift,
        inputs=_mean_plan,
        wrong=(
            Wrong(_goes_round, "The step just executed comes back at the end of the plan. It is "
                  "over; `last` belongs there."),
            Wrong(_wrong_way, "Shifted into the past: what was to be done now would be done a step "
                  "later. Drop the *first* step, append `last`."),
            Wrong(_does_not_shift, "Only the last step has been replaced. The first one has been "
                  "executed: drop it, so that all the others move up."),
            Wrong(_repeats_the_end, "`last` is ignored: the plan's old end is repeated."),
            Wrong(_grows, "The plan has grown by a step. One comes in, so one must go: the first."),
            Wrong(_shrinks, "The plan has lost a step: append `last`."),
        ),
        hints=(
            "The first step has been executed. Which step of the old plan comes next?",
            "`mean[1:]` is the plan without the step that is over. `torch.cat` joins tensors with "
            "the same number of axes, and `last[None]` is [1, A].",
            "mean 3, 5, 8 and last 0: 5, 8, 0.",
            "`torch.cat([mean[1:], last[None]])`",
        ),
    ),
    "04.4": Question(
        answer="a",
        replies={
            "a": "Yes: at each decision it only has to improve on the last plan, and fifty draws "
                 "around it do that.",
            "b": "That is what the method's name stands for. Look at the bar: how far is it from "
                 "random shooting?",
            "c": "Look at the two bars in the middle: they are not about equal at all.",
        },
        hints=("How many decisions does an episode have, and how much changes between two?",),
    ),
    "04.5": Exercise(
        reference=mppi_weights,
        inputs=_returns_of_candidates,
        also=(_softmax, _by_logarithms, _categorical),
        wrong=(
            Wrong(_multiplies, "It multiplies by the temperature. Divide: hot means that "
                  "differences count for less. (Mind the names: some libraries multiply by "
                  "what they call the temperature.)"),
            Wrong(_overflows, "exp of a large number is infinity, and of a very negative one 0: "
                  "0/0 is NaN. Subtract the highest return first, which changes no weight."),
            Wrong(_of_costs, "The worst candidate has the highest weight. The papers write exp(-"
                  "cost); we have returns."),
            Wrong(_not_normalised, "The best has weight 1 and the sum is more: divide by the sum."),
            Wrong(_no_temperature, "The temperature is ignored."),
            Wrong(_cools_the_weights, "The finished weights are divided by the temperature, so "
                  "that they no longer sum to 1. It belongs inside the exp: divide the *returns*."),
            Wrong(_divided_by_the_best, "The weights should *sum* to 1; yours have the mean 1."),
        ),
        hints=(
            "What is exp(1000)? And what becomes of the weights if the same number is taken away "
            "from all returns?",
            "Take the highest return away from all of them, which changes no weight; divide by the "
            "temperature, take exp, divide by the sum.",
            "returns 1000 and 998, T = 2: exp(0) = 1 and exp(-1) = 0.37, so the weights are 0.73 "
            "and 0.27.",
            "`torch.softmax(returns / temperature, dim=0)`, which takes the maximum away by itself",
        ),
    ),
    "04.6": Exercise(
        reference=probabilities,
        inputs=_one_hot_elites,
        wrong=(
            Wrong(_no_floor, "`share` is ignored: an action that no elite took now has probability "
                  "0, and can never be drawn again."),
            Wrong(_adds_up_to_more, "The probabilities of a step sum to more than 1. Give the mean "
                  "the weight `1 - share`."),
            Wrong(_turned_round, "The weights are turned round: `share` is the part that stays "
                  "uniform."),
            Wrong(_counts, "These are counts. The *mean* of one-hot rows is what share of the "
                  "elites took each action."),
            Wrong(_forgets_to_divide, "The uniform distribution gives each of the A actions 1/A, "
                  "not 1."),
            Wrong(_assumes_two_actions, "Right for two actions. There may be more: A is the size "
                  "of the last axis."),
            Wrong(_mean_over_time, "The mean goes over time. Average over the elites, axis 0: each "
                  "step has probabilities of its own."),
            Wrong(_divides_by_the_horizon, "The uniform distribution is one over *actions*, 1/A "
                  "each. You divide by the number of steps."),
        ),
        hints=(
            "What is the mean of the rows [1, 0], [1, 0], [0, 1]?",
            "The mean over the elites, axis 0, is the share of them that took each action. Mix it "
            "with the uniform distribution, 1/A for each action, whose weight is `share`.",
            "The three rows above with share 0.3: 0.7 * 2/3 + 0.3 * 1/2 = 0.617 and 0.7 * 1/3 + "
            "0.3 * 1/2 = 0.383.",
            "`(1 - share) * elites.mean(dim=0) + share / elites.shape[-1]`",
        ),
    ),
    "04.7": Exercise(
        reference=library_planner,
        given=library_planner_as_given,
        inputs=_failing_model,
        wrong=(
            Wrong(_still_nan_as_zero, "The bounds are right now. One fault is left: a plan whose "
                  "return is NaN wins. (`nan_to_num` makes it 0; PyTorch's `argmax` takes a "
                  "bare NaN for the largest number.)", (_as_a_number(-1e-10),)),
            Wrong(_as_a_number(-1e10), "Real returns may be lower than the number that stands in "
                  "for NaN, and then the plan that failed wins all the same. Below every number "
                  "is only `-torch.inf`.",
                  tuple(_as_a_number(-(10.0**n)) for n in range(16) if n != 10)),
            Wrong(_as_one_of_the_others(torch.nanmean), "A plan that failed gets a return like "
                  "the others', and may win. It must be worse than any: `-torch.inf`.",
                  tuple(_as_one_of_the_others(worth) for worth in (
                      torch.nanmedian,
                      lambda r: r[~r.isnan()].min(),
                      lambda r: r[~r.isnan()].min() - 1,
                  ))),
            Wrong(_worst_of_the_finite, "Both faults are seen to, but it takes the plan with the "
                  "lowest return. Take the highest, `argmax`."),
            Wrong(_still_unbounded, "NaN can't win any more. One fault is left: the motor gives 2 "
                  "N m at most, and the noise does not know."),
            Wrong(_clips_too_late, "What is returned is within bounds, but not what was scored. "
                  "Clip *before* scoring: the model should imagine what will be executed."),
            Wrong(_clips_the_noise, "The noise is within bounds; its sum with the mean need not "
                  "be. Clip the sum."),
        ),
        hints=(
            "All returns of this task are negative. Which number wins against all of them?",
            "Two faults. NaN becomes 0, the best return there is; it must be worse than *any* "
            "number. And nothing keeps the torques between -2 and 2, neither those that are scored "
            "nor the one that is executed.",
            "returns -5, NaN, -3 become -5, 0, -3, and the plan that failed wins; with -inf for "
            "NaN the third one does. And mean 1.5 + noise 1 is a torque of 2.5.",
            "`actions = (mean + noise).clamp(-2, 2)`, and `returns = "
            "returns.masked_fill(returns.isnan(), -torch.inf)`",
        ),
    ),
    "04.b": BUILD,
}  # fmt: skip
