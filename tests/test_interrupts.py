"""An interrupt at any moment leaves what can be gone on with.

It is raised at lines of the package all over a run; where weights change, at torch's operations,
too.
"""

import ast
import functools
import itertools
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from games_scenes import SHAPE, catches, played
from gymnasium.envs.classic_control import CartPoleEnv
from torch.utils._python_dispatch import TorchDispatchMode

import mbrl_helpers
from mbrl_helpers.agents import MPCAgent, RandomAgent
from mbrl_helpers.cars.driving import DriverConfig, Wanderer
from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.envs import get_task, make_envs
from mbrl_helpers.games.dqn import DQN, DQNConfig, PlaneQNetwork, act_and_learn, play
from mbrl_helpers.games.dreams import DreamConfig, ImaginedEnv, learn_in_dreams
from mbrl_helpers.games.frames import FrameModel
from mbrl_helpers.imagination import (
    SAC,
    BackpropConfig,
    DynaConfig,
    SACConfig,
    dyna,
    improve,
    whole_step,
)
from mbrl_helpers.interaction import Interaction, collect_episodes
from mbrl_helpers.interfaces import VectorStep
from mbrl_helpers.planners import CEM, CEMConfig
from mbrl_helpers.policies import Policy
from mbrl_helpers.training import closed_loop, evaluate

PACKAGE = str(Path(mbrl_helpers.__file__).parent)
CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")
NUM_MOMENTS = 25


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@functools.cache
def headers(path):
    """The lines of `with`: at its end a tracer may raise where Python itself never does."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
    return {line for with_ in blocks for line in range(with_.lineno, with_.body[0].lineno)}


class Lines:
    """Counts the package's lines that a run comes by, and interrupts it at one of them."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def __enter__(self):
        sys.settrace(lambda frame, *_: self.line if PACKAGE in frame.f_code.co_filename else None)

    def __exit__(self, *_):
        sys.settrace(None)

    def line(self, frame, event, _):
        if event == "line" and frame.f_lineno not in headers(frame.f_code.co_filename):
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt
        return self.line


class Operations(TorchDispatchMode):
    """The same of torch's operations."""

    def __init__(self, at=None):
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))


def interrupted(begin, counter=Lines, num=NUM_MOMENTS):
    """For moments all over a run, what `begin` had made when it was interrupted.

    Args:
        begin: gives what is to be kept, and a function that runs.
        counter: of moments.
        num: of moments.
    """
    counting = counter()
    _, run = begin()
    with counting:
        run()
    moments = np.linspace(1, counting.count, num).astype(int)
    for moment in np.unique([*moments[:-1], *np.random.default_rng(0).integers(1, moments[-1], 9)]):
        kept, run = begin()
        random, numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        with pytest.raises(KeyboardInterrupt), counter(int(moment)):
            run()
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert torch.equal(torch.get_rng_state(), random)
        assert (np.random.get_state()[1] == numpy).all()  # noqa: NPY002
        yield kept


@pytest.fixture
def open_envs(monkeypatch):
    """The environments that have been made and not closed."""
    there, make = set(), gym.make

    def made(*args, **options):
        env = make(*args, **options)
        there.add(env.unwrapped)
        return env

    monkeypatch.setattr(gym, "make", made)
    monkeypatch.setattr(CartPoleEnv, "close", lambda self: there.discard(self))
    return there


def planning():
    planner = CEM(CARTPOLE.action_space, seeded(), CEMConfig(horizon=3, population_size=12))
    return MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner)


def assert_whole(buffer):
    """Each episode goes on from row to row, and ends at its last."""
    if not len(buffer):
        return
    data = buffer.all()
    last = np.append(np.diff(data.episode) != 0, True)
    np.testing.assert_array_equal(data.terminated | data.truncated, last)
    inside = ~last[:-1]
    np.testing.assert_array_equal(data.next_obs[:-1][inside], data.obs[1:][inside])


# --- playing -------------------------------------------------------------------------------------


def test_collecting(open_envs):
    """Environments are closed, episodes whole, and the agent plays on."""

    def begin():
        agent, buffer = RandomAgent(CARTPOLE.action_space, seeded()), ReplayBuffer()
        return (agent, buffer), lambda: collect_episodes(
            CARTPOLE, agent, num_episodes=4, seed=0, num_envs=2, buffer=buffer
        )

    for agent, buffer in interrupted(begin):
        assert not open_envs
        assert_whole(buffer)
        before = 0 if not len(buffer) else len(buffer.all().episodes)
        collect_episodes(CARTPOLE, agent, num_episodes=2, seed=0, buffer=buffer)
        assert len(buffer.all().episodes) == before + 2
        assert_whole(buffer)


def test_planning():
    """The agent, interrupted in the middle of a plan, then plays as one that never was."""
    rows = np.random.default_rng(0).uniform(-0.1, 0.1, (6, 1, 4))
    calm, wanted = planning(), []
    for obs in rows:
        wanted.append(calm.act(obs).tolist())

    def begin():
        agent = planning()
        return agent, lambda: [agent.act(obs) for obs in rows]

    for agent in interrupted(begin):
        assert agent.state is None or agent.state.mean.isfinite().all()
        plan = agent.plan(rows[0])
        assert plan.best_return.isfinite().all()
        agent.planner.generator.manual_seed(0)
        agent.reset()
        assert [agent.act(obs).tolist() for obs in rows] == wanted


def test_the_closed_loop_and_evaluation(open_envs):
    def begin():
        first, buffer = RandomAgent(CARTPOLE.action_space, seeded()), ReplayBuffer()
        loop = closed_loop(CARTPOLE, first, lambda data: first, buffer, num_episodes=3,
                           num_random_episodes=1)  # fmt: skip
        return (first, buffer), lambda: (list(loop), evaluate(CARTPOLE, first, num_episodes=2))

    for first, buffer in interrupted(begin):
        assert not open_envs
        assert_whole(buffer)
        learn = lambda data, first=first: first  # noqa: E731
        records = list(closed_loop(CARTPOLE, first, learn, buffer, num_episodes=2))
        assert len(records) == 2
        assert_whole(buffer)


class Clock(gym.Env):
    """Shows the time of its episode, of seven steps."""

    observation_space, action_space = gym.spaces.Box(0, 9, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.array([self.time], np.float32), 1.0, self.time == 7, False, {}


def test_an_interaction_goes_on_with_new_episodes():
    """No step of it leaps over one that nobody has seen."""
    gym.register("TestOfInterrupts-v0", Clock, max_episode_steps=9)
    envs = []

    def begin():
        envs.append(make_envs("TestOfInterrupts-v0", 2))
        interaction = Interaction(envs[-1], lambda obs: np.zeros(len(obs), int), seed=0)
        return interaction, lambda: list(itertools.islice(interaction, 20))

    try:
        for interaction in interrupted(begin, num=60):
            for step in itertools.islice(interaction, 20):
                np.testing.assert_array_equal(step.next_obs, step.obs + 1)
                np.testing.assert_array_equal(step.terminated, step.next_obs[:, 0] == 7)
    finally:
        for each in envs:
            each.close()
        del gym.registry["TestOfInterrupts-v0"]


def test_an_error_of_the_environment_breaks_a_step_off():
    class Fails(Clock):
        fails = 0

        def step(self, action):
            Fails.fails += 1
            if Fails.fails == 6:  # of the third step, in the second environment
                raise ZeroDivisionError
            return super().step(action)

    make = gym.vector.SyncVectorEnv([Fails] * 2, autoreset_mode="Disabled")
    interaction = Interaction(make, lambda obs: np.zeros(len(obs), int), seed=0)
    with pytest.raises(ZeroDivisionError):
        list(itertools.islice(interaction, 5))
    step = interaction.step()
    assert step.obs.tolist() == [[0], [0]]
    assert step.episode.tolist() == [2, 3]


# --- learning ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swung():
    agent = RandomAgent(PENDULUM.action_space, seeded(1))
    return collect_episodes(PENDULUM, agent, num_episodes=1, seed=0)


def assert_acts(policy, data):
    assert all(part.isfinite().all() for part in policy.network.parameters())
    assert np.isfinite(policy.act(data.obs[:3])).all()


@pytest.mark.parametrize("counter", [Lines, Operations])
def test_learning_from_imagined_experience(swung, counter):
    settings = DynaConfig(num_updates=3, num_starts=8, rollout_length=2, branch_every=2)

    def begin():
        policy = Policy(PENDULUM, swung.obs, seeded(), hidden_sizes=(8,))
        sac = SAC(policy, seeded(), SACConfig(hidden_sizes=(8,), batch_size=16))
        return sac, lambda: dyna(sac, PENDULUM.true_dynamics, swung, settings)

    for sac in interrupted(begin, counter):
        assert_acts(sac.policy, swung)
        before = [part.clone() for part in sac.critic.parameters()]
        dyna(sac, PENDULUM.true_dynamics, swung, settings)
        assert not all(map(torch.equal, before, sac.critic.parameters()))
        assert_acts(sac.policy, swung)


@pytest.mark.parametrize("counter", [Lines, Operations])
def test_climbing_the_gradient(swung, counter):
    settings, starts = BackpropConfig(num_updates=3, horizon=3), torch.tensor(swung.obs)

    def begin():
        policy = Policy(PENDULUM, swung.obs, seeded(), hidden_sizes=(8,))
        return policy, lambda: improve(policy, PENDULUM.true_dynamics, starts, seeded(), settings)

    for policy in interrupted(begin, counter):
        assert_acts(policy, swung)
        improve(policy, PENDULUM.true_dynamics, starts, seeded(), settings)
        assert_acts(policy, swung)


def player():
    config = DQNConfig(batch_size=8, num_steps=2)
    return DQN(PlaneQNetwork(SHAPE, 3, seeded()), seeded(), config)


def assert_plays(agent):
    assert all(part.isfinite().all() for part in agent.target.parameters())
    envs = catches(2, max_steps=8)
    assert np.isfinite(play(agent, envs, seed=0)).all()


@pytest.mark.parametrize("counter", [Lines, Operations])
def test_learning_to_play(counter):
    def begin():
        agent, buffer, envs = player(), ReplayBuffer(40), catches(1, max_steps=8)
        run = lambda: act_and_learn(agent, envs, buffer, 12, learner=agent)  # noqa: E731
        return (agent, buffer, envs), run

    for agent, buffer, envs in interrupted(begin, counter):
        act_and_learn(agent, envs, buffer, 12, learner=agent)
        assert_plays(agent)
        rows = {name: part[: len(buffer), 0] for name, part in buffer.columns.items()}
        follows = rows["episode"][1:] == rows["episode"][:-1]
        assert torch.equal(rows["obs"][1:][follows], rows["next_obs"][:-1][follows])
        ended = rows["terminated"] | rows["truncated"]
        assert not (ended[:-1] & follows).any()


@pytest.mark.parametrize("counter", [Lines, Operations])
def test_learning_in_dreams(counter):
    settings = DreamConfig(
        num_random_frames=20, num_rounds=1, num_round_frames=8, num_model_updates=2,
        num_dream_updates=3, num_last_updates=3, last_fit_factor=1, num_dreams=4, dream_steps=5,
        num_kept=40,
    )  # fmt: skip

    def begin():
        parts = catches(1, max_steps=8), FrameModel(SHAPE, 3, seeded()), player(), ReplayBuffer(99)
        return parts, lambda: list(learn_in_dreams(*parts, settings))

    for parts in interrupted(begin, counter, num=15):
        games, model, agent, buffer = parts
        rounds = list(learn_in_dreams(games, model, agent, buffer, settings))
        assert len(rounds) == 2
        assert all(part.isfinite().all() for part in model.network.parameters())
        assert_plays(agent)


def test_dreams_go_on():
    buffer, _ = played(catches(1), 60)
    model = FrameModel(SHAPE, 3, seeded()).fit(buffer, 3)
    act = lambda obs: np.zeros(len(obs), int)  # noqa: E731

    def begin():
        interaction = Interaction(ImaginedEnv(model, buffer, 3, seeded(), max_steps=4), act)
        return interaction, lambda: list(itertools.islice(interaction, 12))

    for interaction in interrupted(begin):
        steps = list(itertools.islice(interaction, 12))
        assert len(steps) == 12


def test_who_drives_can_be_told_whose_episode_ended():
    """As every agent can."""
    wanderer = Wanderer(seeded())
    wanderer.reset(np.array([True]))
    wanderer.reset(ended=None)
    assert DriverConfig()


# --- the parts that see to it --------------------------------------------------------------------


def test_a_first_step_of_adam_can_be_broken_off_anywhere():
    def begin():
        parts = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
        for part in parts:
            part.grad = torch.ones(3)
        optimizer = torch.optim.Adam(parts, 0.1, fused=True)
        return (parts, optimizer), lambda: whole_step(optimizer)

    for parts, optimizer in interrupted(begin, Operations):
        whole_step(optimizer)
        assert all((part < 1).all() for part in parts)


def test_a_step_that_is_half_added_never_makes_two_episodes_one():
    def step(time, over):
        here, flag = np.array([[time]], np.float32), np.array([over])
        zero = np.zeros(1)
        return VectorStep(here, zero.astype(int), zero, here + 1, flag, ~flag & False, zero)

    def begin():
        buffer = ReplayBuffer()
        buffer.add_step(step(0, False))
        return buffer, lambda: buffer.add_step(step(1, True))

    for buffer in interrupted(begin, num=60):
        buffer.cut()
        buffer.add_step(step(0, True))
        assert_whole(buffer)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_environment_that_is_not_made_leaves_none_open(error):
    closed = []

    class Third(Clock):
        number = 0

        def __init__(self):
            Third.number += 1
            if Third.number == 3:
                raise error

        def close(self):
            closed.append(self)

    gym.register("TestOfInterrupts-v1", Third, max_episode_steps=9)
    try:
        with pytest.raises(error):
            make_envs("TestOfInterrupts-v1", 4)
        assert len(closed) == 2
    finally:
        del gym.registry["TestOfInterrupts-v1"]
