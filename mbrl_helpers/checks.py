"""Refusing what can't be meant: counts, settings, shapes, kinds, and numbers that are not finite.

Settings come from notebooks, and have typos: they fail where they are written, in the name of
what was called.
"""

import math
import numbers

import numpy as np
import torch
from torch import Tensor


def check_counts(where: str, **counts: int) -> None:
    """Refuse what can't be a number of things.

    Raises:
        TypeError: for other than a whole number.
        ValueError: for less than 1.
    """
    for name, value in counts.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise TypeError(f"{where}: expected {name} as an int, got {value!r}. Give 1 or more.")
        if value < 1:
            raise ValueError(f"{where}: expected {name} >= 1, got {value}. Give 1 or more.")


def check_sizes(config: object, *names: str) -> None:
    """Refuse settings that are no tuples of layer widths, such as (64, 64).

    Raises:
        TypeError: for other than a tuple or list of whole numbers.
        ValueError: for a width below 1.
    """
    for name in names:
        sizes = getattr(config, name)
        where = type(config).__name__
        if not isinstance(sizes, (tuple, list)):
            raise TypeError(
                f"{where}: expected {name} as a tuple of layer widths, got {sizes!r}. One layer of "
                "64 is (64,)."
            )
        check_counts(where, **{f"{name}[{i}]": size for i, size in enumerate(sizes)})


def check_setting(config: object, name: str, holds: bool, wanted: str) -> None:
    """Refuse a setting that is out of range.

    Raises:
        ValueError: if it does not hold, with what was wanted.
    """
    if not holds:
        raise ValueError(
            f"{type(config).__name__}: expected {name} {wanted}, got {getattr(config, name)}. "
            "Change it, or leave it out for the default."
        )


def check_range(config: object, name: str, low: float, high: float, *, ends: str = "[]") -> None:
    """Refuse a setting that is no number between two others; NaN never is.

    Args:
        config: has the setting.
        name: of the setting.
        low: lower bound.
        high: upper bound; infinity itself is never allowed.
        ends: which bounds belong to the range, as in "[)" or "(]".

    Raises:
        TypeError: for other than a number.
        ValueError: for a number outside.
    """
    given = getattr(config, name)
    where = type(config).__name__
    if not isinstance(given, numbers.Real) or isinstance(given, bool):
        raise TypeError(
            f"{where}: expected {name} as a number, got {given!r}. Change it, or leave it out for "
            "the default."
        )
    value = float(given)
    above = low <= value if ends[0] == "[" else low < value
    below = value <= high if ends[1] == "]" else value < high
    left = "(" if low == -float("inf") else ends[0]
    right = ")" if high == float("inf") else ends[1]
    check_setting(
        config, name, above and below and abs(value) < float("inf"),
        f"in {left}{low:g}, {high:g}{right}",
    )  # fmt: skip


def all_finite(values: np.ndarray) -> bool:
    """Whether there is no NaN and no infinity; mostly one product says so, which takes no time."""
    return math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


def check_obs(where: str, obs: np.ndarray, num_obs: int) -> Tensor:
    """Observations [B, O] as float32, if they are that, and finite.

    Args:
        where: what the user called.
        obs: [B, O] NumPy, as environments give them.
        num_obs: O.

    Raises:
        TypeError: for other than a NumPy array of numbers.
        ValueError: for another shape, NaN or infinity.
    """
    if not isinstance(obs, np.ndarray):
        cure = "Pass obs.numpy()" if isinstance(obs, Tensor) else "Pass np.array(obs)"
        raise TypeError(
            f"{where}: expected observations as a NumPy array [B, {num_obs}], got "
            f"{type(obs).__name__}. {cure}."
        )
    if obs.dtype.kind not in "biuf":
        raise TypeError(
            f"{where}: expected observations as numbers, got an array of {obs.dtype}. Encode them "
            "as numbers first."
        )
    return _finite_rows(where, torch.as_tensor(obs, dtype=torch.float32), num_obs, "B")


def check_states(where: str, obs: Tensor, num_obs: int) -> Tensor:
    """States [K, O] to imagine from, as float32, if they are a tensor of that shape, and finite.

    Raises:
        TypeError: for other than a tensor.
        ValueError: for another shape, no row at all, NaN or infinity.
    """
    if not isinstance(obs, Tensor):
        raise TypeError(
            f"{where}: expected states as a torch tensor [K, {num_obs}], got "
            f"{type(obs).__name__}. Pass torch.tensor(transitions.obs) of some experience."
        )
    checked = _finite_rows(where, obs.float(), num_obs, "K")
    if not len(checked):
        raise ValueError(
            f"{where}: expected states [K, {num_obs}] to start from, got none. Pass "
            "torch.tensor(transitions.obs) of some experience."
        )
    return checked


def _finite_rows(where: str, obs: Tensor, num_obs: int, axis: str) -> Tensor:
    if obs.ndim != 2 or obs.shape[1] != num_obs:
        one = " For one observation pass obs[None]." if obs.shape == (num_obs,) else ""
        raise ValueError(
            f"{where}: expected observations [{axis}, {num_obs}], got shape {tuple(obs.shape)}."
            f"{one or ' Are they of another environment?'}"
        )
    finite = obs.isfinite()
    if not finite.all():
        raise ValueError(
            f"{where}: expected finite observations, got NaN or infinity in row "
            f"{int((~finite).any(1).nonzero()[0])}. Look at what produced it."
        )
    return obs


def check_tensor(where: str, name: str, value: object) -> None:
    """Refuse what is no torch tensor; models and planners compute with tensors.

    Raises:
        TypeError: for anything else.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{where}: expected {name} as a torch tensor, got {type(value).__name__}. Convert it: "
            f"torch.as_tensor({name})."
        )
