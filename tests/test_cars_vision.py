"""What an image tells, on images drawn by hand: every sign, index and unit."""

import math

import numpy as np
import pytest
import torch
from cars_scenes import GRASS, PATCH, ROAD, Film, blank, painted, seen_from, with_bars

from mbrl_helpers.cars.vision import (
    ACTIONS,
    ENV_ID,
    GRASS_COLOUR,
    PATCH_COLOUR,
    ROAD_COLOUR,
    PixelCar,
    check_frame,
    fresh_mask,
    look,
    moved,
    read_dashboard,
    register,
    road_mask,
    texture,
)

HALF = math.pi / 2


# --- the environment -----------------------------------------------------------------------------


def test_actions_are_steering_and_pedal():
    assert ENV_ID == "CarRacing-v3"
    assert (ACTIONS.low.tolist(), ACTIONS.high.tolist()) == ([-1, -1], [1, 1])


@pytest.mark.parametrize(
    ("action", "controls"),
    [((0.3, 0.5), (0.3, 0.5, 0)), ((-1, -1), (-1, 0, 0.8)), ((0, -0.5), (0, 0, 0.4)), ((0, 0), 0)],
)
def test_an_action_is_held_for_four_frames_and_its_rewards_summed(action, controls):
    film = Film([painted()])
    env = PixelCar(film)
    assert env.action_space == ACTIONS
    assert env.num_frames == 0
    env.reset(seed=3)
    assert (film.seeds, env.num_frames) == ([3], 0)
    _, reward, terminated, truncated, _ = env.step(np.array(action, np.float32))
    assert (reward, terminated, truncated, env.num_frames) == (1 + 2 + 3 + 4, False, False, 4)
    assert len(film.controls) == 4
    assert np.allclose(film.controls, controls)
    _, reward, *_ = env.step(np.array(action, np.float32))
    assert (reward, env.num_frames) == (5 + 6 + 7 + 8, 8)
    env.reset()
    assert env.num_frames == 0


def test_an_episode_may_end_within_an_action():
    env = PixelCar(Film([painted()], ends_at=6))
    env.reset()
    env.step(np.zeros(2, np.float32))
    _, reward, terminated, _, _ = env.step(np.zeros(2, np.float32))
    assert (reward, terminated, env.num_frames) == (5 + 6, True, 6)


def test_camera_comes_near_around_the_car():
    """From 0.1 to 2.7 of its zoom in fifty frames; the dashboard stays."""
    frame = np.zeros((96, 96, 3), np.uint8)
    rows, columns = np.mgrid[:96, :96]
    frame[..., 0], frame[..., 1], frame[..., 2] = rows, columns, 7
    env = PixelCar(Film([frame]))
    seen = [env.reset()[0], *(env.step(np.zeros(2, np.float32))[0] for _ in range(13))]
    for number, image in enumerate(seen):
        share = min((4 * number + 1) / 50, 1)
        zoom = (0.1 + 2.6 * share) / 2.7
        assert np.abs(image[:84, :, 0] - (71.5 + (rows[:84] - 71.5) * zoom)).max() <= 0.5 + 1e-9
        assert np.abs(image[:84, :, 1] - (47.5 + (columns[:84] - 47.5) * zoom)).max() <= 0.5 + 1e-9
        assert np.array_equal(image[84:], frame[84:])
    assert not np.array_equal(seen[12], frame)  # the 49th of fifty
    assert np.array_equal(seen[13], frame)


# --- the dashboard -------------------------------------------------------------------------------


def test_bars_of_a_dashboard_drawn_by_hand():
    bars = {"speed": 6.5, "front": 4.0, "rear": 8.25, "steering": 3.0, "turn_rate": -7.5}
    found = read_dashboard(with_bars(painted(), **bars))
    assert found._asdict() == pytest.approx(bars, abs=0.02)
    found = read_dashboard(with_bars(painted(), steering=-9.25, turn_rate=11))
    assert found == pytest.approx((0, 0, 0, -9.25, 11), abs=0.02)
    assert read_dashboard(painted()) == (0, 0, 0, 0, 0)


def test_what_a_single_pixel_of_the_dashboard_counts():
    """Two columns of speed, three of each pair of wheels; the other bars are five rows high."""
    for column in range(96):
        in_speed = 1 / 2 if column in (12, 13) else 0
        front = 1 / 3 if column in (17, 18, 20) else 0
        rear = 1 / 3 if column in (22, 23, 25) else 0
        steering = 1 / 5 if column >= 48 else -1 / 5 if column >= 26 else 0
        turn = 1 / 5 if column >= 72 else -1 / 5 if column >= 52 else 0
        for colour, wanted in {
            (255, 0, 0): (in_speed, 0, 0, 0, turn),
            (51, 0, 0): (in_speed / 5, 0, 0, 0, turn / 5),
            (0, 255, 0): (0, 0, 0, steering, 0),
            (0, 51, 0): (0, 0, 0, steering / 5, 0),
            (0, 0, 255): (0, front, rear, 0, 0),
            (255, 255, 0): (in_speed, 0, 0, 0, turn),  # yellow
            (255, 0, 255): (in_speed, front, rear, 0, 0),
            (255, 255, 255): (in_speed, front, rear, 0, 0),
        }.items():
            frame = blank()
            frame[84 if column % 2 else 95, column] = colour
            assert read_dashboard(frame) == pytest.approx(wanted, abs=1e-6), (column, colour)
    frame = blank()
    frame[83] = 255  # the last row of the view
    assert read_dashboard(frame) == (0, 0, 0, 0, 0)


# --- colours -------------------------------------------------------------------------------------


def test_colours_are_those_of_the_environment():
    assert (GRASS_COLOUR, PATCH_COLOUR, ROAD_COLOUR) == (GRASS, PATCH, ROAD)


@pytest.mark.parametrize(
    ("colour", "road"),
    [
        (ROAD, 1), ((107, 107, 107), 1), (GRASS, 0), (PATCH, 0), ((255, 0, 0), 0), ((0, 0, 0), 0),
        ((71, 71, 71), 1), ((70, 70, 70), 0), ((139, 139, 139), 1), ((140, 140, 140), 0),
        ((71, 50, 50), 1), ((70, 69, 69), 0), ((139, 120, 130), 1), ((140, 130, 130), 0),
        ((100, 76, 90), 1), ((100, 75, 90), 0), ((90, 100, 76), 1), ((75, 90, 100), 0),
    ],
)  # fmt: skip
def test_what_is_road(colour, road):
    frame = blank((0, 0, 255))
    for row, column in ((0, 0), (10, 20), (83, 95)):
        frame[row, column] = colour
    mask = road_mask(frame)
    assert mask.shape == (84, 96)
    assert mask.dtype == np.float32
    assert mask.sum() == 3 * road
    assert mask[0, 0] == mask[10, 20] == mask[83, 95] == road


def test_under_the_car_is_what_lies_beside_it():
    for column in range(40, 56):
        frame = blank()
        frame[:, column] = ROAD
        mask = road_mask(frame)
        share = 1 / 6 if column in (42, 43, 44, 51, 52, 53) else 0
        assert mask[64:80, 45:51] == pytest.approx(share)
        mask[64:80, 45:51] = 0
        outside = np.zeros((84, 96))
        outside[:, column] = 1
        outside[64:80, 45:51] = 0
        assert np.array_equal(mask, outside)


@pytest.mark.parametrize(
    ("colour", "is_fresh"),
    [
        ((102, 103, 103), 1), ((102, 102, 103), 0), ((108, 109, 109), 1), ((109, 109, 109), 0),
        ((104, 104, 104), 1), ((107, 107, 107), 1), (ROAD, 0), (GRASS, 0), ((125, 105, 85), 0),
    ],
)  # fmt: skip
def test_what_is_fresh_road(colour, is_fresh):
    frame = blank((0, 0, 255))
    frame[20, 30] = colour
    wanted = np.zeros((84, 96))
    wanted[17:24, 27:34] = is_fresh / 49  # a mean over 7 x 7
    assert np.allclose(fresh_mask(frame), wanted, atol=1e-7)


def test_under_the_car_no_road_is_fresh():
    fresh = np.pad(np.ones((84, 96)), 3)
    fresh[3 + 64 : 3 + 80, 3 + 45 : 3 + 51] = 0
    means = np.lib.stride_tricks.sliding_window_view(fresh, (7, 7)).mean((2, 3))
    assert np.allclose(fresh_mask(blank((105, 105, 105))), means, atol=1e-6)


@pytest.mark.parametrize(
    ("colour", "road", "patches"),
    [
        (GRASS, 0, 0), (PATCH, 0, 1), (ROAD, 1, 0), ((0, 153, 0), 0.5, 0), ((0, 217, 0), 0, 0.5),
        ((9, 20, 9), 1, 0), ((9, 250, 9), 0, 1), ((204, 102, 204), 1, 0),
    ],
)  # fmt: skip
def test_texture_is_road_and_patches(colour, road, patches):
    """Smoothed over 3 x 3, beyond the edge with nothing; green alone tells them."""
    frame = blank()
    frame[20, 30] = colour
    found = texture(frame)
    wanted = torch.zeros(1, 2, 84, 96)
    wanted[0, 0, 19:22, 29:32] = road / 9
    wanted[0, 1, 19:22, 29:32] = patches / 9
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-6)
    full = texture(blank(colour))
    for layer, value in enumerate((road, patches)):
        assert full[0, layer, 83, 40] == pytest.approx(value * 6 / 9, abs=1e-6)
        assert full[0, layer, 40, 40] == pytest.approx(value, abs=1e-6)


# --- foreign images ------------------------------------------------------------------------------


def test_the_edge_of_the_field_is_no_foreign_image():
    """Beyond the field all is black; a car that looks over its edge has little else in view."""
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[66:84] = (100, 230, 100)
    check_frame(frame)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((96, 96, 3), np.uint8), "road and grass"),  # black
        (np.full((96, 96, 3), 255, np.uint8), "road and grass"),
        (np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8), "road and gras"),
        (np.full((96, 96, 3), GRASS, np.uint8), "dark dashboard"),
        (np.zeros((84, 84, 3), np.uint8), r"\(84, 84, 3\)"),
        (painted() / 255, "uint8"),
        (None, "NoneType"),
    ],
)
def test_foreign_images_are_refused(frame, message):
    with pytest.raises(ValueError, match=f"check_frame: expected .*{message}"):
        check_frame(frame)


def some(colour, pixels, rest):
    """An image of which so many pixels have a colour, and all others another."""
    frame = blank(rest)
    frame[:84].reshape(-1, 3)[:pixels] = colour
    return frame


def is_refused(frame):
    try:
        check_frame(frame)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("colour", [GRASS, ROAD, (100, 151, 90), (90, 151, 100)])
def test_a_tenth_must_be_road_and_grass(colour):
    assert not is_refused(some(colour, 807, (0, 0, 0)))  # of 8064
    assert is_refused(some(colour, 806, (0, 0, 0)))


@pytest.mark.parametrize("colour", [(100, 150, 90), (90, 150, 100), (255, 204, 102), (0, 50, 0)])
def test_grass_is_greener_by_more_than_fifty(colour):
    assert is_refused(some(colour, 8064, (0, 0, 0)))


def test_most_of_an_image_must_be_known_or_beyond_the_field():
    for rest in ((200, 200, 200), (1, 1, 1), (0, 40, 0)):
        frame = some(rest, 8064 - 2420, (0, 0, 0))
        frame[83 - 10 : 84] = GRASS
        assert not is_refused(frame)
        frame[0, :2] = rest
        frame[40:60] = rest
        assert is_refused(frame)
    frame = some(GRASS, 2420, (200, 200, 200))
    assert not is_refused(frame)
    assert is_refused(some(GRASS, 2419, (200, 200, 200)))
    assert not is_refused(some(GRASS, 2419, (0, 0, 0)))


def test_the_dashboard_must_be_dark():
    frame = painted()
    frame[84:] = 100
    assert not is_refused(frame)
    frame[84, 0] = 101
    assert is_refused(frame)


# --- places --------------------------------------------------------------------------------------


def test_looking_at_points_around_the_car():
    rows, columns = np.mgrid[:84, :96]
    image = torch.tensor(np.stack([rows, columns, 0 * rows + 5]), dtype=torch.float32)
    images = torch.stack([image, 2 * image])
    ahead = torch.tensor([[0.0, 10, 0, -12, 71.5, 71.5]]).expand(2, -1)
    right = torch.tensor([[0.0, 0, 5, -20, -47.5 / 0.8, 47.5 / 0.8]]).expand(2, -1)
    found = look(images, ahead, right)
    wanted = torch.tensor([[71.5, 61.5, 71.5, 83.5, 0, 0],
                           [47.5, 47.5, 51.5, 31.5, 0, 95],
                           [5, 5, 5, 5, 5, 5]])  # fmt: skip
    wanted[:, 3] /= 2  # half a px below the last row, half of it is outside: 83, 31.5 and 5
    wanted[0, 3] = 83 / 2
    assert torch.allclose(found[0], wanted, atol=1e-3)
    assert torch.allclose(found[1], 2 * wanted, atol=1e-3)
    other = look(images, ahead[:, 2:3], right[:, 2:3], aspect=1.0)
    assert other[0, 1] == pytest.approx(52.5, abs=1e-3)
    assert look(images, ahead + 200, right).abs().max() == 0


def test_moving_ahead_right_and_turning_right():
    pose, motion = torch.tensor([1.0, 2.0, HALF]), torch.tensor([3.0, 4.0, 0.5])
    assert moved(pose, motion).tolist() == pytest.approx([1 - 4, 2 + 3, HALF + 0.5], abs=1e-6)
    pose = torch.tensor([1.0, 2.0, math.pi / 6])
    root = math.sqrt(3) / 2
    wanted = [1 + 3 * root - 4 / 2, 2 + 3 / 2 + 4 * root, math.pi / 6 + 0.5]
    assert moved(pose, motion).tolist() == pytest.approx(wanted, abs=1e-6)


def test_moving_there_and_back_again():
    rng = torch.Generator().manual_seed(0)
    pose, motion = torch.randn(7, 3, generator=rng), torch.randn(7, 3, generator=rng)
    ahead, right, turn = motion.unbind(-1)
    cos, sin = turn.cos(), turn.sin()
    back = torch.stack([-ahead * cos - right * sin, ahead * sin - right * cos, -turn], -1)
    assert torch.allclose(moved(moved(pose, motion), back), pose, atol=1e-5)


# --- registration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "motion",
    [(0, 0, 0), (5, 0, 0), (-4, 0, 0), (0, 3, 0), (0, -3, 0), (3, -1.5, 0.2), (2, 1, -0.2)],
)
def test_registration_finds_a_motion_in_a_drawn_world(motion):
    """Both images are drawn from their poses, without what is tested."""
    before, after = seen_from((0, 0, 0)), seen_from(motion)
    guess = torch.tensor([[0.0, 0.0, 0.6 * motion[2]]])
    found, left = register(texture(before), texture(after), guess)
    assert torch.allclose(found[0], torch.tensor(motion, dtype=torch.float32), atol=0.1)
    assert abs(found[0, 2] - motion[2]) < 5e-3
    assert left < 2e-2


def test_registration_of_several_pairs_from_other_places():
    starts = [(40, 7, 0.4), (100, -5, -0.3)]
    motions = torch.tensor([[4.0, 1.0, 0.15], [6.0, -0.5, -0.1]])
    ends = moved(torch.tensor(starts), motions).tolist()
    before = torch.cat([texture(seen_from(pose)) for pose in starts])
    after = torch.cat([texture(seen_from(pose)) for pose in ends])
    found, left = register(before, after, 0.7 * motions)
    assert torch.allclose(found, motions, atol=0.1)
    assert left.shape == (2,)
    for i in range(2):
        alone, error = register(before[i : i + 1], after[i : i + 1], 0.7 * motions[i : i + 1])
        assert torch.allclose(found[i], alone[0], atol=1e-3)
        assert torch.allclose(left[i], error[0], atol=1e-4)


def test_registration_needs_eight_iterations_for_a_large_motion():
    motion = torch.tensor([[6.0, 2.0, 0.25]])
    pair = texture(seen_from((0, 0, 0))), texture(seen_from(motion[0].tolist()))
    guess = 0.5 * motion
    found = [register(*pair, guess, num_iterations=n)[0] for n in (1, 4, 8)]
    errors = [float((f - motion).abs().max()) for f in found]
    assert errors[0] > errors[1] > 0
    assert errors[2] < 0.1
    assert torch.equal(found[2], register(*pair, guess)[0])
    assert not torch.equal(found[2], register(*pair, guess, num_iterations=7)[0])
    assert not torch.equal(found[2], register(*pair, guess, num_iterations=9)[0])
    with pytest.raises(ValueError, match="register: expected num_iterations >= 1, got 0"):
        register(*pair, guess, num_iterations=0)


def test_registration_with_another_aspect():
    """The same images, taken for wider ones: what was sideways is more, what was ahead is not."""
    before, after = texture(seen_from((0, 0, 0))), texture(seen_from((3, 2, 0)))
    found, _ = register(before, after, torch.zeros(1, 3), aspect=0.4)
    assert found[0].tolist() == pytest.approx([3, 4, 0], abs=0.1)


def ramp(ahead, right, constant=0.0):
    """An image [84, 96] that grows by so much per px ahead and to the right."""
    rows, columns = np.mgrid[:84, :96]
    return ahead * (71.5 - rows) + right * (columns - 47.5) / 0.8 + constant


@pytest.mark.parametrize(
    ("guess", "aspect"),
    [((0, 0, 0), 0.8), ((2, -3, 0.4), 1.0), ((-4, 5, -0.3), 0.8125), ((3, 1, 0.2), 0.8)],
)
def test_one_step_of_registration_by_hand(guess, aspect):
    """Weighted least squares, of every second point but those under the car and out of sight."""
    rng = np.random.default_rng(1)
    after = np.stack([ramp(0.01, 0.004), ramp(-0.003, 0.012, 0.2)])
    change = np.stack([ramp(0.004, -0.003, 0.1), ramp(0.002, 0.001, -0.2)])
    before = after + change + 0.01 * rng.standard_normal((2, 1, 1))
    rows, columns = np.mgrid[3:81:2, 3:93:2]
    ahead, right = (71.5 - rows).ravel(), ((columns - 47.5) / aspect).ravel()
    keep = (np.abs(ahead) > 10) | (np.abs(right) > 8)
    ahead, right = ahead[keep], right[keep]
    da, dr, turn = guess
    to_ahead = ahead * np.cos(turn) - right * np.sin(turn)
    to_right = ahead * np.sin(turn) + right * np.cos(turn)
    y, x = 71.5 - (da + to_ahead), 47.5 + aspect * (dr + to_right)
    inside = (y >= -0.01) & (y <= 83.01) & (x >= -0.01) & (x <= 95.01)

    errors, slopes, weights = [], [], []
    for layer in range(2):
        old, now = before[layer], after[layer]
        a, r = now[0, 0] - now[1, 0], (now[0, 1] - now[0, 0]) * aspect  # per px
        value = old[0, 0] + (old[1, 0] - old[0, 0]) * y + (old[0, 1] - old[0, 0]) * x
        target = now[0, 0] + a * (ahead - 71.5) + r * (right + 47.5 / aspect)
        error = np.where(inside, value - target, 0)
        back_a = a * np.cos(turn) - r * np.sin(turn)
        back_r = a * np.sin(turn) + r * np.cos(turn)
        errors.append(error)
        slopes.append(np.stack([0 * error + back_a, 0 * error + back_r,
                                (back_r * to_ahead - back_a * to_right) / 10]))  # fmt: skip
        weights.append(inside / (1 + (error / 0.3) ** 2))
    e, s, w = np.concatenate(errors), np.concatenate(slopes, 1), np.concatenate(weights)
    step = np.linalg.solve((s * w) @ s.T + 0.1 * np.eye(3), (s * w) @ e)
    wanted = np.array(guess) - step * [1, 1, 0.1]

    images = (torch.tensor(part[None], dtype=torch.float32) for part in (before, after))
    start = torch.tensor([guess], dtype=torch.float32)
    found, left = register(*images, start, num_iterations=1, aspect=aspect)
    assert np.abs(step).min() > 0.05
    assert found[0].numpy() == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    assert float(left) == pytest.approx((e**2).sum() / inside.sum(), rel=1e-3)


def test_registration_stays_where_there_is_nothing_to_see():
    flat = torch.zeros(1, 2, 84, 96)
    guess = torch.tensor([[1.0, 2.0, 0.1]])
    found, left = register(flat + 0.5, flat + torch.tensor([0.2, 0.4])[:, None, None], guess)
    assert torch.allclose(found, guess, atol=1e-4)
    assert float(left) == pytest.approx(0.3**2 + 0.1**2, rel=1e-4)
    # One point alone is in view: row 79, half a px below the first one, and column 3 at 94.5.
    corner = torch.tensor([[78.5, 91.5 / 0.8, 0.0]])
    _, left = register(flat + 0.5, flat + 0.2, corner, num_iterations=1)
    assert float(left) == pytest.approx(2 * 0.3**2, rel=1e-4)
    away = torch.tensor([[500.0, 0.0, 0.0]])  # nothing of both is in view
    found, left = register(flat, flat + 1, away)
    assert torch.equal(found, away)
    assert float(left) == 0


def test_the_car_itself_does_not_count():
    """What goes with the camera would say that it stands; but 10 px away all counts."""
    pair = [texture(seen_from(pose)) for pose in ((0, 0, 0), (5, 0, 0))]
    clean, _ = register(*pair, torch.zeros(1, 3))
    for image in pair:
        image[0, :, 63:81, 43:53] = 1.0
    found, _ = register(*pair, torch.zeros(1, 3))
    assert (found - clean).abs().max() < 0.15
