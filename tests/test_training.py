"""The closed loop and evaluation: which episodes are played, in which order, and what is kept."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_helpers.agents import MPCAgent, NoisyAgent, RandomAgent
from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import Task, get_task
from mbrl_helpers.planners import CEM, CEMConfig, RandomShooting, RandomShootingConfig
from mbrl_helpers.training import closed_loop, evaluate

TASK = get_task("CartPole-v1")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parts(seed=0, capacity=100_000):
    """A small agent with its model, and an empty buffer."""
    rng = seeded(seed)
    model = EnsembleModel(4, TASK.action_space, rng, DynamicsConfig(num_members=2, max_updates=50))
    search = RandomShooting(
        TASK.action_space, rng, RandomShootingConfig(horizon=5, population_size=16)
    )
    return MPCAgent(TASK, model, search), model, ReplayBuffer(capacity)


def loop(agent, model, buffer, **changes):
    settings = {"num_episodes": 4, "num_random_episodes": 2, "seed": 70}
    return closed_loop(TASK, agent, model, buffer, **settings | changes)


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
        model = EnsembleModel(1, task.action_space, rng, DynamicsConfig(num_members=2))
        config = CEMConfig(horizon=3, population_size=40)
        agent = MPCAgent(task, model, CEM(task.action_space, rng, config))
        records = list(closed_loop(task, agent, model, ReplayBuffer(), num_episodes=3))
        assert [record.num_steps for record in records] == [12, 24, 36]
        up = 12 * 13 / 2 * 0.9  # from 0, the best that can be
        assert evaluate(task, agent).mean() > 0.8 * up
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


def test_evaluation_is_reproducible_and_learns_nothing():
    def once(seed):
        agent, model, buffer = parts(seed)
        list(loop(agent, model, buffer, num_episodes=2))
        before = model.step(torch.zeros(1, 4), torch.zeros(1, 2)).next_obs
        returns = evaluate(TASK, agent, num_episodes=2)
        assert torch.equal(before, model.step(torch.zeros(1, 4), torch.zeros(1, 2)).next_obs)
        return returns.tolist()

    assert once(0) == once(0)
    first = evaluate(TASK, RandomAgent(TASK.action_space, seeded(0)))
    assert first.tolist() == evaluate(TASK, RandomAgent(TASK.action_space, seeded(0))).tolist()
    assert first.tolist() != evaluate(TASK, RandomAgent(TASK.action_space, seeded(1))).tolist()


# --- closed loop ---------------------------------------------------------------------------------


def test_loop_yields_a_record_for_every_episode():
    agent, model, buffer = parts()
    records, fitted = [], []
    for record in loop(agent, model, buffer):
        records.append(record)
        fitted.append(model.is_fitted)
        data = buffer.all()
        assert record.num_steps == len(data)
        assert record.episode_return == data.returns()[-1]
    assert [record.episode for record in records] == [0, 1, 2, 3]
    assert [record.random for record in records] == [True, True, False, False]
    assert fitted == [False, True, True, True]  # from the last random one on
    seconds = [record.seconds for record in records]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    for number in range(4):  # episode i started from seed + i
        with gym.make(TASK.env_id) as env:
            obs, _ = env.reset(seed=70 + number)
        np.testing.assert_array_equal(data.obs[data.episode == number][0], obs)


def test_model_learns_from_all_experience():
    """After every episode from the last random one on, the newest included."""
    agent, model, buffer = parts()
    num_seen, fit = [], model.fit

    def watched(transitions):
        num_seen.append(len(transitions))
        return fit(transitions)

    model.fit = watched
    num_steps = [r.num_steps for r in loop(agent, model, buffer, num_random_episodes=3)]
    assert num_seen == num_steps[2:]


def test_loop_is_reproducible():
    runs = [
        [r.episode_return for r in loop(*parts(seed), seed=start, num_episodes=3)]
        for seed, start in ((0, 70), (0, 70), (1, 70), (0, 80))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0] != runs[3]


def test_loop_can_be_stopped():
    agent, model, buffer = parts()
    for record in loop(agent, model, buffer, num_episodes=1000):
        if record.episode == 2:
            break
    assert len(buffer.all().episodes) == 3
    assert model.is_fitted
    assert evaluate(TASK, agent, num_episodes=1).shape == (1,)
    resumed = next(loop(agent, model, buffer))
    assert len(buffer.all().episodes) == 4
    assert resumed.num_steps == resumed.episode_return  # steps of this loop, not of the buffer


def test_interrupt_while_fitting_keeps_the_episode(monkeypatch):
    agent, model, buffer = parts()
    episodes = loop(agent, model, buffer)
    next(episodes)

    def interrupted(transitions):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(episodes)
    assert len(buffer.all().episodes) == 2


def test_steps_are_counted_when_the_buffer_is_full():
    agent, model, buffer = parts(capacity=30)
    records = list(itertools.islice(loop(agent, model, buffer, num_random_episodes=9), 4))
    returns = [record.episode_return for record in records]
    assert [record.num_steps for record in records] == np.cumsum(returns).tolist()
    assert len(buffer) < records[-1].num_steps


@pytest.mark.parametrize("num", [-1, 0])
def test_without_a_random_episode_there_is_nothing_to_learn_from(num):
    with pytest.raises(
        ValueError, match=f"closed_loop: expected num_random_episodes >= 1, got {num}"
    ):
        next(loop(*parts(), num_random_episodes=num))


def test_an_agent_with_another_model_would_never_learn():
    (agent, _, buffer), (_, model, _) = parts(), parts()
    with pytest.raises(ValueError, match="closed_loop: expected an agent that plans with the mod"):
        next(loop(agent, model, buffer))


def test_one_random_episode_is_enough():
    """A fold is then a stretch of its rows."""
    records = list(loop(*parts(), num_random_episodes=1, num_episodes=2))
    assert [record.random for record in records] == [True, False]


def test_the_random_agent_may_be_ones_own():
    """It plays the random episodes and no others, and is told of each start."""
    agent, model, buffer = parts()
    played, resets = [], []

    class Watched(Lean):
        def act(self, obs):
            played.append(obs.copy())
            return super().act(obs)

        def reset(self, ended=None):
            resets.append(ended)

    records = list(loop(agent, model, buffer, random_agent=Watched()))
    assert len(played) == records[1].num_steps
    data = buffer.all()
    random = data.episode < 2
    np.testing.assert_array_equal(data.action[random], data.obs[random, 2] > 0)
    assert resets.count(None) == 2


def test_a_noisy_agent_explores_in_the_loop():
    """Its model is the one that learns; its noise is of its own generator."""
    task = get_task("Pendulum-v1")

    def returns(std):
        rng = seeded()
        model = EnsembleModel(
            3, task.action_space, rng, DynamicsConfig(num_members=2, max_updates=25)
        )
        config = RandomShootingConfig(horizon=3, population_size=8)
        agent = MPCAgent(task, model, RandomShooting(task.action_space, rng, config))
        agent = NoisyAgent(agent, seeded(1), std=std)
        records = closed_loop(task, agent, model, ReplayBuffer(), num_episodes=2,
                              num_random_episodes=1)  # fmt: skip
        return [record.episode_return for record in records]

    calm, noisy = returns(0.0), returns(0.5)
    assert calm[0] == noisy[0]
    assert calm[1] != noisy[1]
