"""What a model learns from: rows of numbers, and the units in which they are learned.

Axes: T transitions, O observation, A encoded action.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl_helpers import saving
from mbrl_helpers.angles import Angles, change_of, check_circles
from mbrl_helpers.data import Transitions
from mbrl_helpers.envs import Task
from mbrl_helpers.networks import ROUNDING, Normalizer, fit_ridge, with_ones


class Rows(NamedTuple):
    """What a model learns from.

    Attributes:
        inputs: [T, O+A] observation and encoded action.
        targets: [T, O+1] change of the observation, and reward.
        outcome: [T, O+A] next observation and action.
        ended: [T, 1] whether it was terminal.
    """

    inputs: Tensor
    targets: Tensor
    outcome: Tensor
    ended: Tensor


def learned_rows(where: str, task: Task, angles: Angles, transitions: Transitions) -> Rows:
    """What a model learns from, if it is of this task and finite."""
    transitions.check_finite()
    if transitions.obs.shape[1] != task.num_obs:
        raise ValueError(
            f"{where}: expected observations of size {task.num_obs}, got "
            f"{transitions.obs.shape[1]}. Is this data of another environment?"
        )
    rows = transitions.tensors(task.actions)
    check_circles(where, angles, rows.obs)
    change = change_of(rows.obs, rows.next_obs, angles)
    return Rows(
        torch.cat([rows.obs, rows.action], 1), torch.cat([change, rows.reward[:, None]], 1),
        torch.cat([rows.next_obs, rows.action], 1), rows.terminated[:, None],
    )  # fmt: skip


def never_back(transitions: Transitions) -> Tensor:
    """Which columns of the observation are clocks [O] bool: they only ever grow, or only fall.

    What has been learned for one value is of no use for another that never comes again, and chance
    makes it seem so. It takes two episodes to tell a clock from a journey; of a column that is
    constant in each, such as a goal, eight, or chance has put them in order.
    """
    obs = transitions.obs
    parts = [obs[transitions.episode == number] for number in transitions.episodes]
    change, firsts = np.diff(obs, axis=0), np.stack([part[0] for part in parts])
    ordered = (change >= 0).all(0) | (change <= 0).all(0)
    moves = np.all([np.ptp(part, axis=0) > 0 for part in parts], axis=0)
    differs = (np.diff(firsts, axis=0) != 0).all(0) & (len(parts) >= 8)
    return torch.as_tensor(ordered & (moves | differs) & (len(parts) > 1))


@dataclass(frozen=True)
class Units:
    """Few numbers, fitted to all data: normalisers, ranges and the linear part.

    Attributes:
        inputs: normalises observation and action [O+A]; what is constant, and a clock (see
            `never_back`), is not looked at.
        outputs: normalises change and reward [O+1].
        outcome: normalises next observation and action [O+A], likewise; nor is the action looked
            at, unless ends hang on it.
        rest: normalises what the linear part leaves over [O+1].
        linear: [O+A+1, O+1] from normalised inputs and a one to normalised outputs.
        input_range: lowest and highest [O+A].
        outcome_range: lowest and highest [O+A].
    """

    inputs: Normalizer
    outputs: Normalizer
    outcome: Normalizer
    rest: Normalizer
    linear: Tensor
    input_range: tuple[Tensor, Tensor]
    outcome_range: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, rows: "Rows", clock: Tensor, ridge: float, linear_part: bool) -> "Units":
        """Fit them to all rows; of the observation's columns, clock [O] says which are clocks."""
        size = rows.inputs[:, : len(clock)].abs().amax(0)
        # A change is as exact as what it is the change of.
        rounding = torch.cat([ROUNDING * size, torch.zeros(1)])
        in_norm, out_norm = Normalizer(rows.inputs), Normalizer(rows.targets, rounding)
        outcome = Normalizer(rows.outcome)
        for norm in (in_norm, outcome):
            norm.constant[: len(clock)] |= clock
        x, y = in_norm.normalize(rows.inputs), out_norm.normalize(rows.targets)
        x = with_ones(x * ~in_norm.constant)
        linear = fit_ridge(x, y, ridge) * linear_part
        rest = Normalizer(y - x @ linear, 1e-6 + rounding / out_norm.std)
        return cls(
            in_norm, out_norm, outcome, rest, linear,
            (rows.inputs.amin(0), rows.inputs.amax(0)),
            (rows.outcome.amin(0), rows.outcome.amax(0)),
        )  # fmt: skip

    def standard(self, rows: "Rows") -> tuple[Tensor, Tensor]:
        """Inputs, and what the linear part leaves over of the targets, normalised."""
        x = self.inputs.normalize(rows.inputs) * ~self.inputs.constant
        y = self.outputs.normalize(rows.targets)
        return x, self.rest.normalize(y - with_ones(x) @ self.linear)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file keeps of them."""
        kept = {"linear": self.linear.numpy()}
        for name in ("inputs", "outputs", "outcome", "rest"):
            parts = getattr(self, name).arrays()
            kept |= {f"{name}.{key}": value for key, value in parts.items()}
        for name in ("input_range", "outcome_range"):
            kept[name] = torch.stack(getattr(self, name)).numpy()
        return kept

    @classmethod
    def of_arrays(cls, kept: dict[str, np.ndarray]) -> "Units":
        """Make them of what a file has kept."""
        names = ("inputs", "outputs", "outcome", "rest")
        norms = {name: Normalizer.of_arrays(saving.under(f"{name}.", kept)) for name in names}
        inputs, outcome = (torch.tensor(kept[n]) for n in ("input_range", "outcome_range"))
        return cls(
            **norms, linear=torch.tensor(kept["linear"]), input_range=(inputs[0], inputs[1]),
            outcome_range=(outcome[0], outcome[1]),
        )  # fmt: skip
