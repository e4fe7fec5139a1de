"""What learned models are made of: normalisers, a linear fit, and networks trained side by side.

Axes: E members, K rows side by side, T rows of data, D features, M outputs.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mbrl_helpers.envs import check_counts, check_setting


class Normalizer:
    """Shifts and scales columns to mean 0 and standard deviation 1; constant ones only shift."""

    def __init__(self, data: Tensor, size: Tensor | float = 0.0) -> None:
        """Measure data [T, D], made of numbers as large as `size` [D] if that is more than them."""
        self.mean = data.mean(0)
        std = data.std(0, correction=0)
        # Rounding leaves a constant column with a tiny spread: dividing by it would blow up noise.
        self.constant = std <= 1e-6 * (size + self.mean.abs())
        self.std = torch.where(self.constant, torch.ones_like(std), std)

    def normalize(self, data: Tensor) -> Tensor:
        """[..., D] in units of the data to standard units."""
        return (data - self.mean) / self.std

    def denormalize(self, data: Tensor) -> Tensor:
        """[..., D] in standard units to units of the data."""
        return data * self.std + self.mean


def with_ones(x: Tensor) -> Tensor:
    """Append a constant column: [..., D] -> [..., D+1]."""
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def fit_ridge(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Least squares with a penalty on the squared coefficients, in closed form.

    Args:
        x: [T, D] inputs.
        y: [T, M] targets.
        ridge: penalty per row.

    Returns:
        [D, M] coefficients W that minimise |x W - y|^2 + ridge T |W|^2.
    """
    x, y = x.double(), y.double()  # the normal equations square the condition number
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ y).float()


class EnsembleNetwork(nn.Module):
    """E multilayer perceptrons whose weights lie in one tensor a layer, so that one call runs all.

    The last layer starts at zero: before training every member predicts 0.
    """

    def __init__(
        self, num_members: int, sizes: tuple[int, ...], generator: torch.Generator
    ) -> None:
        """Make layers from sizes[0] inputs to sizes[-1] outputs."""
        super().__init__()
        self.num_members = num_members
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            scale = 0.0 if i == len(sizes) - 2 else fan_in**-0.5
            weight = scale * torch.randn(num_members, fan_in, fan_out, generator=generator)
            if fan_out < fan_in:
                weight = weight.mT.contiguous().mT  # by columns: much faster for few of them
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(num_members, 1, fan_out)))
        # Looking into a ParameterList is slow beside a forward pass of few rows.
        self._layers = list(zip(self.weights, self.biases, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Run member e on x[e]: [E, K, D] -> [E, K, M]; all on the same rows for x [K, D]."""
        x = x.expand(self.num_members, *x.shape[-2:])
        for i, (weight, bias) in enumerate(self._layers):
            x = torch.baddbmm(bias, x, weight)
            if i < len(self._layers) - 1:
                x = nn.functional.silu(x, inplace=not torch.is_grad_enabled())
        return x

    def select(self, members: Tensor) -> "EnsembleNetwork":
        """Copy that has only some members."""
        network = copy.deepcopy(self).requires_grad_(False)
        network.num_members = len(members)
        for parameter in network.parameters():
            parameter.data = parameter.data[members]
        return network

    @torch.no_grad()
    def folded(self, inputs: Normalizer, scale: Tensor, shift: Tensor) -> "EnsembleNetwork":
        """Copy that takes raw inputs [.., D] and gives outputs times scale [M] plus shift [M]."""
        network = copy.deepcopy(self).requires_grad_(False)  # nobody trains the copy
        network.weights[0] /= inputs.std[:, None]
        network.biases[0] -= inputs.mean[None] @ network.weights[0]
        network.weights[-1] *= scale
        network.biases[-1] *= scale
        network.biases[-1] += shift
        return network


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of gradient training.

    Attributes:
        max_updates: gradient steps at most.
        check_every: gradient steps between two looks at the validation loss.
        patience: looks in a row without a gain before training stops.
        min_gain: share by which the best validation losses, averaged over the members, must have
            fallen since the last gain to count as another.
        batch_size: rows a member sees in one gradient step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
    """

    max_updates: int = 4_000
    check_every: int = 25
    patience: int = 8
    min_gain: float = 0.05
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        where = type(self).__name__
        names = ("max_updates", "check_every", "patience", "batch_size")
        check_counts(where, **{name: getattr(self, name) for name in names})
        check_setting(self, "learning_rate", 0 < self.learning_rate < math.inf, "in (0, inf)")
        check_setting(self, "weight_decay", 0 <= self.weight_decay < math.inf, "in [0, inf)")
        check_setting(self, "min_gain", 0 <= self.min_gain < 1, "in [0, 1), a share")


def train_network(
    network: EnsembleNetwork,
    loss: Callable[[Tensor, Tensor], Tensor],
    train: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    generator: torch.Generator,
    config: TrainingConfig,
    *,
    score: Callable[[Tensor], Tensor] | None = None,
    label: str | None = None,
) -> dict[str, list[float]]:
    """Train with early stopping; an interrupt, too, leaves the best weights so far in place.

    Every member has its own mini-batches and keeps its own best weights.

    Args:
        network: trained in place.
        loss: `(outputs [E, K, M], targets [..., K, M]) -> [E]`.
        train: inputs [E, T, D] and targets [E, T, M], each member's own; or [T, D] and [T, M].
        valid: the same of validation data.
        generator: draws the mini-batches.
        config: settings.
        score: makes of the validation loss [E] what a gain is a share of, for losses that may be
            negative; the loss itself unless given.
        label: of a progress bar; none unless given.

    Returns:
        Updates, and training and validation loss (mean over the members), at each look.
    """
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters, config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    best = _BestWeights(network, config.min_gain)
    history: dict[str, list[float]] = {"updates": [], "train": [], "validation": []}
    batches = _batches(*train, config.batch_size, network.num_members, generator)
    losses = torch.tensor(torch.nan)
    try:
        for update in tqdm(range(config.max_updates + 1), desc=label, disable=label is None):
            if update % config.check_every == 0 or update == config.max_updates:
                with torch.no_grad():
                    valid_loss = loss(network(valid[0]), valid[1])
                best.look(valid_loss if score is None else score(valid_loss))
                history["updates"].append(update)
                history["train"].append(float(losses.detach().mean()))
                history["validation"].append(float(valid_loss.mean()))
                if best.looks_without_gain >= config.patience or update == config.max_updates:
                    break
            inputs, targets = next(batches)
            losses = loss(network(inputs), targets)
            optimizer.zero_grad()
            losses.sum().backward()  # members share no weights: each gets its own gradient
            optimizer.step()
    finally:
        best.restore()
    return history


class _BestWeights:
    """The best weights of a network so far, member by member."""

    def __init__(self, network: EnsembleNetwork, min_gain: float) -> None:
        self.min_gain, self.last_gain = min_gain, math.inf
        self.parameters = list(network.parameters())
        self.kept = [p.detach().clone() for p in self.parameters]
        self.loss = torch.full((network.num_members,), torch.inf)
        self.looks_without_gain = 0

    def look(self, loss: Tensor) -> None:
        """Keep the present weights of the members whose loss [E] is their lowest so far."""
        better = loss < self.loss
        self.loss = torch.where(better, loss, self.loss)
        for kept, parameter in zip(self.kept, self.parameters, strict=True):
            kept[better] = parameter.detach()[better]
        mean = float(self.loss.mean())
        if mean < (1 - self.min_gain) * self.last_gain:
            self.last_gain, self.looks_without_gain = mean, 0
        else:
            self.looks_without_gain += 1

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back into the network."""
        for parameter, kept in zip(self.parameters, self.kept, strict=True):
            parameter.copy_(kept)


def _batches(
    inputs: Tensor, targets: Tensor, batch_size: int, num_members: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches [E, batch, ...] without end, each member in its own order."""
    inputs, targets = (rows.expand(num_members, *rows.shape[-2:]) for rows in (inputs, targets))
    num_rows, members = inputs.shape[1], torch.arange(num_members)[:, None]
    size = min(batch_size, num_rows)
    while True:
        order = torch.rand(num_members, num_rows, generator=generator).argsort(dim=1)
        x, y = inputs[members, order], targets[members, order]  # once a pass: slices cost nothing
        for start in range(0, num_rows - size + 1, size):
            yield x[:, start : start + size], y[:, start : start + size]
