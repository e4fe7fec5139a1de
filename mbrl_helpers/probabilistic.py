"""Networks that know how sure they are: Gaussian heads, and two ways to an ensemble from one.

Axes: E members, K rows side by side, T rows of data, D features, M outputs.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mbrl_helpers.networks import EnsembleNetwork, Normalizer, with_ones


class GaussianNetwork(EnsembleNetwork):
    """An ensemble whose members predict a mean and a log-variance, the latter between soft bounds.

    Its outputs [E, K, 2 M] are the M means and then the M log-variances. Each member learns its
    own bounds: far from the data an unbounded log-variance runs off to where its exponential is 0
    or infinite.

    Source: Chua et al. 2018, appendix A.1 without a penalty on bounds. Taught in notebook 05.
    """

    def __init__(
        self, num_members: int, sizes: tuple[int, ...], generator: torch.Generator
    ) -> None:
        """Make layers from sizes[0] inputs to M = sizes[-1] outputs."""
        super().__init__(num_members, (*sizes[:-1], 2 * sizes[-1]), generator)
        shape = num_members, 1, sizes[-1]
        self.max_log_var = nn.Parameter(torch.full(shape, 0.5))
        self.min_log_var = nn.Parameter(torch.full(shape, -10.0))

    def forward(self, x: Tensor) -> Tensor:
        """Means and log-variances [E, K, 2 M] for x [E, K, D] or [K, D]."""
        mean, log_var = super().forward(x).chunk(2, dim=-1)
        return torch.cat([mean, soft_clamp(log_var, self.min_log_var, self.max_log_var)], -1)

    def loss(self, out: Tensor, target: Tensor, varies: Tensor) -> Tensor:
        """Negative log-likelihoods [E, ...]; of what varies, or training would never stop.

        The likelihood of a constant grows without end.
        """
        return gaussian_nll(out[..., varies.repeat(2)], target[..., varies])

    def gain_scale(self, loss: Tensor) -> Tensor:
        """A likelihood's loss [...] in units of a squared error."""
        return (2 * loss).exp()

    def moments(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means and standard deviations [E, K, M] of outputs [E, K, 2 M]."""
        mean, log_var = out.chunk(2, dim=-1)
        return mean, (0.5 * log_var).exp()

    def means(self, x: Tensor) -> Tensor:
        """Means [E, K, M] alone: who asks for no noise need not wait for its bounds."""
        return super().forward(x).chunk(2, dim=-1)[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of inputs and hidden units, and M."""
        return (*super().sizes[:-1], super().sizes[-1] // 2)

    @torch.no_grad()
    def folded(self, inputs: Normalizer, scale: Tensor, shift: Tensor) -> Self:
        """See `EnsembleNetwork.folded`: mean and log-variance in units of scale [M]."""
        # A soft clamp moves with its bounds, so that scaling is a shift of logarithms.
        log_scale, one = 2 * scale.log(), torch.ones_like(scale)
        network = super().folded(inputs, torch.cat([scale, one]), torch.cat([shift, log_scale]))
        network.max_log_var.add_(log_scale)
        network.min_log_var.add_(log_scale)
        return network


def soft_clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Keep x between bounds (to within a rounding of the corners) and its gradient alive."""
    x = high - softplus(high - x)
    return low + softplus(x - low)


def gaussian_nll(out: Tensor, target: Tensor) -> Tensor:
    """Mean negative log-likelihood [E, M], without its constant, of a Gaussian for each output.

    Args:
        out: [E, K, 2 M] means and log-variances.
        target: [..., K, M].

    Source: Nix and Weigend 1994. Taught in notebook 05.
    """
    mean, log_var = out.chunk(2, dim=-1)
    return 0.5 * (log_var + (target - mean).square() * (-log_var).exp()).mean(-2)


class DropoutNetwork(EnsembleNetwork):
    """One network, trained with a random share of its hidden units switched off at each update."""

    def __init__(self, sizes: tuple[int, ...], generator: torch.Generator, *, rate: float) -> None:
        """Make a network whose hidden units are off with probability `rate`."""
        super().__init__(1, sizes, generator)
        self.rate, self.generator = rate, generator

    def thinned(self, hidden: Tensor) -> Tensor:
        """Hidden units [1, K, width], some of them off; only while gradients are recorded."""
        if not torch.is_grad_enabled():
            return hidden
        on = torch.rand(hidden.shape, generator=self.generator) >= self.rate
        return hidden * on / (1 - self.rate)

    @torch.no_grad()
    def members(self, num_members: int) -> EnsembleNetwork:
        """Draw the units that are off once for each member: thinned networks are an ensemble.

        Source: Gal and Ghahramani 2016 (Monte Carlo dropout). Taught in notebook 05.
        """
        ensemble = repeated(self, num_members)
        for weight in ensemble.weights[1:]:
            shape = num_members, weight.shape[1], 1
            on = torch.rand(shape, generator=self.generator) >= self.rate
            weight *= on / (1 - self.rate)
        return ensemble


@torch.no_grad()
def last_layer_members(
    network: EnsembleNetwork,
    x: Tensor,
    target: Tensor,
    num_members: int,
    generator: torch.Generator,
    *,
    prior_std: float = 1.0,
) -> EnsembleNetwork:
    """Draw last layers from what the data leave open: Bayesian regression on the last features.

    For a linear layer and Gaussian noise Laplace's approximation is exact: with features F
    [T, D+1] and noise variance s², the posterior of the weights has precision F'F / s² + 1 /
    prior_std², and its mean is the ridge solution.

    Args:
        network: a trained network of one member.
        x: [T, D] inputs.
        target: [T, M].
        num_members: E, how many last layers.
        generator: source of the randomness.
        prior_std: standard deviation of a weight before there were data.

    Returns:
        Ensemble whose members share all layers but the last.

    Source: Snoek et al. 2015; Daxberger et al. 2021. Taught in notebook 05.
    """
    features = with_ones(network.features(x)[0]).double()
    noise = (network(x)[0] - target).double().square().mean(0).clamp(min=1e-8)  # [M]
    eye = torch.eye(features.shape[1], dtype=features.dtype)
    precision = features.T @ features / noise[:, None, None] + eye / prior_std**2  # [M, D+1, D+1]
    cholesky = torch.linalg.cholesky(precision)
    right = (features.T @ target.double() / noise).T[..., None]  # [M, D+1, 1]
    mean = torch.cholesky_solve(right, cholesky)
    z = torch.randn(*mean.shape[:2], num_members, generator=generator, dtype=mean.dtype)
    draws = mean + torch.linalg.solve_triangular(cholesky.mT, z, upper=True)  # [M, D+1, E]
    draws = draws.permute(2, 1, 0).float()
    ensemble = repeated(network, num_members)
    ensemble.weights[-1].copy_(draws[:, :-1])
    ensemble.biases[-1].copy_(draws[:, -1:])
    return ensemble


@torch.no_grad()
def repeated(network: EnsembleNetwork, num_members: int) -> EnsembleNetwork:
    """Ensemble of so many copies of a network of one member."""
    ensemble = EnsembleNetwork(num_members, network.sizes, torch.Generator()).requires_grad_(False)
    for copy, original in zip(ensemble.parameters(), network.parameters(), strict=True):
        copy.copy_(original.expand_as(copy))
    return ensemble


class Settings(Protocol):
    """What a method may ask of the settings of a model, see `dynamics.DynamicsConfig`."""

    @property
    def num_members(self) -> int:
        """E."""
        ...

    @property
    def gaussian(self) -> bool:
        """Whether each member predicts a variance."""
        ...

    @property
    def dropout(self) -> float:
        """Share of the hidden units that are off."""
        ...


class Method(NamedTuple):
    """A way of being uncertain: how the members of a model come to differ.

    Attributes:
        make: what is trained, of (settings, sizes, generator).
        members: what is planned with, of (trained, inputs [T, D], targets [T, M], settings,
            generator).
        apart: whether the members are networks trained apart: then each may be Gaussian, and the
            best of them can be chosen.
    """

    make: Callable[[Settings, tuple[int, ...], torch.Generator], EnsembleNetwork]
    members: Callable[[EnsembleNetwork, Tensor, Tensor, Settings, torch.Generator], EnsembleNetwork]
    apart: bool = False


def _make_apart(
    settings: Settings, sizes: tuple[int, ...], generator: torch.Generator
) -> EnsembleNetwork:
    kind = GaussianNetwork if settings.gaussian else EnsembleNetwork
    return kind(settings.num_members, sizes, generator)


def _thinned_members(
    network: EnsembleNetwork, x: Tensor, target: Tensor, settings: Settings, rng: torch.Generator
) -> EnsembleNetwork:
    assert isinstance(network, DropoutNetwork)
    return network.members(settings.num_members)


METHODS = {
    "ensemble": Method(_make_apart, lambda network, *_: network, apart=True),
    "dropout": Method(
        lambda settings, sizes, rng: DropoutNetwork(sizes, rng, rate=settings.dropout),
        _thinned_members,
    ),
    "last_layer": Method(
        lambda settings, sizes, rng: EnsembleNetwork(1, sizes, rng),
        lambda network, x, target, settings, rng: last_layer_members(
            network, x, target, settings.num_members, rng
        ),
    ),
}
