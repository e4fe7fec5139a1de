"""Angles: of a cosine and a sine in the observation, the change of the angle is what is predicted.

So a step of an angle is one number, the same all around the circle, and no imagined state leaves
it (a mean of states, as the propagation "expectation" takes it, lies within).

Axes: ... any leading axes, T rows, O observation.
"""

import math

import torch
from torch import Tensor

Angles = tuple[tuple[int, int], ...]  # pairs of columns of the observation: cosine, sine
MAX_SPREAD = 0.2  # of the radius, for a sensor's noise


def check_angles(where: str, angles: Angles, num_obs: int | None = None) -> None:
    """Refuse what is no pairs of different columns of the observation.

    Args:
        where: what the user called.
        angles: pairs of columns.
        num_obs: O, where it is known.

    Raises:
        TypeError: for other than pairs of whole numbers.
        ValueError: for columns that stand twice, or are not there.
    """
    advice = "Name the columns of cosine and sine, from 0 on, such as ((0, 1),)."
    if not isinstance(angles, tuple) or not all(
        isinstance(pair, tuple) and len(pair) == 2 and all(type(i) is int for i in pair)
        for pair in angles
    ):
        raise TypeError(f"{where}: expected angles as pairs of columns, got {angles!r}. {advice}")
    columns = [column for pair in angles for column in pair]
    limit = math.inf if num_obs is None else num_obs
    if len(columns) != len(set(columns)) or not all(0 <= column < limit for column in columns):
        of_them = "" if num_obs is None else f" among the {num_obs} of the observation"
        raise ValueError(
            f"{where}: expected angles as pairs of different columns{of_them}, got {angles}. "
            f"{advice}"
        )


def radius_spread(obs: Tensor, pair: tuple[int, int]) -> float:
    """By how much of its mean the radius of a pair of columns of [T, O] differs: of an angle, 0."""
    radius = torch.hypot(obs[:, pair[0]].double(), obs[:, pair[1]].double())
    return float(radius.std(correction=0) / radius.mean().clamp(min=1e-12))


def check_circles(where: str, angles: Angles, obs: Tensor) -> None:
    """Refuse angles that data [T, O] show to be none; some noise of a sensor may be.

    Raises:
        ValueError: for a pair whose squares do not add up to a constant.
    """
    for pair in angles:
        if (spread := radius_spread(obs, pair)) > MAX_SPREAD:
            raise ValueError(
                f"{where}: expected columns {pair} to be cosine and sine of an angle, got a radius "
                f"that differs by {spread:.0%} of its mean. Name the right columns in angles, or "
                "none."
            )


def wrap_angle(angle: Tensor) -> Tensor:
    """The same angle [...] between -pi and pi [rad]."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def change_of(obs: Tensor, next_obs: Tensor, angles: Angles) -> Tensor:
    """What leads from obs to next_obs [T, O]; of an angle, its turn [rad] and 0."""
    change = next_obs - obs
    for cos, sin in angles:
        turn = torch.atan2(next_obs[:, sin], next_obs[:, cos]) - obs[:, sin].atan2(obs[:, cos])
        change[:, cos] = wrap_angle(turn)
        change[:, sin] = 0.0
    return change


def changed(obs: Tensor, change: Tensor, angles: Angles) -> Tensor:
    """The observation [..., O] after a change, of which angles are turned."""
    next_obs = obs + change
    for cos, sin in angles:
        c, s, turn = obs[..., cos], obs[..., sin], change[..., cos]
        next_obs[..., cos] = c * turn.cos() - s * turn.sin()
        next_obs[..., sin] = s * turn.cos() + c * turn.sin()
    return next_obs
