"""The loop: episodes as they were, whatever the batch, and nobody alters what was played."""

import dataclasses
import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mbrl_helpers.data import ReplayBuffer, Transitions
from mbrl_helpers.envs import CARTPOLE_LIMITS, get_task, make_envs
from mbrl_helpers.interaction import Interaction, collect_episodes, run_episodes

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
    with pytest.raises(error, match=f"collect_episodes: expected {says}"):
        collect_episodes("CartPole-v1", LEAN, seed=0, **arguments)


def test_an_agent_must_act_in_every_environment():
    class OneForAll:
        def act(self, obs):
            return np.array([1])

        def reset(self, ended=None):
            pass

    with pytest.raises(ValueError, match=r"collect_episodes: expected 3 actions, .* \(1,\)\. act"):
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


def test_a_bare_function_is_an_agent_and_a_task_an_environment():
    task = get_task("CartPole-v1")
    by_agent = collect_episodes("CartPole-v1", LEAN, num_episodes=3, seed=0, num_envs=2)
    assert_equal(collect_episodes(task, LEAN.act, num_episodes=3, seed=0), by_agent)


# --- the loop ------------------------------------------------------------------------------------


class Clock(gym.Env):
    """Shows the seed of its episode, which says how long that is, and the time."""

    observation_space, action_space = Box(-np.inf, np.inf, (2,)), Box(-1, 1, (1,))

    def __init__(self, length=lambda seed: 1 + seed % 4):
        self.length, self.seeds = length, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.seed, self.time = -1 if seed is None else seed, 0
        return self._obs(), {}

    def step(self, action):
        self.time += 1
        over = self.time >= self.length(self.seed)
        ends = self.seed % 2 == 0
        return self._obs(), float(action[0]), over and ends, over and not ends, {}

    def _obs(self):
        return np.array([self.seed, self.time], np.float32)


def clocks(num, mode=AutoresetMode.DISABLED, kind=Clock, **options):
    return SyncVectorEnv([kind] * num, autoreset_mode=mode, **options)


def wait(obs):
    """A bare function as an agent."""
    return np.zeros((len(obs), 1), np.float32)


def told_by(interaction, num_episodes):
    """By number, the observations of each episode, and how it ended, until all are over."""
    seen, over = {}, {}
    for step in interaction:
        for b, number in enumerate(step.episode.tolist()):
            assert number not in over  # nothing follows an end
            seen.setdefault(number, [step.obs[b].tolist()]).append(step.next_obs[b].tolist())
            assert seen[number][-2] == step.obs[b].tolist()
            if step.ended[b]:
                over[number] = bool(step.terminated[b]), bool(step.truncated[b])
        if set(range(num_episodes)) <= set(over):
            return {number: (seen[number], over[number]) for number in range(num_episodes)}
    raise AssertionError


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_episodes_are_the_same_side_by_side_and_one_by_one(num_envs):
    """Number i starts from seed + i wherever it is played, and is whole."""
    episodes = told_by(Interaction(clocks(num_envs), wait, seed=10), 11)
    for number, (obs, ended) in episodes.items():
        seed = 10 + number
        assert obs == [[seed, time] for time in range(1 + seed % 4 + 1)]
        assert ended == (seed % 2 == 0, seed % 2 == 1)


def test_episodes_that_are_not_wanted_are_random():
    envs = clocks(3)
    interaction = Interaction(envs, wait, seed=10, num_episodes=4)
    told_by(interaction, 4)
    given = [seed for env in envs.envs for seed in env.seeds]
    assert sorted(seed for seed in given if seed is not None) == [10, 11, 12, 13]
    assert None in given


@pytest.mark.parametrize("num_envs", [1, 3])
def test_without_a_seed_none_is_given(num_envs):
    envs = clocks(num_envs)
    for _ in itertools.islice(Interaction(envs, wait), 20):
        pass
    assert {seed for env in envs.envs for seed in env.seeds} == {None}


class Listener:
    """An agent that keeps what it is told."""

    def __init__(self, act=wait):
        self.told, self.asked, self._act = [], [], act

    def act(self, obs):
        self.asked.append(obs.tolist())
        return self._act(obs)

    def reset(self, ended=None):
        self.told.append(None if ended is None else ended.tolist())


def test_restart_is_of_what_has_ended_and_of_nothing_else():
    agent = Listener()
    interaction = Interaction(clocks(3), agent, seed=4)  # of 1, 2 and 3 steps
    assert agent.told == [None]
    interaction.restart()  # nothing has ended
    assert agent.told == [None]
    assert interaction.step().ended.tolist() == [True, False, False]
    assert interaction.obs.tolist() == [[4, 1], [5, 1], [6, 1]]
    interaction.restart()
    interaction.restart()  # it has begun already
    assert interaction.obs.tolist() == [[7, 0], [5, 1], [6, 1]]
    step = interaction.step()
    assert step.episode.tolist() == [3, 1, 2]
    assert step.ended.tolist() == [False, True, False]
    interaction.restart()
    assert agent.told == [None, [True, False, False], [False, True, False]]


def test_the_agent_sees_what_the_step_began_with():
    agent = Listener()
    steps = list(itertools.islice(Interaction(clocks(2), agent, seed=4), 6))
    assert agent.asked == [step.obs.tolist() for step in steps]


def test_iterating_is_stepping_and_restarting():
    by_hand, interaction = [], Interaction(clocks(2), wait, seed=4)
    for _ in range(9):
        by_hand.append(interaction.step())
        interaction.restart()
    for step, other in zip(by_hand, Interaction(clocks(2), wait, seed=4), strict=False):
        assert all(map(np.array_equal, step, other))


def test_a_loop_that_was_left_at_an_end_goes_on_with_a_new_episode():
    """And not with steps of one that is over."""
    interaction = Interaction(clocks(1), wait, seed=5)
    for number in range(6):
        for step in interaction:
            assert step.episode.tolist() == [number]
            if step.ended[0]:
                break
        assert step.next_obs.tolist() == [[5 + number, 1 + (5 + number) % 4]]


@pytest.mark.parametrize(
    "mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, "nothing known"]
)
def test_environments_that_reset_themselves_are_refused(mode):
    envs = clocks(2) if isinstance(mode, str) else clocks(2, mode)
    if isinstance(mode, str):
        envs.metadata = {}
    with pytest.raises(ValueError, match=r"Interaction: expected environments that wait .*DISABL"):
        Interaction(envs, wait)


@pytest.mark.parametrize(
    ("action", "shape"),
    [(np.zeros((2, 1)), r"\(2, 1\)"), (np.zeros((4, 1)), r"\(4, 1\)"), (np.zeros(0), r"\(0,\)"),
     (0.0, r"\(\)"), (None, r"\(\)"), ([[0.0]], r"\(1, 1\)")],
)  # fmt: skip
def test_another_number_of_actions_than_of_environments(action, shape):
    interaction = Interaction(clocks(3), lambda obs: action, seed=0)
    with pytest.raises(
        ValueError, match=rf"Interaction\.step: expected 3 actions, .*{shape}\. act"
    ):
        interaction.step()


def test_actions_may_be_lists():
    step = Interaction(clocks(3), lambda obs: [[0.25], [0.5], [1.0]], seed=0).step()
    assert step.action.tolist() == [[0.25], [0.5], [1.0]]
    assert step.reward.tolist() == [0.25, 0.5, 1.0]


class Careless(Clock):
    """Alters the actions it is handed, and what it has handed out."""

    def step(self, action):
        result = super().step(action)
        action[:] = 99
        return result


class CarelessBatch(SyncVectorEnv):
    """Alters the mask of what is to be reset."""

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask")
        result = super().reset(seed=seed, options=options)
        if mask is not None:
            mask[:] = False
        return result


def careless_agent(obs):
    action = obs[:, :1] / 100
    obs[:] = -7
    return action


@pytest.mark.parametrize("copy", [True, False])
def test_who_alters_what_it_is_handed_alters_only_its_copy(copy):
    """Environments of which each step overwrites the last one's observations among them."""

    def record(envs, act):
        agent = Listener(act)
        return list(itertools.islice(Interaction(envs, agent, seed=4), 12)), agent.told

    careful = record(clocks(3), lambda obs: obs[:, :1] / 100)
    envs = CarelessBatch([Careless] * 3, autoreset_mode=AutoresetMode.DISABLED, copy=copy)
    careless = record(envs, careless_agent)
    assert careful[1] == careless[1]
    for step, other in zip(careful[0], careless[0], strict=True):
        for name, part, same in zip(step._fields, step, other, strict=True):
            np.testing.assert_array_equal(part, same, err_msg=name)


def test_what_an_interaction_plays_is_what_the_buffer_holds():
    buffer = ReplayBuffer()
    for step in Interaction(clocks(1), lambda obs: obs[:, :1] / 100, seed=3):
        buffer.add_step(step)
        if step.ended[0] and len(buffer) > 12:
            break
    data = buffer.all()
    assert data.obs[:, 0].tolist() == [3 + number for number in data.episode]
    assert data.action[:, 0] == pytest.approx(data.obs[:, 0] / 100)
    assert (data.next_obs[:, 1] == data.obs[:, 1] + 1).all()
    np.testing.assert_array_equal(data.terminated | data.truncated, ends(data))


@pytest.mark.parametrize("agent", [None, 3, np.zeros(2)])
def test_what_cannot_act(agent):
    envs = make_envs("CartPole-v1", 2)
    with pytest.raises(TypeError, match="Interaction: expected an agent with a method `act`"):
        Interaction(envs, agent)
    envs.close()
