"""The closed loop and evaluation: which episodes are played, in which order, and what is kept."""

import itertools
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_helpers import training
from mbrl_helpers.agents import MPCAgent, NoisyAgent, RandomAgent
from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import Task, get_task
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.planners import CEM, CEMConfig, RandomShooting, RandomShootingConfig
from mbrl_helpers.training import closed_loop, evaluate, play_and_learn

TASK = get_task("CartPole-v1")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Student:
    """Fits a small model to what it is given, and plans with it; keeps what happened."""

    def __init__(self, seed=0):
        self.generator = seeded(seed)
        config = DynamicsConfig(num_members=2, max_updates=50)
        self.learner = EnsembleModel(TASK, self.generator, config)
        config = RandomShootingConfig(horizon=5, population_size=16)
        self.planner = RandomShooting(TASK.action_space, self.generator, config)
        self.num_seen, self.agents = [], []

    def learn(self, transitions):
        self.num_seen.append(len(transitions))
        self.agents.append(MPCAgent(TASK, self.learner.fit(transitions), self.planner))
        return self.agents[-1]

    def begin(self):
        """Who plays before anything is learned."""
        return RandomAgent(TASK.action_space, self.generator)


def loop(student, buffer, **changes):
    settings = {"num_episodes": 4, "num_random_episodes": 2, "seed": 70}
    settings |= {"agent": student.begin(), "learn": student.learn} | changes
    return closed_loop(TASK, buffer=buffer, **settings)


class Slope(gym.Env):
    """Of no course: a height that an action changes; no equations given."""

    observation_space = gym.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.height = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.height = self.np_random.uniform(-1, 1)
        return np.array([self.height], np.float32), {}

    def step(self, action):
        self.height += float(action[0]) - 0.1
        return np.array([self.height], np.float32), self.height, False, False, {}


def test_the_loop_runs_on_a_task_of_ones_own():
    name = "TestOfTheLoop/Slope-v0"
    gym.register(name, entry_point=Slope, max_episode_steps=12)
    try:
        task, rng = Task(env_id=name, obs_names=("height",)), seeded()
        learner = EnsembleModel(task, rng, DynamicsConfig(num_members=2))
        config = CEMConfig(horizon=3, population_size=40)
        planner = CEM(task.action_space, rng, config)

        def learn(transitions):
            return MPCAgent(task, learner.fit(transitions), planner)

        first = RandomAgent(task.action_space, rng)
        records = list(closed_loop(task, first, learn, ReplayBuffer(), num_episodes=3))
        assert [record.num_steps for record in records] == [12, 24, 36]
        up = 12 * 13 / 2 * 0.9  # from 0, the best that can be
        assert evaluate(task, records[-1].agent).mean() > 0.8 * up
    finally:
        del gym.registry[name]


class Lean:
    def act(self, obs):
        return (obs[:, 2] > 0).astype(int)

    def reset(self, ended=None):
        pass


# --- evaluation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "first", "num"),
    [({}, 9000, 10), ({"seed": 5}, 5, 10), ({"num_episodes": 3}, 9000, 3)],
)
def test_evaluation_is_the_return_from_fixed_starts(arguments, first, num):
    expected = []
    with gym.make(TASK.env_id) as env:
        for seed in range(first, first + num):
            obs, _ = env.reset(seed=seed)
            total, ended = 0.0, False
            while not ended:
                obs, reward, terminated, truncated, _ = env.step(int(obs[2] > 0))
                total, ended = total + reward, terminated or truncated
            expected.append(total)
    assert evaluate(TASK, Lean(), **arguments).tolist() == expected
    assert evaluate("CartPole-v1", Lean(), **arguments).tolist() == expected


def test_a_bare_function_is_evaluated_like_an_agent():
    seen = []

    def lean(obs):
        seen.append(obs.shape)
        return (obs[:, 2] > 0).astype(int)

    expected = evaluate(TASK, Lean(), num_episodes=3).tolist()
    assert evaluate(TASK, lean, num_episodes=3).tolist() == expected
    assert set(seen) == {(3, 4)} and len(seen) == max(expected)


def test_what_does_not_act_is_refused():
    with pytest.raises(ValueError, match=r"expected 3 actions, one for each row of obs, got"):
        evaluate(TASK, lambda obs: 0, num_episodes=3)
    for num, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="expected num_episodes"):
            evaluate(TASK, Lean(), num_episodes=num)


def test_evaluation_is_reproducible_and_learns_nothing():
    def once(seed):
        student = Student(seed)
        *_, record = loop(student, ReplayBuffer(), num_episodes=2)
        model, rows = record.agent.model, (torch.zeros(1, 4), torch.zeros(1, 2))
        before = model.step(*rows).next_obs
        returns = evaluate(TASK, record.agent, num_episodes=2)
        assert torch.equal(before, model.step(*rows).next_obs)
        assert len(student.num_seen) == 1
        return returns.tolist()

    assert once(0) == once(0)
    first = evaluate(TASK, RandomAgent(TASK.action_space, seeded(0)))
    assert first.tolist() == evaluate(TASK, RandomAgent(TASK.action_space, seeded(0))).tolist()
    assert first.tolist() != evaluate(TASK, RandomAgent(TASK.action_space, seeded(1))).tolist()


# --- play and learn ------------------------------------------------------------------------------


def test_who_plays_learns_and_plays_next():
    calls = []

    def play(agent, number):
        calls.append(f"{agent} plays {number}")
        return 10 * number

    def learn(played):
        calls.append(f"learn from {played}")
        return f"pupil of {played}"

    rounds = list(play_and_learn(play, learn, "beginner", num_rounds=3))
    assert calls == [
        "beginner plays 0", "learn from 0", "pupil of 0 plays 1", "learn from 10",
        "pupil of 10 plays 2", "learn from 20",
    ]  # fmt: skip
    assert [(r.number, r.played, r.agent) for r in rounds] == [
        (0, 0, "pupil of 0"), (1, 10, "pupil of 10"), (2, 20, "pupil of 20"),
    ]  # fmt: skip


def test_a_round_is_played_when_it_is_asked_for():
    calls = []
    rounds = play_and_learn(lambda agent, n: calls.append(n), lambda _: None, None, num_rounds=9)
    assert calls == []
    next(rounds), next(rounds)
    assert calls == [0, 1]
    rounds.close()


def test_seconds_are_those_of_playing_and_learning(monkeypatch):
    """What is done with a record between two rounds takes no time."""
    clock = [100.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def takes(seconds):
        def wait(*_):
            clock[0] += seconds

        return wait

    seconds = []
    for record in play_and_learn(takes(2), takes(5), None, num_rounds=3):
        seconds.append(record.seconds)
        takes(1000)()
    assert seconds == [7, 14, 21]


def test_an_interrupted_round_is_not_told_of():
    def learn(played):
        if played == 1:
            raise KeyboardInterrupt

    rounds = play_and_learn(lambda agent, number: number, learn, None, num_rounds=3)
    assert next(rounds).number == 0
    with pytest.raises(KeyboardInterrupt):
        next(rounds)


@pytest.mark.parametrize(("num", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_numbers_of_rounds_that_make_no_sense(num, error):
    with pytest.raises(error, match=f"play_and_learn: expected num_rounds .*got {num}"):
        next(play_and_learn(lambda agent, number: 0, lambda _: None, None, num_rounds=num))


# --- closed loop ---------------------------------------------------------------------------------


def test_loop_yields_a_record_for_every_episode():
    student, buffer = Student(), ReplayBuffer()
    records, fits, first = [], [], student.begin()
    for record in loop(student, buffer, agent=first):
        records.append(record)
        fits.append(len(student.num_seen))
        data = buffer.all()
        assert record.num_steps == len(data)
        assert record.episode_return == data.returns()[-1]
    assert [record.episode for record in records] == [0, 1, 2, 3]
    assert [record.random for record in records] == [True, True, False, False]
    assert fits == [0, 1, 2, 3]  # from the last random one on
    assert [record.agent for record in records] == [first, *student.agents]  # who plays next
    seconds = [record.seconds for record in records]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    for number in range(4):  # episode i started from seed + i
        with gym.make(TASK.env_id) as env:
            obs, _ = env.reset(seed=70 + number)
        np.testing.assert_array_equal(data.obs[data.episode == number][0], obs)


def test_it_learns_from_all_experience():
    """After every episode from the last random one on, the newest included."""
    student, buffer, seen = Student(), ReplayBuffer(), []

    def watched(transitions):
        seen.append((transitions, buffer.all()))
        return student.learn(transitions)

    records = list(loop(student, buffer, learn=watched, num_random_episodes=3))
    assert student.num_seen == [record.num_steps for record in records][2:]
    for given, kept in seen:
        for name, values in vars(kept).items():
            np.testing.assert_array_equal(getattr(given, name), values)


class Plays:
    """Pushes to one side, and keeps the episodes that it plays."""

    def __init__(self, name, side, calls):
        self.name, self.side, self.calls, self.num_acts = name, side, calls, 0

    def act(self, obs):
        self.num_acts += 1
        return np.full(len(obs), self.side)

    def reset(self, ended=None):
        if ended is None:
            self.calls.append(self.name)


@pytest.mark.parametrize(
    ("num_random", "expected"),
    [
        (1, ["first", "learn 0", "pupil 0", "learn 1", "pupil 1", "learn 2", "pupil 2", "learn 3"]),
        (2, ["first", "first", "learn 0", "pupil 0", "learn 1", "pupil 1", "learn 2"]),
        (4, ["first"] * 4 + ["learn 0"]),
        (5, ["first"] * 4),
        (99, ["first"] * 4),
    ],
)
def test_who_plays_which_episode(num_random, expected):
    """The first agent the random ones; then whoever was given back last. Nobody else acts."""
    calls, players = [], []

    def learn(transitions):
        calls.append(f"learn {len(players)}")
        players.append(Plays(f"pupil {len(players)}", 1, calls))
        return players[-1]

    first, buffer = Plays("first", 0, calls), ReplayBuffer()
    records = list(
        closed_loop(
            TASK, first, learn, buffer, num_episodes=4, num_random_episodes=num_random, seed=3
        )
    )
    assert calls == expected
    num = min(num_random, 4)
    data = buffer.all()
    np.testing.assert_array_equal(data.action == 0, data.episode < num)
    assert [record.random for record in records] == [i < num_random for i in range(4)]
    lengths = np.diff([0] + [record.num_steps for record in records])
    assert first.num_acts == lengths[:num].sum()
    if num_random == 1:
        assert [player.num_acts for player in players] == [*lengths[1:], 0]
    assert records[-1].agent is (players[-1] if players else first)


def test_bare_functions_may_play():
    def learn(transitions):
        return lambda obs: (obs[:, 2] > 0).astype(int)

    begin = RandomAgent(TASK.action_space, seeded())
    records = list(closed_loop(TASK, begin, learn, ReplayBuffer(), num_episodes=3,
                               num_random_episodes=1, seed=9000))  # fmt: skip
    expected = evaluate(TASK, Lean(), num_episodes=3).tolist()
    assert [record.episode_return for record in records[1:]] == expected[1:]


@pytest.mark.parametrize("forgets", [None, 3.0, "agent"])
def test_learning_must_give_somebody_back(forgets):
    """At once, and the episode is in the buffer."""
    buffer, student = ReplayBuffer(), Student()
    with pytest.raises(TypeError, match="closed_loop: expected learn to return the agent that"):
        list(loop(student, buffer, learn=lambda transitions: forgets))
    assert len(buffer.all().episodes) == 2
    says = r"closed_loop: .* got FittedModel\. End it with `return MPCAgent"
    with pytest.raises(TypeError, match=says):
        list(loop(student, buffer, learn=student.learner.fit))


def test_loop_is_reproducible():
    runs = [
        [r.episode_return for r in loop(Student(seed), ReplayBuffer(), seed=start, num_episodes=3)]
        for seed, start in ((0, 70), (0, 70), (1, 70), (0, 80))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0] != runs[3]


def test_loop_can_be_stopped():
    student, buffer = Student(), ReplayBuffer()
    for record in loop(student, buffer, num_episodes=1000):
        if record.episode == 2:
            break
    assert len(buffer.all().episodes) == 3
    assert student.learner.fitted is student.agents[-1].model is record.agent.model
    assert evaluate(TASK, record.agent, num_episodes=1).shape == (1,)
    resumed = next(loop(student, buffer))
    assert len(buffer.all().episodes) == 4
    assert resumed.num_steps == resumed.episode_return  # steps of this loop, not of the buffer


def test_interrupt_while_learning_keeps_the_episode():
    student, buffer = Student(), ReplayBuffer()

    def interrupted(transitions):
        raise KeyboardInterrupt

    episodes = loop(student, buffer, learn=interrupted)
    next(episodes)
    with pytest.raises(KeyboardInterrupt):
        next(episodes)
    assert len(buffer.all().episodes) == 2


def test_steps_are_counted_when_the_buffer_is_full():
    buffer = ReplayBuffer(30)
    records = list(itertools.islice(loop(Student(), buffer, num_random_episodes=9), 4))
    returns = [record.episode_return for record in records]
    assert [record.num_steps for record in records] == np.cumsum(returns).tolist()
    assert len(buffer) < records[-1].num_steps


@pytest.mark.parametrize("name", ["num_random_episodes", "num_episodes"])
@pytest.mark.parametrize(("num", "error"), [(-1, ValueError), (0, ValueError), (2.5, TypeError)])
def test_numbers_of_episodes_that_make_no_sense(name, num, error):
    """Without a random episode there is nothing to learn from."""
    with pytest.raises(error, match=f"closed_loop: expected {name} .*got {num}"):
        next(loop(Student(), ReplayBuffer(), **{name: num}))


def test_one_random_episode_is_enough():
    """A fold is then a stretch of its rows."""
    records = list(loop(Student(), ReplayBuffer(), num_random_episodes=1, num_episodes=2))
    assert [record.random for record in records] == [True, False]


def test_the_first_agent_may_be_ones_own():
    """It plays the random episodes and no others, and is told of each start."""
    student, buffer = Student(), ReplayBuffer()
    played, resets = [], []

    class Watched(Lean):
        def act(self, obs):
            played.append(obs.copy())
            return super().act(obs)

        def reset(self, ended=None):
            resets.append(ended)

    records = list(loop(student, buffer, agent=Watched()))
    assert len(played) == records[1].num_steps
    data = buffer.all()
    random = data.episode < 2
    np.testing.assert_array_equal(data.action[random], data.obs[random, 2] > 0)
    assert sum(ended is None for ended in resets) == 2


def test_the_loop_is_collecting_learning_and_collecting():
    """By hand, with the same generator in the same order."""
    student, buffer = Student(), ReplayBuffer()
    records = list(loop(student, buffer, num_episodes=3))
    again, kept = Student(), ReplayBuffer()
    agent = again.begin()
    for number in range(3):
        played = collect_episodes(TASK, agent, num_episodes=1, seed=70 + number, buffer=kept)
        assert records[number].episode_return == played.reward.sum()
        if number >= 1:
            agent = again.learn(kept.all())
    for name, values in vars(kept.all()).items():
        np.testing.assert_array_equal(getattr(buffer.all(), name), values)


def test_a_noisy_agent_explores_in_the_loop():
    """Its noise is of its own generator."""
    task = get_task("Pendulum-v1")

    def returns(std):
        rng, noise = seeded(), seeded(1)
        learner = EnsembleModel(task, rng, DynamicsConfig(num_members=2, max_updates=25))
        config = RandomShootingConfig(horizon=3, population_size=8)
        planner = RandomShooting(task.action_space, rng, config)

        def learn(transitions):
            agent = MPCAgent(task, learner.fit(transitions), planner)
            return NoisyAgent(task, agent, noise, std=std)

        first = RandomAgent(task.action_space, rng)
        records = closed_loop(task, first, learn, ReplayBuffer(), num_episodes=2,
                              num_random_episodes=1)  # fmt: skip
        return [record.episode_return for record in records]

    calm, noisy = returns(0.0), returns(0.5)
    assert calm[0] == noisy[0]
    assert calm[1] != noisy[1]
