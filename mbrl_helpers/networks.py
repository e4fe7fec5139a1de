"""What learned models are made of: normalisers, a linear fit, and networks trained side by side.

Axes: E members, K rows side by side, T rows of data, D features, M outputs.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm.auto import tqdm

from mbrl_helpers.checks import check_counts, check_range


class Normalizer:
    """Shifts and scales columns to mean 0 and standard deviation 1; constant ones only shift."""

    def __init__(self, data: Tensor, size: Tensor | float = 0.0) -> None:
        """Measure data [T, D], made of numbers as large as `size` [D] if that is more than them."""
        self.mean = data.mean(0)
        std = data.std(0, correction=0)
        # Rounding leaves a constant column with a tiny spread: dividing by it would blow up noise.
        self.constant = std <= 1e-6 * (size + self.mean.abs())
        self.std = torch.where(self.constant, torch.ones_like(std), std)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file keeps of it."""
        return {name: value.numpy() for name, value in vars(self).items()}

    @classmethod
    def of_arrays(cls, kept: Mapping[str, np.ndarray]) -> "Normalizer":
        """Make one of what a file has kept."""
        normalizer = cls.__new__(cls)
        normalizer.mean, normalizer.std = (torch.tensor(kept[name]) for name in ("mean", "std"))
        normalizer.constant = torch.tensor(kept["constant"])
        return normalizer

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

    def layers(self) -> list[tuple[Any, Any]]:
        """Weight [E, D, M] and bias [E, 1, M] of each layer."""
        # Asking a ParameterList itself is slow beside a forward pass of few rows.
        weights, biases = self._modules["weights"], self._modules["biases"]
        assert weights is not None and biases is not None
        return list(zip(weights._parameters.values(), biases._parameters.values(), strict=True))

    def features(self, x: Tensor) -> Tensor:
        """What the last layer is given: [E, K, D] -> [E, K, width], or x [K, D] for all."""
        return self._hidden(x, self.layers())

    def _hidden(self, x: Tensor, layers: list[tuple[Any, Any]]) -> Tensor:
        x = x.expand(self.num_members, *x.shape[-2:])
        for weight, bias in layers[:-1]:
            x = torch.baddbmm(bias, x, weight)
            x = self.thinned(nn.functional.silu(x, inplace=not torch.is_grad_enabled()))
        return x

    def thinned(self, hidden: Tensor) -> Tensor:
        """Hidden units [E, K, width] as they are; a network may switch some off."""
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        """Run member e on x[e]: [E, K, D] -> [E, K, M]; all on the same rows for x [K, D]."""
        layers = self.layers()
        weight, bias = layers[-1]
        return torch.baddbmm(bias, self._hidden(x, layers), weight)

    def loss(self, out: Tensor, target: Tensor, varies: Tensor) -> Tensor:
        """What each member minimises [E] in training.

        Args:
            out: [E, K, M] outputs.
            target: [..., K, M].
            varies: [M] bool, which targets are not constant in the data.
        """
        return squared_error(out, target)

    def gain_scale(self, loss: Tensor) -> Tensor:
        """The loss [E] as a positive number, a share of which is a gain."""
        return loss

    def moments(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means [E, K, M] of outputs, and the standard deviations, where a member gives them."""
        return out, None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of inputs, hidden units and outputs."""
        weights = list(self.weights)
        return (*(weight.shape[1] for weight in weights), weights[-1].shape[2])

    def select(self, members: Tensor) -> Self:
        """Copy that has only some members."""
        network = copy.deepcopy(self).requires_grad_(False)
        network.num_members = len(members)
        for parameter in network.parameters():
            parameter.data = parameter.data[members]
        return network

    @torch.no_grad()
    def folded(self, inputs: Normalizer, scale: Tensor, shift: Tensor) -> Self:
        """Copy that takes raw inputs [.., D] and gives outputs times scale [M] plus shift [M]."""
        network = copy.deepcopy(self).requires_grad_(False)  # nobody trains the copy
        network.weights[0] /= inputs.std[:, None]
        network.biases[0] -= inputs.mean[None] @ network.weights[0]
        network.weights[-1] *= scale
        network.biases[-1] *= scale
        network.biases[-1] += shift
        return network


def network_arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """What a file keeps of a network: weights, and in which order they lie in memory.

    A product of matrices that lie otherwise is the same number up to its last bit only.
    """
    kept = {}
    for name, value in network.state_dict().items():
        by_columns = value.ndim > 1 and not value.is_contiguous() and value.mT.is_contiguous()
        kept[name + ("|columns" if by_columns else "")] = value.numpy()
    return kept


@torch.no_grad()
def load_network(network: nn.Module, kept: Mapping[str, np.ndarray]) -> None:
    """Give a network the weights that a file has kept, as they lay in memory.

    Raises:
        ValueError: if they are those of another network.
    """
    values = {name.removesuffix("|columns"): torch.tensor(v) for name, v in kept.items()}
    own = network.state_dict(keep_vars=True)
    wanted = {name: tuple(value.shape) for name, value in own.items()}
    got = {name: tuple(value.shape) for name, value in values.items()}
    if wanted != got:
        raise ValueError(f"weights of shapes {got} where the settings ask for {wanted}")
    for name, value in values.items():
        by_columns = f"{name}|columns" in kept
        own[name].data = value.mT.contiguous().mT if by_columns else value.contiguous()


def squared_error(out: Tensor, target: Tensor) -> Tensor:
    """Mean squared error [E] of each member, for out [E, K, M] and target [..., K, M]."""
    return (out - target).square().mean((-2, -1))


def cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy [E] of each member, for logit [E, K, 1] and target [..., K, 1]."""
    target = target.expand(logit.shape)
    return binary_cross_entropy_with_logits(logit, target, reduction="none").mean((-2, -1))


def falling_rate(update: int, num_updates: int) -> float:
    """Share of the learning rate at an update: whole for a third, then down to nearly nothing."""
    return min(1.0, 1.5 * (1 - update / num_updates) + 0.02)


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
        check_range(self, "learning_rate", 0, math.inf, ends="()")
        check_range(self, "weight_decay", 0, math.inf)
        check_range(self, "min_gain", 0, 1, ends="[)")


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
        At each look: "updates", "validation" loss, and "train", the loss on the latest mini-batch
        (NaN before the first), both as means over the members.
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
