"""The map, on roads drawn by hand: lengths, directions, and where the goal is."""

import math

import numpy as np
import pytest
import torch
from cars_scenes import GRASS, PATCH, ROAD, blank, painted

from mbrl_helpers.cars.road import RoadMap, arrival, far_end, progress

HIGH, WIDE = 3.0, 3.75  # px of a cell
HALF = math.pi / 2


def nowhere(*cells, shape=(28, 32)):
    """Sources: 0 at some cells, inf elsewhere."""
    start = np.full(shape, np.inf)
    for cell in cells:
        start[cell] = 0
    return start


def place(row, column):
    """(ahead, right) of the centre of a cell of the map."""
    return 71.5 - (3 * row + 1), (3 * column + 1 - 47.5) / 0.8


def poses(*rows):
    return torch.tensor(rows, dtype=torch.float32)


# --- arrival -------------------------------------------------------------------------------------


def test_arrival_next_to_a_source():
    """Straight on a cell's size; across, the eikonal equation: the slopes' squares sum to 1."""
    way = arrival(nowhere((5, 6), shape=(12, 14)), np.full((12, 14), 2.0))
    assert way.dtype == np.float32
    assert way[5, 6] == 0
    for i in range(5):
        assert way[5 - i, 6] == way[5 + i, 6] == pytest.approx(2 * HIGH * i, rel=1e-5)
        assert way[5, 6 - i] == way[5, 6 + i] == pytest.approx(2 * WIDE * i, rel=1e-5)
    for down in (-1, 1):
        for right in (-1, 1):
            t = float(way[5 + down, 6 + right])
            slopes = (t - way[5, 6 + right]) / HIGH, (t - way[5 + down, 6]) / WIDE
            assert min(slopes) > 0
            assert math.hypot(*slopes) == pytest.approx(2, rel=1e-4)


def test_arrival_from_a_line_is_the_distance_to_it():
    rows, columns = np.mgrid[:28, :32]
    for start, wanted in (
        (nowhere((slice(None), 0)), WIDE * columns),
        (nowhere((slice(None), 31)), WIDE * (31 - columns)),
        (nowhere((0, slice(None))), HIGH * rows),
        (nowhere((27, slice(None))), HIGH * (27 - rows)),
    ):
        assert np.allclose(arrival(start, np.ones((28, 32))), wanted, rtol=1e-5)
        assert np.allclose(arrival(start, np.full((28, 32), 5.0)), 5 * wanted, rtol=1e-5)


def test_arrival_is_the_distance_in_the_open():
    source = nowhere((14, 16))
    way = arrival(source, np.ones((28, 32)))
    rows, columns = np.mgrid[:28, :32]
    distance = np.hypot((rows - 14) * HIGH, (columns - 16) * WIDE)
    assert np.abs(way - distance).max() < 0.1 * distance.max()
    assert (way > distance - 1e-3).all()
    assert np.allclose(arrival(source + 7, np.ones((28, 32))), 7 + way, rtol=1e-5)


def test_arrival_takes_the_nearer_of_two_sources_and_their_lengths_into_account():
    start = nowhere((3, 0), shape=(7, 20))
    start[3, 19] = 30.0
    way = arrival(start, np.ones((7, 20)))[3]
    columns = np.arange(20)
    assert np.allclose(way, np.minimum(WIDE * columns, 30 + WIDE * (19 - columns)), atol=1e-3)


def test_arrival_goes_around_what_is_dear():
    source, cost = nowhere((0, 16)), np.ones((28, 32))
    cost[10, :31] = 1000.0  # a wall with a gap at its right end
    way = arrival(source, cost)
    open_way = arrival(source, np.ones((28, 32)))
    assert way[9, 5] == pytest.approx(open_way[9, 5], rel=1e-3)
    detour = 2 * 14 * WIDE
    assert way[20, 16] > open_way[20, 16] + 0.5 * detour
    assert way[20, 16] < 1000


def test_arrival_follows_a_long_way_of_known_length():
    """Up and down in corridors between walls: as many sweeps as twice rows and columns."""
    rows, columns = 28, 7
    cost = np.full((rows, columns), 1e4)
    cost[:, ::2] = 1
    cost[-1, 1], cost[0, 3], cost[-1, 5] = 1, 1, 1
    way = arrival(nowhere((0, 0), shape=(rows, columns)), cost)
    length = 27 * HIGH
    assert way[-1, 0] == pytest.approx(length, rel=1e-4)
    assert way[0, 2] == pytest.approx(2 * length + 2 * WIDE, rel=0.05)
    unfinished = arrival(nowhere((0, 0), shape=(rows, columns)), cost)[0, 6]
    assert unfinished > 1000  # 27 + 2 + 27 + 2 + 27 + 2 + ... is more than 2 (28 + 7) sweeps


def test_arrival_sweeps_twice_as_often_as_there_are_rows_and_columns():
    """In one corridor, folded twice, the front comes on by a cell a sweep."""
    rows, columns = 3, 20
    cost = np.full((rows, columns), 1e4)
    cost[0], cost[2], cost[1, -1] = 1, 1, 1
    way = arrival(nowhere((0, 0), shape=(rows, columns)), cost)
    assert way[2, 0] == pytest.approx(2 * 19 * WIDE + 2 * HIGH, rel=0.05)  # 40 of 46 sweeps
    cost = np.full((5, 14), 1e4)
    cost[::2] = 1
    cost[1, -1] = cost[3, 0] = 1
    way = arrival(nowhere((0, 0), shape=(5, 14)), cost)
    front = 2 * (5 + 14)  # the cells that so many sweeps reach: 13, 2, 13, 2, and 8 of the last 13
    column = front - (13 + 2 + 13 + 2)
    assert way[4, column] < 200
    assert way[4, column + 1] > 200


def test_without_a_source_there_is_no_way():
    assert arrival(nowhere(), np.ones((28, 32))).min() >= 1e3


# --- the goal ------------------------------------------------------------------------------------


def cells(*parts):
    mask = np.zeros((28, 32), bool)
    for part in parts:
        mask[part] = True
    return mask


def test_far_end_of_a_straight_road():
    """Two rows, 3 px apart: the end is what lies less than 6 px before it."""
    goal, rest = far_end(cells((slice(2, None), 15)), cells())
    assert np.array_equal(goal, cells((slice(2, 4), 15)))
    assert rest[2:21, 15].tolist() == pytest.approx([HIGH * i for i in range(19)], abs=1e-3)


def test_far_end_is_where_the_road_is_fresh():
    road = cells((slice(2, None), 15))
    goal, rest = far_end(road, cells((slice(24, None), 15)))  # four cells, behind the car
    assert np.array_equal(goal, cells((slice(26, None), 15)))
    assert rest[27, 15] == 0
    assert rest[26, 15] == pytest.approx(HIGH)
    three = far_end(road, cells((slice(25, None), 15)))[0]  # too few: chance
    assert np.array_equal(three, cells((slice(2, 4), 15)))
    elsewhere = far_end(road, cells((slice(0, 20), slice(28, 30))))[0]  # no road, nor connected
    assert np.array_equal(elsewhere, three)


def test_far_end_lies_ahead_if_there_is_road_ahead():
    """Down to 3 px behind the car's centre; row 24 is 1.5 px behind it, row 25 is 4.5.

    The car is on row 22: of these rows 24 is the farthest, and 21 and 23 are less than 6 px nearer.
    """
    behind = cells((slice(21, None), 15))
    assert np.array_equal(far_end(behind, cells())[0], cells((21, 15), (23, 15), (24, 15)))
    three = cells((slice(22, None), 15))  # rows 22, 23 and 24 are ahead: too few
    assert np.array_equal(far_end(three, cells())[0], cells((slice(26, None), 15)))


def test_far_end_is_connected_with_the_car():
    other = (slice(0, 28), slice(28, 30))
    goal, _ = far_end(cells((slice(10, None), 15), other), cells(other))
    assert np.array_equal(goal, cells((slice(10, 12), 15)))


def test_the_car_is_on_the_road_nearest_to_a_place_in_front_of_it():
    """3 px ahead of its centre: row 22 is 1.5 px from there as row 23 is, row 24 is 4.5."""
    front, rear = (slice(0, 22), 15), (slice(24, None), 15)  # 4.5 (row 21) and 4.5 (row 24)
    assert far_end(cells(front, rear), cells())[0][:2, 15].all()
    front = (slice(0, 21), 15)
    assert far_end(cells(front, rear), cells())[0][26:, 15].all()
    # Lengths decide, not cells: (7.5, 1.9) against (4.5, 5.6), (1.5, 9.4) against (7.5, 1.9).
    for front, rear in (
        ((slice(0, 21), 15), (slice(24, None), 17)),
        ((slice(0, 23), 18), (slice(25, None), 15)),
    ):
        goal = far_end(cells(front, rear), cells())[0]
        assert goal[26:, rear[1]].any()
        assert not goal[:, front[1]].any()
    for columns, right in (((15, 17), False), ((13, 16), True), ((14, 18), False)):
        left, other = ((slice(22, None), column) for column in columns)  # px: 1.9 + 3.75 n
        goal = far_end(cells(left, other), cells())[0]
        assert goal[:, columns[right]].any()
        assert not goal[:, columns[not right]].any()


def test_without_a_road_the_far_end_lies_behind():
    goal, rest = far_end(cells(), cells())
    assert np.array_equal(goal, cells((27, slice(None))))
    assert not rest.any()


# --- the map of an image -------------------------------------------------------------------------


def test_map_of_a_straight_road():
    road = RoadMap(painted(slice(60, 63), fresh=False))
    assert road.road.shape == (84, 96)
    assert road.road[:, 60:63].all()
    assert np.array_equal(road.goal, cells((slice(0, 2), 20)))
    assert road.to_go[:, 20].tolist() == pytest.approx([HIGH * i for i in range(28)])


def test_grass_costs_five_times_as_much_as_road():
    """No road: the goal is the last row, and all ways lead down over the grass."""
    rows = np.arange(28)
    assert np.allclose(RoadMap(blank()).to_go, 5 * HIGH * (27 - rows)[:, None])
    frame = blank()
    frame[: 3 * 20, ::3] = ROAD  # a third of each cell, which is no road yet
    assert np.allclose(RoadMap(frame).to_go[2:19, 0] - RoadMap(frame).to_go[3:20, 0],
                       HIGH * (1 + 4 * 2 / 3))  # fmt: skip


def test_a_cell_is_road_if_more_than_half_of_it_is():
    for pixels, paved in ((4, False), (5, True)):
        frame = blank()
        for row in range(0, 84, 3):
            frame[row : row + 3, 60:63].reshape(-1, 3)[:] = GRASS
            for i in range(pixels):
                frame[row + i // 3, 60 + i % 3] = ROAD
        assert RoadMap(frame).goal[:2, 20].any() == paved


@pytest.mark.parametrize(("every", "wide", "fresh"), [(3, 1, True), (7, 2, False)])
def test_a_cell_is_fresh_if_more_than_three_tenths_of_it_are(every, wide, fresh):
    """Stripes on the right, behind: a third of the road is fresh, or two sevenths."""
    frame = blank(ROAD)
    for column in range(60, 96):
        if column % every < wide:
            frame[60:84, column] = 105
    goal = RoadMap(frame).goal
    assert goal[20:, 20:].any() == fresh
    assert goal[:8].any() != fresh


def test_half_a_cell_is_no_road():
    """Beside the car there is road on its left only: under it is half of that."""
    frame = blank()
    frame[60:84, 42:45] = ROAD
    road = RoadMap(frame)
    assert road.road[70, 46] == 0.5
    assert road.goal[:, 14].any()
    assert not road.goal[:, 15:17].any()


@pytest.mark.parametrize(
    ("rows", "columns", "angle"),
    [
        (slice(0, 9), slice(36, 60), 0),
        (slice(60, 84), slice(84, 96), HALF),
        (slice(60, 84), slice(0, 12), -HALF),
        (slice(76, 84), slice(42, 54), math.pi),
    ],
)
def test_way_leads_to_fresh_road(rows, columns, angle):
    """Ahead, to the right, to the left and behind: on road everywhere, of which some is fresh."""
    frame = blank(ROAD)
    frame[rows, columns] = 105
    road = RoadMap(frame)
    to_go, found = road.way(poses((0, 0, 0), (0, 0, 0.3), (0, 0, -0.3)))
    wanted = [math.remainder(angle - turn, 2 * math.pi) for turn in (0, 0.3, -0.3)]
    for value, want in zip(found.tolist(), wanted, strict=True):
        assert math.remainder(value - want, 2 * math.pi) == pytest.approx(0, abs=0.3)
        assert -math.pi <= value <= math.pi
    ahead, right = 3 * math.cos(angle), 3 * math.sin(angle)
    nearer, _ = road.way(poses((ahead, right, 0)))
    assert to_go[0] - nearer[0] == pytest.approx(3, abs=0.35)


def test_way_of_a_map_is_read_at_the_centres_of_its_cells():
    frame = blank(ROAD)
    frame[30:50, 70:90] = 105
    road = RoadMap(frame)
    centres = [(r, c) for r in (0, 9, 20, 27) for c in (0, 7, 15, 31)]
    at = torch.tensor([[*place(r, c), 0.2] for r, c in centres], dtype=torch.float32)
    to_go, angle = road.way(at)
    assert to_go.tolist() == pytest.approx([float(road.to_go[c]) for c in centres], abs=1e-3)
    down, right = np.gradient(road.to_go, HIGH, WIDE)
    directions = [math.atan2(-right[c], down[c]) - 0.2 for c in centres]
    for value, want in zip(angle.tolist(), directions, strict=True):
        assert math.remainder(value - want, 2 * math.pi) == pytest.approx(0, abs=1e-3)
    (ahead, side), (far, far_side) = place(9, 7), place(10, 8)
    between, _ = road.way(poses(((ahead + far) / 2, (side + far_side) / 2, 0)))
    assert float(between) == pytest.approx(road.to_go[9:11, 7:9].mean(), abs=1e-3)
    outside, _ = road.way(poses((200, 0, 0), (-200, -300, 0)))
    assert outside[0] == pytest.approx(road.to_go[0, 15:17].mean(), abs=1e-3)
    assert outside[1] == pytest.approx(road.to_go[27, 0], abs=1e-3)
    assert road.way(at.view(4, 2, 2, 3))[0].shape == (4, 2, 2)
    assert torch.equal(road.way(at.view(4, 2, 2, 3))[1].flatten(), angle)


@pytest.mark.parametrize("fresh", [True, False])
def test_way_leads_along_the_road(fresh):
    road = RoadMap(painted(fresh=fresh))
    at = poses(
        (0.0, 0, 0), (20.0, 0, 0), (0.0, 0, 0.3), (0.0, 25, 0), (0, -25, 0), (10, 0, math.pi)
    )
    to_go, angle = road.way(at)
    assert to_go[0] - to_go[1] == pytest.approx(20, abs=1.5)
    assert to_go[3] > to_go[0]  # on the grass
    assert angle[0].abs() < 0.15
    assert angle[2] == pytest.approx(-0.3, abs=0.15)
    assert angle[3] < -0.5  # the road is to the left
    assert angle[4] > 0.5
    assert angle[5].abs() > 2.8
    on = road.wheels_on_road(at)
    assert on.shape == (6, 2)
    assert (on[:3] > 0.95).all()
    assert (on[3:5] < 0.05).all()


def test_progress_is_at_most_the_distance():
    to_go, next_to_go = torch.tensor([50.0, 50, 50]), torch.tensor([45.0, 10, 90])
    got = progress(to_go, next_to_go, torch.tensor([8.0, 8, 8]))
    assert got.tolist() == [5, 8, -8]


# --- wheels --------------------------------------------------------------------------------------


def edge(x):
    """Share of a smoothed edge of the road that is left at x px of the image beyond it.

    The mask is 1 up to pixel -1 and 0 from pixel 0 on; a mean over three goes down from pixel -2 to
    pixel 1.
    """
    return np.interp(x, [-2, 1], [1, 0])


@pytest.mark.parametrize("turn", [0, HALF, -HALF, math.pi])
@pytest.mark.parametrize("offset", [-6, -3.5, -2, 0, 1.5, 3.5, 6])
def test_wheels_across_an_edge_of_the_road(turn, offset):
    """All four wheels' places, in px, against the left or the upper half of a road."""
    wheels = np.array([[3.1, -2.1], [3.1, 2.1], [-3.2, -2.1], [-3.2, 2.1]])
    cos, sin = math.cos(turn), math.sin(turn)
    for vertical in (True, False):
        frame = blank((0, 0, 255))
        part = (slice(None), slice(0, 30)) if vertical else (slice(0, 40), slice(None))
        frame[:84][part] = ROAD
        ahead, right = (45, (30 - 47.5) / 0.8 + offset) if vertical else (31.5 + offset, -10)
        at_ahead = ahead + wheels[:, 0] * cos - wheels[:, 1] * sin
        at_right = right + wheels[:, 0] * sin + wheels[:, 1] * cos
        x = 47.5 + 0.8 * at_right - 30 if vertical else 71.5 - at_ahead - 40
        wanted = edge(x).reshape(2, 2).mean(1)
        found = RoadMap(frame).wheels_on_road(poses((ahead, right, turn)))
        assert found[0].tolist() == pytest.approx(wanted.tolist(), abs=1e-3)


def test_wheels_out_of_view_are_not_on_the_road():
    road = RoadMap(blank(ROAD))
    on = road.wheels_on_road(poses((0, 0, 0), (100, 0, 0), (0, 80, 0)))
    assert on.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert road.wheels_on_road(torch.zeros(2, 5, 3)).shape == (2, 5, 2)
    assert RoadMap(blank(PATCH)).wheels_on_road(torch.zeros(3)).tolist() == [0, 0]
