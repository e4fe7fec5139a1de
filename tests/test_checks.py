"""What can't be meant is refused, in the name of what was called, with what to do."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mbrl_helpers.checks import (
    all_finite,
    check_counts,
    check_obs,
    check_range,
    check_setting,
    check_sizes,
    check_states,
    check_tensor,
)


@dataclass
class Config:
    """A setting of any kind."""

    setting: object


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 10**9, np.int64(3), np.int8(1)])
def test_counts_may_be_any_whole_numbers(value):
    check_counts("Caller", steps=value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-3, ValueError), (np.int64(0), ValueError), (2.5, TypeError),
     (2.0, TypeError), (True, TypeError), ("3", TypeError), (None, TypeError)],
)  # fmt: skip
def test_counts_are_whole_and_positive(value, error):
    with pytest.raises(error, match=r"Caller: expected steps .*, got .*Give 1 or more") as message:
        check_counts("Caller", fine=1, steps=value)
    assert f"got {value!r}." in str(message.value) or f"got {value}." in str(message.value)


@pytest.mark.parametrize("sizes", [(), (64,), (64, 32), [64, 32], (np.int64(8),)])
def test_sizes_are_widths_of_layers(sizes):
    check_sizes(Config(sizes), "setting")


@pytest.mark.parametrize(
    ("sizes", "error", "says"),
    [
        (64, TypeError, r"as a tuple of layer widths, got 64\. One layer of 64 is \(64,\)"),
        ("64", TypeError, "as a tuple of layer widths, got '64'"),
        (None, TypeError, "as a tuple"),
        ((64, 0), ValueError, r"\[1\] >= 1, got 0"),
        ((8.0,), TypeError, r"\[0\] as an int, got 8\.0"),
    ],
)
def test_sizes_that_make_no_layers(sizes, error, says):
    with pytest.raises(error, match=f"Config: expected setting ?{says}"):
        check_sizes(Config(sizes), "setting")


def test_a_setting_that_does_not_hold_is_shown():
    check_setting(Config("a"), "setting", True, "to be a letter")
    with pytest.raises(ValueError, match=r"Config: expected setting to be a letter, got 7\."):
        check_setting(Config(7), "setting", False, "to be a letter")


@pytest.mark.parametrize(
    ("value", "ends", "fine"),
    [(0, "[]", True), (1, "[]", True), (0, "(]", False), (1, "(]", True), (0, "[)", True),
     (1, "[)", False), (0.5, "()", True), (-0.01, "[]", False), (1.01, "[]", False),
     (np.float32(0.5), "[]", True), (np.int64(1), "[]", True), (math.nan, "[]", False),
     (math.inf, "[]", False)],
)  # fmt: skip
def test_a_range_has_ends(value, ends, fine):
    if fine:
        check_range(Config(value), "setting", 0, 1, ends=ends)
        return
    with pytest.raises(ValueError, match=r"Config: expected setting in .0, 1., got ") as error:
        check_range(Config(value), "setting", 0, 1, ends=ends)
    assert f"in {ends[0]}0, 1{ends[1]}, got {value}." in str(error.value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_infinity_is_no_setting(value):
    """Also where there is no bound; and the message says so."""
    check_range(Config(-1e30), "setting", -math.inf, math.inf)
    with pytest.raises(ValueError, match=r"in \(-inf, inf\), got"):
        check_range(Config(value), "setting", -math.inf, math.inf)


@pytest.mark.parametrize("value", ["0.5", None, True, 1j, [0.5], torch.tensor(0.5)])
def test_a_setting_of_another_kind(value):
    with pytest.raises(TypeError, match="Config: expected setting as a number, got"):
        check_range(Config(value), "setting", 0, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1,), (3, 2)])
def test_finite_are_large_numbers_too(dtype, shape):
    """Whose squares are not."""
    values = np.full(shape, np.finfo(dtype).max)
    assert all_finite(values) and all_finite(-values) and all_finite(np.zeros((0, *shape)))
    for bad in (math.nan, math.inf, -math.inf):
        values.flat[-1] = bad
        assert not all_finite(values)
    assert all_finite(np.full(shape, 255, np.uint8)) and all_finite(np.ones(shape, bool))


# --- NumPy outside, torch inside -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.uint8, bool])
def test_observations_may_be_any_real_numbers(dtype):
    checked = check_obs("Caller", np.ones((2, 3), dtype), 3)
    assert checked.dtype == torch.float32
    assert torch.equal(checked, torch.ones(2, 3))
    assert check_obs("Caller", np.ones((0, 3), dtype), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("obs", "error", "says"),
    [
        (torch.zeros(2, 3), TypeError, r"NumPy array \[B, 3\], got Tensor\. Pass obs\.numpy\(\)"),
        ([[0.0] * 3], TypeError, r"NumPy array \[B, 3\], got list\. Pass np\.array\(obs\)"),
        (None, TypeError, "NumPy array .*got NoneType"),
        (np.full((2, 3), "a"), TypeError, "as numbers, got an array of <U1"),
        (np.full((2, 3), None), TypeError, "as numbers, got an array of object"),
        (np.zeros((2, 3), complex), TypeError, "as numbers, got an array of complex128"),
        (np.zeros(3), ValueError, r"\[B, 3\], got shape \(3,\)\. For one .* pass obs\[None\]"),
        (np.zeros(4), ValueError, r"\[B, 3\], got shape \(4,\)\. Are they of another env"),
        (np.zeros((2, 4)), ValueError, r"\[B, 3\], got shape \(2, 4\)\. Are they of another env"),
        (np.zeros((1, 2, 3)), ValueError, r"\[B, 3\], got shape \(1, 2, 3\)"),
        (np.array([[0.0] * 3, [0, np.nan, 0]]), ValueError, "got NaN or infinity in row 1"),
        (np.array([[0.0, np.inf, 0]]), ValueError, "got NaN or infinity in row 0"),
        (np.array([[0.0, 1e300, 0]]), ValueError, "got NaN or infinity in row 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_observations_that_an_agent_cannot_act_on(obs, error, says):
    with pytest.raises(error, match=f"Caller: expected .*{says}"):
        check_obs("Caller", obs, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_states_are_tensors(dtype):
    checked = check_states("Caller", torch.ones(2, 3, dtype=dtype), 3)
    assert checked.dtype == torch.float32
    assert torch.equal(checked, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("obs", "error", "says"),
    [
        (np.zeros((2, 3)), TypeError, r"torch tensor \[K, 3\], got ndarray\. Pass torch\.tensor"),
        ([[0.0] * 3], TypeError, r"torch tensor \[K, 3\], got list"),
        (torch.zeros(3), ValueError, r"\[K, 3\], got shape \(3,\)\. For one .* obs\[None\]"),
        (torch.zeros(2, 4), ValueError, r"\[K, 3\], got shape \(2, 4\)"),
        (torch.zeros(0, 3), ValueError, r"states \[K, 3\] to start from, got none"),
        (torch.tensor([[0.0] * 3, [0, math.nan, 0]]), ValueError, "NaN or infinity in row 1"),
    ],
)
def test_states_that_nothing_can_start_from(obs, error, says):
    with pytest.raises(error, match=f"Caller: expected .*{says}"):
        check_states("Caller", obs, 3)


@pytest.mark.parametrize("value", [np.zeros(3), [0.0], 0.5, None])
def test_what_is_no_tensor(value):
    check_tensor("Caller", "obs", torch.zeros(3))
    with pytest.raises(
        TypeError, match=r"Caller: expected obs as a torch tensor, got .*torch\.as_tensor\(obs\)"
    ):
        check_tensor("Caller", "obs", value)
