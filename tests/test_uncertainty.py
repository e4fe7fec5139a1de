"""Measures of uncertainty: against brute force, and on predictions that are known to be right."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Normal

from mbrl_helpers.dynamics import FittedModel, Prediction
from mbrl_helpers.envs import get_task
from mbrl_helpers.networks import Normalizer
from mbrl_helpers.uncertainty import (
    Predictive,
    PredictiveModel,
    auroc,
    coverage,
    disagreement,
    negative_log_likelihood,
    predictive,
)

NOTHING = torch.zeros(1, 1), torch.zeros(1, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Said:
    """A model whose members' predictions are given."""

    def __init__(self, mean, std, targets=None):
        self.said = Prediction(mean, std)
        targets = torch.randn(9, mean.shape[-1]) if targets is None else targets
        self.units = SimpleNamespace(outputs=Normalizer(targets))

    def predict(self, obs, action):
        assert not torch.is_grad_enabled()
        return self.said


def members(num_members=4, num_rows=6, num_outputs=3):
    mean = torch.randn(num_members, num_rows, num_outputs, generator=seeded())
    return mean, torch.rand(num_members, num_rows, num_outputs, generator=seeded(1)) + 0.1


# --- the two parts -------------------------------------------------------------------------------


def test_variances_add_up_to_that_of_the_mixture():
    """Of many samples, each from a member drawn at random."""
    mean, std = members(num_rows=2)
    prediction = predictive(Said(mean, std), *NOTHING)
    who = torch.randint(4, (200_000,), generator=seeded(2))
    samples = mean[who] + std[who] * torch.randn(200_000, 2, 3, generator=seeded(3))
    torch.testing.assert_close(samples.mean(0), prediction.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(samples.std(0), prediction.std, atol=0, rtol=0.01)


def test_each_part_by_hand():
    mean = torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]]])
    std = torch.tensor([[[3.0, 1.0]], [[4.0, 1.0]]])
    prediction = predictive(Said(mean, std), *NOTHING)
    assert prediction.mean.tolist() == [[2, 5]]
    torch.testing.assert_close(prediction.aleatoric, torch.tensor([[12.5, 1.0]]).sqrt())
    assert prediction.epistemic.tolist() == [[1, 0]]
    torch.testing.assert_close(prediction.std, torch.tensor([[13.5, 1.0]]).sqrt())


def test_members_that_agree_leave_only_noise_and_sure_ones_only_doubt():
    mean, std = members()
    alike = predictive(Said(mean[:1].expand_as(mean), std[:1].expand_as(std)), *NOTHING)
    torch.testing.assert_close(alike.std, std[0])
    assert (alike.epistemic < 1e-6).all()
    sure = predictive(Said(mean, 0 * std), *NOTHING)
    torch.testing.assert_close(sure.std, mean.std(0, correction=0))
    one = predictive(Said(mean[:1], std[:1]), *NOTHING)
    assert (one.epistemic == 0).all()


def test_disagreement_is_in_units_of_the_targets():
    mean, std = members()
    targets = torch.randn(50, 3, generator=seeded(4)) * torch.tensor([0.1, 1.0, 50.0])
    found = disagreement(Said(mean, std, targets), *NOTHING)
    for row in range(6):
        total = 0.0
        for column in range(3):
            of_members = mean[:, row, column].double()
            spread = math.sqrt(float((of_members - of_members.mean()).square().mean()))
            total += (spread / float(targets[:, column].double().std(correction=0))) ** 2
        assert float(found[row]) == pytest.approx(math.sqrt(total / 3), rel=1e-4)
    scale = torch.tensor([1e3, 1e-2, 7.0])  # other units change nothing
    rescaled = disagreement(Said(scale * mean, std, scale * targets), *NOTHING)
    torch.testing.assert_close(rescaled, found, rtol=1e-4, atol=0)
    torch.testing.assert_close(disagreement(Said(mean, 9 * std, targets), *NOTHING), found)


def test_models_that_do_not_say_how_sure_they_are():
    """Without the units of its data a model's members can't be compared."""
    truth = get_task("Pendulum-v1").true_dynamics

    class WithoutUnits:
        def predict(self, obs, action):
            return Prediction(*members())

    for model in (truth, WithoutUnits(), None):
        assert not isinstance(model, PredictiveModel)
        with pytest.raises(
            TypeError, match=r"disagreement: expected a model with `predict` and"
        ) as e:
            disagreement(model, *NOTHING)
        assert f"got {type(model).__name__}." in str(e.value)
    assert isinstance(Said(*members()), PredictiveModel)
    assert {"predict", "num_members"} <= set(vars(FittedModel))


# --- calibration ---------------------------------------------------------------------------------


def right_about(num_rows=20_000):
    """A prediction, and targets that it is right about."""
    scale = torch.rand(num_rows, 2, generator=seeded()) + 0.1
    mean = 10 * torch.randn(num_rows, 2, generator=seeded(1))
    prediction = Predictive(mean, 0.6 * scale, 0.8 * scale)  # of which scale is the total
    return prediction, mean + scale * torch.randn(num_rows, 2, generator=seeded(2))


@pytest.mark.parametrize("level", [0.05, 0.5, 0.8, 0.95, 0.999])
def test_coverage_of_a_calibrated_gaussian_is_its_level(level):
    prediction, target = right_about()
    error = math.sqrt(level * (1 - level) / len(target))
    covered = coverage(prediction, target, level)
    assert covered.shape == (2,)
    assert ((covered - level).abs() < 4 * error).all()


def test_coverage_of_one_that_is_too_sure_or_not_sure_enough():
    prediction, target = right_about()
    for factor in (0.5, 2.0):
        off = Predictive(prediction.mean, *(factor * part for part in prediction[1:]))
        expected = math.erf(factor * 1.959964 / math.sqrt(2))
        torch.testing.assert_close(coverage(off, target, 0.95), torch.full((2,), expected),
                                   atol=0.02, rtol=0)  # fmt: skip


def test_coverage_is_of_each_output_and_both_sides():
    one = torch.ones(4, 2)
    prediction = Predictive(0 * one, one, 0 * one)
    target = torch.tensor([[-0.6, 3.0], [0.6, -3.0], [-0.7, 0.0], [0.7, 0.0]])
    assert coverage(prediction, target, 0.5).tolist() == [0.5, 0.5]  # within 0.6745
    assert coverage(prediction, target, 0.9).tolist() == [1.0, 0.5]


def test_likelihood_is_that_of_a_normal_distribution():
    prediction, target = right_about(50)
    expected = -Normal(prediction.mean, prediction.std).log_prob(target).mean(0)
    torch.testing.assert_close(negative_log_likelihood(prediction, target), expected)
    prediction, target = right_about()
    best = negative_log_likelihood(prediction, target)
    for factor in (0.7, 1.4):
        off = Predictive(prediction.mean, *(factor * part for part in prediction[1:]))
        assert (negative_log_likelihood(off, target) > best + 0.05).all()


# --- the area under the ROC curve ----------------------------------------------------------------


def by_brute_force(inside, outside):
    pairs = [(o > i) + 0.5 * (o == i) for i in inside.tolist() for o in outside.tolist()]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("distinct", [3, 10, 10_000])
@pytest.mark.parametrize(("num_inside", "num_outside"), [(1, 1), (30, 40), (50, 7)])
def test_auroc_counts_pairs(num_inside, num_outside, distinct):
    for seed in range(5):
        inside, outside = (
            torch.randint(distinct, (n,), generator=seeded(seed + 10 * n)).float() + shift
            for n, shift in ((num_inside, 0), (num_outside, 1))
        )
        assert auroc(inside, outside) == pytest.approx(by_brute_force(inside, outside))
        assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside))
        assert auroc(2 * inside**3, 2 * outside**3) == pytest.approx(auroc(inside, outside))


def test_auroc_of_known_cases():
    low, high = torch.arange(5.0), torch.arange(5.0) + 10
    assert auroc(low, high) == 1
    assert auroc(high, low) == 0
    assert auroc(low, low) == 0.5
    assert auroc(torch.ones(3), torch.ones(8)) == 0.5
    both = torch.stack([low, high], 1)  # columns: not contiguous
    assert auroc(both[:, 0], both[:, 1]) == 1


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 95, math.nan])
def test_levels_that_make_no_sense(level):
    with pytest.raises(ValueError, match=f"coverage: expected 0 < level < 1, got {level}"):
        coverage(*right_about(5), level)


@pytest.mark.parametrize("shape", [(5,), (4, 2), (5, 1), (1, 2), (3, 5, 2)])
@pytest.mark.parametrize("measure", [negative_log_likelihood, coverage])
def test_targets_of_other_rows_or_outputs(measure, shape):
    """Broadcast in silence they would give a number."""
    more = (0.5,) if measure is coverage else ()
    with pytest.raises(ValueError, match=r"expected targets of shape \(5, 2\), .*got \(") as error:
        measure(right_about(5)[0], torch.zeros(shape), *more)
    assert str(error.value).startswith(f"{measure.__name__}: ")


@pytest.mark.parametrize(
    "bad", [torch.zeros(0), torch.zeros(3, 1), torch.tensor(1.0), torch.tensor([1.0, math.nan]),
            torch.tensor([math.inf])]
)  # fmt: skip
def test_scores_that_make_no_sense(bad):
    good = torch.arange(3.0)
    with pytest.raises(ValueError, match="auroc: expected inside as finite scores"):
        auroc(bad, good)
    with pytest.raises(ValueError, match="auroc: expected outside as finite scores"):
        auroc(good, bad)
