"""Whether two results agree, and in which words to say that they don't."""

import operator
from typing import Any

import numpy as np
import torch

ARRAYS = (torch.Tensor, np.ndarray)


def same(a: object, b: object, tolerance: float = 1e-4) -> bool:
    """Whether two results agree: in structure and shape exactly, in numbers nearly.

    Args:
        a: numbers, arrays, tensors, or tuples and lists of such.
        b: what it is compared with.
        tolerance: relative difference that still agrees; beside the largest number of an array, a
            tenth of it may be lost to rounding.
    """
    if _is_sequence(a) or _is_sequence(b):
        if not (_is_sequence(a) and _is_sequence(b)) or len(a) != len(b):  # type: ignore[arg-type]
            return False
        return all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))  # type: ignore[call-overload]
    if a is None or b is None:
        return a is b
    try:
        a, b = _as_array(a), _as_array(b)
    except (TypeError, ValueError, RuntimeError):
        return False
    if a.shape != b.shape or a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
        return False
    return bool(_close(a, b, tolerance).all())


def unpacked(got: Any, expected: Any) -> Any:
    """A result; an array in place of a tuple of as many comes apart as the tuple would."""
    if isinstance(expected, tuple) and isinstance(got, ARRAYS) and got.ndim:
        return tuple(got) if len(got) == len(expected) else got
    return got


def wrong_kind(got: Any, expected: Any) -> str:
    """What is wrong with the types of right numbers, for the cells below; "" if nothing is."""
    if _is_sequence(expected):
        found = ((i, wrong_kind(*pair)) for i, pair in enumerate(zip(got, expected, strict=True)))
        return next((f"In part {i}: {text}" for i, text in found if text), "")
    if np.ndim(_as_array(expected)) == 0:
        return _wrong_number(got, expected)
    for kind, wanted, how in (
        (torch.Tensor, "a torch tensor", "torch.as_tensor(...)"),
        (np.ndarray, "a NumPy array", "np.array(...), or .numpy() of a tensor"),
    ):
        if isinstance(expected, kind) and not isinstance(got, kind):
            return (
                f"The numbers are right, but the cells below need {wanted}, and this is a "
                f"{type(got).__name__}. Use {how}."
            )
    return _wrong_dtype(got, expected)


def difference(got: Any, expected: Any, tolerance: float = 1e-4) -> str:
    """Say what differs, as far as can be told without knowing the mistake."""
    if got is None:
        return "It returned None. Is there a return, whatever happens?"
    if _is_sequence(expected):
        kind = type(expected).__name__
        if not _is_sequence(got):
            return f"It should return a {kind} of {len(expected)}; yours: {type(got).__name__}."
        if len(got) != len(expected):
            return f"It should return a {kind} of {len(expected)}; yours has {len(got)}."
        pairs = zip(got, expected, strict=True)
        which = next(i for i, pair in enumerate(pairs) if not same(*pair, tolerance))
        inner = difference(got[which], expected[which], tolerance)
        return f"In part {which}: {inner}".replace(": In part ", ", part ")
    if _is_sequence(got):
        one = "one array: np.array or torch.stack makes one of it"
        wanted = one if np.ndim(expected) else "one number"
        return f"It returned a {type(got).__name__} where the answer is {wanted}."
    try:
        a, b = _as_array(got), _as_array(expected)
    except (TypeError, ValueError, RuntimeError):
        return f"It returned {type(got).__name__}, not numbers."
    if a.dtype.kind not in "biuf":
        return f"It returned {type(got).__name__}, not numbers."
    if a.shape != b.shape:
        return f"The result should have shape {list(b.shape)}; yours has {list(a.shape)}."
    if b.ndim == 0:
        return (
            f"It returns a number, but not the right one: for one of the inputs {float(a):.4g}, "
            f"where {float(b):.4g} is right."
        )
    at = tuple(np.argwhere(~_close(a, b, tolerance))[0].tolist())
    return (
        f"The shape is right, the numbers are not. The first that differs is "
        f"{list(at)}: {float(a[at]):.4g}, where {float(b[at]):.4g} is right."
    )


def _is_sequence(value: object) -> bool:
    return isinstance(value, (tuple, list))


def _as_array(value: object) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _close(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    """Where numbers agree; float32 rounds by a share of the largest number that went in."""
    a, b = a.astype(float), b.astype(float)
    largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    return np.isclose(a, b, rtol=tolerance, atol=tolerance / 10 * largest + 1e-9, equal_nan=True)


def _wrong_number(got: Any, expected: Any) -> str:
    """A whole number must be of use as an index, and a truth value as a mask."""
    kind, own = _as_array(expected).dtype.kind, _as_array(got).dtype.kind
    if kind == "b" and own != "b":
        return f"The value is right, but this is a {type(got).__name__}: make it True or False."
    if kind in "iu":
        try:
            operator.index(got)
        except TypeError:
            return (
                f"The value is right, but this is a {type(got).__name__}, which the cells below "
                "can't use as a whole number. Use int(...)."
            )
    return ""


def _wrong_dtype(got: Any, expected: Any) -> str:
    own, wanted = got.dtype, expected.dtype
    kinds = {a.dtype.kind.replace("u", "i") for a in (_as_array(got), _as_array(expected))}
    # PyTorch refuses to mix floats of two sizes; NumPy converts them.
    mixed = isinstance(got, torch.Tensor) and wanted.is_floating_point and own != wanted
    if len(kinds) == 1 and not mixed:
        return ""
    own, wanted = (str(d).removeprefix("torch.") for d in (own, wanted))
    return (
        f"The numbers are right, but of dtype {own}, where the cells below need {wanted}: mixed "
        "with what they have, that fails, or gives something else without a word."
    )
