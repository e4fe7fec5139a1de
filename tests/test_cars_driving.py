"""The state, the car's model, its driver and a drive: by hand, in a drawn world, without Box2D."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cars_scenes import ROAD, Film, blank, seen_from, with_bars

from mbrl_helpers.agents import CorrelatedNoise
from mbrl_helpers.cars import driving
from mbrl_helpers.cars.driving import (
    MIRROR,
    SEARCH,
    STATE,
    CarModel,
    CarOnRoad,
    Drive,
    Driver,
    DriverConfig,
    Eye,
    FittedCar,
    View,
    Wanderer,
    drive,
    engine_gas,
    mirrored,
    reward_features,
    reward_features_of,
    thumbnail,
)
from mbrl_helpers.cars.road import RoadMap
from mbrl_helpers.cars.vision import ACTIONS, PixelCar
from mbrl_helpers.data import Transitions
from mbrl_helpers.dynamics import DynamicsConfig
from mbrl_helpers.planners import ICEMConfig

NAMES = (
    "ahead [px]", "right [px]", "turn [rad]", "turn rate", "steering", "front wheels",
    "rear wheels", "gas", "road in front", "road behind",
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the state -----------------------------------------------------------------------------------


def test_names_and_columns_of_the_state():
    assert STATE == NAMES
    assert driving.NUM_STATE == 10
    columns = np.arange(14)
    assert columns[driving.MOTION].tolist() == [0, 1, 2]
    assert columns[driving.GAS] == 7
    assert columns[driving.ROAD].tolist() == [8, 9]
    assert columns[driving.POSE].tolist() == [10, 11, 12]
    assert columns[driving.TO_GO] == 13


def walk(poses, actions, *, bars=None, flip=False):
    """States of an eye that is led through the drawn world."""
    eye, states = Eye(), []
    for i, pose in enumerate(poses):
        frame = seen_from(pose, flip=flip)
        frame = with_bars(frame, **(bars[i] if bars else {}))
        action = None if i == 0 else np.array(actions[i - 1], np.float32)
        states.append(eye.see(frame, action).state)
    return np.array(states)


PATH = [(0, 0, 0), (5, 0.5, 0.05), (11, 0, -0.1), (18, -2, -0.2)]
TAKEN = [(0.2, 0.3), (-0.5, 1.0), (0.1, -1.0)]
SHOWN = [
    {},
    {"speed": 4, "front": 2, "rear": 3, "steering": 5, "turn_rate": 1.0},
    {"speed": 5, "front": 6, "rear": 2, "steering": -4, "turn_rate": -3.5},
    {"speed": 5, "front": 1, "rear": 9, "steering": -2, "turn_rate": -2.5},
]


def test_eye_sees_the_motion_the_dashboard_the_gas_and_the_road():
    states = walk(PATH, TAKEN, bars=SHOWN)
    assert states.shape == (4, 10)
    assert states.dtype == np.float32
    for state, bars in zip(states, SHOWN, strict=True):
        names = ("turn_rate", "steering", "front", "rear")
        assert state[3:7] == pytest.approx([bars.get(name, 0) for name in names], abs=0.02)
    assert states[:, 7].tolist() == pytest.approx([0, 0.3, 0.7, 0])
    assert states[0, :3].tolist() == [0, 0, 0]
    for before, after, state in zip(PATH, PATH[1:], states[1:], strict=False):
        y, x, turn = np.subtract(after, before)
        cos, sin = math.cos(before[2]), math.sin(before[2])
        motion = [y * cos + x * sin, x * cos - y * sin, turn]
        assert np.abs(state[:3] - motion).max() < 0.1
        assert abs(state[2] - turn) < 5e-3
    assert (states[:3, 8:] > 0.9).all()


def test_eye_tells_the_front_wheels_from_the_rear_ones():
    """A car, halfway from its drawn road to the grass (the world's x is to the right)."""
    across = [(0, 13, math.pi / 2)]  # heads to the right, where the road ends at x = 12
    (state,) = walk(across, [])
    assert state[8] < 0.3
    assert state[9] > 0.7
    (state,) = walk([(0, 13, -math.pi / 2)], [])
    assert state[8] > 0.7
    assert state[9] < 0.3


def test_eye_begins_from_the_last_motion_turned_by_what_the_dashboard_says(monkeypatch):
    guesses = []
    true_register = driving.register

    def kept(before, after, guess):
        guesses.append(guess[0].tolist())
        return true_register(before, after, guess)

    monkeypatch.setattr(driving, "register", kept)
    states = walk(PATH, TAKEN, bars=SHOWN)
    assert len(guesses) == 3
    assert guesses[0] == pytest.approx([0, 0, 0.043], abs=1e-3)
    assert guesses[1] == pytest.approx([*states[1, :2], -3.5 * 0.043], abs=1e-3)
    assert guesses[2] == pytest.approx([*states[2, :2], -2.5 * 0.043], abs=1e-3)


def test_eye_forgets():
    eye = Eye()
    first = eye.see(seen_from(PATH[0]))
    assert isinstance(first, View)
    assert np.array_equal(first.frame, seen_from(PATH[0]))
    assert np.array_equal(first.road.road, RoadMap(first.frame).road)
    eye.see(seen_from(PATH[1]), np.array([0, 1], np.float32))
    eye.reset()
    assert np.array_equal(eye.see(seen_from(PATH[0])).state, first.state)
    with pytest.raises(ValueError, match="check_frame"):
        eye.see(np.zeros((96, 96, 3), np.uint8))


def test_mirror_image_of_a_drive_has_the_mirrored_states():
    """What the eye sees in a world whose right is left, with bars to the other side."""
    states = walk(PATH, TAKEN, bars=SHOWN)
    other = [(ahead, -right, -turn) for ahead, right, turn in PATH]
    bars = [
        {k: -v if k in ("steering", "turn_rate") else v for k, v in shown.items()}
        for shown in SHOWN
    ]
    actions = [(-steering, pedal) for steering, pedal in TAKEN]
    seen = walk(other, actions, bars=bars, flip=True)
    assert np.allclose(seen, states * MIRROR, atol=0.02)
    assert (np.abs(states).max(0) > 0.04).all()  # so that every sign is seen


def test_engine_follows_the_pedal_up_slowly_and_down_at_once():
    gas, heard = torch.tensor(0.0), []
    for pedal in (1.0, 1.0, 1.0, 0.5, -1.0):
        gas = engine_gas(gas, torch.tensor(pedal))
        heard.append(float(gas))
    assert heard == pytest.approx([0.4, 0.8, 1.0, 0.5, 0.0])


def test_thumbnail_is_a_quarter_of_an_image():
    frame = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    small = thumbnail(frame)
    assert small.shape == (24, 24, 3)
    assert small.dtype == np.uint8
    for row, column in ((0, 0), (3, 17), (23, 23)):
        block = frame[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert small[row, column].tolist() == block.mean((0, 1)).astype(int).tolist()


# --- rewards -------------------------------------------------------------------------------------


def test_reward_features_split_progress_by_the_road():
    found = reward_features(torch.tensor([4.0, -2.0]), torch.tensor([0.25, 1.0]))
    assert found.tolist() == [[1, 3], [-2, 0]]


def corridor():
    """A map on which the px to go are 70.5 at the car, and one less for each px ahead."""
    road = RoadMap(blank(ROAD))
    rows = torch.arange(28.0)[:, None].expand(28, 32)
    road._ways = torch.stack([3 * rows, torch.ones(28, 32), torch.zeros(28, 32)])[None]
    return road


def steep(road_columns=96):
    """A map that promises a hundred px for each; so many columns of it are road."""
    frame = blank()
    frame[:84, :road_columns] = ROAD
    road = RoadMap(frame)
    road._ways = 100 * corridor()._ways
    return road


def view_of(state, road=None):
    state = np.array(state, np.float32)
    return View(blank(ROAD), state, RoadMap(blank()) if road is None else road)


def test_reward_features_of_two_views():
    """Progress on the first one's map, road under the wheels from the second one."""
    before = view_of(np.zeros(10), corridor())
    after = [4, 3, 0.1, 9, 9, 9, 9, 9, 0.5, 1.0]
    found = reward_features_of(before, view_of(after))
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([4 * 0.75, 4 * 0.25], abs=1e-3)
    backwards = [-4, 3, 0.1, 9, 9, 9, 9, 9, 0.5, 0.0]
    found = reward_features_of(before, view_of(backwards))
    assert found.tolist() == pytest.approx([-4 * 0.25, -4 * 0.75], abs=1e-3)
    # A jump of the way to go counts as far as the car has moved: 5 px for (3, 4).
    found = reward_features_of(view_of(np.zeros(10), steep()), view_of([3, 4, 2, *after[3:]]))
    assert found.sum() == pytest.approx(5, abs=1e-3)


# --- the model -----------------------------------------------------------------------------------


class Motion:
    """In place of a fitted ensemble: each of its members predicts the change that it is given."""

    def __init__(self, change, num_members=2):
        self.change, self.num_members, self.asked = torch.tensor(change), num_members, []

    def predict(self, state, action):
        self.asked.append((state, action))
        change = self.change.expand(*state.shape[:-1], 10)
        reward = torch.full((*state.shape[:-1], 1), 99.0)
        return SimpleNamespace(mean=torch.cat([change, reward], -1))


def car(change=(0.0,) * 10, line=(0.5, 0.1, -0.4), num_members=2):
    return FittedCar(Motion(change, num_members), torch.tensor(line))


def test_start_of_what_is_imagined():
    on_road = car().on(corridor())
    assert isinstance(on_road, CarOnRoad)
    assert on_road.num_members == 2
    obs = on_road.start(np.arange(10, dtype=np.float32))
    assert obs.shape == (1, 14)
    assert obs[0].tolist() == pytest.approx([*range(10), 0, 0, 0, 70.5], abs=1e-3)


def test_imagined_step_by_hand():
    change = [1.0, -0.5, 0.2, 0.3, -0.4, 0.5, 0.6, 77.0, 77.0, 77.0]
    on_road = car(change).on(corridor())
    state = [3.0, 1.0, -0.1, 1.0, 2.0, 3.0, 4.0, 0.8, 0.0, 0.0]
    turn = math.pi / 6
    obs = torch.tensor([*state, 10.0, 2.0, turn, 60.5]).expand(2, 3, 14)
    action = torch.tensor([0.3, 0.9]).expand(2, 3, 2)
    step = on_road.step(obs, action, generator())
    ((asked, acted),) = on_road.car.motion.asked
    assert torch.equal(asked, obs[..., :10])
    assert torch.equal(acted, action)
    assert step.next_obs.shape == (2, 3, 14)
    assert step.reward.shape == step.terminated.shape == (2, 3)
    assert not step.terminated.any()
    new = step.next_obs[1, 2]
    norm, limit = math.hypot(4, 0.5), math.hypot(3, 1) + 0.8 * 0.9  # the engine has 0.9 by then
    ahead, right = (part * min(1, limit / norm) for part in (4, 0.5))
    assert limit < norm
    assert new[:7].tolist() == pytest.approx([ahead, right, 0.1, 1.3, 1.6, 3.5, 4.6], abs=1e-5)
    assert new[7:10].tolist() == pytest.approx([0.9, 1, 1])
    cos, sin = math.cos(turn), math.sin(turn)
    place = [10 + ahead * cos - right * sin, 2 + ahead * sin + right * cos, turn + 0.1]
    assert new[10:13].tolist() == pytest.approx(place, abs=1e-5)
    assert float(new[13]) == pytest.approx(70.5 - place[0], abs=1e-3)
    assert step.reward.tolist()[1][2] == pytest.approx(0.5 * (place[0] - 10) - 0.4, abs=1e-3)


def test_imagined_reward_on_grass_and_at_an_edge():
    """Half of the wheels on the road; the left half of the map is road."""
    frame = blank()
    frame[:84, :30] = ROAD
    road = RoadMap(frame)
    road._ways = corridor()._ways
    edge = (30 - 47.5 - 0.5) / 0.8  # where the smoothed road is half
    obs = torch.tensor([2.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, edge, 0, 50.5]).expand(2, 1, 14)
    step = car().on(road).step(obs, torch.zeros(2, 1, 2))
    assert step.next_obs[0, 0, 8:10].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert float(step.reward[0, 0]) == pytest.approx(2 * 0.5 * (0.5 + 0.1) - 0.4, abs=1e-3)


def test_imagined_progress_is_at_most_the_distance():
    """5 px for (3, 4), whatever the turn, and the map says."""
    on_road = car().on(steep())
    obs = on_road.start(np.array([3, 4, 2, 0, 0, 0, 0, 0, 0, 0], np.float32)).expand(2, 1, 14)
    step = on_road.step(obs, torch.zeros(2, 1, 2))
    assert float(step.reward[0, 0]) == pytest.approx(0.5 * 5 - 0.4, abs=1e-3)


@pytest.mark.parametrize(
    ("gas", "pedal", "push"),
    [(0, -1, 0), (0, 0, 0), (0, 1, 0.4), (0, 0.3, 0.3), (0.5, 1, 0.9), (0.5, -1, 0.5), (1, 0.2, 1)],
)
def test_nothing_but_gas_makes_the_car_faster(gas, pedal, push):
    """By 0.8 px for all of it, before the decision or after it."""
    on_road = car([50.0, 50.0, *[0.0] * 8]).on(corridor())
    obs = torch.tensor([0.3, 0.4, 0, 0, 0, 0, 0, gas, 0, 0, 0, 0, 0, 70.5]).expand(2, 1, 14)
    new = on_road.step(obs, torch.tensor([0.0, pedal]).expand(2, 1, 2)).next_obs[0, 0]
    assert float(new[:2].norm()) == pytest.approx(0.5 + 0.8 * push, abs=1e-5)


def test_a_car_that_stands_stands():
    obs = car().on(corridor()).start(np.zeros(10, np.float32)).expand(2, 1, 14)
    step = car().on(corridor()).step(obs, torch.zeros(2, 1, 2))
    assert torch.equal(step.next_obs[..., :8], obs[..., :8])
    assert step.reward.tolist() == [[pytest.approx(-0.4)]] * 2
    slow = torch.tensor([1e-4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 70.5]).expand(2, 1, 14)
    still = car([-1e-4, 1e-5, *[0.0] * 8]).on(corridor()).step(slow, torch.zeros(2, 1, 2))
    assert still.next_obs[0, 0, :2].tolist() == pytest.approx([0, 1e-5], abs=1e-8)


def a_drive(seed, length=12):
    """A drive of random numbers, with rewards on a line."""
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.standard_normal((2, length, 10)).astype(np.float32)
    features = rng.standard_normal((length, 2)).astype(np.float32)
    ended = np.arange(length) == length - 1
    log = Transitions(
        obs=obs, action=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        reward=(features @ [0.7, 0.1] - 0.4).astype(np.float32), next_obs=next_obs,
        terminated=ended & (seed % 2 == 1), truncated=ended & (seed % 2 == 0),
        episode=np.zeros(length, np.int64),
    )  # fmt: skip
    images = rng.integers(0, 255, (length + 1, 24, 24, 3)).astype(np.uint8)
    return Drive(log, features, images, float(log.reward.sum()), 4 * length)


def test_mirrored_drives_follow_each_other():
    drives = [a_drive(0, 5), a_drive(1, 7)]
    both = mirrored([one.transitions for one in drives])
    assert len(both) == 24
    assert both.episode.tolist() == [0] * 10 + [1] * 14  # held out together
    flip = np.array([1, -1, -1, -1, -1, 1, 1, 1, 1, 1])
    for start, one in ((0, drives[0].transitions), (10, drives[1].transitions)):
        size = len(one)
        for rows, signs, steering in (
            (slice(start, start + size), 1, 1),
            (slice(start + size, start + 2 * size), flip, -1),
        ):
            assert np.array_equal(both.obs[rows], one.obs * signs)
            assert np.array_equal(both.next_obs[rows], one.next_obs * signs)
            assert np.array_equal(both.action[rows], one.action * [steering, 1])
            for name in ("reward", "terminated", "truncated"):
                assert np.array_equal(getattr(both, name)[rows], getattr(one, name))


def test_model_learns_from_drives_and_their_mirror_images(monkeypatch):
    learner, got = CarModel(generator()), []
    assert learner.motion.config == DynamicsConfig(num_members=3, patience=30, min_gain=0.02)
    assert learner.motion.task.obs_names == NAMES
    assert learner.motion.task.action_space == ACTIONS
    monkeypatch.setattr(learner.motion, "fit", lambda data, **_: got.append(data) or "fitted")
    drives = [a_drive(0), a_drive(1)]
    fitted = learner.fit(drives)
    assert fitted.motion == "fitted"
    assert fitted.reward_line.tolist() == pytest.approx([0.7, 0.1, -0.4], abs=1e-4)
    both = mirrored([one.transitions for one in drives])
    assert np.array_equal(got[0].obs, both.obs)
    assert np.array_equal(got[0].action, both.action)
    assert np.array_equal(got[0].next_obs[:, :7], both.next_obs[:, :7])
    assert np.array_equal(got[0].next_obs[:, 7:], both.obs[:, 7:])  # known better than learned
    assert not got[0].reward.any()
    assert not np.array_equal(both.next_obs[:, 7:], both.obs[:, 7:])  # and left as it was
    with pytest.raises(ValueError, match=r"CarModel.fit: expected at least one drive, got none"):
        learner.fit([])


def test_reward_line_leans_towards_nothing_by_a_millionth(monkeypatch):
    """Of two features that are always alike each gets half."""
    one = a_drive(0)
    features = np.stack([one.features[:, 0]] * 2, 1)
    alike = dataclasses.replace(one, features=features)
    log = dataclasses.replace(one.transitions, reward=features[:, 0].copy())
    learner = CarModel(generator())
    monkeypatch.setattr(learner.motion, "fit", lambda data, **_: None)
    line = learner.fit([dataclasses.replace(alike, transitions=log)]).reward_line
    assert line.tolist() == pytest.approx([0.5, 0.5, 0], abs=1e-3)
    constant = dataclasses.replace(one, features=np.full((12, 2), 1e-3, np.float32))
    rewards = np.full(12, 1.0, np.float32)
    log = dataclasses.replace(one.transitions, reward=rewards)
    line = learner.fit([dataclasses.replace(constant, transitions=log)]).reward_line
    # x = (a, a, 1) times the same number: w = x / (x x + ridge)
    x = np.array([1e-3, 1e-3, 1.0])
    assert line.numpy() == pytest.approx(x / (x @ x + 1e-6), abs=1e-7)


@pytest.fixture(scope="module")
def fitted():
    """A model fitted to two small drives."""
    config = DynamicsConfig(num_members=2, max_updates=20, hidden_sizes=(8,))
    return CarModel(generator(3), config).fit([a_drive(0), a_drive(1)])


def test_a_fitted_car_is_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path / "car")
    loaded = FittedCar.load(tmp_path / "car")
    obs = fitted.on(corridor()).start(a_drive(2).transitions.obs[0]).expand(2, 4, 14)
    action = torch.rand(2, 4, 2, generator=generator())
    before, after = (one.on(corridor()).step(obs, action) for one in (fitted, loaded))
    assert torch.equal(before.next_obs, after.next_obs)
    assert torch.equal(before.reward, after.reward)
    fitted.save(tmp_path / "car")  # an older one may be overwritten
    (tmp_path / "else").write_text("mine")
    with pytest.raises(ValueError, match=r"FittedCar.save: expected a new path"):
        fitted.save(tmp_path / "else")
    with pytest.raises(ValueError, match=r"FittedCar.load: expected a file that can be read"):
        FittedCar.load(tmp_path / "else")
    with pytest.raises(FileNotFoundError, match=r"FittedCar.load"):
        FittedCar.load(tmp_path / "nothing")
    fitted.motion.save(tmp_path / "motion")
    with pytest.raises(ValueError, match=r"FittedCar.load.*another kind"):
        FittedCar.load(tmp_path / "motion")


def test_a_further_fit_leaves_the_last_one_as_it_is():
    learner = CarModel(generator(3), DynamicsConfig(num_members=2, max_updates=5))
    first = learner.fit([a_drive(0), a_drive(1)])
    obs = first.on(corridor()).start(np.ones(10, np.float32)).expand(2, 1, 14)
    before = first.on(corridor()).step(obs, torch.ones(2, 1, 2))
    learner.fit([a_drive(2), a_drive(3)])
    after = first.on(corridor()).step(obs, torch.ones(2, 1, 2))
    assert torch.equal(before.next_obs, after.next_obs)


# --- the driver ----------------------------------------------------------------------------------


class Asked:
    """In place of a planner: keeps what it is asked to plan with."""

    def __init__(self, plan=None):
        self.calls, self.started, self.made = [], [], plan

    def start(self, num_envs):
        self.started.append(num_envs)
        return "start"

    def plan(self, score, state, trace=False):
        self.calls.append((score, state, trace))
        return self.made or f"plan {len(self.calls)}", f"state {len(self.calls)}"


def test_driver_goes_on_from_its_last_plan():
    driver = Driver(car(), generator())
    assert (SEARCH.horizon, SEARCH.population_size, SEARCH.num_elites) == (8, 100, 10)
    assert driver.config.planner == driver.planner.config == ICEMConfig(
        horizon=8, population_size=100, num_elites=10)  # fmt: skip
    driver.planner = asked = Asked()
    view = view_of(np.zeros(10), corridor())
    assert driver.plan(view) == "plan 1"
    assert driver.plan(view, trace=True) == "plan 2"
    driver.reset()
    driver.plan(view)
    assert [call[1] for call in asked.calls] == ["start", "state 1", "start"]
    assert [call[2] for call in asked.calls] == [False, True, False]
    assert asked.started == [1, 1]


def test_driver_takes_the_first_action_of_its_plan():
    actions = torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.6], [0.7, 0.8]]])
    driver = Driver(car(), generator())
    assert driver.latest is None
    driver.planner = Asked(SimpleNamespace(actions=actions))
    action = driver.act(view_of(np.zeros(10), corridor()))
    assert action.tolist() == pytest.approx([0.1, 0.2])
    assert driver.latest is driver.planner.made


@pytest.mark.parametrize("prices", [{}, {"grass_price": 3.0}, {"turn_price": 2.0}])
def test_what_a_plan_is_worth(prices):
    """One decision of 2 px ahead and a turn of 0.2, at an edge of the road."""
    frame = blank()
    frame[:84, :30] = ROAD
    road = RoadMap(frame)
    road._ways = corridor()._ways
    model = car([0.0, 0.0, 0.2, *[0.0] * 7], line=(0.5, 0.1, -0.4), num_members=2)
    driver = Driver(model, generator(), DriverConfig(**prices))
    driver.planner = asked = Asked()
    config = {"grass_price": 0.8, "turn_price": 15.0} | prices
    driver.plan(view_of([2.0, 0, 0, 0, 0, 0, 0, 0, 0, 0], road))
    score = asked.calls[0][0]
    # The car stands on grass: progress 2, of which the line pays 0.1; grass 1.
    worth = 2 * 0.1 - 0.4 + 0.5 * 1 * (2 - config["grass_price"] * 2)
    value = score(torch.zeros(1, 3, 1, 2))
    assert value.shape == (1, 3)
    assert value[0].tolist() == pytest.approx([worth - config["turn_price"] * 0.5 * 0.2] * 3,
                                              abs=1e-3)  # fmt: skip
    # A second decision adds its own reward; where the car heads counts once, at the end. It goes
    # on at the angle that the first one has turned it by, and turns by twice as much.
    progress = 2 * math.cos(0.2)
    more = progress * 0.1 - 0.4 + 0.5 * (progress - config["grass_price"] * 2)
    wanted = worth + more - config["turn_price"] * 0.5 * (0.2 + 0.4)
    assert float(score(torch.zeros(1, 1, 2, 2))) == pytest.approx(wanted, abs=1e-3)


def test_grass_costs_by_the_share_of_the_wheels():
    """Half on the road, half on grass, going back: every px costs, and the way back counts less."""
    frame = blank()
    frame[:84, :30] = ROAD
    road = RoadMap(frame)
    road._ways = corridor()._ways
    edge = (30 - 47.5 - 0.5) / 0.8
    model = car(line=(0.5, 0.1, -0.4))
    driver = Driver(model, generator())
    driver.planner = asked = Asked()
    # A motion of `edge` px to the right in one decision brings the car to the edge.
    driver.plan(view_of([-3.0, edge, 0, 0, 0, 0, 0, 0, 0, 0], road))
    value = float(asked.calls[0][0](torch.zeros(1, 1, 1, 2)))
    distance = math.hypot(3, edge)
    wanted = -3 * 0.5 * (0.5 + 0.1) - 0.4 + 0.5 * 0.5 * (-3 - 0.8 * distance)
    assert value == pytest.approx(wanted, abs=2e-3)


def test_progress_over_grass_is_at_most_the_distance():
    driver = Driver(car(line=(0.5, 0.1, -0.4)), generator())
    driver.planner = asked = Asked()
    driver.plan(view_of([3.0, 4.0, 2.0, 0, 0, 0, 0, 0, 0, 0], steep(0)))
    value = float(asked.calls[0][0](torch.zeros(1, 1, 1, 2)))
    wanted = 5 * 0.1 - 0.4 + 0.5 * (5 - 0.8 * 5) - 15 * 0.5 * 2
    assert value == pytest.approx(wanted, abs=1e-3)


def test_driver_plans_from_the_state_of_the_view():
    model = car()
    driver = Driver(model, generator())
    driver.planner = asked = Asked()
    state = np.arange(10, dtype=np.float32) / 10
    driver.plan(view_of(state, corridor()))
    asked.calls[0][0](torch.zeros(1, 2, 1, 2))
    (seen, _), *_ = model.motion.asked
    assert torch.equal(seen, torch.tensor(state).expand(2, 2, 10))


def test_plans_depend_on_seed_and_prices_only(fitted):
    view = Eye().see(seen_from((0, 3, 0.2)))
    search = ICEMConfig(horizon=3, population_size=16, num_elites=4)

    def plan(seed=0, **prices):
        return Driver(fitted, generator(seed), DriverConfig(planner=search, **prices)).plan(view)

    assert torch.equal(plan().actions, plan().actions)
    assert not torch.equal(plan().actions, plan(seed=1).actions)
    assert not torch.equal(plan().best_return, plan(turn_price=200.0).best_return)
    assert plan().actions.shape == (1, 3, 2)


def test_driver_needs_a_fitted_car(fitted):
    with pytest.raises(TypeError, match=r"Driver: expected a FittedCar, got CarModel. Pass what"):
        Driver(CarModel(generator()), generator())
    driver = Driver(fitted, generator())
    with pytest.raises(TypeError, match="Driver: expected a FittedCar, got NoneType"):
        driver.model = None
    other = car()
    driver.model = other
    assert driver.model is other


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"planner": None}, TypeError, "planner as an ICEMConfig, got None"),
        ({"planner": 8}, TypeError, "planner as an ICEMConfig, got 8"),
        ({"grass_price": math.nan}, ValueError, "grass_price in"),
        ({"grass_price": -0.1}, ValueError, "grass_price in"),
        ({"grass_price": math.inf}, ValueError, "grass_price in"),
        ({"grass_price": "1"}, TypeError, "grass_price as a number"),
        ({"turn_price": -1}, ValueError, "turn_price in"),
        ({"turn_price": math.nan}, ValueError, "turn_price in"),
        ({"turn_price": None}, TypeError, "turn_price as a number"),
    ],
)
def test_impossible_settings_of_a_driver_are_refused(settings, error, message):
    with pytest.raises(error, match=f"DriverConfig: expected {message}"):
        DriverConfig(**settings)


def test_settings_of_a_driver_at_their_bounds():
    assert DriverConfig(grass_price=0, turn_price=0).grass_price == 0


def test_wanderer_is_slow_noise_and_a_pedal_of_each_episode():
    wanderer, rng = Wanderer(generator(5)), generator(5)
    pedals = []
    for _ in range(2):
        pedal = 0.3 * float(torch.rand((), generator=rng))
        first = torch.randn(1, 2, generator=rng)
        second = 0.7 * first + math.sqrt(1 - 0.7**2) * torch.randn(1, 2, generator=rng)
        for noise in (first, second):
            wanted = 0.4 * noise[0].numpy() + [0, pedal]
            assert wanderer.act(None) == pytest.approx(wanted, abs=1e-6)
        wanderer.reset()
        pedals.append(pedal)
    assert 0 <= min(pedals) < max(pedals) <= 0.3


# --- a drive -------------------------------------------------------------------------------------


class Steady:
    """Does the same for ever, and keeps the views."""

    def __init__(self, action=(0.9, -0.6)):
        self.action, self.views, self.resets = np.array(action, np.float32), [], 0

    def reset(self):
        self.resets += 1

    def act(self, view):
        self.views.append(view)
        return self.action


def film(length=60, **how):
    """Images of the drawn world, four of which make a decision; the car goes straight on."""
    frames = [seen_from((0.5 * i, 0, 0)) for i in range(length)]
    return Film(frames, **how)


def test_drive_holds_the_start_and_then_lets_the_driver_act():
    one, driver, watched = film(), Steady(), []
    log = drive(PixelCar(one), driver, seed=7, max_frames=36, watch=watched.append)
    assert one.seeds == [7]
    assert driver.resets == 1
    assert log.num_frames == len(one.controls) == 36
    assert np.allclose(one.controls[:20], [0, 0.2, 0])
    assert np.allclose(one.controls[20:], [0.9, 0, 0.48])
    assert len(driver.views) == 4
    assert len(watched) == 9
    assert all(a is b for a, b in zip(watched[5:], driver.views, strict=True))
    log_actions = log.transitions.action
    assert log_actions.shape == (4, 2)
    assert log_actions.dtype == np.float32
    assert np.allclose(log_actions, [0.9, -0.6])
    assert log.episode_return == sum(range(1, 37))
    frames = np.arange(21, 37).reshape(4, 4)
    assert log.transitions.reward.tolist() == frames.sum(1).tolist()


def test_drive_puts_together_what_belongs_together():
    """Image 20 + 4 t is seen before decision t, image 24 + 4 t after it."""
    one, driver = film(), Steady((0.0, 0.5))
    log = drive(PixelCar(one), driver, seed=0, max_frames=36)
    rows = log.transitions
    # The camera has not come near at frame 20, so the images are enlarged: ask the environment.
    env = PixelCar(film())
    images = [env.reset()[0], *(env.step(np.zeros(2))[0] for _ in range(9))]
    assert np.array_equal(log.images, [thumbnail(image) for image in images[5:]])
    assert all(np.array_equal(v.frame, i) for v, i in zip(driver.views, images[5:9], strict=True))
    assert np.array_equal(rows.obs, [view.state for view in driver.views])
    assert np.array_equal(rows.obs[1:], rows.next_obs[:-1])
    eye, views = Eye(), []
    for i, image in enumerate(images):
        action = None if i == 0 else np.array([0, 0.2 if i <= 5 else 0.5], np.float32)
        views.append(eye.see(image, action))
    assert np.array_equal(rows.next_obs, [view.state for view in views[6:]])
    wanted = [reward_features_of(*pair) for pair in itertools.pairwise(views[5:])]
    assert np.array_equal(log.features, wanted)
    assert rows.truncated.tolist() == [False, False, False, True]
    assert rows.terminated.tolist() == [False] * 4
    assert rows.episode.tolist() == [0] * 4
    assert rows.obs.dtype == rows.next_obs.dtype == rows.reward.dtype == np.float32
    assert not np.shares_memory(rows.obs, rows.next_obs)


def test_drive_explores_and_keeps_within_the_bounds():
    one, noise = film(), CorrelatedNoise(2, generator(4), 0.7)
    log = drive(PixelCar(one), Steady((0.9, -0.6)), seed=0, max_frames=60, noise=noise,
                noise_std=0.5)  # fmt: skip
    again, rng = CorrelatedNoise(2, generator(4), 0.7), []
    for _ in range(10):
        rng.append(np.clip([0.9, -0.6] + 0.5 * again.sample(1)[0].numpy(), -1, 1))
    assert np.allclose(log.transitions.action, rng, atol=1e-6)
    assert np.abs(log.transitions.action).max() == 1
    assert np.allclose(one.controls[:20], [0, 0.2, 0])
    usual = drive(PixelCar(film()), Steady((0.0, 0.0)), seed=0, max_frames=24,
                  noise=CorrelatedNoise(2, generator(4), 0.7))  # fmt: skip
    first = CorrelatedNoise(2, generator(4), 0.7).sample(1).numpy()
    assert np.allclose(usual.transitions.action, 0.15 * first)
    below = drive(PixelCar(film()), Steady((-5, 5)), seed=0, max_frames=24)
    assert below.transitions.action.tolist() == [[-1, 1]]


def test_a_driver_of_your_own_may_return_a_list():
    class Mine(Steady):
        def act(self, view):
            return [0.5, 0.25]

    log = drive(PixelCar(film()), Mine(), seed=0, max_frames=24)
    assert log.transitions.action.tolist() == [[0.5, 0.25]]


def test_drive_ends_with_the_episode_or_the_frames_that_it_may_take():
    ended = drive(PixelCar(film(ends_at=26)), Steady(), seed=0, max_frames=60)
    assert ended.num_frames == 26
    assert ended.transitions.terminated.tolist() == [False, True]
    assert ended.transitions.truncated.tolist() == [False, False]
    assert ended.episode_return == sum(range(1, 27))
    cut = drive(PixelCar(film()), Steady(), seed=0, max_frames=25)  # in the midst of a decision
    assert cut.num_frames == 28
    assert cut.transitions.truncated.tolist() == [False, True]
    both = drive(PixelCar(film(ends_at=28)), Steady(), seed=0, max_frames=28)
    assert both.transitions.terminated.tolist() == both.transitions.truncated.tolist()
    shortest = drive(PixelCar(film()), Steady(), seed=0, max_frames=21)
    assert len(shortest.transitions) == 1


def test_a_drive_goes_on_for_a_thousand_frames_unless_told(monkeypatch):
    view = view_of(np.zeros(10), corridor())
    monkeypatch.setattr(driving, "Eye", lambda: SimpleNamespace(see=lambda frame, action: view))
    log = drive(PixelCar(Film([blank()])), Steady(), seed=0)
    assert log.num_frames == 1000
    assert len(log.transitions) == 245


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_frames": 20}, ValueError, "max_frames > 20"),
        ({"max_frames": 0}, ValueError, "max_frames >= 1"),
        ({"max_frames": 40.0}, TypeError, "max_frames as an int"),
        ({"noise_std": -0.1}, ValueError, "noise_std in"),
        ({"noise_std": math.nan}, ValueError, "noise_std in"),
        ({"noise_std": math.inf}, ValueError, "noise_std in"),
    ],
)
def test_impossible_drives_are_refused(settings, error, message):
    one = film(2)
    with pytest.raises(error, match=f"drive: expected {message}"):
        drive(PixelCar(one), Steady(), seed=0, **settings)
    assert one.seeds == []


def test_a_drive_may_be_without_noise_of_its_own():
    noise = CorrelatedNoise(2, generator(), 0.7)
    log = drive(PixelCar(film(30)), Steady(), seed=0, max_frames=24, noise=noise, noise_std=0)
    assert np.allclose(log.transitions.action, [0.9, -0.6])


def test_a_car_can_be_driven_again():
    env = PixelCar(film(30))
    logs = [drive(env, Steady(), seed=seed, max_frames=24) for seed in (1, 2)]
    assert env.env.seeds == [1, 2]
    assert np.array_equal(logs[0].images, logs[1].images)
