"""CarRacing from pixels, seeing: what the dashboard says, where the road is, how the car has moved.

The agent is given images and rewards, never the simulator's variables. All lengths are in pixels of
the image's height (px); the image is squeezed sideways, and `ASPECT` stretches it back. Angles are
in rad, and grow to the right. A pose or motion (ahead, right, turn) is relative to where the car
was, and where it was heading, when an image was taken. A decision holds its action for four frames.

Axes: B images or pairs of them, C channels, P points, ... any leading axes.
"""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from mbrl_helpers.checks import check_counts

ENV_ID = "CarRacing-v3"
ACTIONS = gym.spaces.Box(-1, 1, (2,), np.float32)  # steering; pedal: above 0 gas, below it brake
FULL_BRAKE = 0.8  # of the brake: from 0.9 on it blocks the wheels
HOLD = 4  # frames that an action is held
ROWS, COLUMNS = 84, 96  # of the view; the dashboard lies below it
CAR_ROW, CAR_COLUMN = 71.5, 47.5  # where the car's centre is in the view, always
ASPECT = 0.8  # px sideways over px ahead: the camera's 1000 x 800 points become 96 x 96

# The colours of the view, (red, green, blue). What is road and what is grass is told by these.
GRASS_COLOUR = (102, 204, 102)
PATCH_COLOUR = (102, 230, 102)  # of squares on the grass, by which its motion is seen
ROAD_COLOUR = (102, 102, 102)
ROAD_LIGHT = (ROAD_COLOUR[1] - 32, ROAD_COLOUR[1] + 38)  # how dark and bright road may be
FRESH_LIGHT = (ROAD_COLOUR[1] + 0.6, ROAD_COLOUR[1] + 7)  # road that no wheel has touched yet
GREY = 25  # the three channels of road are nearer than this
GREENER = 50  # grass has so much more green than red and blue


class PixelCar(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """CarRacing with two numbers as an action, held for four frames, and a camera that stays.

    In its first second the environment's camera zooms in on the car; the view is enlarged to what
    it will be. Rewards are summed. What is observed are images [96, 96, 3] uint8, as before. A new
    environment leaves out drawing the three frames of a decision that nobody sees.
    """

    def __init__(self, env: gym.Env | None = None) -> None:
        """Wrap an environment; a new one unless given."""
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, gym.make(ENV_ID) if env is None else env)
        self.action_space = ACTIONS
        self.num_frames, self._seen = 0, True
        self._draw: Any = None
        if env is None:  # drawing takes most of its time, and it draws in every step
            car: Any = self.unwrapped
            self._draw, car._render = car._render, self._draw_if_seen

    def _draw_if_seen(self, mode: str) -> Any:
        car: Any = self.unwrapped
        return self._draw(mode) if self._seen else car.state.copy()

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        """Start an episode."""
        self.num_frames, self._seen = 0, True
        frame, info = self.env.reset(seed=seed, options=options)
        return self._near(frame), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Hold steering and pedal for four frames, or to the episode's end."""
        steering, pedal = (float(a) for a in action)
        controls = np.array([steering, max(pedal, 0), FULL_BRAKE * max(-pedal, 0)], np.float32)
        total = 0.0
        for number in range(1, HOLD + 1):
            self._seen = number == HOLD
            frame, reward, terminated, truncated, info = self.env.step(controls)
            self.num_frames += 1
            total += float(reward)
            if terminated or truncated:
                break
        if self._draw and not self._seen:  # it has ended within the decision
            frame = self._draw("state_pixels")
        return self._near(frame), total, terminated, truncated, info

    def _near(self, frame: np.ndarray) -> np.ndarray:
        """The image as the camera sees it once it is near; from 0.1 to 2.7 in 50 frames."""
        share = min((self.num_frames + 1) / 50, 1.0)
        zoom = (0.1 * (1 - share) + 2.7 * share) / 2.7
        if zoom == 1:
            return frame
        rows = np.rint(CAR_ROW + (np.arange(ROWS) - CAR_ROW) * zoom).astype(int)
        columns = np.rint(CAR_COLUMN + (np.arange(COLUMNS) - CAR_COLUMN) * zoom).astype(int)
        return np.concatenate([frame[rows][:, columns], frame[ROWS:]])


# --- what an image tells --------------------------------------------------------------------------


class Dashboard(NamedTuple):
    """The bars below the view, in px of their length; to the right positive."""

    speed: float
    front: float
    rear: float
    steering: float
    turn_rate: float


def check_frame(frame: np.ndarray) -> None:
    """Refuse what is no image of CarRacing.

    Raises:
        ValueError: for another shape or dtype, or an image with hardly any road and grass.
    """
    if getattr(frame, "shape", None) != (96, 96, 3) or frame.dtype != np.uint8:
        got = f"{getattr(frame, 'dtype', type(frame).__name__)} {getattr(frame, 'shape', '')}"
        raise ValueError(
            f"check_frame: expected an image [96, 96, 3] uint8 of {ENV_ID}, got {got}. Pass the "
            "observation as it is."
        )
    grass = frame[:ROWS, :, 1] > frame[:ROWS, :, [0, 2]].max(-1) + float(GREENER)
    known = grass | (road_mask(frame) > 0)
    beyond = frame[:ROWS].max(-1) == 0  # the field; a car at its edge sees little else
    share = float(known.mean())
    if share < 0.1 or (known | beyond).mean() < 0.3 or frame[ROWS:].mean() > 100:
        raise ValueError(
            f"check_frame: expected road and grass above a dark dashboard, got {share:.0%} of the "
            f"view in their colours. Is this an image of {ENV_ID}?"
        )


def read_dashboard(frame: np.ndarray) -> Dashboard:
    """Measure the bars of an image [96, 96, 3]; smoothed edges tell fractions of a px."""
    red, green, blue = np.moveaxis(frame[ROWS:].astype(np.float32) / 255, -1, 0)
    steering, turn = (green - red).clip(min=0), (red - blue).clip(min=0)
    front, rear = blue[:, [17, 18, 20]], blue[:, [22, 23, 25]]  # inside the bars of the wheels
    bars = (
        red[:, 12:14].mean(1).sum(),
        front.mean(1).sum(),
        rear.mean(1).sum(),
        (steering[:, 48:].sum() - steering[:, 26:48].sum()) / 5,  # the bars are 5 px high
        (turn[:, 72:].sum() - turn[:, 52:72].sum()) / 5,
    )
    return Dashboard(*map(float, bars))


def road_mask(frame: np.ndarray) -> np.ndarray:
    """Where the road is: [84, 96], 1 on grey pixels, 0 elsewhere.

    The car hides a few pixels; there it is what lies to its left and right.
    """
    view = frame[:ROWS].astype(np.int16)
    high, low = view.max(-1), view.min(-1)
    dark, bright = ROAD_LIGHT
    mask = ((high - low < GREY) & (high > dark) & (high < bright)).astype(np.float32)
    mask[64:80, 45:51] = mask[64:80, [42, 43, 44, 51, 52, 53]].mean(1, keepdims=True)
    return mask


def fresh_mask(frame: np.ndarray) -> np.ndarray:
    """How much of the road near each pixel no wheel has touched: [84, 96], up to about 2/3.

    Two of three tiles are a little brighter than the rest, until the car has been there.
    """
    grey = frame[:ROWS].mean(-1)
    dark, bright = FRESH_LIGHT
    fresh = (grey > dark) & (grey < bright) & (road_mask(frame) == 1)
    fresh[64:80, 45:51] = False  # the car
    return avg_pool2d(torch.tensor(fresh)[None].float(), 7, 1, 3)[0].numpy()


def texture(frame: np.ndarray) -> Tensor:
    """Road and grass patches, smoothed, for `register`: [1, 2, 84, 96]."""
    green = torch.tensor(frame[:ROWS, :, 1]).float()
    grass, patch, grey = GRASS_COLOUR[1], PATCH_COLOUR[1], ROAD_COLOUR[1]
    road, patches = (grass - green) / (grass - grey), (green - grass) / (patch - grass)
    return avg_pool2d(torch.stack([road, patches])[None].clamp(0, 1), 3, 1, 1)


def look(image: Tensor, ahead: Tensor, right: Tensor, *, aspect: float = ASPECT) -> Tensor:
    """Sample images [B, C, 84, 96] at points [B, P], in px from the car: [B, C, P]; 0 outside."""
    x = 2 * (CAR_COLUMN + aspect * right) / (COLUMNS - 1) - 1
    y = 2 * (CAR_ROW - ahead) / (ROWS - 1) - 1
    points = torch.stack([x, y], -1)[:, None]
    return grid_sample(image, points, align_corners=True)[:, :, 0]


def moved(pose: Tensor, motion: Tensor) -> Tensor:
    """The pose [..., 3] after a motion [..., 3] that is given from where the pose is."""
    ahead, right, turn = pose.unbind(-1)
    forward, sideways, turned = motion.unbind(-1)
    cos, sin = turn.cos(), turn.sin()
    return torch.stack(
        [
            ahead + forward * cos - sideways * sin,
            right + forward * sin + sideways * cos,
            turn + turned,
        ],
        dim=-1,
    )


def register(
    before: Tensor,
    after: Tensor,
    guess: Tensor,
    *,
    num_iterations: int = 8,
    aspect: float = ASPECT,
) -> tuple[Tensor, Tensor]:
    """Find the motion that lays one image on the next.

    Args:
        before: [B, 2, 84, 96] textures.
        after: [B, 2, 84, 96] the same, a decision later.
        guess: [B, 3] motion to begin with.
        num_iterations: Gauss-Newton steps.
        aspect: of the image, see `ASPECT`.

    Returns:
        Motion [B, 3] of the car, seen from where it was before, and the mean squared difference
        [B] that is left.

    Source: Lucas and Kanade 1981, with weights that play large differences down. Taught in
    notebook 08.
    """
    check_counts("register", num_iterations=num_iterations)
    rows, columns = torch.meshgrid(
        torch.arange(3.0, ROWS - 3, 2), torch.arange(3.0, COLUMNS - 3, 2), indexing="ij"
    )
    ahead, right = (CAR_ROW - rows).flatten(), (columns - CAR_COLUMN).flatten() / aspect
    far = (ahead.abs() > 10) | (right.abs() > 8)  # the car itself goes with the camera
    ahead, right = ahead[far].expand(len(before), -1), right[far].expand(len(before), -1)
    inside = torch.ones_like(before[:, :1])
    target = look(after, ahead, right, aspect=aspect)

    def slope(da: float, dr: float) -> Tensor:
        plus = look(after, ahead + da, right + dr, aspect=aspect)
        return (plus - look(after, ahead - da, right - dr, aspect=aspect)) / 2

    slope_ahead, slope_right = slope(1.0, 0.0), slope(0.0, 1.0)
    motion, here = guess, torch.stack([ahead, right, torch.zeros_like(ahead)], -1)
    for _ in range(num_iterations):
        there = moved(motion[:, None], here)  # the same spot, seen from where the car was
        seen = look(inside, there[..., 0], there[..., 1], aspect=aspect) > 0.99
        source = look(before, there[..., 0], there[..., 1], aspect=aspect)
        error = (source - target) * seen
        weight = seen / (1 + (error / 0.3) ** 2)
        # How the image before changes there: the slopes after, turned back.
        cos, sin = motion[:, None, 2:].cos(), motion[:, None, 2:].sin()
        da, dr = slope_ahead * cos - slope_right * sin, slope_ahead * sin + slope_right * cos
        offset = there[..., :2] - motion[:, None, :2]
        turn = dr * offset[:, None, :, 0] - da * offset[:, None, :, 1]
        slopes = torch.stack([da, dr, turn / 10], -1).flatten(1, 2)  # a tenth: of similar size
        weighted = slopes * weight.flatten(1, 2)[..., None]
        gram = slopes.mT @ weighted + 0.1 * torch.eye(3)  # where nothing is to be seen, stay
        step = torch.linalg.solve(gram, weighted.mT @ error.flatten(1, 2)[..., None])[..., 0]
        motion = motion - step / torch.tensor([1.0, 1.0, 10.0])
    return motion, error.square().sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)
