"""CarRacing from pixels, the map: where the road is in one image, and the way along it.

For lengths, angles and poses see `vision`.

Axes: ... any leading axes.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, pad

from mbrl_helpers.angles import wrap_angle
from mbrl_helpers.cars.vision import (
    ASPECT,
    CAR_COLUMN,
    CAR_ROW,
    COLUMNS,
    ROWS,
    fresh_mask,
    look,
    moved,
    road_mask,
)

WHEELS = torch.tensor([[3.1, -2.1], [3.1, 2.1], [-3.2, -2.1], [-3.2, 2.1]])  # ahead, right [px]
CELL = 3  # rows and columns of the view in a cell of the map
GRASS_COST = 5.0  # px of road that the way to go may be longer by, to avoid a px of grass
WAY_OFF = 1e3  # px: more than any way within the view


def arrival(start: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Length of the shortest way from each cell to a source, where each px costs `cost`.

    Args:
        start: [rows, columns] length to begin with at the sources, inf elsewhere.
        cost: [rows, columns] per px, >= 1.

    Returns:
        [rows, columns] float32; at least `WAY_OFF` where there is no way.

    Source: the eikonal equation, solved by upwind differences; Sethian 1996.
    """
    high, wide = float(CELL), CELL / ASPECT  # px of a cell
    a, b = high**-2, wide**-2
    ways = np.full((cost.shape[0] + 2, cost.shape[1] + 2), 1e4, np.float32)  # with a margin
    inner = ways[1:-1, 1:-1]
    inner[...] = np.minimum(start, 1e4)
    cost = cost.astype(np.float32)
    for sweep in range(sum(cost.shape) * 2):
        x = np.minimum(ways[:-2, 1:-1], ways[2:, 1:-1])
        y = np.minimum(ways[1:-1, :-2], ways[1:-1, 2:])
        straight = np.minimum(x + cost * high, y + cost * wide)
        # Both neighbours count where they are near enough in time: a quadratic equation.
        root = (a + b) * cost**2 - a * b * (x - y) ** 2
        slanted = (a * x + b * y + np.sqrt(np.maximum(root, 0))) / (a + b)
        new = np.where((root > 0) & (slanted > np.maximum(x, y)), slanted, straight)
        new = np.minimum(np.minimum(new, straight), inner)
        if sweep % 8 == 7 and np.array_equal(new, inner):
            break
        inner[...] = new
    return inner.copy()


def far_end(paved: np.ndarray, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The far end of the road that is connected with the car: of fresh road, if there is any.

    Args:
        paved: [rows, columns] bool, cells of road.
        fresh: [rows, columns] bool, cells that no wheel has touched.

    Returns:
        [rows, columns] bool, the cells of the end; and px that the road still goes on from each.
    """
    rows, columns = np.mgrid[: paved.shape[0], : paved.shape[1]] * CELL + 1  # of the view
    if not paved.any():  # no road in sight: it must lie behind
        return rows == rows.max(), np.zeros(paved.shape)
    ahead, right = CAR_ROW - rows, (columns - CAR_COLUMN) / ASPECT
    nearest = np.where(paved, np.hypot(ahead - CELL, right), np.inf).argmin()
    here = np.full(paved.shape, np.inf)
    here.flat[nearest] = 0
    way = arrival(here, np.where(paved, 1.0, WAY_OFF))
    connected = way < WAY_OFF
    for among in (connected & fresh, connected & (ahead > -CELL), connected):
        if among.sum() > 3:
            break
    rest = way[among].max() - way
    return among & (rest < 2 * CELL), rest


class RoadMap:
    """What one image shows of the road, and the way along it.

    The goal is the far end of the road that is in view and connected with the car: of the road that
    is still fresh, if there is any. From each point the way to go leads there; a px of grass on it
    counts as `GRASS_COST`.

    Attributes:
        road: [84, 96] see `road_mask`.
        goal: [28, 32] bool, the cells of the goal.
        to_go: [28, 32] px to the goal.
    """

    def __init__(self, frame: np.ndarray) -> None:
        """Make the map of an image [96, 96, 3]."""
        self.road = road_mask(frame)
        share = _cells(self.road)
        self.goal, rest = far_end(share > 0.5, _cells(fresh_mask(frame)) > 0.3)
        end = np.where(self.goal, rest, np.inf)
        self.to_go = arrival(end, 1 + (GRASS_COST - 1) * (1 - share))
        slope_rows, slope_columns = np.gradient(self.to_go, CELL, CELL / ASPECT)
        # By how much the way gets shorter for a px ahead (to a smaller row) and to the right.
        layers = np.stack([self.to_go, slope_rows, -slope_columns]).astype(np.float32)
        self._ways = torch.tensor(layers)[None]
        self._road = avg_pool2d(torch.tensor(self.road)[None, None], 3, 1, 1)

    def wheels_on_road(self, pose: Tensor) -> Tensor:
        """Share of the front and of the rear wheels that are on the road: [..., 3] -> [..., 2].

        What is not in view counts as grass.
        """
        wheels = moved(pose[..., None, :], pad(WHEELS, (0, 1)))
        ahead, right, _ = wheels.unbind(-1)
        on = look(self._road, ahead.reshape(1, -1), right.reshape(1, -1))
        return on.view(*pose.shape[:-1], 2, 2).mean(-1)

    def way(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """At poses [..., 3]: px to the goal [...], and angle [...] from heading to way to go."""
        ahead, right, turn = pose.unbind(-1)
        x = 2 * (CAR_COLUMN + ASPECT * right - 1) / CELL / (COLUMNS // CELL - 1) - 1
        y = 2 * (CAR_ROW - ahead - 1) / CELL / (ROWS // CELL - 1) - 1
        points = torch.stack([x, y], -1).view(1, 1, -1, 2)
        found = grid_sample(self._ways, points, align_corners=True, padding_mode="border")
        to_go, shorter_ahead, shorter_right = found[0, :, 0].view(3, *ahead.shape)
        return to_go, wrap_angle(torch.atan2(shorter_right, shorter_ahead) - turn)


def _cells(mask: np.ndarray) -> np.ndarray:
    """Means [28, 32] over the cells of a mask [84, 96]."""
    return mask.reshape(ROWS // CELL, CELL, COLUMNS // CELL, CELL).mean((1, 3))


def progress(to_go: Tensor, next_to_go: Tensor, distance: Tensor) -> Tensor:
    """Px [...] that a step brings the car nearer to the goal; at most as far as it has moved.

    Without the limit, a short cut over the grass between two bends would be worth all the road
    that it leaves out.
    """
    return torch.clamp(to_go - next_to_go, -distance, distance)
