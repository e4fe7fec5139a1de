"""CarRacing from pixels, driving: a map of the road, a learned model of the car, and the planner.

For lengths, angles and poses see `car_vision`.

Axes: E members, K rollouts, N candidates, H horizon, T decisions, S state, ... any leading axes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from mbrl_helpers.agents import CorrelatedNoise, rollout_returns
from mbrl_helpers.car_vision import (
    ACTIONS,
    ASPECT,
    CAR_COLUMN,
    CAR_ROW,
    COLUMNS,
    HOLD,
    ROWS,
    PixelCar,
    check_frame,
    fresh_mask,
    look,
    moved,
    read_dashboard,
    register,
    road_mask,
    texture,
)  # fmt: skip
from mbrl_helpers.data import Transitions
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import Step
from mbrl_helpers.networks import fit_ridge, with_ones
from mbrl_helpers.planners import ICEM, ICEMConfig, Plan

STATE = (
    "ahead [px]", "right [px]", "turn [rad]", "turn rate", "steering", "front wheels",
    "rear wheels", "gas", "road in front", "road behind",
)  # fmt: skip
NUM_STATE = len(STATE)
MOTION, GAS, ROAD = slice(0, 3), 7, slice(8, 10)  # columns of the state
POSE, TO_GO = slice(10, 13), 13  # and of what is imagined beside it
# The car is symmetric: what went to the right could as well have gone to the left.
MIRROR = np.array([1, -1, -1, -1, -1, 1, 1, 1, 1, 1], np.float32)
WHEELS = torch.tensor([[3.1, -2.1], [3.1, 2.1], [-3.2, -2.1], [-3.2, 2.1]])  # ahead, right [px]
TURN_PER_PIXEL = 0.043  # rad that a decision turns by for a px of the dashboard: a first guess
PUSH = 0.8  # px a decision, by which full gas makes the car faster, at most; brakes never do
GAS_PER_DECISION = 0.4  # by how much the engine follows the pedal; it falls at once
CELL = 3  # rows and columns of the view in a cell of the map
GRASS = 5.0  # px of road that the way to go may be longer by, to avoid a px of grass
WAY_OFF = 1e3  # px: more than any way within the view
SEARCH = ICEMConfig(horizon=8, population_size=100, num_elites=10)
START = (5, (0.0, 0.2))  # so many decisions, held: until the camera has come near


# --- the map --------------------------------------------------------------------------------------


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


class RoadMap:
    """What one image shows of the road, and the way along it.

    The goal is the far end of the road that is in view and connected with the car: of the road that
    is still fresh, if there is any. From each point the way to go leads there; a px of grass on it
    counts as five.

    Attributes:
        road: [84, 96] see `road_mask`.
        goal: [28, 32] bool, the cells of the goal.
        to_go: [28, 32] px to the goal.
    """

    def __init__(self, frame: np.ndarray) -> None:
        """Make the map of an image [96, 96, 3]."""
        self.road = road_mask(frame)
        share, fresh = self._cells(self.road), self._cells(fresh_mask(frame))
        rows, columns = np.mgrid[: share.shape[0], : share.shape[1]] * CELL + 1
        ahead, right = CAR_ROW - rows, (columns - CAR_COLUMN) / ASPECT
        paved = share > 0.5
        if paved.any():
            nearest = np.where(paved, np.hypot(ahead - CELL, right), np.inf).argmin()
            here = np.full(paved.shape, np.inf)
            here.flat[nearest] = 0
            way = arrival(here, np.where(paved, 1.0, WAY_OFF))
            connected = way < WAY_OFF / 2
            choices = (connected & (fresh > 0.3), connected & (ahead > -CELL), connected)
            among = next(choice for choice in choices if choice.sum() > 3 or choice is connected)
            rest = way[among].max() - way
            self.goal = among & (rest < 2 * CELL)
        else:
            self.goal = rows == rows.max()  # no road in sight: it must lie behind
            rest = np.zeros(paved.shape)
        end = np.where(self.goal, rest, np.inf)
        self.to_go = arrival(end, 1 + (GRASS - 1) * (1 - share))
        slope_rows, slope_columns = np.gradient(self.to_go, CELL, CELL / ASPECT)
        layers = np.stack([self.to_go, slope_rows, -slope_columns]).astype(np.float32)
        self._ways = torch.tensor(layers)[None]
        self._road = avg_pool2d(torch.tensor(self.road)[None, None], 3, 1, 1)

    @staticmethod
    def _cells(mask: np.ndarray) -> np.ndarray:
        return mask.reshape(ROWS // CELL, CELL, COLUMNS // CELL, CELL).mean((1, 3))

    def wheels_on_road(self, pose: Tensor) -> Tensor:
        """Share of the front and of the rear wheels that are on the road: [..., 3] -> [..., 2].

        What is not in view counts as grass.
        """
        wheels = moved(pose[..., None, :], torch.nn.functional.pad(WHEELS, (0, 1)))
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
        to_go, down, right_down = found[0, :, 0].view(3, *ahead.shape)
        angle = torch.atan2(right_down, down) - turn
        return to_go, torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def progress(to_go: Tensor, next_to_go: Tensor, distance: Tensor) -> Tensor:
    """Px [...] that a step brings the car nearer to the goal; at most as far as it has moved.

    Without the limit, a short cut over the grass between two bends would be worth all the road
    that it leaves out.
    """
    return torch.clamp(to_go - next_to_go, -distance, distance)


# --- the state ------------------------------------------------------------------------------------


class View(NamedTuple):
    """What the agent makes of an image.

    Attributes:
        frame: [96, 96, 3] the image.
        state: [10] float32, see `STATE`: the motion of the last decision, the dashboard, the gas
            that the engine has, and how much road is under the wheels.
        road: the map.
    """

    frame: np.ndarray
    state: np.ndarray
    road: RoadMap


class Eye:
    """Makes views of images, and remembers what it takes: the last image and the last action."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the past, for a new episode."""
        self.last: Tensor | None = None
        self.motion, self.gas = torch.zeros(1, 3), 0.0

    @torch.inference_mode()
    def see(self, frame: np.ndarray, action: np.ndarray | None = None) -> View:
        """Look at an image [96, 96, 3] after an action [2]; at the first one there was none."""
        check_frame(frame)
        now, bars, road = texture(frame), read_dashboard(frame), RoadMap(frame)
        if self.last is not None:
            guess = self.motion.clone()
            guess[0, 2] = TURN_PER_PIXEL * bars.turn_rate
            self.motion, _ = register(self.last, now, guess)
        if action is not None:
            self.gas = float(engine_gas(torch.tensor(self.gas), torch.tensor(action[1])))
        on = road.wheels_on_road(torch.zeros(3))
        rest = [bars.turn_rate, bars.steering, bars.front, bars.rear, self.gas, *on.tolist()]
        self.last = now
        return View(frame, np.array([*self.motion[0].tolist(), *rest], np.float32), road)


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """The image [96, 96, 3] at a quarter of its size."""
    return frame.reshape(24, 4, 24, 4, 3).mean((1, 3)).astype(np.uint8)


def engine_gas(gas: Tensor, pedal: Tensor) -> Tensor:
    """Gas after a decision: the engine follows the pedal up slowly, and down at once."""
    return torch.minimum(pedal.clamp(min=0), gas + GAS_PER_DECISION)


@dataclass(frozen=True, eq=False)
class Drive:
    """What is left of an episode.

    Attributes:
        transitions: states, actions and rewards of T decisions, the held start left out.
        features: [T, 2] what the reward is learned from, see `reward_features`.
        images: [T+1, 24, 24, 3] uint8, see `thumbnail`; the last one is the end.
        episode_return: the environment's rewards, from the first frame on.
        num_frames: real frames.
    """

    transitions: Transitions
    features: np.ndarray
    images: np.ndarray
    episode_return: float
    num_frames: int


# --- the model ------------------------------------------------------------------------------------


class CarModel:
    """Learns how the car moves, and what progress is worth.

    An ensemble learns motion and dashboard, from every drive and its mirror image; a line learns
    the reward of a decision from its progress on road and on grass.
    """

    def __init__(self, generator: torch.Generator, config: DynamicsConfig | None = None) -> None:
        """Make a model to be fitted."""
        config = config or DynamicsConfig(num_members=3, patience=30, min_gain=0.02)
        self.motion = EnsembleModel(NUM_STATE, ACTIONS, generator, config)
        self.reward_line = torch.zeros(3)  # per px on road and on grass, and per decision

    def fit(self, drives: list[Drive]) -> "CarModel":
        """Fit to all drives so far; at least two, for some are held out."""
        both = mirrored([drive.transitions for drive in drives])
        # What memory and map know better is not to be predicted: it would drown out the rest.
        known = both.next_obs.copy()
        known[:, GAS:] = both.obs[:, GAS:]
        self.motion.fit(replace(both, next_obs=known, reward=np.zeros_like(both.reward)))
        features = torch.tensor(np.concatenate([drive.features for drive in drives]))
        reward = torch.tensor(np.concatenate([drive.transitions.reward for drive in drives]))
        self.reward_line = fit_ridge(with_ones(features), reward[:, None], 1e-6)[:, 0]
        return self

    def on(self, road: RoadMap) -> "CarOnRoad":
        """The model on a map, to plan with."""
        return CarOnRoad(self, road)


def mirrored(drives: list[Transitions]) -> Transitions:
    """All drives as transitions of one episode each, every one followed by its mirror image."""
    parts = []
    flip = np.array([-1, 1], np.float32)
    for i, drive in enumerate(drives):
        columns = [
            np.concatenate([drive.obs, drive.obs * MIRROR]),
            np.concatenate([drive.action, drive.action * flip]),
            np.tile(drive.reward, 2),
            np.concatenate([drive.next_obs, drive.next_obs * MIRROR]),
            *(np.tile(flags, 2) for flags in (drive.terminated, drive.truncated)),
            np.full(2 * len(drive), i),
        ]
        parts.append(columns)
    return Transitions(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def reward_features(advance: Tensor, on_road: Tensor) -> Tensor:
    """Progress [...] split by the share [...] of the wheels on the road: [..., 2]."""
    return torch.stack([advance * on_road, advance * (1 - on_road)], -1)


@dataclass(frozen=True)
class CarOnRoad:
    """A fitted model of the car on a map: a `Model` of state, pose and px to go, [..., 14]."""

    model: CarModel
    road: RoadMap

    @property
    def num_members(self) -> int:
        """E, of the ensemble."""
        return self.model.motion.num_members

    def start(self, state: np.ndarray) -> Tensor:
        """A state [10] with the pose that all begin with, and its way to go: [1, 14]."""
        pose = torch.zeros(3)
        return torch.cat([torch.tensor(state), pose, self.road.way(pose)[0][None]])[None]

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """One decision: obs [E, K, 14], action [E, K, 2]; there is no noise to draw."""
        state, pose, to_go = obs[..., :NUM_STATE], obs[..., POSE], obs[..., TO_GO]
        state = state + self.model.motion.predict(state, action).mean[..., :-1]
        # Known better than learned: the engine's memory, what it can do, and the map. Without the
        # limit a plan may brake at rest and be carried back: few data say that brakes hold.
        state[..., GAS] = engine_gas(obs[..., GAS], action[..., 1])
        gas = torch.maximum(obs[..., GAS], state[..., GAS])
        limit = obs[..., :2].norm(dim=-1) + PUSH * gas
        state[..., :2] *= (limit / state[..., :2].norm(dim=-1).clamp(min=1e-6)).clamp(max=1)[
            ..., None
        ]
        next_pose = moved(pose, state[..., MOTION])
        next_to_go, _ = self.road.way(next_pose)
        state[..., ROAD] = self.road.wheels_on_road(next_pose)
        advance = progress(to_go, next_to_go, state[..., :2].norm(dim=-1))
        features = reward_features(advance, state[..., ROAD].mean(-1))
        reward = with_ones(features) @ self.model.reward_line
        next_obs = torch.cat([state, next_pose, next_to_go[..., None]], -1)
        return Step(next_obs, reward, torch.zeros_like(reward))


# --- driving --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DriverConfig:
    """Settings of a driver.

    Attributes:
        planner: of the search; a decision is four frames.
        grass_price: px of progress that a px with all wheels on grass is worth.
        turn_price: px of progress that a rad is worth, by which the car at the end of the plan
            heads away from the way to go: about the radius of a turn.
    """

    planner: ICEMConfig = SEARCH
    grass_price: float = 0.8
    turn_price: float = 15.0


class Driver:
    """Drives by planning with a learned model on the map of the moment."""

    def __init__(
        self, model: CarModel, generator: torch.Generator, config: DriverConfig | None = None
    ) -> None:
        """Drive with a model, which may be fitted anew between decisions."""
        self.model, self.config = model, config or DriverConfig()
        self.planner = ICEM(ACTIONS, generator, self.config.planner)

    def reset(self) -> None:
        """Forget the plan, for a new episode."""
        self.planner.reset()

    @torch.inference_mode()
    def plan(self, view: View, *, trace: bool = False) -> Plan:
        """Search for the best plan from a view; see `Planner.plan` for the trace."""
        on_road = self.model.on(view.road)
        config, worth = self.config, self.model.reward_line[0]  # worth of a px of progress

        def objective(obs: Tensor, action: Tensor, step: Step) -> Tensor:
            new = step.next_obs
            distance, grass = new[..., :2].norm(dim=-1), 1 - new[..., ROAD].mean(-1)
            advance = progress(obs[..., TO_GO], new[..., TO_GO], distance)
            # On grass the reward says nothing: there the way back counts, and every px costs.
            return step.reward + worth * grass * (advance - config.grass_price * distance)

        def terminal_value(obs: Tensor) -> Tensor:
            _, angle = view.road.way(obs[..., POSE])
            return -config.turn_price * worth * angle.abs()

        def score(actions: Tensor) -> Tensor:
            return rollout_returns(
                on_road, on_road.start(view.state), actions,
                objective=objective, terminal_value=terminal_value,
            )  # fmt: skip

        return self.planner.plan(score, num_envs=1, trace=trace)

    def act(self, view: View) -> np.ndarray:
        """Steering and pedal [2]: the first action of the best plan, which is kept to look at."""
        self.latest = self.plan(view)
        return self.latest.actions[0, 0].numpy()


def reward_features_of(view: View, new: View) -> np.ndarray:
    """Reward features [2] of what has really happened between two views, on the first one's map."""
    state = torch.tensor(new.state)
    (start, _), (end, _) = (view.road.way(pose) for pose in (torch.zeros(3), state[MOTION]))
    advance = progress(start, end, state[:2].norm())
    return reward_features(advance, state[ROAD].mean()).numpy()


class Wanderer:
    """Acts at random: slow noise on steering and pedal, each episode with a pedal of its own."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.noise = generator, CorrelatedNoise(2, generator, 0.7)
        self.reset()

    def reset(self) -> None:
        """Choose another pedal, for a new episode."""
        self.noise.reset()
        self.pedal = 0.3 * float(torch.rand((), generator=self.generator))

    def act(self, view: View) -> np.ndarray:
        """Steering and pedal [2]."""
        return 0.4 * self.noise.sample(1)[0].numpy() + np.array([0, self.pedal], np.float32)


def drive(
    env: PixelCar,
    driver: Driver | Wanderer,
    *,
    seed: int,
    max_frames: int = 1000,
    noise: CorrelatedNoise | None = None,
    noise_std: float = 0.15,
    watch: Callable[[View], None] | None = None,
) -> Drive:
    """Drive an episode.

    Args:
        env: the car.
        driver: acts.
        seed: of the track, `reset(seed=seed)`.
        max_frames: stop there at the latest.
        noise: added to what the driver does, to explore; none unless given.
        noise_std: its standard deviation.
        watch: is shown each view after the driver has acted on it.

    Raises:
        ValueError: for a drive that would be over before the agent takes the wheel.
    """
    if max_frames <= START[0] * HOLD:
        raise ValueError(
            f"drive: expected max_frames > {START[0] * HOLD}, for so long the controls are held, "
            f"got {max_frames}. Drive for longer."
        )
    frame, _ = env.reset(seed=seed)
    eye = Eye()
    driver.reset()
    view, rows, total, ended = eye.see(frame), [], 0.0, False
    while not ended:
        held = env.num_frames < START[0] * HOLD
        action = np.array(START[1], np.float32) if held else driver.act(view)
        if watch is not None:
            watch(view)
        if noise is not None and not held:
            action = action + noise_std * noise.sample(1)[0].numpy()
        action = action.clip(-1, 1)
        frame, reward, terminated, truncated, _ = env.step(action)
        truncated = truncated or env.num_frames >= max_frames
        total, ended = total + reward, terminated or truncated
        new = eye.see(frame, action)
        if not held:
            row = view.state, action, np.float32(reward), new.state, terminated, truncated, 0
            rows.append((*row, reward_features_of(view, new), thumbnail(view.frame)))
        view = new
    *columns, features, images = (np.array(column) for column in zip(*rows, strict=True))
    images = np.concatenate([images, thumbnail(view.frame)[None]])
    return Drive(Transitions(*columns), features, images, total, env.num_frames)
