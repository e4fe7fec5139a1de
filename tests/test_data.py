"""Experience: episodes as they were, whatever the batch; buffers, splits, files, bad input."""

import dataclasses
import pickle
import zipfile

import gymnasium as gym
import numpy as np
import pytest

from mbrl_helpers.data import (
    ReplayBuffer,
    Transitions,
    collect_episodes,
    concatenate,
    load_transitions,
    run_episodes,
    split_by_episode,
    validation_folds,
    windows,
)
from mbrl_helpers.envs import CARTPOLE_LIMITS

FIELDS = [field.name for field in dataclasses.fields(Transitions)]


class Policy:
    """A deterministic agent, row by row."""

    def __init__(self, function):
        self.function = function

    def act(self, obs):
        return np.array([self.function(row) for row in obs])

    def reset(self, ended=None):
        pass


LEAN = Policy(lambda obs: int(obs[2] > 0))  # falls after 25 to 60 steps
BALANCE = Policy(lambda obs: int(obs[2] + 0.3 * obs[3] > 0))
SWING = Policy(lambda obs: np.array([2 * np.sign(obs[2])], dtype=np.float32))


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


def arrays(data):
    return {name: getattr(data, name) for name in FIELDS}


def assert_equal(a, b):
    for name in FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        np.testing.assert_array_equal(left, right, err_msg=name)
        assert left.dtype == right.dtype


# --- collecting ----------------------------------------------------------------------------------


def played_one_by_one(env_id, policy, num_episodes, seed):
    """The same by Gymnasium's plain loop."""
    rows = []
    with gym.make(env_id) as env:
        for episode in range(num_episodes):
            obs, _ = env.reset(seed=seed + episode)
            ended = False
            while not ended:
                action = policy.function(obs)
                next_obs, reward, terminated, truncated, _ = env.step(action)
                rows.append((obs, action, reward, next_obs, terminated, truncated, episode))
                obs, ended = next_obs, terminated or truncated
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("num_envs", [None, 1, 4])
@pytest.mark.parametrize(
    ("env_id", "policy", "num_episodes"), [("CartPole-v1", LEAN, 14), ("Pendulum-v1", SWING, 5)]
)
def test_collects_what_a_plain_loop_plays(env_id, policy, num_episodes, num_envs):
    """The first episodes started, not the first to end; whole; none reset behind our back."""
    data = collect_episodes(env_id, policy, num_episodes=num_episodes, seed=7, num_envs=num_envs)
    expected = played_one_by_one(env_id, policy, num_episodes, seed=7)
    for name, values in zip(FIELDS, expected, strict=True):
        np.testing.assert_array_equal(getattr(data, name), values.astype(np.float32), err_msg=name)
    dtypes = [getattr(data, name).dtype for name in FIELDS]
    action = np.int64 if env_id == "CartPole-v1" else np.float32
    assert dtypes == [np.float32, action, np.float32, np.float32, bool, bool, np.int64]


def ends(data):
    """[T] whether a row is the last one of its episode."""
    return np.append(np.diff(data.episode) != 0, True)


def test_cartpole_ends_where_the_limits_are_violated():
    data = collect_episodes("CartPole-v1", LEAN, num_episodes=20, seed=100, num_envs=6)
    outside = (np.abs(data.next_obs[:, [0, 2]]) > CARTPOLE_LIMITS).any(1)
    np.testing.assert_array_equal(data.terminated, outside)
    np.testing.assert_array_equal(data.terminated, ends(data))
    assert not data.truncated.any()
    assert (data.reward == 1).all()
    inside = ~ends(data)[:-1]
    np.testing.assert_array_equal(data.next_obs[:-1][inside], data.obs[1:][inside])
    np.testing.assert_array_equal(data.returns(), np.bincount(data.episode))
    assert len(set(data.returns())) > 5  # or the batch would have ended all at once


@pytest.mark.parametrize(
    ("env_id", "policy", "limit"), [("CartPole-v1", BALANCE, 500), ("Pendulum-v1", SWING, 200)]
)
def test_time_limit_truncates_and_does_not_terminate(env_id, policy, limit):
    data = collect_episodes(env_id, policy, num_episodes=2, seed=3)
    assert len(data) == 2 * limit
    assert not data.terminated.any()
    np.testing.assert_array_equal(data.truncated, ends(data))


def test_agent_is_told_whose_episode_ended():
    told = []

    class Listener(Policy):
        def reset(self, ended=None):
            told.append(ended)

    data = collect_episodes(
        "CartPole-v1", Listener(LEAN.function), num_episodes=3, seed=0, num_envs=3
    )
    assert told[0] is None
    assert all(ended.shape == (3,) and ended.any() for ended in told[1:])
    first = np.argmin(data.returns())
    np.testing.assert_array_equal(told[1], np.arange(3) == first)


def test_interrupt_keeps_the_episodes_that_ended():
    calls = 0

    def interrupted(obs):
        nonlocal calls
        calls += 1
        if calls > 150:
            raise KeyboardInterrupt
        return LEAN.function(obs)

    buffer = ReplayBuffer()
    with pytest.raises(KeyboardInterrupt):
        collect_episodes(
            "CartPole-v1", Policy(interrupted), num_episodes=9, seed=7, num_envs=2, buffer=buffer
        )
    whole = collect_episodes("CartPole-v1", LEAN, num_episodes=9, seed=7)
    kept = buffer.all()
    assert 2 <= len(kept.episodes) < 9
    for number in kept.episodes:
        part = kept[kept.episode == number]
        matches = [
            i for i in whole.episodes if (whole.obs[whole.episode == i][0] == part.obs[0]).all()
        ]
        assert len(matches) == 1
        same = dataclasses.replace(part, episode=np.full(len(part), matches[0]))
        assert_equal(same, whole[whole.episode == matches[0]])


def test_stopping_early_closes_the_environments(monkeypatch):
    closed = []
    close = gym.vector.SyncVectorEnv.close
    monkeypatch.setattr(
        gym.vector.SyncVectorEnv, "close", lambda self: (closed.append(self), close(self))
    )
    episodes = run_episodes("CartPole-v1", LEAN, num_episodes=5, seed=0, num_envs=2)
    next(episodes)
    assert closed == []
    episodes.close()
    assert len(closed) >= 1


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"num_episodes": 0}, ValueError, "num_episodes >= 1, got 0"),
        ({"num_episodes": 2.5}, TypeError, "num_episodes as an int, got 2.5"),
        ({"num_episodes": 2, "num_envs": 0}, ValueError, "num_envs >= 1, got 0"),
        ({"num_episodes": 2, "num_envs": -1}, ValueError, "num_envs >= 1, got -1"),
        ({"num_episodes": 2, "num_envs": True}, TypeError, "num_envs as an int, got True"),
    ],
)
def test_collecting_nothing_is_refused(arguments, error, says):
    with pytest.raises(error, match=f"run_episodes: expected {says}"):
        collect_episodes("CartPole-v1", LEAN, seed=0, **arguments)


def test_an_agent_must_act_in_every_environment():
    class OneForAll:
        def act(self, obs):
            return np.array([1])

        def reset(self, ended=None):
            pass

    with pytest.raises(ValueError, match=r"run_episodes: expected 3 actions, .* got 1\."):
        collect_episodes("CartPole-v1", OneForAll(), num_episodes=3, seed=0)


def test_actions_are_kept_as_they_were_played():
    """An agent may fill one array again and again."""

    class Refills:
        action, step = np.zeros((1, 1), np.float32), 0

        def act(self, obs):
            self.step += 1
            self.action[:] = self.step / 1000
            return self.action

        def reset(self, ended=None):
            pass

    data = collect_episodes("Pendulum-v1", Refills(), num_episodes=1, seed=0)
    assert data.action[:, 0] == pytest.approx(np.arange(1, 201) / 1000)


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


# --- replay buffer -------------------------------------------------------------------------------


def test_buffer_numbers_episodes_anew():
    buffer, data = ReplayBuffer(), transitions(lengths=(2, 3))
    buffer.add(data)
    buffer.add(data[2:])  # number 1, which the buffer has already
    everything = buffer.all()
    assert len(buffer) == len(everything) == 8
    assert everything.episode.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(everything.obs, np.concatenate([data.obs, data.obs[2:]]))
    assert data.episode.tolist() == [0, 0, 1, 1, 1]  # what was given is as it was


def test_buffer_grows_after_a_look():
    buffer = ReplayBuffer()
    for number in (1, 2):
        buffer.add(transitions(lengths=(3,)))
        assert len(buffer.all()) == 3 * number


@pytest.mark.parametrize(
    ("capacity", "kept"), [(100, [0, 1, 2, 3]), (10, [1, 2, 3]), (9, [2, 3]), (6, [2, 3]), (1, [3])]
)
def test_full_buffer_drops_the_oldest_whole_episodes(capacity, kept):
    """The newest stays even if it is too long alone."""
    buffer, data = ReplayBuffer(capacity), transitions(lengths=(3, 4, 4, 2))
    for number in data.episodes:
        buffer.add(data[data.episode == number])
    assert_equal(buffer.all(), data[np.isin(data.episode, kept)])


def test_sample_is_uniform_and_seeded():
    buffer = ReplayBuffer()
    buffer.add(transitions(lengths=(3, 7)))
    draw = buffer.sample(5000, np.random.default_rng(0))
    values, counts = np.unique(draw.reward, return_counts=True)
    np.testing.assert_array_equal(values, np.sort(buffer.all().reward))
    assert np.abs(counts - 500).max() < 110  # 5 standard deviations
    assert_equal(draw, buffer.sample(5000, np.random.default_rng(0)))
    assert (draw.reward != buffer.sample(5000, np.random.default_rng(1)).reward).any()
    for i in range(20):  # rows stay together
        row = np.flatnonzero(buffer.all().reward == draw.reward[i])
        assert_equal(draw[i : i + 1], buffer.all()[row])


@pytest.mark.parametrize("other", [{"num_obs": 3}, {"continuous": True}])
def test_mixed_environments_are_refused(other):
    buffer = ReplayBuffer()
    buffer.add(transitions())
    with pytest.raises(ValueError, match=r"ReplayBuffer.add: expected .* one environment"):
        buffer.add(transitions(**other))
    assert_equal(buffer.all(), transitions())


@pytest.mark.parametrize("call", [ReplayBuffer.all, lambda b: b.sample(1, np.random.default_rng())])
def test_empty_buffer_says_so(call):
    with pytest.raises(RuntimeError, match=r"empty buffer\. Call add first"):
        call(ReplayBuffer())


@pytest.mark.parametrize(
    ("capacity", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_buffer_for_nothing_is_refused(capacity, error):
    with pytest.raises(error, match="ReplayBuffer: expected capacity"):
        ReplayBuffer(capacity)


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


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("continuous", [False, True])
def test_files_keep_everything(tmp_path, continuous):
    path, data = tmp_path / "data.npz", transitions(continuous=continuous)
    data.save(path)
    assert_equal(load_transitions(path), data)
    assert_equal(load_transitions(str(path)), data)
    newer = transitions(lengths=(1,), continuous=continuous, seed=1)
    newer.save(str(path))  # our own file may be replaced
    assert_equal(load_transitions(path), newer)
    assert [file.name for file in tmp_path.iterdir()] == ["data.npz"]


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got none at .*nowhere\.npz.*[Cc]heck the path"):
        load_transitions(tmp_path / "nowhere.npz")


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a file was unpickled",))


def pickled(path):
    path.write_bytes(pickle.dumps(Bomb()))


def other_version(path):
    with path.open("wb") as file:
        np.savez(file, format=np.array("mbrl_helpers transitions 999"), **arrays(transitions()))


def object_array(path):
    with path.open("wb") as file:
        contents = arrays(transitions()) | {"obs": np.array([Bomb()], dtype=object)}
        np.savez(file, format=np.array("mbrl_helpers transitions 1"), **contents)


def field_missing(path):
    contents = arrays(transitions())
    del contents["next_obs"]
    with path.open("wb") as file:
        np.savez(file, format=np.array("mbrl_helpers transitions 1"), **contents)


def not_finite(path):
    with path.open("wb") as file:
        contents = arrays(transitions()) | {"reward": np.full(5, np.nan, np.float32)}
        np.savez(file, format=np.array("mbrl_helpers transitions 1"), **contents)


def other_npz(path):
    with path.open("wb") as file:
        np.savez(file, weights=np.zeros(3))


def single_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def other_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


def truncated(path):
    transitions(lengths=(200,)).save(path)
    path.write_bytes(path.read_bytes()[:-100])


FOREIGN = [
    pickled,
    object_array,
    other_version,
    field_missing,
    not_finite,
    other_npz,
    single_array,
    other_zip,
    truncated,
    lambda path: path.write_bytes(np.random.default_rng(0).bytes(500)),
    lambda path: path.write_text("obs,action\n1,2\n"),
    lambda path: path.write_bytes(b""),
    lambda path: path.mkdir(),
]


@pytest.mark.parametrize("write", FOREIGN)
def test_foreign_files_are_refused_and_left_alone(tmp_path, write):
    path = tmp_path / "data.npz"
    write(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(
        ValueError, match=r"load_transitions: expected a file written by .*got .*data"
    ):
        load_transitions(path)
    with pytest.raises(ValueError, match=r"Transitions.save: .*got .*data.*Choose another name"):
        transitions().save(path)
    assert before == (path.read_bytes() if path.is_file() else None)
    assert [file.name for file in tmp_path.iterdir()] == ["data.npz"]


def test_damaged_files_are_noticed(tmp_path):
    """Whatever byte is wrong: the data are as they were, or an error says that the file is bad."""
    path, data, rng = tmp_path / "data.npz", transitions(), np.random.default_rng(0)
    data.save(path)
    good, refused = path.read_bytes(), 0
    for place in rng.choice(len(good), 300, replace=False):
        path.write_bytes(good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :])
        try:
            loaded = load_transitions(path)
        except ValueError:
            refused += 1
        else:
            assert_equal(loaded, data)
    assert refused > 100


def test_interrupt_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    path, old = tmp_path / "data.npz", transitions()
    old.save(path)

    def interrupted(file, **contents):
        file.write(b"PK half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transitions(lengths=(9,)).save(path)
    assert_equal(load_transitions(path), old)
    monkeypatch.undo()
    transitions(lengths=(9,)).save(path)
    assert len(load_transitions(path)) == 9
