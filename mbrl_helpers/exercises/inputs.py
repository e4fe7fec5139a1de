"""Drawing inputs that tell answers apart: of every size, of both signs, small and large."""

import numpy as np
import torch


def count(rng: np.random.Generator, least: int = 1, most: int = 40) -> int:
    """A size: often the least there is, mostly a few, at times far more than a notebook has."""
    kind = rng.random()
    if kind < 0.2:
        return least
    return int(rng.integers(least, (min(least + 8, most) if kind < 0.8 else most) + 1))


def scale(rng: np.random.Generator, smallest: float = 1e-2, largest: float = 1e3) -> float:
    """A magnitude, each power of ten as likely as the next."""
    return float(10 ** rng.uniform(np.log10(smallest), np.log10(largest)))


def normal(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Normal numbers, as networks take them."""
    return torch.as_tensor(rng.normal(size=shape), dtype=torch.float32)


def one_of(rng: np.random.Generator, *choices: float) -> float:
    """One of some numbers that are worth a try."""
    return float(choices[rng.integers(len(choices))])
