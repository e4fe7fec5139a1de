"""The small DQN: its targets by hand, what it draws, and a task with a known answer."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.games.dqn import (
    DQN,
    DQNConfig,
    EpsilonGreedy,
    PlaneQNetwork,
    act_and_learn,
    n_step,
    play,
    sample_stretches,
)
from mbrl_helpers.interfaces import VectorStep


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def add(buffer, number, reward=0.0, terminated=False, truncated=False):
    num = buffer.num_envs
    columns = [number] * num, [reward] * num, np.full((num, 1), number + 1, np.float32)
    ends = [terminated] * num, [truncated] * num, range(num)
    obs = np.full((num, 1), number, np.float32)
    buffer.add_step(VectorStep(obs, *map(np.array, (*columns, *ends))))


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


# --- what is drawn -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_added", [5, 8, 11])  # not yet full, just full, overwritten
def test_every_stretch_is_drawn_and_no_other(num_added):
    buffer, config = ReplayBuffer(8, 2), DQNConfig(num_steps=3, batch_size=500)
    for number in range(num_added):
        add(buffer, number, reward=1.0)
    drawn = sample_stretches(buffer, config, seeded())
    oldest = max(0, num_added - 8)
    assert set(drawn.obs[:, 0].tolist()) == set(range(oldest, num_added - 2))
    assert torch.equal(drawn.action, drawn.obs[:, 0].long())
    assert torch.equal(drawn.last_obs, drawn.obs + 3)
    assert drawn.returns[0].item() == pytest.approx(1 + 0.97 + 0.97**2)
    assert drawn.factor[0].item() == pytest.approx(0.97**3)


def test_every_environment_is_drawn():
    buffer, config = ReplayBuffer(8, 3), DQNConfig(num_steps=1, batch_size=100)
    obs, off = np.arange(3.0)[:, None], np.zeros(3, bool)
    buffer.add_step(VectorStep(obs, np.arange(3), np.zeros(3), obs + 10, off, off, np.arange(3)))
    drawn = sample_stretches(buffer, config, seeded())
    assert set(drawn.action.tolist()) == {0, 1, 2}
    assert torch.equal(drawn.obs[:, 0].long(), drawn.action)
    assert torch.equal(drawn.last_obs, drawn.obs + 10)


def test_stretches_stop_at_an_end_and_at_a_cut():
    buffer, config = ReplayBuffer(8), DQNConfig(num_steps=3, batch_size=200)
    add(buffer, 0, reward=1.0)
    add(buffer, 1, reward=1.0, terminated=True)
    add(buffer, 10, reward=1.0)
    buffer.cut()
    for number in (20, 21, 22):
        add(buffer, number, reward=1.0)
    drawn = sample_stretches(buffer, config, seeded())
    found = {int(o): (r, int(n), f) for o, r, n, f in zip(
        drawn.obs[:, 0], drawn.returns.tolist(), drawn.last_obs[:, 0], drawn.factor.tolist(),
        strict=True)}  # fmt: skip
    assert found[0] == pytest.approx((1.97, 2, 0.0))
    assert found[1] == pytest.approx((1.0, 2, 0.0))
    assert found[10] == pytest.approx((1.0, 11, 0.97))  # cut: more would have followed


def test_too_little_to_draw_from_is_refused():
    buffer = ReplayBuffer(8)
    buffer.cut()  # of nothing: nothing happens
    add(buffer, 0)
    with pytest.raises(RuntimeError, match=r"sample_stretches: expected .* at least 5 .* got 1"):
        sample_stretches(buffer, DQNConfig(), seeded())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"discount": 1.1}, ValueError, r"discount in \[0, 1\], got 1.1"),
        ({"discount": "1"}, TypeError, "discount as a number"),
        ({"epsilon": -0.1}, ValueError, r"epsilon in \[0, 1\], got -0.1"),
        ({"epsilon": math.nan}, ValueError, r"epsilon in \[0, 1\], got nan"),
        ({"target_rate": 0}, ValueError, r"target_rate in \(0, 1\], got 0"),
        ({"target_rate": 2.0}, ValueError, r"target_rate in \(0, 1\], got 2.0"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate in \(0, 1\], got 0.0"),
        ({"learning_rate": math.nan}, ValueError, r"learning_rate in \(0, 1\], got nan"),
        ({"learning_rate": True}, TypeError, "learning_rate as a number"),
        ({"max_gradient": 0}, ValueError, r"max_gradient in \(0, inf\)"),
        ({"max_gradient": math.inf}, ValueError, r"max_gradient in \(0, inf\)"),
        ({"num_steps": 0}, ValueError, "num_steps >= 1"),
        ({"batch_size": -5}, ValueError, "batch_size >= 1"),
        ({"batch_size": 2.0}, TypeError, "batch_size as an int"),
    ],
)
def test_settings_are_checked(settings, error, message):
    with pytest.raises(error, match=rf"DQNConfig: expected {message}"):
        DQNConfig(**settings)


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
    config = DQNConfig(discount=0.9, num_steps=num_steps, batch_size=32, target_rate=0.1,
                       learning_rate=0.04)  # fmt: skip
    agent = DQN(Table(5, 2), seeded(), config)
    with torch.no_grad():
        agent.network.weight.zero_()
    envs = corridors(4)
    explorer = EpsilonGreedy(agent, envs.single_action_space, agent.generator, epsilon=1.0)
    act_and_learn(explorer, envs, ReplayBuffer(2_000, 4), 600, learner=agent, final_rate=0.0)
    value = agent.target(torch.eye(5))
    if num_steps == 1:  # off policy, so exact
        wanted = torch.tensor([0.9**k for k in (4, 3, 2, 1, 0)])
        torch.testing.assert_close(value[:, 1], wanted, atol=0.1, rtol=0)
    assert (value[:, 1] > value[:, 0]).all()
    assert (play(agent, corridors(3), seed=0) == 1).all()


def test_play_counts_only_the_first_episode_of_each():
    stubborn = iter([0] * 3 + [1] * 1000)
    returns = play(lambda obs: np.full(len(obs), next(stubborn)), corridors(2), seed=0)
    assert returns.tolist() == [1, 1]


class Twice:
    """Acts 1; remembers which of its episodes have ended."""

    def __init__(self):
        self.told = []

    def act(self, obs):
        return np.ones(len(obs), int)

    def reset(self, ended=None):
        self.told.append(ended)


def test_agents_are_told_of_every_episode_that_ends():
    """Even through an explorer; a bare function can't be told."""
    agent, envs = Twice(), corridors(2)
    for player in (agent, EpsilonGreedy(agent, envs.single_action_space, seeded(), epsilon=0.0)):
        agent.told = []
        act_and_learn(player, envs, ReplayBuffer(20, 2), 11)
        assert agent.told[0] is None and [t.tolist() for t in agent.told[1:]] == [[True] * 2] * 2
    bare = EpsilonGreedy(lambda obs: agent.act(obs), gym.spaces.Discrete(2), seeded(), epsilon=0.1)
    bare.reset()


def test_learning_comes_after_the_reset_of_what_has_ended():
    """Draws of game and agent keep their order: act, step, reset, learn."""
    order, agent = [], DQN(Table(5, 2), seeded(), DQNConfig(num_steps=1, batch_size=1))

    class Noted(Corridor):
        def reset(self, **how):
            order.append("reset")
            return super().reset(**how)

        def step(self, action):
            order.append("step")
            return super().step(action)

    envs = SyncVectorEnv([Noted], autoreset_mode=AutoresetMode.DISABLED)

    def learn(buffer, share):
        order.append("learn")

    agent.learn = learn
    act_and_learn(Twice(), envs, ReplayBuffer(9), 6, learner=agent, num_updates=2)
    calm = ["step", "learn", "learn"]
    assert order == ["reset", *calm * 4, "step", "reset", "learn", "learn", *calm]


def test_epsilon_is_the_share_of_random_actions():
    network = nn.Linear(1, 4)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(torch.tensor([0.0, 0, 1, 0]))
    agent, space = DQN(network, seeded()), gym.spaces.Discrete(4)
    obs = np.zeros((20_000, 1), np.float32)
    assert (agent.act(obs) == 2).all()
    action = EpsilonGreedy(agent, space, seeded(), epsilon=0.4).act(obs)
    assert (action != 2).mean() == pytest.approx(0.3, abs=0.02) and action.dtype == np.int64
    dice = seeded()
    assert (EpsilonGreedy(agent, space, dice, epsilon=0.0).act(obs) == 2).all()
    assert torch.equal(dice.get_state(), seeded().get_state()), "nothing to draw for"
    late = EpsilonGreedy(agent, gym.spaces.Discrete(4, start=7), seeded(), epsilon=1.0)
    assert set(late.act(obs)) == {7, 8, 9, 10}


def test_an_explorer_refuses_what_it_cannot_do():
    with pytest.raises(TypeError, match=r"EpsilonGreedy: expected discrete actions, got Box"):
        EpsilonGreedy(Twice(), gym.spaces.Box(-1, 1, (2,)), seeded(), epsilon=0.1)
    for epsilon in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"EpsilonGreedy: expected epsilon in \[0, 1\]"):
            EpsilonGreedy(Twice(), gym.spaces.Discrete(2), seeded(), epsilon=epsilon)


def test_learning_that_would_teach_nothing_is_refused():
    agent, envs = DQN(nn.Linear(1, 2), seeded()), object()
    with pytest.raises(ValueError, match=r"act_and_learn: expected a buffer of at least 5 .* 4"):
        act_and_learn(agent, envs, ReplayBuffer(4), 10, learner=agent)
    for name in ("num_steps", "num_updates"):
        how = {"num_steps": 5, "num_updates": 1} | {name: 0}
        with pytest.raises(ValueError, match=rf"act_and_learn: expected {name} >= 1, got 0"):
            act_and_learn(agent, envs, ReplayBuffer(8), **how)
    for rate in (-0.1, 2, math.nan):
        with pytest.raises(ValueError, match=r"act_and_learn: expected final_rate in \[0, 1\]"):
            act_and_learn(agent, envs, ReplayBuffer(8), 5, final_rate=rate)


# --- saving --------------------------------------------------------------------------------------

SHAPE = (2, 3, 5, 5)


def test_what_was_saved_comes_back(tmp_path):
    """Both networks, and the settings; it can learn on from there."""
    config = DQNConfig(discount=0.9, num_steps=1, batch_size=4)
    agent = DQN(PlaneQNetwork(SHAPE, 3, seeded(1)), seeded(), config)
    for parameter in agent.target.parameters():
        nn.init.normal_(parameter, generator=seeded(2))
    agent.save(tmp_path / "agent.npz")
    again = DQN.load(tmp_path / "agent.npz", PlaneQNetwork, seeded())
    obs = torch.rand(7, *SHAPE, generator=seeded(3))
    assert again.config == config
    assert torch.equal(again.target(obs), agent.target(obs))
    assert torch.equal(again.network(obs), agent.network(obs))
    assert not any(p.requires_grad for p in again.target.parameters())
    buffer, off, none = ReplayBuffer(4), np.zeros(1, bool), np.zeros(1, int)
    for o in obs.numpy():
        buffer.add_step(VectorStep(o[None], none, none, o[None], off, off, none))
    before = [p.clone() for p in again.network.parameters()]
    again.learn(buffer)
    assert all(p.requires_grad for p in again.network.parameters())
    assert not all(map(torch.equal, before, again.network.parameters()))


def test_networks_that_nobody_could_make_again_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"DQN.save: expected a network with settings.* Table"):
        DQN(Table(5, 2), seeded()).save(tmp_path / "agent.npz")
    DQN(PlaneQNetwork(SHAPE, 3, seeded()), seeded()).save(tmp_path / "agent.npz")
    with pytest.raises(ValueError, match=r"DQN.load: .* made by PlaneQNetwork, not"):
        DQN.load(tmp_path / "agent.npz", Table, seeded())
    (tmp_path / "agent.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"DQN.load: expected a file that can be read"):
        DQN.load(tmp_path / "agent.npz", PlaneQNetwork, seeded())
