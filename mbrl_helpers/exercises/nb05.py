"""Exercises of notebook 05, uncertainty and ensembles."""

import math

import torch

from mbrl_helpers.exercises.build05 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, normal, scale

# --- 05.2: the negative log-likelihood -----------------------------------------------------------


def nll(mean, log_var, target):
    return 0.5 * (log_var + (target - mean) ** 2 * torch.exp(-log_var))


def _variance_on_the_wrong_side(mean, log_var, target):
    return 0.5 * (log_var + (target - mean) ** 2 * torch.exp(log_var))


def _no_price_for_width(mean, log_var, target):
    return 0.5 * (target - mean) ** 2 * torch.exp(-log_var)


def _takes_it_for_a_log_std(mean, log_var, target):
    return log_var + 0.5 * (target - mean) ** 2 * torch.exp(-2 * log_var)


def _likelihood_not_negative(mean, log_var, target):
    return -nll(mean, log_var, target)


def _divides_by_the_logarithm(mean, log_var, target):
    return 0.5 * (log_var + (target - mean) ** 2 / log_var)


def _twice(mean, log_var, target):
    return 2 * nll(mean, log_var, target)


def _half_of_one_term(mean, log_var, target):
    return 0.5 * log_var + (target - mean) ** 2 * torch.exp(-log_var)


def _with_the_constant(mean, log_var, target):
    return nll(mean, log_var, target) + 0.5 * math.log(2 * math.pi)


def _predictions(rng):
    """Of one, two or three axes; they ask for a gradient, for this is to be trained with."""
    shape = [count(rng) for _ in range(rng.integers(1, 4))]
    mean, log_var, target = (normal(rng, *shape) for _ in range(3))
    size = scale(rng, 0.1, 100)
    return (size * mean).requires_grad_(), (3 * log_var).requires_grad_(), size * target


# --- 05.3: the law of total variance --------------------------------------------------------------


def decompose(means, stds):
    aleatoric = (stds**2).mean(dim=0).sqrt()
    epistemic = means.std(dim=0, correction=0)
    return means.mean(dim=0), aleatoric, epistemic


def _averages_deviations(means, stds):
    return means.mean(dim=0), stds.mean(dim=0), means.std(dim=0, correction=0)


def _averages_deviations_one_less(means, stds):
    return means.mean(dim=0), stds.mean(dim=0), means.std(dim=0)


def _leaves_variances(means, stds):
    return means.mean(dim=0), (stds**2).mean(dim=0), means.var(dim=0, correction=0)


def _leaves_one_variance(means, stds):
    return means.mean(dim=0), (stds**2).mean(dim=0).sqrt(), means.var(dim=0, correction=0)


def _over_rows(means, stds):
    return means.mean(dim=1), (stds**2).mean(dim=1).sqrt(), means.std(dim=1, correction=0)


def _swapped(means, stds):
    mean, aleatoric, epistemic = decompose(means, stds)
    return mean, epistemic, aleatoric


def _spread_of_deviations(means, stds):
    return means.mean(dim=0), (stds**2).mean(dim=0).sqrt(), stds.std(dim=0, correction=0)


def _one_less(means, stds):
    return means.mean(dim=0), (stds**2).mean(dim=0).sqrt(), means.std(dim=0)


def _members(rng):
    shape = count(rng, most=12), count(rng), count(rng, most=6)
    stds = torch.as_tensor(rng.uniform(0.2, 2, size=shape)).float()
    return scale(rng) * normal(rng, *shape), scale(rng) * stds


# --- 05.4: does an interval hold what it promises? ------------------------------------------------


def coverage(mean, std, target, level):
    width = torch.special.ndtri(torch.tensor(0.5 + level / 2)) * std
    return ((target - mean).abs() <= width).float().mean(dim=0)


def _one_sided_quantile(mean, std, target, level):
    width = torch.special.ndtri(torch.tensor(level)) * std
    return ((target - mean).abs() <= width).float().mean(dim=0)


def _cuts_off_the_level(mean, std, target, level):
    width = torch.special.ndtri(torch.tensor(1 - level / 2)) * std
    return ((target - mean).abs() <= width).float().mean(dim=0)


def _below_the_mean(mean, std, target, level):
    width = torch.special.ndtri(torch.tensor((1 - level) / 2)) * std
    return ((target - mean).abs() <= width).float().mean(dim=0)


def _no_lower_end(mean, std, target, level):
    width = torch.special.ndtri(torch.tensor(0.5 + level / 2)) * std
    return (target - mean <= width).float().mean(dim=0)


def _level_times_std(mean, std, target, level):
    return ((target - mean).abs() <= level * std).float().mean(dim=0)


def _one_number(mean, std, target, level):
    return coverage(mean, std, target, level).mean()


def _share_outside(mean, std, target, level):
    return 1 - coverage(mean, std, target, level)


def _variance_for_width(mean, std, target, level):
    return coverage(mean, std**2, target, level)


def _held_out(rng):
    shape = count(rng, most=400), count(rng, most=6)
    std = scale(rng) * torch.as_tensor(rng.uniform(0.2, 0.6, size=shape)).float()
    mean, error = normal(rng, *shape), rng.uniform(0.5, 1.5) * normal(rng, *shape)
    return mean, std, mean + std * error, float(rng.uniform(0.05, 0.99))


# --- 05.5: trajectory sampling --------------------------------------------------------------------


def follow(predictions, member):
    return predictions[member, torch.arange(len(member))]


def _everybody_everywhere(predictions, member):
    return predictions[member]


def _averages(predictions, member):
    return predictions.mean(dim=0)


def _first_member(predictions, member):
    return predictions[0]


def _first_future(predictions, member):
    return predictions[member, 0]


def _reorders_futures(predictions, member):
    return predictions[:, member]


def _futures_and_members(rng):
    members, futures, size = count(rng, most=12), count(rng), count(rng, most=6)
    member = torch.as_tensor(rng.integers(members, size=futures))
    return scale(rng) * normal(rng, members, futures, size), member


EXERCISES = {
    "05.1": Question(
        answer="a",
        replies={
            "a": "Yes. Noise is a fact about the world, which can only be measured better. Doubt "
                 "goes away where the data come, and nowhere else.",
            "b": "More data tell the mean ever more exactly, but the next measurement is as noisy "
                 "as ever. And in the gap there is still not one point. Look at the pictures.",
            "c": "In the gap there is still not one point. Why should the nets begin to agree "
                 "there? Look at the pictures.",
        },
        hints=("Which of the two could you reduce by looking longer? And where would you look?",),
    ),
    "05.2": Exercise(
        reference=nll,
        inputs=_predictions,
        wrong=(
            Wrong(_variance_on_the_wrong_side, "The squared error is *multiplied* by the variance: "
                  "the more noise is expected, the more an error would cost. It is divided by it, "
                  "which is a factor exp(-log_var)."),
            Wrong(_no_price_for_width, "The first term is missing: without it a net claims an "
                  "infinite variance, and no error costs anything."),
            Wrong(_takes_it_for_a_log_std, "That is right for the logarithm of the standard "
                  "deviation. `log_var` is that of the variance: half as much exponent."),
            Wrong(_likelihood_not_negative, "The sign: this is the log-likelihood, and training "
                  "would make it small. The loss is the *negative* one."),
            Wrong(_divides_by_the_logarithm, "It divides by the logarithm. The variance is "
                  "exp(log_var)."),
            Wrong(_twice, "A factor of 2: both terms have one half in front."),
            Wrong(_half_of_one_term, "The one half belongs to both terms; the squared error has "
                  "none here."),
            Wrong(_with_the_constant, "That is all of the NLL, log(2π) / 2 included. No weight can "
                  "change this constant: leave it out, as the formula does."),
        ),
        hints=(
            "A net is sure of itself (small σ) and wrong. Which of the two terms of the formula "
            "should punish it, and which should reward it when it is right?",
            "Take minus the logarithm of the normal density, without its constant. `log_var` "
            "stands for log σ², and `torch.exp(-log_var)` for 1 / σ².",
            "mean 1, target 3, log_var 0: half of 0 + 4 · 1, which is 2. With log_var 2: half of "
            "2 + 4 · 0.135, which is 1.27: less sure, and less wrong.",
            "`0.5 * (log_var + (target - mean) ** 2 * torch.exp(-log_var))`",
        ),
    ),
    "05.3": Exercise(
        reference=decompose,
        inputs=_members,
        wrong=(
            Wrong(_averages_deviations, "Standard deviations don't average; variances do. Square, "
                  "take the mean, then the root."),
            Wrong(_averages_deviations_one_less, "Two things. Standard deviations don't average, "
                  "variances do: square, take the mean, then the root. And `std` divides by E - 1 "
                  "unless told otherwise: the law of total variance holds with `correction=0`."),
            Wrong(_leaves_variances, "These are variances. Take the roots, so that they have the "
                  "unit of the prediction."),
            Wrong(_leaves_one_variance, "Mean and aleatoric part are right. The epistemic part is "
                  "still a variance: take the root of it, too."),
            Wrong(_over_rows, "Mean and spread go over the rows. The members are axis 0."),
            Wrong(_swapped, "The two are swapped: aleatoric is what the members *expect*, "
                  "epistemic is how far their means lie apart."),
            Wrong(_spread_of_deviations, "The epistemic part is the spread of the members' "
                  "*means*; this is the spread of their standard deviations."),
            Wrong(_one_less, "Very nearly: `std` divides by E - 1 unless told otherwise. The law "
                  "of total variance holds with `correction=0`."),
        ),
        hints=(
            "Five members agree on the mean, and each says that σ is 2. Which of the two "
            "uncertainties is 0?",
            "Aleatoric is what the members say of the noise: variances have means, deviations "
            "don't. Epistemic is how far their means lie apart.",
            "Two members with means 1, 3 and stds 3, 4: the mean is 2, aleatoric the root of (9 + "
            "16) / 2, which is 3.54, epistemic 1.",
            "`aleatoric = (stds**2).mean(dim=0).sqrt()`, and `epistemic = means.std(dim=0, "
            "correction=0)`",
        ),
    ),
    "05.4": Exercise(
        reference=coverage,
        inputs=_held_out,
        wrong=(
            Wrong(_one_sided_quantile, "The interval is too narrow: below ndtri(level) lies a "
                  "share `level` of everything, the far left side included. Half of 1 - level is "
                  "to lie beyond *each* end."),
            Wrong(_cuts_off_the_level, "`1 - level / 2` leaves half of the *level* beyond each "
                  "end. What lies outside is 1 - level, and half of that belongs to each end."),
            Wrong(_below_the_mean, "Nothing is inside: a quantile of less than one half lies below "
                  "the mean, so that the width is negative. Take the one above."),
            Wrong(_no_lower_end, "A target far below the mean counts as inside: compare the "
                  "*absolute* error."),
            Wrong(_level_times_std, "A level is a probability, not a number of standard "
                  "deviations: `torch.special.ndtri` turns one into the other."),
            Wrong(_one_number, "One number for all columns. Two columns that are wrong in "
                  "opposite ways would look right: average over the rows only."),
            Wrong(_share_outside, "This is the share *outside*."),
            Wrong(_variance_for_width, "The width is a multiple of the standard deviation, not of "
                  "its square."),
        ),
        hints=(
            "A central interval of 80 % leaves out 20 %. How much of it on each side?",
            "The half-width is a quantile of the standard normal, times `std`. "
            "`torch.special.ndtri` gives the quantile of a probability; then count how many "
            "targets lie within.",
            "Level 0.8: the quantile of 0.9 is 1.28. With std 2 the interval reaches 2.56 to each "
            "side; errors of 1, 2 and 3 give a coverage of 2 / 3.",
            "`width = torch.special.ndtri(torch.tensor(0.5 + level / 2)) * std`, and then "
            "`((target - mean).abs() <= width).float().mean(dim=0)`",
        ),
    ),
    "05.5": Exercise(
        reference=follow,
        inputs=_futures_and_members,
        wrong=(
            Wrong(_everybody_everywhere, "Indexed by `member` alone it gives each future the "
                  "predictions for *all* futures. Give an index for axis 1 as well."),
            Wrong(_averages, "The mean of the members: then no future follows anybody, and the "
                  "disagreement is gone."),
            Wrong(_first_member, "All futures follow member 0; `member` is ignored."),
            Wrong(_first_future, "The members are right, but all of them predict for future 0. "
                  "Future k needs the prediction for future k."),
            Wrong(_reorders_futures, "`member` picks along axis 1 here, which are the futures. The "
                  "members are axis 0."),
        ),
        hints=(
            "Future 0 follows member 2, future 1 follows member 0. How many numbers do you pick "
            "from `predictions`, and which?",
            "Two index arrays of the same length pick *pairs*. The first names the member, the "
            "second counts the futures.",
            "x = [[10, 11], [20, 21], [30, 31]] and member 2, 0: future 0 gets 30, future 1 gets "
            "11.",
            "`predictions[member, torch.arange(len(member))]`",
        ),
    ),
    "05.b": BUILD,
}  # fmt: skip
