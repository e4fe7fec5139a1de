"""CarRacing from pixels, driving: the state, a learned model of the car, the planner, and a drive.

For lengths, angles and poses see `vision`.

Axes: E members, K rollouts, N candidates, H horizon, T decisions, S state, ... any leading axes.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor
from tqdm.auto import tqdm

from mbrl_helpers import saving
from mbrl_helpers.agents import CorrelatedNoise
from mbrl_helpers.cars.road import RoadMap, progress
from mbrl_helpers.cars.vision import (
    ACTIONS,
    ENV_ID,
    HOLD,
    PixelCar,
    check_frame,
    moved,
    read_dashboard,
    register,
    texture,
)
from mbrl_helpers.checks import check_counts, check_range
from mbrl_helpers.data import Transitions
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel, FittedModel
from mbrl_helpers.envs import Task
from mbrl_helpers.futures import rollout_returns
from mbrl_helpers.interaction import Interaction
from mbrl_helpers.interfaces import Step, VectorStep
from mbrl_helpers.networks import fit_ridge, with_ones
from mbrl_helpers.planners import ICEM, ICEMConfig, Plan, PlannerState

STATE = (
    "ahead [px]", "right [px]", "turn [rad]", "turn rate", "steering", "front wheels",
    "rear wheels", "gas", "road in front", "road behind",
)  # fmt: skip
NUM_STATE = len(STATE)
MOTION, GAS, ROAD = slice(0, 3), 7, slice(8, 10)  # columns of the state
POSE, TO_GO = slice(10, 13), 13  # and of what is imagined beside it
# The car is symmetric: what went to the right could as well have gone to the left.
MIRROR = np.array([1, -1, -1, -1, -1, 1, 1, 1, 1, 1], np.float32)
TURN_PER_PIXEL = 0.043  # rad that a decision turns by for a px of the dashboard: a first guess
PUSH = 0.8  # px a decision, by which full gas makes the car faster, at most; brakes never do
GAS_PER_DECISION = 0.4  # by how much the engine follows the pedal; it falls at once
SEARCH = ICEMConfig(horizon=8, population_size=100, num_elites=10)
START = (5, (0.0, 0.2))  # so many decisions, held: until the camera has come near


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

    Attributes:
        motion: the ensemble that learns; each fit of it is the motion of a `FittedCar`.
    """

    def __init__(self, generator: torch.Generator, config: DynamicsConfig | None = None) -> None:
        """Make a model to be fitted."""
        config = config or DynamicsConfig(num_members=3, patience=30, min_gain=0.02)
        task = Task(env_id=ENV_ID, obs_names=STATE, space=ACTIONS)
        self.motion = EnsembleModel(task, generator, config)

    def fit(self, drives: list[Drive], *, progress: bool = False) -> "FittedCar":
        """Fit to all drives so far; from five on (`num_folds`), whole drives are held out.

        Args:
            drives: at least one.
            progress: whether to show progress bars.

        Raises:
            ValueError: without any.
        """
        if not drives:
            raise ValueError(
                "CarModel.fit: expected at least one drive, got none. Make some with drive()."
            )
        both = mirrored([drive.transitions for drive in drives])
        # What memory and map know better is not to be predicted: it would drown out the rest.
        known = both.next_obs.copy()
        known[:, GAS:] = both.obs[:, GAS:]
        unrewarded = replace(both, next_obs=known, reward=np.zeros_like(both.reward))
        motion = self.motion.fit(unrewarded, progress=progress)
        features = torch.tensor(np.concatenate([drive.features for drive in drives]))
        reward = torch.tensor(np.concatenate([drive.transitions.reward for drive in drives]))
        return FittedCar(motion, fit_ridge(with_ones(features), reward[:, None], 1e-6)[:, 0])


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


@dataclass(frozen=True, eq=False)
class FittedCar(saving.Saved):
    """What a fit gives: how the car moves, and what progress is worth; it stays as it is.

    Attributes:
        motion: predicts the changes of the state, see `STATE`.
        reward_line: [3] reward per px of progress on road, per px on grass, and per decision.
    """

    kind = "fitted car"

    motion: FittedModel
    reward_line: Tensor

    def on(self, road: RoadMap) -> "CarOnRoad":
        """The model on a map, to plan with."""
        return CarOnRoad(self, road)

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""
        settings, arrays = self.motion.contents()
        return settings, arrays | {"reward_line": self.reward_line.numpy()}

    @classmethod
    def of_contents(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "FittedCar":
        """Make it of what a file has kept."""
        return cls(FittedModel.of_contents(settings, arrays), torch.tensor(arrays["reward_line"]))


@dataclass(frozen=True, eq=False)
class CarOnRoad:
    """A fitted car on a map: a `Model` of state, pose and px to go, [..., 14]."""

    car: FittedCar
    road: RoadMap

    @property
    def num_members(self) -> int:
        """E, of the ensemble."""
        return self.car.motion.num_members

    def start(self, state: np.ndarray) -> Tensor:
        """A state [10] with the pose that all begin with, and its way to go: [1, 14]."""
        pose = torch.zeros(3)
        return torch.cat([torch.tensor(state), pose, self.road.way(pose)[0][None]])[None]

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """One decision: obs [E, K, 14], action [E, K, 2]; there is no noise to draw."""
        state, pose, to_go = obs[..., :NUM_STATE], obs[..., POSE], obs[..., TO_GO]
        state = state + self.car.motion.predict(state, action).mean[..., :-1]
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
        reward = with_ones(features) @ self.car.reward_line
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

    def __post_init__(self) -> None:
        if not isinstance(self.planner, ICEMConfig):
            raise TypeError(
                f"DriverConfig: expected planner as an ICEMConfig, got {self.planner!r}. Change "
                "it, or leave it out for the default."
            )
        check_range(self, "grass_price", 0, float("inf"))
        check_range(self, "turn_price", 0, float("inf"))


class CarAgent(Protocol):
    """Anything that drives the car; one car, so that its reset forgets everything."""

    def act(self, view: View) -> np.ndarray:
        """Steering and pedal [2]."""
        ...

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the past, for a new episode."""
        ...


class Driver:
    """Drives by planning with a fitted car on the map of the moment.

    Attributes:
        model: what it plans with; another fit can be put in its place between decisions.
        latest: the last plan that it acted on.
    """

    def __init__(
        self, model: FittedCar, generator: torch.Generator, config: DriverConfig | None = None
    ) -> None:
        """Drive with a model.

        Raises:
            TypeError: for anything but a fitted one.
        """
        self.config = config or DriverConfig()
        self.planner = ICEM(ACTIONS, generator, self.config.planner)
        self.state: PlannerState | None = None
        self.latest: Plan | None = None
        self.model = model

    @property
    def model(self) -> FittedCar:
        """What it plans with."""
        return self._model

    @model.setter
    def model(self, model: FittedCar) -> None:
        if not isinstance(model, FittedCar):
            raise TypeError(
                f"Driver: expected a FittedCar, got {type(model).__name__}. Pass what CarModel.fit "
                "returns."
            )
        self._model = model

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the plan, for a new episode."""
        self.state = None

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

        state = self.planner.start(1) if self.state is None else self.state
        plan, self.state = self.planner.plan(score, state, trace=trace)
        return plan

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

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Choose another pedal, for a new episode."""
        self.noise.reset()
        self.pedal = 0.3 * float(torch.rand((), generator=self.generator))

    def act(self, view: View) -> np.ndarray:
        """Steering and pedal [2]."""
        return 0.4 * self.noise.sample(1)[0].numpy() + np.array([0, self.pedal], np.float32)


class _Wheel:
    """An agent of images, for `Interaction`: the eye sees them, the driver acts on what it sees.

    The start is held, and noise may be added, to explore.

    Attributes:
        views: of all images so far.
    """

    def __init__(
        self, driver: CarAgent, noise: CorrelatedNoise | None, noise_std: float,
        watch: Callable[[View], None] | None,
    ) -> None:  # fmt: skip
        self.driver, self.noise, self.noise_std, self.watch = driver, noise, noise_std, watch
        self.eye, self.views = Eye(), list[View]()
        self.action: np.ndarray | None = None  # the last one

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Tell the driver of a new episode."""
        self.driver.reset()

    def see(self, image: np.ndarray) -> View:
        """Look at the next image [96, 96, 3]."""
        self.views.append(self.eye.see(image, self.action))
        return self.views[-1]

    def act(self, images: np.ndarray) -> np.ndarray:
        """Actions [1, 2] after images [1, 96, 96, 3]."""
        view = self.see(images[0])
        held = len(self.views) <= START[0]
        action: np.ndarray = np.asarray(START[1] if held else self.driver.act(view), np.float32)
        if self.watch is not None:
            self.watch(view)
        if self.noise is not None and not held:
            action = action + self.noise_std * self.noise.sample(1)[0].numpy()
        self.action = action.clip(-1, 1)
        return self.action[None]


def drive(
    env: PixelCar,
    driver: CarAgent,
    *,
    seed: int,
    max_frames: int = 1000,
    noise: CorrelatedNoise | None = None,
    noise_std: float = 0.15,
    watch: Callable[[View], None] | None = None,
    progress: bool = False,
) -> Drive:
    """Drive an episode.

    Args:
        env: the car; it stays open.
        driver: acts.
        seed: of the track, `reset(seed=seed)`.
        max_frames: stop there at the latest.
        noise: added to what the driver does, to explore; none unless given.
        noise_std: its standard deviation.
        watch: is shown each view after the driver has acted on it.
        progress: whether to show a progress bar.

    Raises:
        ValueError: for a drive that would be over before the agent takes the wheel, or noise of no
            finite size.
    """
    check_counts("drive", max_frames=max_frames)
    if max_frames <= START[0] * HOLD:
        raise ValueError(
            f"drive: expected max_frames > {START[0] * HOLD}, for so long the controls are held, "
            f"got {max_frames}. Drive for longer."
        )
    if not 0 <= noise_std < float("inf"):
        raise ValueError(f"drive: expected noise_std in [0, inf), got {noise_std}. Try 0.15.")
    wheel, steps = _Wheel(driver, noise, noise_std, watch), []
    envs = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
    total = -(-max_frames // HOLD)
    driving = Interaction(envs, wheel, seed=seed, where="drive")
    for step in tqdm(driving, "decisions", total, disable=not progress):
        steps.append(step)
        if step.ended[0] or env.num_frames >= max_frames:
            break
    wheel.see(step.next_obs[0])
    cut = step.truncated | (env.num_frames >= max_frames)
    return _recorded(wheel.views, [*steps[:-1], step._replace(truncated=cut)], env.num_frames)


def _recorded(views: list[View], steps: list[VectorStep], num_frames: int) -> Drive:
    """What is kept of T decisions and T+1 views; the held start does not count."""
    total = sum(float(step.reward[0]) for step in steps)
    views, steps = views[START[0] :], steps[START[0] :]
    transitions = Transitions(
        obs=np.stack([view.state for view in views[:-1]]),
        action=np.concatenate([step.action for step in steps]),
        reward=np.concatenate([step.reward for step in steps]).astype(np.float32),
        next_obs=np.stack([view.state for view in views[1:]]),
        terminated=np.concatenate([step.terminated for step in steps]),
        truncated=np.concatenate([step.truncated for step in steps]),
        episode=np.zeros(len(steps), np.int64),
    )
    pairs = itertools.pairwise(views)
    features = np.stack([reward_features_of(view, new) for view, new in pairs])
    images = np.stack([thumbnail(view.frame) for view in views])
    return Drive(transitions, features, images, total, num_frames)
