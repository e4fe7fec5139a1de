"""Experience: transitions and their torch view, buffers, splits, bad input."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl_helpers.actions import Actions
from mbrl_helpers.data import (
    Batch,
    ReplayBuffer,
    Transitions,
    concatenate,
    join,
    split_by_episode,
    validation_folds,
    windows,
)
from mbrl_helpers.interfaces import VectorStep

FIELDS = [field.name for field in dataclasses.fields(Transitions)]


def transitions(lengths=(3, 2), num_obs=2, continuous=False, seed=0):
    """Made-up episodes of the given lengths."""
    rng, num = np.random.default_rng(seed), sum(lengths)
    last = np.isin(np.arange(num), np.cumsum(lengths) - 1)
    return Transitions(
        obs=rng.normal(size=(num, num_obs)).astype(np.float32),
        action=rng.normal(size=(num, 1)).astype(np.float32)
        if continuous
        else rng.integers(2, size=num),
        reward=rng.normal(size=num).astype(np.float32),
        next_obs=rng.normal(size=(num, num_obs)).astype(np.float32),
        terminated=last,
        truncated=np.zeros(num, dtype=bool),
        episode=np.repeat(np.arange(len(lengths)), lengths),
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_equal(a, b):
    for name in FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        np.testing.assert_array_equal(left, right, err_msg=name)
        assert left.dtype == right.dtype


# --- transitions ---------------------------------------------------------------------------------


def test_a_single_transition_is_enough():
    data = transitions(lengths=(1,))
    assert len(data) == len(data[:1]) == len(data.episodes) == 1
    np.testing.assert_array_equal(data.returns(), data.reward)


def test_rows_are_picked_by_mask_slice_and_index():
    data = transitions(lengths=(2, 3))
    mask = data.episode == 1
    assert_equal(data[mask], data[2:])
    assert_equal(data[mask], data[np.array([2, 3, 4])])
    assert data[np.array([4, 0])].episodes.tolist() == [1, 0]  # in order of first appearance


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"obs": [[0.0, 0.0]] * 5}, TypeError, "obs as a NumPy array of float32, got list"),
        ({"obs": np.zeros((5, 2))}, TypeError, "obs .* float32, got float64.*np.asarray"),
        ({"obs": np.full((5, 2), "a")}, TypeError, "obs .* got str"),
        ({"reward": np.array([None] * 5)}, TypeError, "reward .* got object"),
        ({"action": np.zeros(5)}, TypeError, "action .* int64 or float32, got float64"),
        ({"action": np.zeros(5, dtype=bool)}, TypeError, "action .* got bool"),
        ({"terminated": np.zeros(5)}, TypeError, "terminated .* bool, got float64"),
        ({"episode": np.zeros(5, np.float32)}, TypeError, "episode .* int64, got float32"),
        ({"obs": np.zeros(5, np.float32)}, ValueError, "obs with 2 axes"),
        ({"obs": np.float32(0).reshape(())}, ValueError, r"obs with 2 axes.* got \(\)"),
        ({"next_obs": np.zeros((5, 3), np.float32)}, ValueError, r"obs and next_obs .*\(5, 3\)"),
        ({"next_obs": np.zeros((4, 2), np.float32)}, ValueError, r"next_obs with .*\(4, 2\)"),
        ({"action": np.zeros(5, np.float32)}, ValueError, "action with 2 axes"),
        ({"action": np.zeros((5, 1), np.int64)}, ValueError, "action with 1 axes"),
        ({"reward": np.zeros((5, 1), np.float32)}, ValueError, r"reward with 1 axes.*\(5, 1\)"),
        ({"truncated": np.zeros(4, bool)}, ValueError, r"truncated .* rows .*\(4,\)"),
    ],
)
def test_wrong_arrays_are_named(changes, error, says):
    with pytest.raises(error, match=f"Transitions: expected {says}"):
        dataclasses.replace(transitions(), **changes)


@pytest.mark.parametrize(
    ("name", "index", "value", "says"),
    [
        ("obs", (2, 1), np.nan, r"got nan in obs, row 2, column 1 \(1 such"),
        ("next_obs", (0, 0), -np.inf, "got -inf in next_obs, row 0, column 0"),
        ("reward", 4, np.inf, r"got inf in reward, row 4 \("),
        ("action", (3, 0), np.nan, "got nan in action, row 3, column 0"),
        ("obs", slice(3, 5), np.nan, r"row 3, column 0 \(4 such"),
    ],
)
def test_numbers_that_are_none_are_located(name, index, value, says):
    data = transitions(continuous=True)
    broken = getattr(data, name).copy()
    broken[index] = value
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(data, **{name: broken})


def test_no_transitions_are_refused():
    with pytest.raises(ValueError, match=r"T >= 1, got \(0, 2\).*Collect"):
        transitions()[:0]
    with pytest.raises(ValueError, match=r"concatenate: expected .* got .*\[\]"):
        concatenate([])


def test_parts_are_joined_unless_their_numbers_clash():
    data = transitions(lengths=(2, 3, 1))
    assert_equal(concatenate([data[:2], data[2:]]), data)
    with pytest.raises(ValueError, match=r"different episode numbers, got \[0, 1, 1, 2\]"):
        concatenate([data[:3], data[3:]])
    other = dataclasses.replace(transitions(num_obs=3), episode=np.array([8, 8, 8, 9, 9]))
    with pytest.raises(ValueError, match="transitions of one environment"):
        concatenate([data, other])


def joined(data):
    """The same with rows that begin where the one before ended."""
    after = np.roll(data.obs, -1, axis=0)
    return dataclasses.replace(
        data, next_obs=np.where(data.terminated[:, None], data.next_obs, after)
    )


def test_windows_are_stretches_of_one_episode():
    data = joined(transitions(lengths=(3, 7, 4)))
    states, actions = windows(data, 3)
    starts = [0, 3, 6, 10]  # rows: the second episode has room for two, a row is left over
    assert len(states) == len(actions) == 4
    for state, action, row in zip(states, actions, starts, strict=True):
        np.testing.assert_array_equal(state[:3], data.obs[row : row + 3])
        np.testing.assert_array_equal(state[3], data.next_obs[row + 2])
        np.testing.assert_array_equal(action, data.action[row : row + 3])


def test_windows_need_an_episode_that_is_long_enough():
    with pytest.raises(ValueError, match=r"windows: .* at least 8 steps, got none longer than 7\."):
        windows(transitions(lengths=(3, 7)), 8)
    with pytest.raises(ValueError, match="windows: expected length >= 1, got 0"):
        windows(transitions(), 0)


@pytest.mark.parametrize("rows", [[0, 2, 1, 3], [0, 1, 3, 4]])
def test_windows_of_shuffled_or_missing_rows_are_refused(rows):
    data = joined(transitions(lengths=(6,)))
    with pytest.raises(ValueError, match=r"windows: .* got gaps .* episode 0"):
        windows(data[np.array(rows)], 4)


# --- the torch view ------------------------------------------------------------------------------


def test_tensors_are_the_same_numbers():
    data = dataclasses.replace(transitions(), truncated=np.array([0, 1, 0, 0, 0], bool))
    batch = data.tensors(Actions.of(Discrete(2)))
    for name in ("obs", "reward", "next_obs", "terminated"):
        value = getattr(batch, name)
        assert value.dtype == torch.float32
        np.testing.assert_array_equal(value, getattr(data, name), err_msg=name)
    np.testing.assert_array_equal(batch.action, np.eye(2)[data.action])
    assert batch.imagined.tolist() == [False] * 5
    batch.obs[:], batch.action[:] = 9, 9  # a copy
    assert_equal(data, dataclasses.replace(transitions(), truncated=data.truncated))
    moves = transitions(continuous=True)
    batch = moves.tensors(Actions.of(Box(-1, 1, (1,))))
    np.testing.assert_array_equal(batch.action, moves.action)
    batch.action[:] = 9
    assert_equal(moves, transitions(continuous=True))


@pytest.mark.parametrize(
    ("space", "continuous", "error"),
    [(Discrete(2, start=1), False, ValueError), (Discrete(2), True, TypeError),
     (Box(-1, 1, (2,)), True, ValueError)],
)  # fmt: skip
def test_tensors_of_another_environment(space, continuous, error):
    with pytest.raises(error, match=r"Actions\.encode: expected"):
        transitions(lengths=(9,), continuous=continuous).tensors(Actions.of(space))


def numbered(num):
    """A batch whose rows can be told apart."""
    number = torch.arange(num).float()
    obs, action = number[:, None] * torch.tensor([1.0, 10.0]), number[:, None]
    return Batch(obs, action, number, obs + 1, number % 2, number > 3)


def assert_rows(batch, rows):
    for name, part in vars(batch).items():
        assert torch.equal(part, getattr(numbered(100), name)[rows]), name


def test_batches_are_picked_joined_and_drawn_by_whole_rows():
    batch = numbered(10)
    assert len(batch) == 10
    assert_rows(batch[2:5], [2, 3, 4])
    assert_rows(batch[torch.tensor([7, 0, 7])], [7, 0, 7])
    assert_rows(batch[batch.imagined], [4, 5, 6, 7, 8, 9])
    assert_rows(join([batch[:3], batch[7:], batch[:1]]), [0, 1, 2, 7, 8, 9, 0])
    assert_rows(join([batch]), list(range(10)))


def test_draws_are_uniform_and_seeded():
    batch = numbered(10)
    draw = batch.draw(5000, seeded())
    counts = torch.bincount(draw.reward.long(), minlength=10)
    assert (counts - 500).abs().max() < 110  # 5 standard deviations
    assert_rows(draw, draw.reward.long())  # rows stay together
    assert torch.equal(draw.reward, batch.draw(5000, seeded()).reward)
    assert not torch.equal(draw.reward, batch.draw(5000, seeded(1)).reward)


# --- replay buffer: whole episodes ---------------------------------------------------------------


def test_buffer_numbers_episodes_anew():
    buffer, data = ReplayBuffer(), transitions(lengths=(2, 3))
    buffer.add(data)
    buffer.add(data[2:])  # number 1, which the buffer has already
    everything = buffer.all()
    assert len(buffer) == len(everything) == buffer.num_added == 8
    assert everything.episode.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(everything.obs, np.concatenate([data.obs, data.obs[2:]]))
    assert data.episode.tolist() == [0, 0, 1, 1, 1]  # what was given is as it was


def test_buffer_grows_after_a_look():
    buffer = ReplayBuffer()
    for number in (1, 2):
        buffer.add(transitions(lengths=(3,)))
        assert len(buffer.all()) == 3 * number


@pytest.mark.parametrize(
    ("capacity", "kept"), [(100, [0, 1, 2, 3]), (13, [0, 1, 2, 3]), (10, [1, 2, 3]),
                           (9, [2, 3]), (6, [2, 3]), (2, [3])]
)  # fmt: skip
def test_full_buffer_drops_the_oldest_whole_episodes(capacity, kept):
    """One whose beginning has been overwritten is not shown."""
    data = transitions(lengths=(3, 4, 4, 2))
    one_by_one, at_once = ReplayBuffer(capacity), ReplayBuffer(capacity)
    at_once.add(data)
    for number in data.episodes:
        one_by_one.add(data[data.episode == number])
    for buffer in (one_by_one, at_once):
        assert len(buffer) == min(capacity, 13)
        assert_equal(buffer.all(), data[np.isin(data.episode, kept)])


@pytest.mark.parametrize("capacity", [1, 3, 6])
def test_of_an_only_episode_that_is_too_long_the_end_is_kept(capacity):
    buffer, data = ReplayBuffer(capacity), transitions(lengths=(4, 7))
    buffer.add(data)
    assert_equal(buffer.all(), data[-capacity:])
    buffer.add(data[:2])  # a whole one
    last = dataclasses.replace(data[:2], episode=np.array([2, 2]))
    assert_equal(buffer.all(), last[-capacity:])


def test_what_was_looked_at_stays_as_it_was():
    buffer, data = ReplayBuffer(5), transitions(lengths=(2, 3))
    buffer.add(data)
    everything = buffer.all()
    buffer.add(transitions(lengths=(4,), seed=1))
    everything.obs[:] += 0  # and may be written to
    assert_equal(everything, data)


@pytest.mark.parametrize("other", [{"num_obs": 3}, {"continuous": True}])
def test_mixed_environments_are_refused(other):
    buffer = ReplayBuffer()
    buffer.add(transitions())
    with pytest.raises(ValueError, match=r"ReplayBuffer\.add: expected .* Keep environments apart"):
        buffer.add(transitions(**other))
    assert_equal(buffer.all(), transitions())
    buffer.add(transitions(lengths=(1,)))
    assert buffer.all().episode.tolist() == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("call", ["all", "batch"])
def test_empty_buffer_says_so(call):
    buffer = ReplayBuffer()
    buffer.cut()  # of nothing: nothing happens
    with pytest.raises(
        RuntimeError, match=rf"ReplayBuffer\.{call}: expected .*empty buffer\. (Call add|Add some)"
    ):
        getattr(buffer, call)()
    assert len(buffer) == 0


@pytest.mark.parametrize("name", ["capacity", "num_envs"])
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_buffer_for_nothing_is_refused(name, value, error):
    with pytest.raises(error, match=f"ReplayBuffer: expected {name}"):
        ReplayBuffer(**{name: value})


# --- replay buffer: step by step -----------------------------------------------------------------


def vector_step(number, num_envs=1, ended=(), truncated=(), obs=None):
    """Step number i of B environments: each number is in it."""
    place = number + 1000 * np.arange(num_envs)
    obs = place[:, None].astype(np.float32) if obs is None else obs
    on = np.arange(num_envs)
    return VectorStep(
        obs, place % 3, place * 0.5, obs, np.isin(on, ended), np.isin(on, truncated), on
    )


class Told:
    """What a buffer should hold, by a list: rows (identity, terminated, truncated, episode)."""

    def __init__(self, capacity):
        self.capacity, self.rows, self.number = capacity, [], 0

    def add(self, identities):
        self.rows += [[i, i == identities[-1], False, self.number] for i in identities]
        self.number += 1

    def add_step(self, identity, terminated, truncated):
        self.rows.append([identity, terminated, truncated, self.number])
        self.number += terminated or truncated

    def cut(self):
        if self.rows:
            self.number += not (self.rows[-1][1] or self.rows[-1][2])
            self.rows[-1][2] = True

    def all(self):
        held = self.rows[-self.capacity :]
        lost = {row[3] for row in self.rows[: -self.capacity]} if len(self.rows) > len(held) else ()
        return [row for row in held if row[3] not in lost] or held


def one_by_one(identities):
    """An episode whose rows can be told apart."""
    number, last = np.array(identities), np.arange(len(identities)) == len(identities) - 1
    obs = number[:, None].astype(np.float32)
    return Transitions(obs, number % 3, (number * 0.5).astype(np.float32), obs, last, 0 * last > 0,
                       0 * number)  # fmt: skip


@pytest.mark.parametrize("capacity", [1, 2, 5, 12, 40, 400])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_in_the_last_steps_are_there(capacity, seed):
    """Episodes, steps and cuts in any order, against a list that forgets nothing."""
    rng, buffer, told, identity = np.random.default_rng(seed), ReplayBuffer(capacity), None, 0
    told = Told(capacity)
    for _ in range(150):
        kind = rng.choice(["add", "step", "cut"], p=[0.1, 0.75, 0.15])
        if kind == "add":
            identities = list(range(identity, identity + rng.integers(1, 9)))
            identity = identities[-1] + 1
            buffer.add(one_by_one(identities))
            told.add(identities)
        elif kind == "step":
            terminated, truncated = (bool(v) for v in rng.random(2) < 0.15)
            buffer.add_step(vector_step(identity, 1, [0] * terminated, [0] * truncated))
            told.add_step(identity, terminated, truncated)
            identity += 1
        else:
            buffer.cut()
            told.cut()
        if not told.rows:
            continue
        identities, terminated, truncated, episode = zip(*told.all(), strict=True)
        data = buffer.all()
        assert data.obs[:, 0].tolist() == list(identities)
        assert data.action.tolist() == [i % 3 for i in identities]
        assert data.reward.tolist() == [i * 0.5 for i in identities]
        assert data.terminated.tolist() == list(terminated)
        assert data.truncated.tolist() == list(truncated)
        assert data.episode.tolist() == list(episode)
        held = [row[0] for row in told.rows[-capacity:]]
        batch = buffer.batch()
        assert batch.obs[:, 0].tolist() == held  # also of a torn episode: in the order of time
        assert batch.action.tolist() == [i % 3 for i in held]
        assert batch.terminated.tolist() == [row[1] for row in told.rows[-capacity:]]
        assert not batch.imagined.any()
        assert len(buffer) == len(held)
        assert buffer.num_added == len(told.rows)


@pytest.mark.parametrize("num_added", [1, 7, 8, 9, 20])  # not yet full, full, overwritten
def test_several_environments_share_rows(num_added):
    """Step number i of all is in row i % capacity."""
    buffer = ReplayBuffer(8, num_envs=3)
    for number in range(num_added):
        buffer.add_step(vector_step(number, 3))
    assert len(buffer) == min(8, num_added)
    for number in range(max(0, num_added - 8), num_added):
        row = {name: column[number % 8] for name, column in buffer.columns.items()}
        place = number + 1000 * torch.arange(3)
        assert torch.equal(row["obs"], place[:, None].float())
        assert torch.equal(row["action"], place % 3)
        assert torch.equal(row["reward"], place * 0.5)
    dtypes = {name: column.dtype for name, column in buffer.columns.items()}
    assert dtypes == {
        "obs": torch.float32, "action": torch.int64, "reward": torch.float32,
        "next_obs": torch.float32, "terminated": torch.bool, "truncated": torch.bool,
        "episode": torch.int64,
    }  # fmt: skip


def test_episodes_of_several_environments_have_numbers_of_their_own():
    """Whatever numbers they had where they were played."""
    buffer, ends = ReplayBuffer(20, num_envs=3), {1: [0], 2: [0, 2], 4: [1]}
    for number in range(6):
        buffer.add_step(vector_step(number, 3, ended=ends.get(number, ())))
    assert buffer.columns["episode"][:6].tolist() == [
        [0, 1, 2], [0, 1, 2], [3, 1, 2], [4, 1, 5], [4, 1, 5], [4, 6, 5],
    ]  # fmt: skip
    buffer.cut()
    buffer.cut()  # nothing is left to cut
    assert buffer.columns["truncated"][:6].any(1).tolist() == [False] * 5 + [True]
    assert buffer.columns["truncated"][5].all()
    buffer.add_step(vector_step(6, 3))
    assert buffer.columns["episode"][6].tolist() == [7, 8, 9]


def test_a_cut_after_an_end_begins_nothing_twice():
    buffer = ReplayBuffer(20, num_envs=2)
    buffer.add_step(vector_step(0, 2, ended=[0]))
    buffer.cut()
    buffer.add_step(vector_step(1, 2))
    assert buffer.columns["episode"][:2].tolist() == [[0, 1], [2, 3]]
    assert buffer.columns["terminated"][0].tolist() == [True, False]


def test_it_takes_only_the_room_that_it_needs():
    buffer = ReplayBuffer(1000)
    for number in range(300):
        buffer.add_step(vector_step(number))
    sizes = {len(column) for column in buffer.columns.values()}
    assert sizes < set(range(300, 1000))
    assert len(sizes) == 1
    for number in range(300, 3000):
        buffer.add_step(vector_step(number))
    assert {len(column) for column in buffer.columns.values()} == {1000}
    assert buffer.batch().obs[:, 0].tolist() == list(range(2000, 3000))


@pytest.mark.parametrize("call", ["all", "batch", "add"])
def test_of_several_environments_there_is_no_one_order(call):
    buffer = ReplayBuffer(8, num_envs=2)
    buffer.add_step(vector_step(0, 2))
    with pytest.raises(
        RuntimeError, match=rf"ReplayBuffer\.{call}: expected .*one of 2.*num_envs=1"
    ):
        getattr(buffer, call)(*([transitions()] if call == "add" else []))


FRAMES = (3, 2, 4, 4)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32, np.float64])
def test_what_is_observed_keeps_its_kind(dtype):
    """Frames of any kind; of numbers with fractions 32 bits are kept."""
    buffer = ReplayBuffer(5, num_envs=3)
    frames = np.random.default_rng(0).integers(2, size=(9, *FRAMES)).astype(dtype)
    for number, obs in enumerate(frames):
        buffer.add_step(vector_step(number, 3, obs=obs))
    wanted = torch.float32 if dtype is np.float64 else torch.as_tensor(frames).dtype
    for name in ("obs", "next_obs"):
        kept = buffer.columns[name]
        assert kept.dtype == wanted
        rows = [number % 5 for number in range(4, 9)]
        np.testing.assert_array_equal(kept[rows], frames[4:])


@pytest.mark.parametrize(
    ("first", "then"),
    [(np.bool_, np.uint8), (np.bool_, np.float32), (np.bool_, np.int64), (np.uint8, np.int64),
     (np.uint8, np.int8), (np.uint8, np.float32), (np.int32, np.int64), (np.int64, np.float64)],
)  # fmt: skip
def test_numbers_that_would_not_stay_what_they_are(first, then):
    """A fraction kept as True, or 300 in one byte: refused, though these would have fitted."""
    buffer, step = ReplayBuffer(8), vector_step(0)
    buffer.add_step(step._replace(obs=np.zeros((1, 2), first), next_obs=np.zeros((1, 2), first)))
    with pytest.raises(
        ValueError, match=r"ReplayBuffer\.add_step: expected obs \[1, 2\] that fits torch\..*got"
    ):
        buffer.add_step(step._replace(obs=np.ones((1, 2), then), next_obs=np.ones((1, 2), then)))
    assert len(buffer) == 1
    assert len(buffer.batch()) == 1


def test_numbers_that_stay_what_they_are_are_welcome():
    buffer, step = ReplayBuffer(8), vector_step(0)
    buffer.add_step(step)
    for number, dtype in enumerate((np.uint8, np.bool_, np.float64, np.float16), 1):
        buffer.add_step(step._replace(obs=np.ones((1, 1), dtype), reward=np.ones(1, dtype)))
        assert buffer.columns["obs"][number].item() == 1


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("obs", np.zeros((3, 2)), r"obs \[3, 1\] .*got \[3, 2\]"),
        ("obs", np.zeros((2, 1)), r"obs \[3, 1\] .*got \[2, 1\]"),
        ("action", np.array([1]), r"action \[3\] .*got \[1\]"),
        ("action", np.array([0.5] * 3), r"action \[3\] that fits torch\.int64, got \[3\] torch.fl"),
        ("reward", np.zeros((3, 1)), r"reward \[3\] .*got \[3, 1\]"),
        ("terminated", np.array(False), r"terminated \[3\] .*got \[\]"),
    ],
)
def test_a_step_of_another_shape(name, value, says):
    """A row of one environment in the name of all."""
    buffer, step = ReplayBuffer(4, num_envs=3), vector_step(0, 3)
    buffer.add_step(step)
    with pytest.raises(ValueError, match=rf"ReplayBuffer\.add_step: expected {says}"):
        buffer.add_step(step._replace(**{name: value}))
    assert len(buffer) == 1
    with pytest.raises(ValueError, match=r"ReplayBuffer\.add_step: expected a row for each of 2"):
        ReplayBuffer(4, num_envs=2).add_step(step)


@pytest.mark.parametrize("capacity", [6, 10, 1000])
@pytest.mark.parametrize("stop_at", range(1, 16))
def test_an_interrupt_while_adding_spoils_nothing(monkeypatch, capacity, stop_at):
    """In the middle of a full ring, of its growth, or of an episode larger than all of it."""
    buffer = ReplayBuffer(capacity)
    size = 256 if capacity == 1000 else 4
    old = [one_by_one(list(range(10_000 * n, 10_000 * n + size))) for n in (1, 2)]
    for data in old:
        buffer.add(data)
    calls, original = 0, torch.Tensor.__setitem__

    def interrupted(tensor, index, value):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        return original(tensor, index, value)

    new = one_by_one(list(range(30_000, 30_000 + (9 if capacity == 6 else size + 1))))
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "__setitem__", interrupted)
        try:
            buffer.add(new)
        except KeyboardInterrupt:
            assert calls == stop_at

    def contents():
        if not len(buffer):
            return []
        data = buffer.all()
        identity = data.obs[:, 0].astype(int)
        for other in (data.next_obs[:, 0], 2 * data.reward):
            np.testing.assert_array_equal(identity, other)  # no row is of two
        np.testing.assert_array_equal(data.action, identity % 3)
        for number in data.episodes:
            assert len(set(identity[data.episode == number] // 10_000)) == 1
        return identity.tolist()

    known = [row for part in (*old, new) for row in part.obs[:, 0].astype(int).tolist()]
    assert contents() == [row for row in known if row in set(contents())]
    for n in (4, 5, 6):
        buffer.add(one_by_one(list(range(10_000 * n, 10_000 * n + 3))))
    found = contents()
    assert found[-6:] == [50_000, 50_001, 50_002, 60_000, 60_001, 60_002][-6:]
    assert len(found) <= capacity


# --- splitting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "fraction", "held_out"), [(10, 0.2, 2), (2, 0.2, 1), (2, 0.99, 1), (30, 0.01, 1)]
)
def test_split_keeps_episodes_whole(num, fraction, held_out):
    data = transitions(lengths=range(1, num + 1))
    train, valid = split_by_episode(data, fraction, np.random.default_rng(0))
    assert not set(train.episodes) & set(valid.episodes)
    assert len(valid.episodes) == held_out
    both = np.concatenate([train.reward, valid.reward])
    np.testing.assert_array_equal(np.sort(both), np.sort(data.reward))  # every row, once


def test_split_is_seeded():
    data = transitions(lengths=(1,) * 30)
    picks = [split_by_episode(data, 0.3, np.random.default_rng(seed))[1] for seed in (0, 0, 1)]
    assert_equal(picks[0], picks[1])
    assert set(picks[0].episodes) != set(picks[2].episodes)


@pytest.mark.parametrize(
    ("lengths", "fraction", "says"),
    [
        ((5,), 0.2, r"at least 2 episodes, got 1 \(5 transitions\)"),
        ((1,), 0.2, r"at least 2 episodes, got 1 \(1 transitions\)"),
        ((2, 2), 0.0, "0 < fraction < 1, got 0.0"),
        ((2, 2), 1.0, "0 < fraction < 1, got 1.0"),
        ((2, 2), float("nan"), "0 < fraction < 1, got nan"),
    ],
)
def test_what_cannot_be_split(lengths, fraction, says):
    with pytest.raises(ValueError, match=says):
        split_by_episode(transitions(lengths), fraction, np.random.default_rng(0))


# --- folds ---------------------------------------------------------------------------------------


def test_whole_episodes_are_dealt_out_in_turn():
    """In the order in which they appear, whatever their numbers and wherever their rows."""
    data = transitions((3, 1, 2, 4, 2))
    assert validation_folds(data, 2).tolist() == [0, 0, 0, 1, 0, 0, 1, 1, 1, 1, 0, 0]
    assert validation_folds(data, 5).tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 4]
    renumbered = dataclasses.replace(data, episode=90 - 7 * data.episode)
    assert validation_folds(renumbered, 2).tolist() == validation_folds(data, 2).tolist()
    order = np.array([4, 0, 6, 1, 10, 2, 3, 5])
    shuffled = validation_folds(data[order], 2)
    number = {episode: i % 2 for i, episode in enumerate(data[order].episodes)}
    assert shuffled.tolist() == [number[e] for e in data[order].episode]


@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_appending_episodes_changes_no_fold_of_the_old_ones(num_folds):
    lengths = (4, 2, 3, 5, 1, 2, 2, 7, 1)
    data = transitions(lengths)
    folds = validation_folds(data, num_folds)
    for num_episodes in range(num_folds, len(lengths)):
        num_rows = sum(lengths[:num_episodes])
        before = validation_folds(data[:num_rows], num_folds)
        np.testing.assert_array_equal(before, folds[:num_rows])
        assert set(before.tolist()) == set(range(num_folds))


@pytest.mark.parametrize("lengths", [(5,), (7,), (23,), (3, 4), (2, 2, 1), (1, 8, 1, 1)])
def test_of_few_episodes_a_fold_is_a_stretch(lengths):
    folds = validation_folds(transitions(lengths), 5)
    assert (np.diff(folds) >= 0).all()
    sizes = np.bincount(folds, minlength=5)
    assert len(sizes) == 5
    assert sizes.min() >= 1
    assert sizes.max() <= sizes.min() + 1


@pytest.mark.parametrize(
    ("num_folds", "error", "says"),
    [
        (1, ValueError, "at least 2 folds and a transition for each, got 6 transitions for 1"),
        (7, ValueError, "at least 2 folds and a transition for each, got 6 transitions for 7"),
        (0, ValueError, "num_folds >= 1, got 0"),
        (2.0, TypeError, "num_folds as an int, got 2.0"),
    ],
)
def test_folds_that_cannot_be_made(num_folds, error, says):
    with pytest.raises(error, match=f"validation_folds: expected {says}"):
        validation_folds(transitions((4, 2)), num_folds)
