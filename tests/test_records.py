"""What is recorded is what happened; what can't be meant is refused in plain words; no hang."""

import importlib
import sys
import warnings
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.wrappers import FlattenObservation, TimeLimit

from mbrl_helpers import interaction
from mbrl_helpers.agents import MPCAgent, NoisyAgent, RandomAgent
from mbrl_helpers.data import ReplayBuffer, split_by_episode, validation_folds
from mbrl_helpers.dynamics import EnsembleModel
from mbrl_helpers.envs import Task, get_task, make_envs
from mbrl_helpers.games import dqn
from mbrl_helpers.interaction import Interaction, collect_episodes, run_episodes
from mbrl_helpers.planners import CEM, ICEM, MPPI, RandomShooting
from mbrl_helpers.policies import Policy
from mbrl_helpers.training import closed_loop, evaluate

NAME = "TestOfRecords-v0"
VECTOR = Box(-9, 9, (2,))


def seeded():
    return torch.Generator().manual_seed(0)


class Probe(gym.Env):
    """Whatever a test wants; by default five steps, and a record of what it is handed."""

    observation_space, action_space = VECTOR, Box(-1, 1, (1,))
    length, seen = 5, []

    def __init__(self, **parts):
        for name, part in parts.items():
            setattr(self, name, part)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.obs(), {}

    def obs(self):
        return np.array([self.time, 0.5], np.float32)

    def reward(self):
        return 1.0

    def ends(self):
        return self.time >= self.length, False

    def step(self, action):
        self.seen.append(np.array(action))
        self.time += 1
        return self.obs(), self.reward(), *self.ends(), {}


@pytest.fixture
def register():
    """Register an environment of these parts: functions become methods."""

    def register(kind=Probe, max_episode_steps=50, **parts):
        methods = {name: part for name, part in parts.items() if callable(part)}
        methods = {k: v for k, v in methods.items() if not isinstance(v, gym.Space)}
        rest = {name: part for name, part in parts.items() if name not in methods}
        kind = type("Own", (kind,), methods | rest | {"seen": []})
        gym.register(NAME, kind, max_episode_steps=max_episode_steps)
        return kind

    interaction._warned.discard(NAME)
    yield register
    gym.registry.pop(NAME, None)


def always(action):
    return lambda obs: np.repeat(np.array([action]), len(obs), 0)


def step_by_hand(task, agent):
    envs = make_envs(task, 2)
    try:
        Interaction(envs, agent, seed=0).step()
    finally:
        envs.close()


def loop(task, agent):
    task = task if isinstance(task, Task) else Task(env_id=task, obs_names=("a", "b"))
    list(closed_loop(task, agent, lambda data: agent, ReplayBuffer(), num_episodes=2))


PLAYING = {
    "collect_episodes": lambda task, agent: collect_episodes(task, agent, num_episodes=3, seed=0),
    "run_episodes": lambda task, agent: list(run_episodes(task, agent, num_episodes=3, seed=0)),
    "evaluate": lambda task, agent: evaluate(task, agent, num_episodes=3),
    "closed_loop": loop,
}


# --- actions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "given", "played"),
    [
        (Box(-1, 1, (1,)), [50.0], [1.0]),
        (Box(-1, 1, (1,)), [-1.5], [-1.0]),
        (Box(np.array([0, -3.0]), np.array([0.1, 3.0]), dtype=np.float64), [7, -9], [0.1, -3]),
        (Box(-1, 1, (1,)), [0.3], [np.float32(0.3)]),
        (Box(-1, 1, (1,)), [1e300], [1.0]),
        (Box(-5, 5, (2,)), [3, -2], [3, -2]),
        (Discrete(3), 1.0, 1),
        (Discrete(3, start=-1), np.float32(-1), -1),
        (Discrete(3), np.uint8(2), 2),
    ],
)
def test_actions_are_recorded_as_they_were_executed(register, space, given, played):
    """To the bit, in 32 bits, and as the space has them."""
    kind = register(action_space=space)
    data = collect_episodes(NAME, always(given), num_episodes=2, seed=0)
    executed = np.array(kind.seen)
    assert executed.dtype == space.dtype
    np.testing.assert_array_equal(executed, np.broadcast_to(np.array(played), executed.shape))
    np.testing.assert_array_equal(data.action, executed.astype(data.action.dtype))
    assert all(space.contains(action) for action in kind.seen)


@pytest.mark.parametrize("where", PLAYING)
@pytest.mark.parametrize(
    ("space", "given", "error", "says"),
    [
        (Discrete(3), 1.9, ValueError, "whole numbers from 0 to 2, .* got 1.9"),
        (Discrete(3), np.nan, ValueError, "from 0 to 2, .* got nan"),
        (Discrete(3), 3, ValueError, "from 0 to 2, .* got 3"),
        (Discrete(3, start=5), 2, ValueError, "from 5 to 7, .* got 2"),
        (Discrete(2), True, TypeError, "from 0 to 1, got an array of bool.*astype"),
        (Discrete(2), "left", TypeError, "from 0 to 1, got an array of <U"),
        (Discrete(2), [1], ValueError, r"got an array of shape \(\d, 1\).*action\[:, 0\]"),
        (Box(-1, 1, (1,)), 0.5, ValueError, r"got an array of shape \(\d,\).*action\[:, None\]"),
        (Box(-1, 1, (2,)), [0.5], ValueError, r"got an array of shape \(\d, 1\).*of shape \(\d, 2"),
        (Box(-1, 1, (1,)), [np.nan], ValueError, "finite actions .* got nan"),
        (Box(-1, 1, (1,)), [np.inf], ValueError, "finite actions .* got inf"),
        (Box(-1, 1, (1,)), [False], TypeError, "as numbers .* got an array of bool"),
        (Box(-1, 1, (1,)), [1j], TypeError, "as numbers .* got an array of complex"),
    ],
)
def test_actions_that_cannot_be_meant(register, where, space, given, error, says):
    register(action_space=space)
    with pytest.raises(error, match=f"^{where}: expected .*{says}"):
        PLAYING[where](NAME, always(given))
    with pytest.raises(error, match=rf"^Interaction\.step: expected .*{says}"):
        step_by_hand(NAME, always(given))


def test_a_noisy_agent_acts_within_the_bounds():
    task = get_task("Pendulum-v1")
    inner = SimpleNamespace(act=always([5.0]), reset=lambda ended=None: None)
    agent = NoisyAgent(task, inner, seeded(), std=3.0)
    data = collect_episodes(task, agent, num_episodes=1, seed=0)
    assert np.abs(data.action).max() <= 2


# --- what environments answer --------------------------------------------------------------------


def old_reset(self, *, seed=None, options=None):
    self.time = 0
    return self.obs()


def old_step(self, action):
    return self.obs(), 1.0, False, {}


@pytest.mark.parametrize("where", PLAYING)
@pytest.mark.parametrize(
    ("parts", "error", "says"),
    [
        ({"reward": lambda self: np.ones(1)}, ValueError,
         r"the reward as a number from .*, got float64 of shape \(1,\)"),
        ({"reward": lambda self: [1.0, 2.0]}, ValueError, r"reward as a number .*\[1.0, 2.0\]"),
        ({"reward": lambda self: None}, TypeError, "reward as a number .* got None"),
        ({"reward": lambda self: "1.5"}, TypeError, "reward as a number .* got '1.5'"),
        ({"reward": lambda self: 1j}, TypeError, "reward as a number .* got 1j"),
        ({"reward": lambda self: np.float32("nan")}, ValueError, "finite reward .* got .*nan"),
        ({"reward": lambda self: -np.inf}, ValueError, "finite reward .* got .*-inf"),
        ({"ends": lambda self: (None, False)}, TypeError, "terminated as True or False"),
        ({"ends": lambda self: (False, {})}, TypeError, "truncated as True or False"),
        ({"ends": lambda self: (np.array([True]), False)}, TypeError, "terminated as True or"),
        ({"reset": old_reset}, TypeError, "reset to return an observation and a dict"),
        ({"reset": lambda self: (self.obs(), {})}, TypeError, "reset .* that takes seed and opt"),
        ({"step": old_step}, TypeError, "step to return obs, reward, .* got 4 values"),
        ({"step": lambda self, a: None}, TypeError, "step to return obs, reward, .* got None"),
        ({"obs": lambda self: np.zeros(3, np.float32)}, ValueError, r"got float32 of shape \(3,\)"),
        ({"obs": lambda self: np.zeros((1, 2))}, ValueError, r"got float64 of shape \(1, 2\)"),
        ({"obs": lambda self: {"x": 1.0}}, ValueError, "as its observation_space says.* got {'x'"),
        ({"obs": lambda self: (1.0, [2.0])}, ValueError, "as its observation_space says"),
        ({"obs": lambda self: np.array(["a", "b"])}, ValueError, "observation_space says.* got <U"),
        ({"obs": lambda self: [self.time + 0.5, 0], "observation_space": Box(0, 9, (2,), np.int64)},
         ValueError, "as its observation_space says"),
        ({"obs": lambda self: [0, np.nan]}, ValueError, "finite obs.* got nan in column 1"),
        ({"obs": lambda self: [1 / max(3 - self.time, 1e-60), 0]}, ValueError, "finite observ"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:overflow")
def test_answers_that_cannot_be_meant(register, where, parts, error, says):
    register(**parts)
    with pytest.raises(error, match=f"^{where}: expected .*{says}") as caught:
        PLAYING[where](NAME, RandomAgent(Box(-1, 1, (1,)), seeded()))
    assert NAME in str(caught.value)


@pytest.mark.parametrize(
    "reward", [3, True, np.bool_(True), np.float32(0.1), np.int8(2), np.array(2.5), torch.tensor(2)]
)
def test_rewards_may_be_any_real_numbers(register, reward):
    register(reward=lambda self: reward)
    data = collect_episodes(NAME, always([0.0]), num_episodes=1, seed=0)
    np.testing.assert_array_equal(data.reward, np.full(5, float(reward), np.float32))


@pytest.mark.parametrize(
    "obs", [lambda self: [self.time, 0.5], lambda self: (self.time, 0.5),
            lambda self: np.array([self.time, 0.5]), lambda self: np.array([self.time, 0])]
)  # fmt: skip
def test_observations_may_be_lists_and_of_other_numbers(register, obs):
    register(obs=obs)
    data = collect_episodes(NAME, always([0.0]), num_episodes=1, seed=0)
    assert data.next_obs[:, 0].tolist() == [1, 2, 3, 4, 5]


def test_an_array_that_all_environments_fill_again_and_again(register):
    shared = np.zeros(2, np.float32)

    def obs(self):
        shared[:] = self.time, self.np_random.random()
        return shared

    register(obs=obs)
    one_by_one = collect_episodes(NAME, always([0.0]), num_episodes=3, seed=0, num_envs=1)
    side_by_side = collect_episodes(NAME, always([0.0]), num_episodes=3, seed=0)
    np.testing.assert_array_equal(one_by_one.obs, side_by_side.obs)
    np.testing.assert_array_equal(one_by_one.next_obs, side_by_side.next_obs)


@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, True)])
def test_both_ends_are_told_apart(register, flags):
    register(ends=lambda self: tuple(flag and self.time == 4 for flag in flags))
    data = collect_episodes(NAME, always([0.0]), num_episodes=2, seed=0)
    last = np.arange(8) % 4 == 3
    np.testing.assert_array_equal(data.terminated, last & flags[0])
    np.testing.assert_array_equal(data.truncated, last & flags[1])


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyError("x"), ValueError("unpack")])
def test_errors_of_the_environment_come_through(register, error):
    def step(self, action):
        raise error

    register(step=step)
    with pytest.raises(type(error)) as caught:
        evaluate(NAME, always([0.0]))
    assert caught.value is error


# --- spaces --------------------------------------------------------------------------------------

ACTION_SPACES = [
    MultiDiscrete([3, 2]), MultiBinary(3), Dict(a=VECTOR), Tuple((VECTOR,)), Box(-1, 1, (2, 2)),
    Box(-1, 1, ()), Box(-1, 1, (0,)), Box(0, 3, (1,), np.int32), Box(-np.inf, np.inf, (1,)),
    Box(0, np.inf, (2,)), Box(1, 1, (2,)),
]  # fmt: skip


def own(space):
    return Task(env_id=NAME, obs_names=("a", "b"), space=space)


def asked(space):
    return Task(env_id=NAME, obs_names=("a", "b"))


ENTRANCES = {
    "Task": own,
    "Task.actions": lambda space: asked(space).actions,
    "RandomAgent": lambda space: RandomAgent(space, seeded()),
    "RandomShooting": lambda space: RandomShooting(space, seeded()),
    "CEM": lambda space: CEM(space, seeded()),
    "ICEM": lambda space: ICEM(space, seeded()),
    "MPPI": lambda space: MPPI(space, seeded()),
    "MPCAgent": lambda space: MPCAgent(asked(space), SimpleNamespace(step=len),
                                       CEM(Discrete(2), seeded())),
    "Policy": lambda space: Policy(asked(space), np.zeros((3, 2)), seeded()),
    "EnsembleModel": lambda space: EnsembleModel(own(space), seeded()),
    "NoisyAgent": lambda space: NoisyAgent(asked(space), None, seeded(), std=1.0),
    "EpsilonGreedy": lambda space: dqn.EpsilonGreedy(len, space, seeded(), epsilon=0.1),
    "make_envs": lambda space: make_envs(NAME, 2),
    **{name: lambda space, play=play: play(NAME, len) for name, play in PLAYING.items()},
}  # fmt: skip
WORDS = "expected (a Discrete or a Box space of shape .A,. of floats|an action space with finite)"


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("space", ACTION_SPACES, ids=str)
def test_every_entrance_refuses_the_same_actions_in_the_same_words(register, entrance, space):
    register(action_space=space)
    with pytest.raises((TypeError, ValueError), match=f"^[A-Za-z_.]+: {WORDS}") as caught:
        ENTRANCES[entrance](space)
    assert f"got {space}. " in str(caught.value)


@pytest.mark.parametrize("where", [*PLAYING, "make_envs", "Task"])
@pytest.mark.parametrize(
    "space",
    [Box(0, 1, (2, 2)), Box(0, 1, ()), Discrete(4), Dict(a=VECTOR), MultiBinary(2)],
    ids=str,
)
def test_every_entrance_refuses_the_same_observations_in_the_same_words(register, where, space):
    register(observation_space=space, obs=lambda self: space.sample())
    play = {"make_envs": lambda: make_envs(NAME, 1), "Task": lambda: asked(None).actions}
    with pytest.raises(ValueError, match=f"{where}: expected vector obs.*FlattenObservation"):
        play.get(where, lambda: PLAYING[where](NAME, always([0.0])))()


def test_a_wrapper_cures_what_is_refused(register):
    kind = register(observation_space=Dict(a=VECTOR, b=Discrete(2)),
                    obs=lambda self: {"a": np.ones(2, np.float32), "b": 1})  # fmt: skip
    del gym.registry[NAME]
    gym.register(NAME, lambda: FlattenObservation(kind()), max_episode_steps=3)
    data = collect_episodes(NAME, always([0.0]), num_episodes=2, seed=0)
    assert data.obs[0].tolist() == [1, 1, 0, 1]


def test_a_task_names_all_that_is_observed(register):
    register()
    with pytest.raises(ValueError, match=r"Task: expected a name for each .*\(2,\), got .*'a'"):
        _ = Task(env_id=NAME, obs_names=("a",)).actions


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["module_of_mine:ModPend-v0", "ModPend", "module_of_mine:ModPend"])
def test_names_are_taken_as_gymnasium_takes_them(tmp_path, monkeypatch, name):
    code = (
        "import gymnasium\n"
        "gymnasium.register('ModPend-v0', 'gymnasium.envs.classic_control:PendulumEnv',"
        " max_episode_steps=7)\n"
    )
    (tmp_path / "module_of_mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    if ":" not in name:
        importlib.import_module("module_of_mine")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium says which version it takes
            task = Task(env_id=name, obs_names=("cos", "sin", "speed"))
            assert task.actions.size == 1
            task = Task.of_settings(task.settings())
            assert task.env_id == name
            returns = evaluate(task, RandomAgent(task.action_space, seeded()), num_episodes=2)
            assert len(returns) == 2
            make_envs(name, 1).close()
    finally:
        gym.registry.pop("ModPend-v0", None)
        sys.modules.pop("module_of_mine", None)


@pytest.mark.parametrize("name", ["Nothing-v0", "Pendulum-v99", "not a name!", "CartPole-v-1"])
def test_names_that_gymnasium_does_not_know(name):
    with pytest.raises(ValueError, match=r"^evaluate: expected an environment that Gym"):
        evaluate(name, len)


def test_the_courses_tasks_have_short_names():
    assert get_task("Pendulum") is get_task("Pendulum-v1")
    assert get_task("CartPole") is get_task("CartPole-v1")


# --- nothing hangs -------------------------------------------------------------------------------


def never(self):
    return False, False


@pytest.mark.parametrize("where", PLAYING)
def test_without_a_time_limit_it_is_told_at_once_and_stopped(register, where, monkeypatch):
    monkeypatch.setattr(interaction, "MAX_STEPS", 30)
    register(max_episode_steps=None, ends=never)
    with (
        pytest.warns(UserWarning, match=f"{where}: {NAME} has no time limit.*max_episode_steps"),
        pytest.raises(RuntimeError, match=f"{where}: .* 30 steps.*max_episode_steps.*TimeLimit"),
    ):
        PLAYING[where](NAME, always([0.0]))


def test_the_warning_is_given_once_and_where_the_user_is(register):
    register(max_episode_steps=None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            evaluate(NAME, always([0.0]), num_episodes=2)
    assert [w.filename for w in told] == [__file__]


def test_episodes_that_ended_are_kept_when_another_does_not(register, monkeypatch):
    monkeypatch.setattr(interaction, "MAX_STEPS", 30)
    interaction._warned.add(NAME)
    register(max_episode_steps=None, ends=lambda self: (self.np_random.random() < 0.05, False))
    buffer = ReplayBuffer()
    with pytest.raises(RuntimeError, match="an end of every episode"):
        collect_episodes(NAME, always([0.0]), num_episodes=40, seed=1, num_envs=1, buffer=buffer)
    kept = buffer.all()
    ended = kept.terminated | kept.truncated
    assert ended.sum() == len(kept.episodes) >= 1


@pytest.mark.parametrize("limited", ["registered", "wrapped"])
def test_with_a_limit_nothing_is_said(register, limited, monkeypatch, recwarn):
    monkeypatch.setattr(interaction, "MAX_STEPS", 30)
    kind = register(ends=never)
    if limited == "wrapped":
        del gym.registry[NAME]
        gym.register(NAME, lambda: TimeLimit(kind(), 50))
    assert evaluate(NAME, always([0.0]), num_episodes=2).tolist() == [50, 50]
    assert not recwarn.list


@pytest.mark.parametrize("over", [[False, False], [True, False]])
def test_a_game_that_never_ends_is_not_played_for_ever(register, monkeypatch, over):
    monkeypatch.setattr(dqn, "MAX_STEPS", 20)
    ends = iter(over * 100)
    register(max_episode_steps=None, ends=lambda self: (next(ends), False))
    envs = make_envs(NAME, 2)
    with pytest.raises(RuntimeError, match=r"play: expected an end of every .*max_episode_steps"):
        dqn.play(always([0.0]), envs, seed=0)
    envs.close()


# --- progress ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [True, False])
def test_what_takes_long_shows_how_far_it_is(register, shown, capsys):
    register()
    agent = always([0.0])
    evaluate(NAME, agent, num_episodes=2, progress=shown)
    collect_episodes(NAME, agent, num_episodes=2, seed=0, progress=shown)
    task = Task(env_id=NAME, obs_names=("a", "b"))
    list(closed_loop(task, agent, lambda data: agent, ReplayBuffer(), num_episodes=2,
                     progress=shown))  # fmt: skip
    envs = make_envs(NAME, 1)
    dqn.act_and_learn(agent, envs, ReplayBuffer(), 6, progress=shown)
    dqn.play(agent, envs, seed=0, progress=shown)
    envs.close()
    told = capsys.readouterr().err
    assert all((f"{name}:" in told) == shown for name in ("episodes", "rounds", "steps"))


@pytest.mark.parametrize("split", [
    lambda data: validation_folds(data, 5), lambda data: split_by_episode(data, 0.2, None)
])  # fmt: skip
def test_too_little_to_learn_from_says_what_to_give_the_loop(register, split):
    register(length=1)
    loop = closed_loop(asked(None), always([0.0]), split, ReplayBuffer(), num_episodes=2,
                       num_random_episodes=1)  # fmt: skip
    with pytest.raises(ValueError, match="in closed_loop, raise num_random_episodes"):
        list(loop)
