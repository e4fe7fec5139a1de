"""The small DQN: its targets by hand, its replay, and a task with a known answer."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from mbrl_helpers.dqn import DQN, DQNConfig, Replay, n_step, play, practise


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def add(replay, number, reward=0.0, terminated=False, truncated=False):
    num = replay.action.shape[1]
    replay.add(np.full((num, 1), number), [number] * num, [reward] * num,
               np.full((num, 1), number + 1), [terminated] * num, [truncated] * num)  # fmt: skip


# --- targets -------------------------------------------------------------------------------------


def test_n_step_by_hand():
    """Four stretches: whole, terminated at the second step, cut there, terminated at the last."""
    reward = torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2], [4, 4, 4, 4]])
    terminated = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
    ended = terminated | torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [0] * 4], dtype=torch.bool)
    returns, factor, last = n_step(reward, terminated, ended, discount=0.5)
    assert returns.tolist() == [1 + 1 + 1, 1 + 1, 1 + 1, 3]
    assert factor.tolist() == [0.125, 0, 0.25, 0]
    assert last.tolist() == [2, 1, 1, 2]


def test_one_step_is_the_plain_target():
    reward, ended = torch.tensor([[3.0, 5.0]]), torch.tensor([[False, True]])
    returns, factor, last = n_step(reward, ended, ended, discount=0.9)
    assert returns.tolist() == [3, 5] and last.tolist() == [0, 0]
    assert factor.tolist() == pytest.approx([0.9, 0])


# --- replay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_added", [5, 8, 11])  # not yet full, just full, overwritten
def test_replay_draws_every_stretch_and_no_other(num_added):
    replay, config = Replay(8, 2, (1,), torch.float32), DQNConfig(num_steps=3, batch_size=500)
    for number in range(num_added):
        add(replay, number, reward=1.0)
    obs, action, returns, last_obs, factor = replay.sample(config, seeded())
    oldest = max(0, num_added - 8)
    assert set(obs[:, 0].tolist()) == set(range(oldest, num_added - 2))
    assert torch.equal(action, obs[:, 0].long())
    assert torch.equal(last_obs, obs + 3)
    assert returns[0].item() == pytest.approx(1 + 0.97 + 0.97**2)
    assert factor[0].item() == pytest.approx(0.97**3)


def test_replay_stops_at_an_end_and_at_a_cut():
    replay, config = Replay(8, 1, (1,), torch.float32), DQNConfig(num_steps=3, batch_size=200)
    add(replay, 0, reward=1.0)
    add(replay, 1, reward=1.0, terminated=True)
    add(replay, 10, reward=1.0)
    replay.cut()
    for number in (20, 21, 22):
        add(replay, number, reward=1.0)
    obs, _, returns, last_obs, factor = replay.sample(config, seeded())
    found = {int(o): (r, int(n), f) for o, r, n, f in zip(
        obs[:, 0], returns.tolist(), last_obs[:, 0], factor.tolist(), strict=True)}  # fmt: skip
    assert found[0] == pytest.approx((1.97, 2, 0.0))
    assert found[1] == pytest.approx((1.0, 2, 0.0))
    assert found[10] == pytest.approx((1.0, 11, 0.97))  # cut: more would have followed


def test_replay_refuses_to_draw_from_too_little():
    replay = Replay(8, 1, (1,))
    replay.cut()  # of nothing: nothing happens
    add(replay, 0)
    with pytest.raises(RuntimeError, match=r"Replay\.sample: expected at least 5 steps, got 1"):
        replay.sample(DQNConfig(), seeded())


@pytest.mark.parametrize(("name", "value"), [("discount", 1.1), ("epsilon", -0.1),
                                             ("target_rate", 0), ("target_rate", 2.0)])  # fmt: skip
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=rf"DQNConfig: expected {name} in .0, 1\], got {value}"):
        DQNConfig(**{name: value})
    with pytest.raises(ValueError, match=r"DQNConfig: expected num_steps >= 1"):
        DQNConfig(num_steps=0)


# --- learning ------------------------------------------------------------------------------------


class Corridor(gym.Env):
    """Five places; right of the last one there is a reward of 1, and the end."""

    observation_space, action_space = gym.spaces.MultiBinary(5), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self.obs(), {}

    def obs(self):
        return np.arange(5) == min(self.place, 4)

    def step(self, action):
        self.place = max(0, self.place + (1 if action else -1))
        return self.obs(), float(self.place == 5), self.place == 5, False, {}


class Table(nn.Linear):
    def forward(self, obs):
        return super().forward(obs.float())


def corridors(num_envs):
    makers = [lambda: gym.wrappers.TimeLimit(Corridor(), 20)] * num_envs
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_learns_the_values_of_a_corridor(num_steps):
    config = DQNConfig(discount=0.9, num_steps=num_steps, batch_size=32, epsilon=1.0,
                       target_rate=0.1, learning_rate=0.04)  # fmt: skip
    agent = DQN(Table(5, 2), seeded(), config)
    with torch.no_grad():
        agent.network.weight.zero_()
    replay = Replay(2_000, 4, (5,))
    practise(agent, corridors(4), replay, 600, final_rate=0.0)
    value = agent.target(torch.eye(5))
    if num_steps == 1:  # off policy, so exact
        wanted = torch.tensor([0.9**k for k in (4, 3, 2, 1, 0)])
        torch.testing.assert_close(value[:, 1], wanted, atol=0.1, rtol=0)
    assert (value[:, 1] > value[:, 0]).all()
    assert (play(agent.act, corridors(3), seed=0) == 1).all()


def test_play_counts_only_the_first_episode_of_each():
    stubborn = iter([0] * 3 + [1] * 1000)
    returns = play(lambda obs: np.full(len(obs), next(stubborn)), corridors(2), seed=0)
    assert returns.tolist() == [1, 1]


def test_epsilon_is_the_share_of_random_actions():
    network = nn.Linear(1, 4)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(torch.tensor([0.0, 0, 1, 0]))
    agent = DQN(network, seeded())
    obs = np.zeros((20_000, 1), np.float32)
    assert (agent.act(obs) == 2).all()
    assert (agent.act(obs, epsilon=0.4) != 2).mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(("name", "value"), [("obs", np.full((3, 1), 0.5)), ("action", [1]),
                                             ("reward", [[1.0]] * 3)])  # fmt: skip
def test_a_replay_takes_only_what_fits(name, value):
    """A float would be kept as True, and a row of one environment in the name of all."""
    replay, off = Replay(4, 3, (1,)), [False] * 3
    step = {"obs": np.zeros((3, 1), bool), "action": [0, 1, 0], "reward": [0.0] * 3,
            "next_obs": np.zeros((3, 1), bool), "terminated": off, "truncated": off}  # fmt: skip
    replay.add(**step)
    with pytest.raises(ValueError, match=rf"Replay.add: expected {name} \[3.* that fits torch"):
        replay.add(**step | {name: value})
    assert len(replay) == 1


def test_practice_that_would_teach_nothing_is_refused():
    agent, envs = DQN(nn.Linear(1, 2), seeded()), object()
    with pytest.raises(ValueError, match=r"practise: expected a replay of at least 5 steps.* 4"):
        practise(agent, envs, Replay(4, 1, (1,)), 10)
    with pytest.raises(ValueError, match=r"practise: expected num_steps >= 1, got 0"):
        practise(agent, envs, Replay(8, 1, (1,)), 0)
