"""Networks that know how sure they are: Gaussian heads, and two ways to an ensemble from one.

Axes: E members, K rows side by side, T rows of data, D features, M outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mbrl_helpers.networks import EnsembleNetwork, Normalizer


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

    @torch.no_grad()
    def folded(self, inputs: Normalizer, scale: Tensor, shift: Tensor) -> "GaussianNetwork":
        """Copy that takes raw inputs and gives mean and log-variance in units of scale [M]."""
        # A soft clamp moves with its bounds, so that scaling is a shift of logarithms.
        log_scale, one = 2 * scale.log(), torch.ones_like(scale)
        network = super().folded(inputs, torch.cat([scale, one]), torch.cat([shift, log_scale]))
        network.max_log_var += log_scale
        network.min_log_var += log_scale
        return network


def soft_clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Keep x between bounds (to within a rounding of the corners) and its gradient alive."""
    x = high - softplus(high - x)
    return low + softplus(x - low)


def gaussian_nll(out: Tensor, target: Tensor) -> Tensor:
    """Mean negative log-likelihood [E], without its constant, of a Gaussian for each output.

    Args:
        out: [E, K, 2 M] means and log-variances.
        target: [..., K, M].

    Source: Nix and Weigend 1994. Taught in notebook 05.
    """
    mean, log_var = out.chunk(2, dim=-1)
    return 0.5 * (log_var + (target - mean).square() * (-log_var).exp()).mean((-2, -1))


class DropoutNetwork(EnsembleNetwork):
    """One network, trained with a random share of its hidden units switched off at each update."""

    def __init__(self, sizes: tuple[int, ...], generator: torch.Generator, *, rate: float) -> None:
        """Make a network whose hidden units are off with probability `rate`."""
        super().__init__(1, sizes, generator)
        self.rate, self.generator = rate, generator

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [1, K, M]; with units off only while gradients are recorded."""
        if not torch.is_grad_enabled():
            return super().forward(x)
        for weight, bias in self._layers[:-1]:
            x = nn.functional.silu(torch.matmul(x, weight) + bias)
            on = torch.rand(x.shape, generator=self.generator) >= self.rate
            x = x * on / (1 - self.rate)
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])

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
    features = x
    for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
        features = nn.functional.silu(features @ weight[0] + bias[0])
    features = torch.cat([features, torch.ones_like(features[:, :1])], 1).double()
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
    sizes = [weight.shape[1] for weight in network.weights]
    sizes.append(network.weights[-1].shape[2])
    ensemble = EnsembleNetwork(num_members, tuple(sizes), torch.Generator()).requires_grad_(False)
    for copy, original in zip(ensemble.parameters(), network.parameters(), strict=True):
        copy.copy_(original.expand_as(copy))
    return ensemble
