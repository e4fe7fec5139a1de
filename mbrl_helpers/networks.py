"""What learned models are made of: normalisers, a linear fit, and networks trained side by side.

Axes: E members, K rows side by side, T rows of data, D features, M outputs.
"""

import copy
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm


class Normalizer:
    """Shifts and scales columns to mean 0 and standard deviation 1; constant ones only shift."""

    def __init__(self, data: Tensor) -> None:
        """Measure data [T, D]."""
        self.mean = data.mean(0)
        std = data.std(0, correction=0)
        # Rounding leaves a constant column with a tiny spread: dividing by it would blow up noise.
        constant = std <= 1e-6 * (1 + self.mean.abs())
        self.std = torch.where(constant, torch.ones_like(std), std)

    def normalize(self, data: Tensor) -> Tensor:
        """[..., D] in units of the data to standard units."""
        return (data - self.mean) / self.std

    def denormalize(self, data: Tensor) -> Tensor:
        """[..., D] in standard units to units of the data."""
        return data * self.std + self.mean


def with_ones(x: Tensor) -> Tensor:
    """Append a constant column: [T, D] -> [T, D+1]."""
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


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
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(num_members, 1, fan_out)))

    def forward(self, x: Tensor) -> Tensor:
        """Run member e on x[e]: [E, K, D] -> [E, K, M]; all on the same rows for x [K, D]."""
        x = x.expand(self.num_members, *x.shape[-2:])
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i < len(self.weights) - 1:
                x = nn.functional.silu(x, inplace=not torch.is_grad_enabled())
        return x

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


def train_network(
    network: EnsembleNetwork,
    loss: Callable[[Tensor, Tensor], Tensor],
    train: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    generator: torch.Generator,
    *,
    learning_rate: float,
    weight_decay: float,
    batch_size: int,
    max_updates: int,
    check_every: int,
    patience: int,
    label: str | None = None,
) -> dict[str, list[float]]:
    """Train with early stopping; an interrupt, too, leaves the best weights so far in place.

    Every member has its own mini-batches and keeps its own best weights.

    Args:
        network: trained in place.
        loss: `(outputs [E, K, M], targets [..., K, M]) -> [E]`.
        train: inputs [T, D] and targets [T, M].
        valid: the same of validation data.
        generator: draws the mini-batches.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        batch_size: rows a member sees in one update.
        max_updates: updates at most.
        check_every: updates between two looks at the validation loss.
        patience: looks without improvement of any member before it stops.
        label: of a progress bar; none unless given.

    Returns:
        Updates, and training and validation loss (mean over the members), at each look.
    """
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay, fused=True)
    best = _BestWeights(network)
    history: dict[str, list[float]] = {"updates": [], "train": [], "validation": []}
    batches = _batches(len(train[0]), batch_size, network.num_members, generator)
    losses = torch.tensor(torch.nan)
    try:
        for update in tqdm(range(max_updates + 1), desc=label, disable=label is None):
            if update % check_every == 0 or update == max_updates:
                with torch.no_grad():
                    valid_loss = loss(network(valid[0]), valid[1])
                best.look(valid_loss)
                history["updates"].append(update)
                history["train"].append(float(losses.detach().mean()))
                history["validation"].append(float(valid_loss.mean()))
                if best.looks_without_gain >= patience or update == max_updates:
                    break
            rows = next(batches)
            losses = loss(network(train[0][rows]), train[1][rows])
            optimizer.zero_grad()
            losses.sum().backward()  # members share no weights: each gets its own gradient
            optimizer.step()
    finally:
        best.restore()
    return history


class _BestWeights:
    """The best weights of a network so far, member by member."""

    def __init__(self, network: EnsembleNetwork) -> None:
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
        self.looks_without_gain = 0 if better.any() else self.looks_without_gain + 1

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back into the network."""
        for parameter, kept in zip(self.parameters, self.kept, strict=True):
            parameter.copy_(kept)


def _batches(
    num_rows: int, batch_size: int, num_members: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Rows [E, batch] of mini-batches without end, each member in its own order."""
    size = min(batch_size, num_rows)
    while True:
        order = torch.rand(num_members, num_rows, generator=generator).argsort(dim=1)
        for start in range(0, num_rows - size + 1, size):
            yield order[:, start : start + size]
