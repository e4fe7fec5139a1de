"""What learned models are made of: normalisers, a linear fit, and networks trained side by side.

Axes: E members, K rows side by side, T rows of data, D features, M outputs.
"""

import copy
import itertools
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm.auto import tqdm

from mbrl_helpers.checks import check_counts, check_range

ROUNDING = 2e-7  # as a share of its size, how far rounding scatters a number of 32 bits, and more


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off an interrupt (Ctrl-C, a notebook's stop button) until what is inside is done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread is interrupted, nor may ask to be
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught:
            signal.raise_signal(signal.SIGINT)


# The first optimiser of a process imports a good deal more of PyTorch. If the first fit were
# interrupted in the middle of that, no optimiser could be made until Python is started again.
with uninterrupted():
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


class Normalizer:
    """Shifts and scales columns to mean 0 and standard deviation 1; constant ones only shift.

    Attributes:
        mean: [D].
        std: [D]; of a constant column 1, or what rounding alone may scatter it by.
        constant: [D] bool, whether the data differ no more than by rounding.
    """

    def __init__(self, data: Tensor, rounding: Tensor | float = 0.0) -> None:
        """Measure data [T, D], scattered by the rounding of 32 bits, or by `rounding` [D]."""
        exact = data.double()  # 32 bits lose the mean of large numbers
        mean, std = exact.mean(0), exact.std(0, correction=0)
        scatter = torch.clamp(ROUNDING * exact.abs().amax(0), min=rounding).clamp(min=1e-37)
        # A constant column has a tiny spread all the same: dividing by it would blow up noise.
        self.constant = std <= scatter
        self.mean, self.std = (
            mean.float(),
            torch.where(self.constant, scatter.clamp(min=1), std).float(),
        )

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

    @property
    def centre(self) -> Tensor:
        """What folded weights want subtracted [D]: means beside which the spread is small, or 0.

        Folded, such a mean would be multiplied and subtracted again, and take the digits with it.
        """
        far = (self.mean.abs() > 100 * self.std) & ~self.constant
        return self.mean.where(far, torch.zeros(()))

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
        """What each member minimises in training, column by column [E, M].

        Args:
            out: [E, K, M] outputs.
            target: [..., K, M].
            varies: [M] bool, which targets are not constant in the data.
        """
        return squared_error(out, target)

    def gain_scale(self, loss: Tensor) -> Tensor:
        """A loss [...] as a positive number, a share of which is a gain."""
        return loss

    def moments(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means [E, K, M] of outputs, and the standard deviations, where a member gives them."""
        return out, None

    def means(self, x: Tensor) -> Tensor:
        """Means [E, K, M] alone, for x as `forward` takes it."""
        return self(x)

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
        """Copy that takes raw inputs [.., D] less their centre, and gives outputs in other units.

        What was constant in the data it does not look at: nothing has been learned of it.

        Args:
            inputs: by which its own inputs are normalised.
            scale: [M] its outputs are multiplied by this,
            shift: [M] and then this is added.
        """
        network = copy.deepcopy(self).requires_grad_(False)  # nobody trains the copy
        network.weights[0] *= (~inputs.constant / inputs.std)[:, None]
        network.biases[0] -= (inputs.mean - inputs.centre)[None] @ network.weights[0]
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
    """Mean squared errors [E, M] of members and columns, for out [E, K, M], target [..., K, M]."""
    return (out - target).square().mean(-2)


def cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of each member [E, 1], for logit [E, K, 1] and target [..., K, 1]."""
    target = target.expand(logit.shape)
    return binary_cross_entropy_with_logits(logit, target, reduction="none").mean(-2)


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
        min_gain: share by which the best validation losses (their geometric mean over columns and
            members) must have fallen since the last gain to count as another.
        batch_size: rows a member sees in one gradient step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
    """

    max_updates: int = 4_000
    check_every: int = 25
    patience: int = 6
    min_gain: float = 0.07
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


@torch.enable_grad()  # an interrupt in the middle of `no_grad` leaves them off
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

    Every member has its own mini-batches and keeps its own best weights. A column counts as far as
    it has proved to be learnable (see `_BestWeights`): what can't be learned costs others nothing.

    Args:
        network: trained in place.
        loss: `(outputs [E, K, M], targets [..., K, M]) -> [E, C]`, in C columns.
        train: inputs [E, T, D] and targets [E, T, M], each member's own; or [T, D] and [T, M].
        valid: the same of validation data.
        generator: draws the mini-batches.
        config: settings.
        score: makes of a loss [E, C] what a gain is a share of, for losses that may be negative;
            the loss itself unless given.
        label: of a progress bar; none unless given.

    Returns:
        At each look: "updates", "validation" loss, and "train", the loss on the latest mini-batch
        (NaN before the first), both as means over members and columns.
    """
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters, config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    best = _BestWeights(network, config.min_gain, score or (lambda loss: loss))
    history: dict[str, list[float]] = {"updates": [], "train": [], "validation": []}
    batches = _batches(*train, config.batch_size, network.num_members, generator)
    losses = torch.tensor(torch.nan)
    try:
        for update in tqdm(range(config.max_updates + 1), desc=label, disable=label is None):
            if update % config.check_every == 0 or update == config.max_updates:
                with torch.no_grad():
                    valid_loss = loss(network(valid[0]), valid[1])
                best.look(valid_loss)
                history["updates"].append(update)
                history["train"].append(float(losses.detach().mean()))
                history["validation"].append(float(valid_loss.mean()))
                if best.looks_without_gain >= config.patience or update == config.max_updates:
                    break
            inputs, targets = next(batches)
            losses = loss(network(inputs), targets)
            optimizer.zero_grad()
            # Members share no weights: each gets its own gradient.
            (best.importance * losses).mean(-1).sum().backward()
            optimizer.step()
    finally:
        best.restore()
    return history


def learned_share(fallen: Tensor) -> Tensor:
    """How much columns count [..., C]: shares of their losses that have gone; of the best, 1.

    Args:
        fallen: [..., C] logarithms of the factors by which the losses have changed.
    """
    gone = (1 - fallen.exp()).clamp(min=0)
    most = gone.amax(-1, keepdim=True)
    return torch.where(most > 0, gone / most, 1.0)


def ranked(first: Tensor, loss: Tensor) -> Tensor:
    """Members [E], the best first, by what can be learned: columns count as in `_BestWeights`.

    Args:
        first: [E, C] positive losses before training, each member's on its own held-out rows.
        loss: [E, C] of the trained ones on the same rows.
    """
    fallen = loss.clamp(min=1e-30).log() - first.clamp(min=1e-30).log()
    return (learned_share(fallen.mean(0)) * fallen).sum(1).argsort()


LEAST = 0.01  # how much a column counts of which nothing has been learned yet


class _BestWeights:
    """The best weights of a network so far, member by member, and how much each column counts.

    Columns differ in how well they can be learned. One of noise gets worse as soon as it is
    learned by heart; that must neither stop the learning of the others, nor choose their weights,
    nor draw the features to itself. So a column counts by the share of its first loss that has
    gone, against that of the best learned one; and what is compared is by which factor losses have
    fallen: beside noise that stays, no gain of another would be seen in a sum.
    """

    def __init__(
        self, network: EnsembleNetwork, min_gain: float, score: Callable[[Tensor], Tensor]
    ) -> None:
        self.min_gain, self.score = math.log(1 - min_gain), score
        self.parameters = list(network.parameters())
        self.kept = [p.detach().clone() for p in self.parameters]
        # Logarithms of losses [E, C]: the first, the lowest, the kept weights', the last gain's.
        self.first = self.lowest = self.loss = self.last_gain = torch.empty(0)
        self.importance = torch.ones(())
        self.looks_without_gain = 0

    def look(self, loss: Tensor) -> None:
        """Keep the present weights of the members whose loss [E, C] is their lowest so far."""
        loss = self.score(loss).clamp(min=1e-30).log()
        if not len(self.first):
            self.first = self.lowest = self.loss = self.last_gain = loss
            return
        self.lowest = torch.fmin(self.lowest, loss)
        counts = learned_share(self.lowest - self.first)
        self.importance = counts.clamp(min=LEAST)
        better = ((counts * (loss - self.loss)).sum(1) < 0)[:, None]
        new = [torch.where(better.view(-1, *[1] * (p.ndim - 1)), p.detach(), kept)
               for p, kept in zip(self.parameters, self.kept, strict=True)]  # fmt: skip
        # At once: an interrupt between two layers would leave a network that never was.
        self.kept, self.loss = new, torch.where(better, loss, self.loss)
        gain = (counts * (self.loss - self.last_gain)).sum(1) / counts.sum(1)
        if gain.mean() < self.min_gain:
            self.last_gain, self.looks_without_gain = self.loss, 0
        else:
            self.looks_without_gain += 1

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back into the network."""
        with uninterrupted():
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
