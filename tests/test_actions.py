"""Actions: what an environment takes, as models and planners see it, and back."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from mbrl_helpers.actions import Actions

SPACES = [
    Discrete(2),
    Discrete(5, start=-2),
    Box(-2, 2, (1,)),
    Box(np.array([0, -1, 5]), np.array([1, 1, 9]), dtype=np.float64),
]
CHOICES, NUMBERS = SPACES[:2], SPACES[2:]
UNBOUNDED = Box(-np.inf, np.inf, (2,))
HALF_BOUNDED = Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32))
NUM = 40_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(actions, *shape, size=None, seed=0):
    return torch.randn(*shape, size or actions.size, generator=seeded(seed))


def means(actions, num=6, seed=3):
    """Means of encoded actions: probabilities, or points within the bounds."""
    return actions.uniform((num, 9), seeded(seed)).mean(1)


def assert_are_actions(actions, encoded):
    """One-hot, or within the bounds."""
    assert encoded.dtype == torch.float32
    assert encoded.shape[-1] == actions.size
    if actions.is_discrete:
        assert set(encoded.unique().tolist()) <= {0.0, 1.0}
        assert (encoded.sum(-1) == 1).all()
    else:
        assert ((encoded >= actions.low) & (encoded <= actions.high)).all()


# --- which spaces --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "size", "is_discrete"),
    [(SPACES[0], 2, True), (SPACES[1], 5, True), (SPACES[2], 1, False), (SPACES[3], 3, False),
     (Discrete(1), 1, True), (UNBOUNDED, 2, False)],
    ids=str,
)  # fmt: skip
def test_a_space_is_asked_once_what_it_is(space, size, is_discrete):
    actions = Actions.of(space)
    assert (actions.size, actions.is_discrete) == (size, is_discrete)
    assert actions.space is space
    assert actions.noise_size == (1 if is_discrete else size)
    assert actions.middle.shape == actions.half_range.shape == (size,)


@pytest.mark.parametrize(
    "space",
    [MultiDiscrete([2, 2]), MultiBinary(3), Dict({"left": Box(-1, 1, (1,))}), Box(0, 1, (2, 2)),
     Box(-1, 1, ()), Box(0, 9, (2,), np.int64), Box(0, 255, (3,), np.uint8), None, 2],
    ids=str,
)  # fmt: skip
def test_other_spaces_are_refused(space):
    """A Box of whole numbers, too: what lies between them is no action."""
    with pytest.raises(TypeError, match=r"Actions\.of: expected a Discrete or a Box .*of floats"):
        Actions.of(space)


def test_the_middle_and_how_far_it_is_from_there():
    choices, numbers = Actions.of(SPACES[1]), Actions.of(SPACES[3])
    assert choices.middle.tolist() == pytest.approx([0.2] * 5)
    assert choices.half_range.tolist() == [0] * 5
    assert numbers.middle.tolist() == [0.5, 0, 7]
    assert numbers.half_range.tolist() == [0.5, 1, 2]


def test_equal_are_those_of_equal_spaces():
    assert Actions.of(Discrete(2)) == Actions.of(Discrete(2))
    assert Actions.of(Box(-2, 2, (1,))) == Actions.of(Box(-2, 2, (1,)))
    distinct = [Discrete(2), Discrete(3), Discrete(2, start=1), Box(-2, 2, (1,)), Box(-1, 2, (1,))]
    distinct = [*map(Actions.of, distinct), "left", None, Discrete(2)]
    for i, one in enumerate(distinct):
        assert all((one == other) == (i == j) for j, other in enumerate(distinct))
    assert len({Actions.of(Discrete(2)), Actions.of(Discrete(2)), Actions.of(Discrete(3))}) == 2


# --- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (0,)])
def test_actions_survive_encoding(space, shape):
    space.seed(0)
    given = np.array([space.sample() for _ in range(int(np.prod(shape)))], space.dtype)
    given, actions = given.reshape((*shape, *space.shape)), Actions.of(space)
    encoded = actions.encode(given)
    assert encoded.dtype == torch.float32
    assert encoded.shape == (*shape, actions.size)
    assert_are_actions(actions, encoded)
    decoded = actions.decode(encoded)
    assert decoded.dtype == space.dtype
    np.testing.assert_allclose(decoded, given, rtol=1e-6)
    if isinstance(space, Discrete):
        np.testing.assert_array_equal(encoded.sum(-1), np.ones(shape))
        np.testing.assert_array_equal(encoded.argmax(-1) + space.start, given)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_what_is_imagined_can_be_played(space):
    """Decoded, every action that is drawn is one of the space; encoded again, it is the same."""
    actions = Actions.of(space)
    encoded = actions.uniform((200,), seeded())
    for action in actions.decode(encoded):
        assert space.contains(action)
    assert torch.equal(actions.encode(actions.decode(encoded)), encoded)


@pytest.mark.parametrize("space", NUMBERS, ids=str)
def test_encoded_numbers_are_a_copy(space):
    actions = Actions.of(space)
    given = np.zeros((3, actions.size), np.float32)
    actions.encode(given)[:] = 7
    assert (given == 0).all()


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.int8])
def test_choices_may_be_of_any_whole_numbers(dtype):
    actions = Actions.of(Discrete(3, start=1))
    assert actions.encode(np.array([1, 3], dtype)).tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("space", "given", "error", "says"),
    [
        (Discrete(2), np.array([0, 2]), ValueError, "from 0 to 2"),
        (Discrete(2), [-1, 1], ValueError, "from -1 to 1"),
        (Discrete(3, start=5), [0], ValueError, "from 0 to 0.* another environment"),
        (Discrete(3, start=5), np.array([8], np.uint8), ValueError, "from 8 to 8"),
        (Discrete(2), np.array([0.0, 0.7]), TypeError, "expected integers .* float64"),
        (Discrete(2), np.array([True, False]), TypeError, "expected integers .* bool"),
        (Discrete(2), np.array(["left"]), TypeError, "expected integers"),
        (Discrete(2), np.array([None]), TypeError, "expected integers .* object"),
        (Box(-2, 2, (1,)), np.array(["left"]), TypeError, "expected numbers"),
        (Box(-2, 2, (1,)), np.array([None]), TypeError, "expected numbers .* object"),
        (Box(-2, 2, (1,)), np.array([0, 1, 1]), ValueError, r"\[..., 1\], got \(3,\)"),
        (Box(-2, 2, (2,)), 0.5, ValueError, r"got \(\)"),
        (Box(-2, 2, (2,)), np.zeros((4, 3)), ValueError, r"\[..., 2\], got \(4, 3\)"),
    ],
)  # fmt: skip
def test_actions_of_another_kind_are_refused(space, given, error, says):
    with pytest.raises(error, match=rf"Actions\.encode: .*{says}"):
        Actions.of(space).encode(given)


# --- drawing -------------------------------------------------------------------------------------


def assert_uniform(actions, encoded):
    """Each choice as often as the others; of numbers, as many below each point as there should."""
    rows = encoded.flatten(0, -2)
    if actions.is_discrete:
        share, num = rows.mean(0), 1 / actions.size
        assert ((share - num).abs() < 5 * math.sqrt(num * (1 - num) / len(rows))).all()
        return
    ranks = ((rows - actions.low) / (actions.high - actions.low)).sort(0).values
    even = torch.linspace(0, 1, len(rows))[:, None]
    assert ((ranks - even).abs().amax(0) < 1.95 / math.sqrt(len(rows))).all()  # Kolmogorov, 0.1 %
    if actions.size > 1:
        unrelated = torch.corrcoef(rows.T) - torch.eye(actions.size)
        assert (unrelated.abs() < 5 / math.sqrt(len(rows))).all()


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_uniform_actions_are_that(space):
    actions = Actions.of(space)
    before = torch.get_rng_state()
    encoded = actions.uniform((NUM // 10, 10), seeded())
    assert encoded.shape == (NUM // 10, 10, actions.size)
    assert_are_actions(actions, encoded)
    assert_uniform(actions, encoded)
    assert torch.equal(encoded, actions.uniform((NUM // 10, 10), seeded()))
    assert not torch.equal(encoded, actions.uniform((NUM // 10, 10), seeded(1)))
    assert torch.equal(before, torch.get_rng_state())  # of no other generator


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_of_normal_noise_each_action_is_as_likely_as_another(space):
    actions = Actions.of(space)
    encoded = actions.from_noise(noise(actions, NUM // 10, 10))
    assert encoded.shape == (NUM // 10, 10, actions.size)
    assert_are_actions(actions, encoded)
    assert_uniform(actions, encoded)
    far = actions.from_noise(torch.full((actions.size,), 9.0))
    assert_are_actions(actions, far)
    if not actions.is_discrete:  # the more noise, the higher
        assert torch.equal(far, actions.high)
        torch.testing.assert_close(actions.from_noise(torch.zeros(actions.size)), actions.middle)


@pytest.mark.parametrize("space", [UNBOUNDED, HALF_BOUNDED], ids=str)
def test_without_bounds_nothing_can_be_drawn(space):
    actions = Actions.of(space)
    with pytest.raises(ValueError, match=r"Actions\.uniform: expected .* finite bounds, got Box"):
        actions.uniform((3,), seeded())
    with pytest.raises(ValueError, match=r"MyPlanner: expected .* finite bounds.*TransformAction"):
        actions.check_bounded("MyPlanner")
    given = np.array([[1e9, -3.0]], np.float32)  # but such actions can be learned from
    np.testing.assert_array_equal(actions.decode(actions.encode(given)), given)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_bounded_spaces_pass(space):
    Actions.of(space).check_bounded("MyPlanner")


# --- around a mean -------------------------------------------------------------------------------


@pytest.mark.parametrize("space", CHOICES, ids=str)
def test_choices_around_a_mean_are_as_frequent_as_it_says(space):
    actions = Actions.of(space)
    mean = means(actions)
    drawn = actions.around(
        mean.expand(NUM, -1, -1), 0 * mean, noise(actions, NUM, 6, size=actions.noise_size)
    )
    assert_are_actions(actions, drawn)
    error = (mean * (1 - mean) / NUM).sqrt()
    assert ((drawn.mean(0) - mean).abs() <= 5 * error + 1e-7).all()


@pytest.mark.parametrize("space", CHOICES, ids=str)
def test_a_choice_that_is_sure_is_always_made(space):
    actions = Actions.of(space)
    sure = torch.eye(actions.size)
    drawn = actions.around(sure, 0 * sure, noise(actions, 300, actions.size, size=1))
    assert torch.equal(drawn, sure.expand_as(drawn))


@pytest.mark.parametrize("space", NUMBERS, ids=str)
def test_numbers_around_a_mean_are_mean_plus_noise_within_the_bounds(space):
    actions = Actions.of(space)
    mean, std = means(actions), 0.3 * actions.half_range.expand(6, -1)
    z = noise(actions, 500, 6)
    drawn = actions.around(mean, std, z)
    assert_are_actions(actions, drawn)
    free = mean + std * z
    inside = (free >= actions.low) & (free <= actions.high)
    assert torch.equal(drawn[inside], free[inside])
    assert 0 < (~inside).float().mean() < 0.5
    at_a_bound = (drawn == actions.low) | (drawn == actions.high)
    assert at_a_bound[~inside].all()
    assert torch.equal(actions.around(mean, 0 * std, z), mean.expand_as(z))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_an_opened_mean_lies_between_it_and_the_middle(space):
    actions = Actions.of(space)
    mean = means(actions)
    torch.testing.assert_close(actions.opened(mean, 0.0), mean)
    if not actions.is_discrete:
        assert torch.equal(actions.opened(mean, 0.4), mean)
        return
    opened = actions.opened(mean, 0.4)
    torch.testing.assert_close(opened, 0.6 * mean + 0.4 / actions.size)
    torch.testing.assert_close(opened.sum(-1), torch.ones(6))
    torch.testing.assert_close(actions.opened(mean, 1.0), actions.middle.expand(6, -1))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_likeliest_action_of_a_mean(space):
    actions = Actions.of(space)
    drawn = actions.uniform((50,), seeded())
    assert torch.equal(actions.likeliest(drawn), drawn)  # it is one already
    assert_are_actions(actions, actions.likeliest(means(actions)))
    equal = drawn.expand(7, -1, -1).mean(0)  # may differ from it by a bit, even beyond a bound
    torch.testing.assert_close(actions.likeliest(equal), drawn)
    if actions.is_discrete:
        mean = means(actions)
        assert torch.equal(actions.likeliest(mean).argmax(-1), mean.argmax(-1))
    else:
        beyond = actions.high + 1e-3
        assert torch.equal(actions.likeliest(beyond), actions.high)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_clipped_actions_are_the_nearest_that_there_are(space):
    actions = Actions.of(space)
    drawn = actions.uniform((50,), seeded())
    assert torch.equal(actions.clip(drawn), drawn)
    if not actions.is_discrete:
        far = drawn + 100 * torch.randn(drawn.shape, generator=seeded(1)).sign()
        expected = np.clip(far.numpy(), space.low.astype(np.float32), space.high)
        np.testing.assert_array_equal(actions.clip(far), expected.astype(np.float32))
        half = Actions.of(HALF_BOUNDED).clip(torch.tensor([[-9.0, -9.0], [9.0, 9.0]]))
        assert half.tolist() == [[-1, 0], [1, 9]]


@pytest.mark.parametrize("space", NUMBERS, ids=str)
def test_units_are_half_the_range(space):
    actions = Actions.of(space)
    for point, value in ((actions.low, -1), (actions.middle, 0), (actions.high, 1)):
        torch.testing.assert_close(actions.unit(point), torch.full((actions.size,), float(value)))
    drawn = actions.uniform((50,), seeded())
    back = actions.middle + actions.half_range * actions.unit(drawn)
    torch.testing.assert_close(back, drawn)


def test_an_axis_without_any_range():
    """Of an action that can't be chosen, what is drawn is it, and in its own units it is 0."""
    actions = Actions.of(Box(np.array([-1, 3], np.float32), np.array([1, 3], np.float32)))
    drawn = actions.uniform((20,), seeded())
    assert (drawn[:, 1] == 3).all()
    assert (actions.unit(drawn)[:, 1] == 0).all()
    assert (actions.from_noise(noise(actions, 20))[:, 1] == 3).all()


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_nothing_that_is_given_is_altered(space):
    actions = Actions.of(space)
    mean, z = means(actions), noise(actions, 6, size=actions.noise_size)
    full, std = noise(actions, 6), torch.ones(6, actions.size)
    given = [mean, z, full, std]
    kept = [part.clone() for part in given]
    for result in (actions.around(mean, std, z), actions.opened(mean, 0.2), actions.clip(mean),
                   actions.likeliest(mean), actions.from_noise(full)):  # fmt: skip
        assert result.shape == mean.shape
    assert all(map(torch.equal, given, kept))
