"""Images of CarRacing drawn by hand, and an environment that shows them.

Numbers of the geometry are written out here once more, so that a mistake in the package's own is
seen: the car's centre at row 71.5 and column 47.5, and 0.8 columns to a px sideways.
"""

import gymnasium as gym
import numpy as np

GRASS, PATCH, ROAD = (102, 204, 102), (102, 230, 102), (102, 102, 102)


def painted(road_columns=slice(37, 59), fresh=True):
    """An image of a straight road ahead."""
    frame = blank()
    for row in range(84):
        frame[row, road_columns] = (102, 104, 107)[row // 7 % 3] if fresh else 102
    frame[66:78, 46:50] = (204, 0, 0)  # the car
    return frame


def blank(colour=GRASS):
    """An image of one colour above an empty dashboard."""
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[:84] = colour
    return frame


def with_bars(frame, *, speed=0.0, front=0.0, rear=0.0, steering=0.0, turn_rate=0.0):
    """The image with bars of so many px; what is left of a whole px is a darker one."""
    frame = frame.copy()
    frame[84:] = 0
    for value, columns, colour in (
        (speed, slice(12, 14), (255, 255, 255)),
        (front, slice(17, 21), (0, 0, 255)),
        (rear, slice(22, 26), (51, 0, 255)),
    ):
        for i, share in enumerate(shares(value)):
            frame[94 - i, columns] = np.rint(share * np.array(colour))
    for value, middle, colour in (
        (steering, 48, (0, 255, 0)),
        (turn_rate, 72, (255, 0, 0)),
    ):
        for i, share in enumerate(shares(abs(value))):
            column = middle + i if value > 0 else middle - 1 - i
            frame[86:91, column] = np.rint(share * np.array(colour))
    return frame


def shares(length):
    """4.6 -> 1, 1, 1, 1, 0.6."""
    whole = int(length)
    return [1.0] * whole + [length - whole] * (length > whole)


def seen_from(pose, *, flip=False):
    """A bending road between patches of grass, as it looks from a pose (ahead, right, turn).

    Each pixel's place in the world is computed, and there the world's colour: nothing is resampled.
    The mirror image of the world is seen with flip=True (give the pose mirrored, too).
    """
    ahead, right, turn = pose
    rows, columns = np.mgrid[:84, :96]
    forward, sideways = 71.5 - rows, (columns - 47.5) / 0.8
    y = ahead + forward * np.cos(turn) - sideways * np.sin(turn)
    x = right + forward * np.sin(turn) + sideways * np.cos(turn)
    x = -x if flip else x
    patch = np.sin(x / 5 + np.sin(y / 17)) * np.sin(y / 4 + 1)  # smooth, so that it is measured
    green = 217 + 13 * np.clip(2 * patch, -1, 1)
    road = np.clip(13 - np.abs(x - 6 * np.sin(y / 25)), 0, 2) / 2  # with soft edges
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[:84] = 102
    frame[:84, :, 1] = np.rint(102 * road + green * (1 - road))
    return frame


class Film(gym.Env):
    """Shows images one after another; keeps controls, and gives 1, 2, 3, ... as rewards."""

    def __init__(self, images, ends_at=None):
        self.images, self.ends_at = images, ends_at
        self.observation_space = gym.spaces.Box(0, 255, (96, 96, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        self.controls, self.seeds = [], []

    def reset(self, *, seed=None, options=None):
        self.count = 0
        self.seeds.append(seed)
        return self.images[0], {}

    def step(self, action):
        self.count += 1
        self.controls.append(action)
        image = self.images[min(self.count, len(self.images) - 1)]
        return image, self.count, self.count == self.ends_at, False, {}
