"""How sure a model is, and whether it is right to be.

Axes: E members, K rows, M outputs (changes of the observation, and the reward).
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mbrl_helpers.dynamics import Prediction
from mbrl_helpers.interfaces import Model
from mbrl_helpers.units import Units

LOG_2_PI = 1.8378770664093453


@runtime_checkable
class PredictiveModel(Protocol):
    """A model that says how sure it is, as a `dynamics.FittedModel` does."""

    @property
    def units(self) -> Units:
        """Of the data, in which outputs are compared."""
        ...

    def predict(self, obs: Tensor, action: Tensor) -> Prediction:
        """Change and reward by each member, and the noise around them."""
        ...


class Predictive(NamedTuple):
    """An ensemble's prediction as one Gaussian for each row and output, each part [K, M].

    Attributes:
        mean: of the members' means.
        aleatoric: standard deviation of the noise that the members expect: more data leave it.
        epistemic: standard deviation of the members' means: more data take it away.
    """

    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of the mixture of all members [K, M]: variances add up."""
        return (self.aleatoric.square() + self.epistemic.square()).sqrt()


def predictive(model: PredictiveModel, obs: Tensor, action: Tensor) -> Predictive:
    """Predict changes and rewards, and split the uncertainty into its two parts.

    Args:
        model: fitted.
        obs: [K, O].
        action: [K, A] encoded.

    Source: law of total variance; Lakshminarayanan et al. 2017. Taught in notebook 05.
    """
    with torch.inference_mode():
        mean, std = model.predict(obs, action)
    aleatoric = std.square().mean(0).sqrt()
    return Predictive(mean.mean(0), aleatoric, mean.std(0, correction=0))


def disagreement(model: Model | PredictiveModel, obs: Tensor, action: Tensor) -> Tensor:
    """Epistemic spread of each row [K]: root mean square over outputs, in units of their spread.

    Args:
        model: fitted.
        obs: [K, O].
        action: [K, A] encoded.

    Raises:
        TypeError: for a model that does not say in which units its members may be compared.
    """
    if not isinstance(model, PredictiveModel):
        raise TypeError(
            "disagreement: expected a model with `predict` and the `units` of its data, as a "
            f"FittedModel has them, got {type(model).__name__}. Leave max_spread and "
            "spread_weight out, or give the model both."
        )
    spread = predictive(model, obs, action).epistemic / model.units.outputs.std
    return spread.square().mean(-1).sqrt()


def coverage(prediction: Predictive, target: Tensor, level: float) -> Tensor:
    """Share of the targets inside the central interval of a nominal level [M].

    Args:
        prediction: for K rows.
        target: [K, M].
        level: such as 0.95, strictly between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"coverage: expected 0 < level < 1, got {level}. Try 0.95.")
    _check_rows("coverage", prediction, target)
    width = torch.special.ndtri(torch.tensor(0.5 + level / 2)) * prediction.std
    return ((target - prediction.mean).abs() <= width).float().mean(0)


def negative_log_likelihood(prediction: Predictive, target: Tensor) -> Tensor:
    """Mean negative log-likelihood [M] in nats of targets [K, M]."""
    _check_rows("negative_log_likelihood", prediction, target)
    variance = prediction.std.square()
    error = (target - prediction.mean).square()
    return 0.5 * (LOG_2_PI + variance.log() + error / variance).mean(0)


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that a score from outside exceeds one from inside: 0.5 is chance, 1 perfect.

    Args:
        inside: [K] scores of what should score low.
        outside: [L] scores of what should score high; ties count half.

    Source: Hanley and McNeil 1982 (the area under the ROC curve as a rank statistic).
    """
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.ndim != 1 or len(scores) == 0 or not scores.isfinite().all():
            raise ValueError(
                f"auroc: expected {name} as finite scores [K], got shape {tuple(scores.shape)}. "
                "Give one number a row."
            )
    ordered = inside.sort().values
    below = torch.searchsorted(ordered, outside.contiguous())
    not_above = torch.searchsorted(ordered, outside.contiguous(), right=True)
    return float((below + not_above).double().mean() / (2 * len(ordered)))


def _check_rows(where: str, prediction: Predictive, target: Tensor) -> None:
    if target.shape != prediction.mean.shape:
        raise ValueError(
            f"{where}: expected targets of shape {tuple(prediction.mean.shape)}, one for each "
            f"prediction, got {tuple(target.shape)}. Compare the same rows and outputs."
        )
