"""The cell of a recurrent state-space model: predict, then correct by what is seen.

A state is [memory | latent]. The latent lives in the space of looks: it is what would be seen now,
in coordinates, of which an angle is one. The memory holds what is not seen.

Axes: ... any leading axes, D memory, C coordinates of a look, S = D + C state, A action in units
of half its range.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu, softplus

from mbrl_helpers.angles import wrap_angle

CHANGE = 0.3  # of the state in a step, in units of the outputs
OPEN = 3.0  # logit of the gain before training: a look is believed
LEAST_STD = 0.01


class Guess(NamedTuple):
    """What is believed of a state.

    Attributes:
        mean: [..., S].
        std: [..., K] of its last K numbers.
    """

    mean: Tensor
    std: Tensor


class Cell(nn.Module):
    """Prior and posterior of one step, and the heads for reward and end.

    Source: Hafner et al. 2019 (PlaNet), section 3; here the memory is residual, the latent is the
    look itself, and a look corrects the memory at once. Taught in notebook 10.
    """

    def __init__(
        self, num_angles: int, num_plain: int, num_actions: int, *, memory: int, width: int,
        look_std: float, num_noisy: int, generator: torch.Generator,
    ) -> None:  # fmt: skip
        """Make a cell.

        Args:
            num_angles: how many coordinates are angles; they come first.
            num_plain: how many are not.
            num_actions: A.
            memory: D.
            width: of the hidden layers.
            look_std: the width of the latent where it is fixed.
            num_noisy: how many numbers of the state, from the end, are drawn: 0 (no stochastic
                path), C, or S (no deterministic path).
            generator: for the weights.
        """
        super().__init__()
        self.num_angles, self.size = num_angles, num_angles + num_plain
        self.memory, self.look_std, self.num_noisy = memory, look_std, num_noisy
        inputs, told = memory + self.size + num_angles + num_actions, 2 * self.size
        self.move = nn.Linear(inputs, width)
        self.change = nn.Linear(width + inputs, memory + self.size + num_noisy)
        self.compare = nn.Linear(memory + told + 1, width)
        self.adjust = nn.Linear(width + told, memory + self.size + num_noisy)
        self.reward, self.end = mlp(inputs, width), mlp(inputs, width)
        for weights in self.parameters():
            bound = weights.shape[-1] ** -0.5 if weights.ndim > 1 else 0.0
            nn.init.uniform_(weights, -bound, bound, generator=generator)
        with torch.no_grad():  # before training the hidden layers change nothing
            self.change.weight[:, :width] = 0.0
            self.change.weight[:, width:] *= 0.1
            self.adjust.weight[:, :width] = 0.0
            self.adjust.weight[memory:] = 0.0

    def features(self, state: Tensor) -> Tensor:
        """What networks are told of a state: of an angle its cosine and sine."""
        memory, angle, plain = state.split(
            [self.memory, self.num_angles, self.size - self.num_angles], -1
        )
        return torch.cat([memory, angle.cos(), angle.sin(), plain], -1)

    def predict(self, state: Tensor, action: Tensor) -> Guess:
        """The prior: what will be, before it is seen."""
        x = torch.cat([self.features(state), action], -1)
        change = self.change(torch.cat([silu(self.move(x)), x], -1))
        mean = state + CHANGE * change[..., : self.memory + self.size]
        return Guess(mean, self._std(change))

    def correct(self, prior: Guess, look: Tensor, seen: Tensor, rate: Tensor, old: Tensor) -> Guess:
        """The posterior: what is, after a look; of one that was not seen, the prior.

        Args:
            prior: as predicted.
            look: [..., C] what was seen, in coordinates.
            seen: [..., 1] 1 if it was.
            rate: [..., 1] one over the number of steps since the last look.
            old: [..., 1] 0 as long as there was none: the first look is believed, and the memory
                is still empty.
        """
        memory, latent = prior.mean[..., : self.memory], prior.mean[..., self.memory :]
        surprise = self.difference(look, latent)
        told = torch.cat([surprise, rate * surprise], -1)
        x = torch.cat([silu(self.compare(torch.cat([memory, told, rate], -1))), told], -1)
        adjust = self.adjust(x)
        doubt = torch.sigmoid(-adjust[..., self.memory : self.memory + self.size] - OPEN)
        memory = old * (memory + seen * adjust[..., : self.memory])
        latent = latent + seen * (1 - old * doubt) * surprise
        std = prior.std
        if self.num_noisy:
            std = torch.where(seen > 0, self._std(adjust), std)
        return Guess(torch.cat([memory, latent], -1), std)

    def sample(self, guess: Guess, noise: Tensor) -> Tensor:
        """A state [..., S], of standard normal noise [..., num_noisy]."""
        if not self.num_noisy:
            return guess.mean
        return guess.mean + pad(guess.std * noise, (guess.mean.shape[-1] - self.num_noisy, 0))

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """From coordinates b to a [..., C]; of angles, the short way round."""
        change = a - b
        if self.num_angles == self.size:
            return wrap_angle(change)
        angle = wrap_angle(change[..., : self.num_angles])
        return torch.cat([angle, change[..., self.num_angles :]], -1)

    def _std(self, outputs: Tensor) -> Tensor:
        if not self.num_noisy:
            return torch.full_like(outputs[..., self.memory :], self.look_std)
        return softplus(outputs[..., self.memory + self.size :] - OPEN) + LEAST_STD


def mlp(inputs: int, width: int) -> nn.Sequential:
    """A head with one output."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
    )


def kl_divergence(q: Guess, p: Guess) -> Tensor:
    """From the posterior q to the prior p, in nats [...]; both Gaussian, each number by itself."""
    size = q.std.shape[-1]
    gap = (q.mean - p.mean)[..., -size:]
    each = (p.std / q.std).log() + (q.std**2 + gap**2) / (2 * p.std**2) - 0.5
    return each.sum(-1)


def balanced_kl(q: Guess, p: Guess, balance: float) -> Tensor:
    """The same number; but its gradient moves the prior by `balance`, the posterior by the rest.

    Source: Hafner et al. 2021 (DreamerV2), section 2.
    """
    q_fixed, p_fixed = (Guess(*(part.detach() for part in guess)) for guess in (q, p))
    return balance * kl_divergence(q_fixed, p) + (1 - balance) * kl_divergence(q, p_fixed)
