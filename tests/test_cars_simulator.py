"""CarRacing from pixels, in the real environment. Only here is the simulator asked what is true."""

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from cars_scenes import painted
from gymnasium.utils.env_checker import check_env

from mbrl_helpers.agents import CorrelatedNoise
from mbrl_helpers.cars.driving import (
    GAS,
    GAS_PER_DECISION,
    MOTION,
    NUM_STATE,
    POSE,
    PUSH,
    ROAD,
    STATE,
    TURN_PER_PIXEL,
    CarModel,
    Driver,
    DriverConfig,
    Eye,
    Wanderer,
    drive,
    engine_gas,
)
from mbrl_helpers.cars.latent import LatentConfig, LatentDriver, LatentModel
from mbrl_helpers.cars.road import RoadMap
from mbrl_helpers.cars.vision import (
    ASPECT,
    GRASS_COLOUR,
    PATCH_COLOUR,
    ROAD_COLOUR,
    PixelCar,
    fresh_mask,
    look,
    moved,
    read_dashboard,
    register,
    road_mask,
    texture,
)
from mbrl_helpers.dynamics import DynamicsConfig
from mbrl_helpers.planners import ICEMConfig

NEAR = 13  # decisions until the camera is near
PX = 96 / 800 * 16.2  # px of the image's height in a unit of the simulator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def truth(env):
    """What the simulator knows: speed, wheels, steering, turn rate, place, heading, contacts."""
    car = env.unwrapped.car
    omega = [wheel.omega for wheel in car.wheels]
    return {
        "speed": math.hypot(*car.hull.linearVelocity),
        "front": np.mean(omega[:2]), "rear": np.mean(omega[2:]),
        "steering": -car.wheels[0].joint.angle, "turn_rate": -car.hull.angularVelocity,
        "place": np.array(car.hull.position), "heading": car.hull.angle,
        "on_road": [len(wheel.tiles) > 0 for wheel in car.wheels],
    }  # fmt: skip


def true_motion(before, after):
    """Motion (ahead, right, turn) in px and rad between two truths."""
    x, y = after["place"] - before["place"]
    sin, cos = math.sin(before["heading"]), math.cos(before["heading"])
    turn = before["heading"] - after["heading"]
    return np.array([PX * (cos * y - sin * x), PX * (cos * x + sin * y), turn])


@pytest.fixture(scope="module")
def rides():
    """Two drives with gas and much steering: images and truths of each."""
    env, found = PixelCar(), []
    for seed in (1, 2):
        noise = CorrelatedNoise(2, generator(seed), 0.8)
        frame, _ = env.reset(seed=seed)
        ride = [(frame, truth(env))]
        for t in range(50):
            wild = 0.6 * noise.sample(1)[0].numpy() + np.array([0, 0.5], np.float32)
            action = wild.clip(-1, 1) if t >= NEAR else np.zeros(2, np.float32)
            frame, *_ = env.step(action)
            ride.append((frame, truth(env)))
        found.append(ride)
    return found


@pytest.fixture(scope="module")
def drives():
    """Two short wandering drives, and a model fitted to them."""
    env, rng = PixelCar(), generator(3)
    wanderer = Wanderer(rng)
    logs = [drive(env, wanderer, seed=s, max_frames=120) for s in (3, 4)]
    return logs, CarModel(rng, DynamicsConfig(num_members=2, max_updates=100)).fit(logs)


# --- seeing --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*not have a `_np_random_seed`")
def test_wrapper_is_a_gymnasium_environment():
    check_env(PixelCar(), skip_render_check=True)


def test_wrapper_holds_the_action_and_sums_the_rewards():
    car, bare = PixelCar(), gym.make("CarRacing-v3")
    car.reset(seed=5)
    bare.reset(seed=5)
    for pedal, controls in ((0.5, (0.3, 0.5, 0.0)), (-0.5, (0.3, 0.0, 0.4))):
        _, reward, *_ = car.step(np.array([0.3, pedal], np.float32))
        rewards = [bare.step(np.array(controls, np.float32))[1] for _ in range(4)]
        assert reward == pytest.approx(sum(rewards))
    assert car.num_frames == 8


def test_what_is_not_drawn_changes_nothing_that_is_seen():
    lazy, drawn = PixelCar(), PixelCar(gym.make("CarRacing-v3"))
    for seed in (5, 6):
        frames = [env.reset(seed=seed)[0] for env in (lazy, drawn)]
        for action in np.random.default_rng(seed).uniform(-1, 1, (20, 2)):
            assert np.array_equal(*frames)
            frames, rewards, *_ = zip(*(env.step(action) for env in (lazy, drawn)), strict=True)
            assert rewards[0] == rewards[1]


def test_the_last_image_is_drawn_wherever_it_comes():
    """Cut within a decision, and after one; all but the digits of the score are the same."""
    for most in (41, 42, 44):
        lazy, drawn = PixelCar(), PixelCar(gym.make("CarRacing-v3", max_episode_steps=most))
        lazy.env._max_episode_steps = most
        ends = []
        for env in (lazy, drawn):
            env.reset(seed=8)
            truncated = False
            while not truncated:
                frame, _, _, truncated, _ = env.step(np.array([0.3, 0.5]))
            ends.append(frame[:84])
        assert np.array_equal(*ends)
        assert np.array_equal(lazy.reset(seed=9)[0], drawn.reset(seed=9)[0])


def test_colours_are_those_of_the_environment():
    env = PixelCar()
    env.reset(seed=0)
    bare = env.unwrapped
    assert tuple(bare.road_color) == ROAD_COLOUR
    assert tuple(bare.bg_color) == GRASS_COLOUR
    assert tuple(bare.grass_color) == PATCH_COLOUR


def test_camera_that_comes_near_is_made_up_for():
    """While the car stands, one image lies on the next although the camera moves in."""
    env = PixelCar()
    frame, _ = env.reset(seed=6)
    frames = [frame] + [env.step(np.zeros(2, np.float32))[0] for _ in range(NEAR)]
    for before, after in itertools.pairwise(frames[7:]):
        motion, _ = register(texture(before), texture(after), torch.zeros(1, 3))
        assert motion[:, :2].abs().max() < 0.4
        assert motion[:, 2].abs().max() < 0.01


@pytest.mark.parametrize("name", ["speed", "front", "rear", "steering", "turn_rate"])
def test_dashboard_says_what_the_simulator_knows(rides, name):
    bars, true = (
        [np.array([value(point) for point in ride[NEAR:]]) for ride in rides]
        for value in (lambda p: getattr(read_dashboard(p[0]), name), lambda p: p[1][name])
    )
    assert np.std(true[1]) > 0.05
    line = np.polyfit(bars[0], true[0], 1)  # fitted to one drive, judged on another
    assert line[0] > 0
    error = np.polyval(line, bars[1]) - true[1]
    assert np.sqrt(np.mean(error**2)) < 0.2 * np.std(true[1])
    assert np.corrcoef(bars[1], true[1])[0, 1] > 0.98


def test_motion_between_images_is_the_simulators(rides):
    errors, motions = [], []
    for ride in rides:
        for before, after in itertools.pairwise(ride[NEAR:]):
            guess = torch.zeros(1, 3)
            guess[0, 2] = TURN_PER_PIXEL * read_dashboard(after[0]).turn_rate
            found, left = register(texture(before[0]), texture(after[0]), guess)
            motions.append(true_motion(before[1], after[1]))
            errors.append(np.abs(found[0].numpy() - motions[-1]))
            assert left < 0.1
    assert np.max(np.abs(motions), axis=0)[0] > 4  # it did move
    assert (np.quantile(errors, 0.9, axis=0) < [0.1, 0.1, 0.005]).all()


@pytest.mark.parametrize("motion", [(0, 0, 0), (6, 0, 0), (3, -1.5, 0.2), (8, 1, -0.15)])
def test_registration_finds_a_synthetic_motion_of_a_real_image(rides, motion):
    before = texture(rides[0][-1][0])
    motion = torch.tensor([motion], dtype=torch.float32)
    rows, columns = torch.meshgrid(torch.arange(84.0), torch.arange(96.0), indexing="ij")
    here = torch.stack([71.5 - rows, (columns - 47.5) / ASPECT, torch.zeros(84, 96)], -1)
    there = moved(motion[:, None], here.view(1, -1, 3))
    after = look(before, there[..., 0], there[..., 1]).view(before.shape)
    guess = torch.tensor([[motion[0, 0] * 0.8, 0.0, motion[0, 2] * 0.8]])
    found, left = register(before, after, guess)
    assert torch.allclose(found, motion, atol=0.1)
    assert abs(found[0, 2] - motion[0, 2]) < 5e-3
    assert left < 1e-3


def test_registration_of_many_pairs_is_that_of_each(rides):
    images = torch.cat([texture(frame) for frame, _ in rides[0][30:35]])
    together, errors = register(images[:-1], images[1:], torch.zeros(4, 3))
    for i in range(4):
        alone, error = register(images[i : i + 1], images[i + 1 : i + 2], torch.zeros(1, 3))
        assert torch.allclose(together[i], alone[0], atol=1e-3)
        assert torch.allclose(errors[i], error[0], atol=1e-4)


def test_road_under_the_wheels_is_the_simulators(rides):
    agree = []
    for ride in rides:
        for frame, true in ride[NEAR:]:
            seen = RoadMap(frame).wheels_on_road(torch.zeros(3))
            on = np.array(true["on_road"]).reshape(2, 2).mean(1)
            agree.extend(np.abs(seen.numpy() - on) < 0.51)
    assert np.mean(agree) > 0.97


def test_road_is_fresh_until_the_car_has_been_there():
    env = PixelCar()
    env.reset(seed=8)
    for _ in range(25):
        frame, *_ = env.step(np.array([0, 0.15], np.float32))
    fresh, road = fresh_mask(frame), road_mask(frame)
    assert fresh[10:50][road[10:50] > 0].mean() > 0.25  # ahead
    assert fresh[80:][road[80:] > 0].mean() < 0.1  # behind


def test_eye_measures_and_remembers(rides):
    eye = Eye()
    ride = rides[0][NEAR:]
    first = eye.see(ride[0][0])
    assert first.state.shape == (len(STATE),)
    assert (first.state[MOTION] == 0).all()
    view = eye.see(ride[1][0], np.array([0.2, 0.3], np.float32))
    assert view.state[GAS] == pytest.approx(0.3)
    assert np.abs(view.state[MOTION] - true_motion(ride[0][1], ride[1][1])).max() < 0.2
    eye.reset()
    again = eye.see(ride[0][0])
    assert np.array_equal(first.state, again.state)


# --- driving -------------------------------------------------------------------------------------


def test_drive_keeps_what_is_learned_from(drives):
    logs, _ = drives
    log = logs[0]
    assert log.num_frames == 120
    assert len(log.transitions) == 120 // 4 - 5
    assert log.images.shape == (len(log.transitions) + 1, 24, 24, 3)
    assert log.features.shape == (len(log.transitions), 2)
    assert np.array_equal(log.transitions.obs[1:], log.transitions.next_obs[:-1])
    assert log.transitions.truncated.nonzero()[0].tolist() == [len(log.transitions) - 1]


def test_imagined_step_moves_the_pose_and_asks_the_map(drives):
    logs, model = drives
    road = RoadMap(painted())
    on_road = model.on(road)
    obs = on_road.start(logs[0].transitions.obs[15]).expand(2, 6, -1)
    action = torch.rand(2, 6, 2, generator=generator()) * 2 - 1
    step = on_road.step(obs, action)
    assert step.next_obs.shape == (2, 6, 14)
    assert step.reward.shape == step.terminated.shape == (2, 6)
    state = step.next_obs[..., :NUM_STATE]
    assert torch.allclose(step.next_obs[..., POSE], state[..., MOTION])  # from the origin
    assert torch.allclose(state[..., GAS], engine_gas(obs[..., GAS], action[..., 1]))
    assert torch.allclose(state[..., ROAD], road.wheels_on_road(step.next_obs[..., POSE]))
    again = on_road.step(step.next_obs, action).next_obs
    assert torch.allclose(again[..., POSE],
                          moved(step.next_obs[..., POSE], again[..., MOTION]))  # fmt: skip


def test_brakes_never_push(drives):
    """Whatever the ensemble believes, a braked car at rest stays where it is."""
    _, model = drives
    on_road = model.on(RoadMap(painted()))
    rest = np.zeros(NUM_STATE, np.float32)
    obs = on_road.start(rest).expand(2, 3, -1)
    for _ in range(8):
        obs = on_road.step(obs, torch.tensor([0.0, -1.0]).expand(2, 3, 2)).next_obs
    assert obs[..., POSE][..., :2].abs().max() < 1e-4
    moving = on_road.step(on_road.start(rest).expand(2, 3, -1), torch.ones(2, 3, 2)).next_obs
    assert moving[..., :2].norm(dim=-1).max() <= PUSH * GAS_PER_DECISION + 1e-5


def test_what_map_and_memory_know_is_not_learned(drives):
    logs, model = drives
    state, action = torch.tensor(logs[0].transitions.obs), torch.tensor(logs[0].transitions.action)
    change = model.motion.predict(state, action).mean
    assert change[..., GAS:].abs().max() < 1e-3
    assert change[..., MOTION].abs().max() > 0.1


def test_drives_repeat_with_their_seeds(drives):
    _, model = drives
    search = DriverConfig(planner=ICEMConfig(horizon=4, population_size=20, num_elites=4))

    def result():
        rng, seen = generator(9), []
        log = drive(PixelCar(), Driver(model, rng, search), seed=9, max_frames=48,
                    noise=CorrelatedNoise(2, rng, 0.7), watch=seen.append)  # fmt: skip
        assert len(seen) == 12
        return log

    one, two = result(), result()
    assert one.episode_return == two.episode_return
    assert np.array_equal(one.transitions.action, two.transitions.action)


def test_latent_model_learns_from_real_drives_and_drives(drives):
    logs, _ = drives
    config = LatentConfig(num_latent=16, window=4, batch_size=8)
    fitted = LatentModel(generator(), config).fit(logs, num_updates=100)
    assert fitted.history[1][0] < 0.8 * fitted.history[0][0]
    search = ICEMConfig(horizon=3, population_size=10, num_elites=3)
    log = drive(PixelCar(), LatentDriver(fitted, generator(), search), seed=9, max_frames=28)
    assert len(log.transitions) == 2
