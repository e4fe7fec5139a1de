"""Angles in an observation: turns are numbers, and nothing leaves its circle."""

import math

import numpy as np
import pytest
import torch

from mbrl_helpers.angles import change_of, changed, check_angles, wrap_angle

PAIRS = [(), ((0, 1),), ((3, 0),), ((3, 0), (1, 4))]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def on_circles(angles, num=50, num_obs=5, seed=0):
    """States whose pairs of columns are cosine and sine of something."""
    obs = torch.randn(num, num_obs, generator=seeded(seed))
    for cos, sin in angles:
        angle = 2 * math.pi * torch.rand(num, generator=seeded(seed + 1 + cos))
        obs[:, cos], obs[:, sin] = angle.cos(), angle.sin()
    return obs


def test_a_wrapped_angle_is_the_same_angle():
    angle = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([math.pi, -math.pi, 0.0])])
    wrapped = wrap_angle(angle)
    assert (wrapped >= -math.pi - 1e-6).all()
    assert (wrapped <= math.pi + 1e-6).all()
    torch.testing.assert_close(wrapped.cos(), angle.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(wrapped.sin(), angle.sin(), atol=1e-5, rtol=0)
    inside = angle.abs() < 3
    torch.testing.assert_close(wrapped[inside], angle[inside], atol=1e-5, rtol=0)
    torch.testing.assert_close(wrap_angle(wrapped), wrapped, atol=1e-5, rtol=0)


@pytest.mark.parametrize("angles", PAIRS, ids=str)
def test_a_change_leads_where_it_came_from(angles):
    obs, next_obs = on_circles(angles), on_circles(angles, seed=10)
    kept = obs.clone(), next_obs.clone()
    change = change_of(obs, next_obs, angles)
    torch.testing.assert_close(changed(obs, change, angles), next_obs, atol=1e-5, rtol=0)
    torch.testing.assert_close(change_of(obs, obs, angles), 0 * obs)
    assert torch.equal(obs, kept[0])
    assert torch.equal(next_obs, kept[1])
    pairs = {column for pair in angles for column in pair}
    for column in set(range(5)) - pairs:  # other columns are subtracted
        assert torch.equal(change[:, column], next_obs[:, column] - obs[:, column])
    for cos, sin in angles:
        assert (change[:, cos].abs() <= math.pi + 1e-6).all()
        assert (change[:, sin] == 0).all()


@pytest.mark.parametrize("angles", PAIRS, ids=str)
def test_no_change_leaves_the_circle(angles):
    """Of whatever size, in any number of leading axes; and what it says of a sine is nothing."""
    obs = on_circles(angles, num=60).view(3, 4, 5, 5)
    change = 10 * torch.randn(3, 4, 5, 5, generator=seeded(3))
    next_obs = changed(obs, change, angles)
    for cos, sin in angles:
        radius = (next_obs[..., cos].square() + next_obs[..., sin].square()).sqrt()
        torch.testing.assert_close(radius, torch.ones(3, 4, 5), atol=1e-5, rtol=0)
        other = change.clone()
        other[..., sin] += 5
        assert torch.equal(changed(obs, other, angles), next_obs)
    torch.testing.assert_close(next_obs[2, 1, 3], changed(obs[2, 1, 3], change[2, 1, 3], angles))


@pytest.mark.parametrize("turn", [0.3, -1.5, math.pi - 0.01, -math.pi + 0.01])
def test_turns_add_up(turn):
    obs = on_circles(((0, 1),))
    change = torch.zeros(50, 5)
    change[:, 0] = turn
    twice = changed(changed(obs, change, ((0, 1),)), change, ((0, 1),))
    torch.testing.assert_close(twice, changed(obs, 2 * change, ((0, 1),)), atol=1e-5, rtol=0)
    measured = change_of(obs, changed(obs, change, ((0, 1),)), ((0, 1),))
    torch.testing.assert_close(measured[:, 0], change[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("angles", PAIRS, ids=str)
def test_pairs_of_columns_pass(angles):
    check_angles("test", angles)
    check_angles("test", angles, 5)


@pytest.mark.parametrize(
    ("angles", "num_obs", "error", "says"),
    [
        ([(0, 1)], None, TypeError, r"pairs of columns, got \[\(0, 1\)\]"),
        ((0, 1), None, TypeError, r"got \(0, 1\)\. Name the columns"),
        (((0, 1, 2),), None, TypeError, "pairs of columns"),
        (((0,),), None, TypeError, "pairs of columns"),
        (([0, 1],), None, TypeError, "pairs of columns"),
        (((0.0, 1.0),), None, TypeError, "pairs of columns"),
        (((True, False),), None, TypeError, "pairs of columns"),
        (None, None, TypeError, "got None"),
        ("cos", None, TypeError, "got 'cos'"),
        (((0, 0),), None, ValueError, r"different columns, got \(\(0, 0\),\)"),
        (((0, 1), (2, 1)), None, ValueError, "different columns"),
        (((0, -1),), None, ValueError, "from 0 on"),
        (((0, 3),), 3, ValueError, "different columns among the 3 of the observation"),
    ],
)
def test_what_is_no_pair_of_columns(angles, num_obs, error, says):
    with pytest.raises(error, match=f"Caller: expected angles as .*{says}"):
        check_angles("Caller", angles, num_obs)


def test_columns_counted_by_numpy():
    """They would not survive a file: whole numbers of Python's own are asked for."""
    with pytest.raises(TypeError, match="Caller: expected angles as pairs of columns"):
        check_angles("Caller", ((np.int64(0), np.int64(1)),))
