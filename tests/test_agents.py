"""Agents: random, noisy and planning ones; planning with the truth balances the pole."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl_helpers.agents import CorrelatedNoise, MPCAgent, NoisyAgent, RandomAgent
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import TrueDynamics, get_task
from mbrl_helpers.futures import Imagination, rollout_returns
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.planners import (
    CEM,
    ICEM,
    MPPI,
    CEMConfig,
    ICEMConfig,
    RandomShooting,
    RandomShootingConfig,
)
from mbrl_helpers.policies import Policy
from mbrl_helpers.training import evaluate

CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def planner(task, seed=0, **config):
    return RandomShooting(task.action_space, seeded(seed), RandomShootingConfig(**config))


def start_states(task, num):
    """Leaning poles, some of which can't be saved; pendulums at any angle and speed."""
    rng = np.random.default_rng(0)
    if task is CARTPOLE:
        return rng.uniform(-1, 1, size=(num, 4)) * [2.3, 1.0, 0.2, 1.0]
    angle, speed = rng.uniform(-np.pi, np.pi, num), rng.uniform(-8, 8, num)
    return np.stack([np.cos(angle), np.sin(angle), speed], axis=1)


# --- random agent --------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [Discrete(3, start=-1), Box(-2, 2, (1,)), Box(-1, 1, (2,))])
def test_random_agent_is_uniform_and_seeded(space):
    actions = RandomAgent(space, seeded()).act(np.zeros((6000, 4)))
    assert len(actions) == 6000
    assert all(space.contains(action) for action in actions[:100])
    if isinstance(space, Discrete):
        values, counts = np.unique(actions, return_counts=True)
        assert values.tolist() == [-1, 0, 1]
        assert np.abs(counts - 2000).max() < 200
    else:
        quarters = np.quantile(actions, [0.25, 0.5, 0.75], axis=0)
        expected = space.low + np.array([[0.25], [0.5], [0.75]]) * (space.high - space.low)
        np.testing.assert_allclose(quarters, expected, atol=0.1)
    same, other = (RandomAgent(space, seeded(seed)).act(np.zeros((6000, 4))) for seed in (0, 1))
    np.testing.assert_array_equal(same, actions)
    assert (other != actions).any()


def lagged(series, lag):
    """Correlation of [T, B] numbers with those `lag` steps later."""
    return np.corrcoef(series[:-lag].ravel(), series[lag:].ravel())[0, 1]


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_correlated_noise_is_standard_normal_and_forgets_slowly(correlation):
    noise = CorrelatedNoise(2, seeded(), correlation)
    series = torch.stack([noise.sample(200) for _ in range(200)])
    assert series.shape == (200, 200, 2)
    for part in (series[:3], series[-50:]):  # from the first step on
        assert part.mean().item() == pytest.approx(0, abs=0.12)
        assert part.std().item() == pytest.approx(1, abs=0.06)
    for lag in (1, 3):
        found = lagged(series[..., 0].numpy(), lag)
        assert found == pytest.approx(correlation**lag, abs=0.04)
    columns = torch.corrcoef(series[::20].flatten(0, 1).T)
    assert columns[0, 1].abs() < 0.1  # actions do not depend on each other


@pytest.mark.parametrize("correlation", [-0.1, 1.0, np.nan])
def test_correlations_that_make_no_sense(correlation):
    says = f"CorrelatedNoise: expected 0 <= correlation < 1, got {correlation}"
    with pytest.raises(ValueError, match=says):
        RandomAgent(PENDULUM.action_space, seeded(), correlation=correlation)


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_slow_random_actions_are_uniform_and_resemble_the_last(correlation):
    space = Box(np.float32([-2, 0]), np.float32([2, 10]))
    agent = RandomAgent(space, seeded(), correlation=correlation)
    actions = np.stack([agent.act(np.zeros((300, 4))) for _ in range(100)])
    assert all(space.contains(action) for action in actions[0])
    for part in (actions[:1], actions):
        deciles = np.quantile(part, [0.1, 0.5, 0.9], axis=(0, 1))
        np.testing.assert_allclose(deciles[:, 0], [-1.6, 0, 1.6], atol=0.35)
        np.testing.assert_allclose(deciles[:, 1], [1, 5, 9], atol=0.9)
    # Of uniforms made from normals of correlation r: 6/π asin(r/2).
    expected = 6 / np.pi * np.arcsin(correlation / 2)
    assert lagged(actions[..., 0], 1) == pytest.approx(expected, abs=0.03)
    same = RandomAgent(space, seeded(), correlation=correlation)
    np.testing.assert_array_equal(same.act(np.zeros((300, 4))), actions[0])


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_random_actions_need_bounds(correlation):
    space = Box(-np.inf, np.inf, (1,))
    says = "RandomAgent: expected an action space with finite bounds, got Box"
    with pytest.raises(ValueError, match=says):
        RandomAgent(space, seeded(), correlation=correlation)


def test_noise_for_another_number_of_environments():
    """Broadcast in silence, one environment would get the actions of three."""
    agent = RandomAgent(PENDULUM.action_space, seeded(), correlation=0.9)
    agent.act(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"the 3 environments of the last call, got 1\. Call res"):
        agent.act(np.zeros((1, 3)))
    agent.reset()
    assert agent.act(np.zeros((1, 3))).shape == (1, 1)


def test_slow_random_discrete_actions():
    agent = RandomAgent(Discrete(3, start=-1), seeded(), correlation=0.9)
    actions = np.stack([agent.act(np.zeros((300, 4))) for _ in range(100)])
    values, counts = np.unique(actions, return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    assert np.abs(counts / actions.size - 1 / 3).max() < 0.03
    stays = (actions[1:] == actions[:-1]).mean()
    assert 0.6 < stays < 0.9  # 1/3 for white noise


@pytest.mark.parametrize("make", ["random", "noisy", "noise"])
def test_only_environments_that_ended_are_forgotten(make):
    ended = np.arange(400) % 2 == 0

    def correlation_across(reset):
        rng = seeded()
        if make == "noise":
            noise = CorrelatedNoise(1, rng, 0.95)
            act, forget = (lambda: noise.sample(400).numpy()), noise.reset
        elif make == "random":
            agent = RandomAgent(PENDULUM.action_space, rng, correlation=0.95)
            act, forget = (lambda: agent.act(np.zeros((400, 3)))), agent.reset
        else:
            agent = NoisyAgent(PENDULUM, still(), rng, std=0.2, correlation=0.95)
            act, forget = (lambda: agent.act(np.zeros((400, 3)))), agent.reset
        forget()  # before anything happened: nothing to forget
        forget(ended)
        before = act()[:, 0]
        if reset is not ...:
            forget(reset)
        after = act()[:, 0]
        return [np.corrcoef(before[rows], after[rows])[0, 1] for rows in (ended, ~ended)]

    gone, kept = correlation_across(ended)
    assert abs(gone) < 0.2
    assert kept > 0.85
    assert min(correlation_across(...)) > 0.85
    assert max(map(abs, correlation_across(None))) < 0.2


def test_a_forgotten_environment_starts_like_any_other():
    """From the same distribution, not from zero."""
    noise = CorrelatedNoise(1, seeded(), 0.95)
    noise.sample(4000)
    noise.reset(np.ones(4000, dtype=bool))
    assert noise.sample(4000).std().item() == pytest.approx(1, abs=0.05)


# --- noisy agent ---------------------------------------------------------------------------------


class Still:
    """Stands in for a planning agent: always the same action."""

    def __init__(self, action):
        self.action, self.told = action, []

    def act(self, obs):
        return np.full((len(obs), 1), self.action, dtype=np.float32)

    def reset(self, ended=None):
        self.told.append(ended)


def still(action=0.5):
    return Still(action)


def test_exploration_noise_is_a_share_of_half_the_range():
    agent = NoisyAgent(PENDULUM, still(), seeded(), std=0.1)
    actions = agent.act(np.zeros((20_000, 3)))
    assert actions.shape == (20_000, 1)
    assert actions.dtype == np.float32
    assert actions.mean() == pytest.approx(0.5, abs=0.01)
    assert actions.std() == pytest.approx(0.2, rel=0.03)  # half the range is 2
    assert np.corrcoef(actions[:, 0], agent.act(np.zeros((20_000, 3)))[:, 0])[0, 1] < 0.05
    again = NoisyAgent(PENDULUM, still(), seeded(), std=0.1).act(np.zeros((20_000, 3)))
    np.testing.assert_array_equal(actions, again)


def test_exploration_stays_within_the_bounds_and_may_be_none():
    actions = NoisyAgent(PENDULUM, still(1.9), seeded(), std=1.0).act(np.zeros((500, 3)))
    assert all(PENDULUM.action_space.contains(action) for action in actions)
    assert (actions == 2).mean() > 0.3
    assert (actions == -2).any()
    calm = NoisyAgent(PENDULUM, still(), seeded(), std=0.0).act(np.zeros((5, 3)))
    np.testing.assert_array_equal(calm, still().act(np.zeros((5, 3))))


def test_noisy_agent_passes_on_what_ended():
    inner = still()
    agent = NoisyAgent(PENDULUM, inner, seeded(), std=0.3, correlation=0.5)
    assert agent.noise.correlation == 0.5
    ended = np.array([True, False])
    agent.act(np.zeros((2, 3)))
    agent.reset()
    agent.reset(ended)
    assert inner.told[0] is None
    assert inner.told[1] is ended


@pytest.mark.parametrize("std", [-0.1, np.inf, np.nan])
def test_noise_that_makes_no_sense(std):
    with pytest.raises(ValueError, match=f"NoisyAgent: expected std >= 0, got {std}"):
        NoisyAgent(PENDULUM, still(), seeded(), std=std)


def test_any_agent_can_be_noisy():
    """A policy, another noisy agent, and one that plans; the noise is of its own generator."""
    obs = start_states(PENDULUM, 5).astype(np.float32)
    planning = MPCAgent(PENDULUM, PENDULUM.true_dynamics, planner(PENDULUM))
    policy = Policy(PENDULUM, obs, seeded())
    for agent in (planning, policy, NoisyAgent(PENDULUM, policy, seeded(3), std=0.1)):
        noisy = NoisyAgent(PENDULUM, agent, seeded(1), std=0.3)
        actions = noisy.act(obs)
        assert actions.shape == (5, 1) and actions.dtype == np.float32
        assert all(PENDULUM.action_space.contains(action) for action in actions)
    calm = NoisyAgent(PENDULUM, policy, seeded(1), std=0.0)
    np.testing.assert_array_equal(calm.act(obs), policy.act(obs))


def test_noise_on_discrete_actions():
    agent = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE))
    with pytest.raises(TypeError, match=r"NoisyAgent: expected continuous actions, got Discrete"):
        NoisyAgent(CARTPOLE, agent, seeded(), std=0.1)


# --- planning agent ------------------------------------------------------------------------------


def test_planning_with_the_truth_balances_the_pole():
    agent = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE))
    assert evaluate(CARTPOLE, agent, num_episodes=1).tolist() == [500]
    assert agent.num_failed == 0
    by_chance = evaluate(CARTPOLE, RandomAgent(CARTPOLE.action_space, seeded()), num_episodes=5)
    assert by_chance.max() < 200


@pytest.mark.parametrize("task", [CARTPOLE, PENDULUM], ids=lambda task: task.env_id)
def test_acts_by_the_first_action_of_the_best_plan(task):
    """As found by scoring the same candidates one by one."""
    obs = start_states(task, 4).astype(np.float32)
    config = {"horizon": 6, "population_size": 20}
    actions = MPCAgent(task, task.true_dynamics, planner(task, **config)).act(obs)
    candidates = task.actions.uniform((4, 20, 6), seeded())
    for b in range(4):
        scores = [
            rollout_returns(
                task.true_dynamics,
                torch.tensor(obs[b : b + 1]),
                candidates[b, n][None, None],
                objective=task.objective,
            ).item()
            for n in range(20)
        ]
        best = candidates[b, int(np.argmax(scores)), 0]
        np.testing.assert_array_equal(actions[b], task.actions.decode(best))
    assert all(task.action_space.contains(action) for action in actions)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": None},
        {"objective": lambda obs, action, step: step.next_obs[..., 1]},
        {"imagination": Imagination(discount=0.5)},
        {"terminal_value": lambda obs: 10 * obs[..., 1]},
    ],
)
def test_every_setting_makes_a_difference(changes):
    obs = start_states(CARTPOLE, 200).astype(np.float32)
    config = {"horizon": 4, "population_size": 8}
    actions = [
        MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE, **config), **c).act(obs)
        for c in ({}, changes)
    ]
    assert (actions[0] != actions[1]).any()


def test_plan_is_what_act_begins_with():
    obs = start_states(CARTPOLE, 3)
    planned, acted = (
        MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE, horizon=7)) for _ in range(2)
    )
    plan = planned.plan(obs)
    assert plan.actions.shape == (3, 7, 2)
    np.testing.assert_array_equal(plan.actions[:, 0].argmax(-1), acted.act(obs))
    again = rollout_returns(
        CARTPOLE.true_dynamics, torch.tensor(obs).float(), plan.actions[:, None],
        objective=CARTPOLE.objective,
    )  # fmt: skip
    torch.testing.assert_close(plan.best_return, again[:, 0])


def test_plans_with_the_model_that_it_is_given_meanwhile():
    """A fitted model stays as it is: a further fit is another model."""
    learner = EnsembleModel(CARTPOLE, seeded(), DynamicsConfig(max_updates=1))
    with pytest.raises(TypeError, match=r"MPCAgent: .* got EnsembleModel\. Pass what fit returns"):
        MPCAgent(CARTPOLE, learner, planner(CARTPOLE))
    data = collect_episodes(
        "CartPole-v1", RandomAgent(CARTPOLE.action_space, seeded()), num_episodes=2, seed=0
    )
    agent = MPCAgent(CARTPOLE, learner.fit(data), planner(CARTPOLE))
    obs = start_states(CARTPOLE, 2)
    assert agent.act(obs).shape == (2,)
    agent.model = CARTPOLE.true_dynamics
    agent.planner.generator.manual_seed(0)
    new = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE))
    np.testing.assert_array_equal(agent.act(obs), new.act(obs))


def test_failed_candidates_are_counted():
    def diverging(obs, action):
        step = CARTPOLE.true_step(obs, action)
        return step._replace(reward=torch.where(action[..., 0] == 1, step.reward, torch.nan))

    config = {"horizon": 1, "population_size": 50}
    agent = MPCAgent(CARTPOLE, TrueDynamics(diverging), planner(CARTPOLE, **config))
    assert agent.act(np.zeros((3, 4), np.float32)).tolist() == [0, 0, 0]
    num_pushes_right = CARTPOLE.actions.uniform((3, 50, 1), seeded())[..., 1].sum()
    assert agent.num_failed == num_pushes_right > 0


def test_all_failed_candidates_name_their_environment():
    def fails_on_the_right(obs, action):
        step = CARTPOLE.true_step(obs, action)
        return step._replace(reward=torch.where(obs[..., 0] > 1, torch.nan, step.reward))

    agent = MPCAgent(CARTPOLE, TrueDynamics(fails_on_the_right), planner(CARTPOLE))
    with pytest.raises(RuntimeError, match="candidates of environment 1"):
        agent.act(np.array([[0, 0, 0, 0], [2, 0, 0, 0]], np.float32))


@pytest.mark.parametrize("broken", ["next_obs", "terminated"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_plan_through_nowhere_never_wins(broken, value):
    """With a constant reward its return stays finite, and better than that of an early end."""

    def diverges_on_the_right(obs, action):
        step = CARTPOLE.true_step(obs, action)
        right, part = action[..., 1] == 1, getattr(step, broken)
        right = right[..., None] if part.ndim > right.ndim else right
        return step._replace(**{broken: torch.where(right, value, part)})

    agent = MPCAgent(CARTPOLE, TrueDynamics(diverges_on_the_right),
                     planner(CARTPOLE, horizon=1, population_size=50), objective=None)  # fmt: skip
    plan = agent.plan(np.zeros((3, 4), np.float32))
    assert plan.actions[..., 1].sum() == 0
    assert agent.num_failed > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_observations_that_are_not_finite(value):
    agent = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE), objective=None)
    for name in ("act", "plan"):
        says = rf"MPCAgent.{name}: .*finite observations.*row 1\."
        with pytest.raises(ValueError, match=says):
            getattr(agent, name)(np.array([[0] * 4, [0, 0, value, 0]], np.float32))


def test_objectives_of_the_wrong_shape():
    """Broadcast in silence, all plans would tie."""
    obs = np.zeros((1, 4), np.float32)
    for wrong in (torch.mean, torch.clone):
        settings = {
            "objective": lambda obs, action, step, wrong=wrong: wrong(step.next_obs),
            "terminal_value": lambda obs, wrong=wrong: wrong(obs),
        }
        for name, function in settings.items():
            agent = MPCAgent(
                CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE), **{name: function}
            )
            with pytest.raises(ValueError, match=f"expected the {name.replace('_', ' ')} to ret"):
                agent.plan(obs)


def test_a_planner_for_another_action_space():
    with pytest.raises(ValueError, match=r"MPCAgent: expected a planner for Discrete\(2\)"):
        MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(PENDULUM))


class Watched(ICEM):
    """Counts its starts, and keeps what it is told of ends."""

    def start(self, num_envs):
        self.starts = [*getattr(self, "starts", []), num_envs]
        return super().start(num_envs)

    def restart(self, state, ended):
        self.told = [*getattr(self, "told", []), ended.tolist()]
        return super().restart(state, ended)


def test_reset_reaches_the_plans():
    search = Watched(PENDULUM.action_space, seeded(), ICEMConfig(horizon=5, population_size=12))
    agent = MPCAgent(PENDULUM, PENDULUM.true_dynamics, search)
    obs = start_states(PENDULUM, 2)
    agent.reset()
    agent.reset(np.array([True, False]))  # before anything was planned there is nothing to forget
    agent.act(obs)
    kept = agent.state
    agent.reset(np.array([True, False]))
    assert (search.starts, search.told) == ([2], [[True, False]])
    assert torch.equal(agent.state.mean[0], search.init_mean)
    assert torch.equal(agent.state.mean[1], kept.mean[1])
    agent.act(obs)
    assert search.starts == [2]
    agent.reset()
    assert agent.state is None
    agent.act(obs[:1])
    assert search.starts == [2, 1]


@pytest.mark.parametrize("kind", [RandomShooting, CEM, ICEM, MPPI])
def test_another_number_of_environments_for_what_remembers_nothing(kind):
    """Nobody's plan could go to another: it acts in the others as a new agent does."""
    config = kind.Config(**({} if kind is RandomShooting else {"warm_start": False}))
    used, new = (
        MPCAgent(PENDULUM, PENDULUM.true_dynamics, kind(PENDULUM.action_space, seeded(), config))
        for _ in range(2)
    )
    obs = start_states(PENDULUM, 3)
    used.act(obs)
    used.planner.generator.manual_seed(0)
    assert not used.planner.remembers
    np.testing.assert_array_equal(used.act(obs[:2]), new.act(obs[:2]))


@pytest.mark.parametrize("kind", [CEM, ICEM, MPPI])
def test_another_number_of_environments(kind):
    """Silence would hand one environment's plan to another."""
    agent = MPCAgent(PENDULUM, PENDULUM.true_dynamics, kind(PENDULUM.action_space, seeded()))
    obs = start_states(PENDULUM, 3)
    agent.act(obs)
    for name in ("act", "plan"):
        says = rf"MPCAgent.{name}: expected the 3 environments of the last call, got 2\. Call reset"
        with pytest.raises(ValueError, match=says):
            getattr(agent, name)(obs[:2])
    agent.act(obs)
    with pytest.raises(ValueError, match=r"restart: expected ended of shape \(3,\)"):
        agent.reset(np.array([True, False]))
    agent.reset()
    assert agent.act(obs[:2]).shape == (2, 1)


def test_agents_may_share_a_planner():
    """What each of them carries on is its own."""
    search = ICEM(PENDULUM.action_space, seeded(), ICEMConfig(horizon=5, population_size=12))
    one, other = (MPCAgent(PENDULUM, PENDULUM.true_dynamics, search) for _ in range(2))
    one.act(start_states(PENDULUM, 3))
    other.act(start_states(PENDULUM, 2))
    assert (len(one.state), len(other.state)) == (3, 2)
    kept = one.state
    other.reset()
    assert one.state is kept


class FailsOnCommand:
    """The truth, until it is told how to fail."""

    def __init__(self):
        self.how = None

    def step(self, obs, action):
        step = PENDULUM.true_step(obs, action)
        if self.how is None:
            return step
        if isinstance(self.how, BaseException):
            raise self.how
        return step._replace(reward=torch.full_like(step.reward, torch.nan))


@pytest.mark.parametrize("kind", [RandomShooting, CEM, ICEM, MPPI])
@pytest.mark.parametrize(
    ("how", "error"),
    [("all failed", RuntimeError), (KeyError("mine"), KeyError),
     (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["all failed", "own error", "interrupt"],
)  # fmt: skip
def test_a_plan_that_failed_leaves_the_agent_as_it_was(kind, how, error):
    """It goes on with the last plan that was made."""
    obs, agents = start_states(PENDULUM, 3), []
    for _ in range(2):
        agents.append(MPCAgent(PENDULUM, FailsOnCommand(), kind(PENDULUM.action_space, seeded())))
        agents[-1].act(obs)
    disturbed, undisturbed = agents
    kept, disturbed.model.how = disturbed.state, how
    with pytest.raises(error):
        disturbed.act(obs)
    assert disturbed.state is kept and disturbed.num_failed == 0
    disturbed.model.how = None
    for agent in agents:
        agent.planner.generator.manual_seed(1)
    np.testing.assert_array_equal(disturbed.act(obs), undisturbed.act(obs))


def test_an_agent_that_failed_at_first_has_no_past():
    model = FailsOnCommand()
    agent = MPCAgent(PENDULUM, model, ICEM(PENDULUM.action_space, seeded()))
    model.how = "all failed"
    with pytest.raises(RuntimeError, match=r"ICEM.plan: .*environment 0"):
        agent.act(start_states(PENDULUM, 3))
    assert agent.state is None
    model.how = None
    assert agent.act(start_states(PENDULUM, 2)).shape == (2, 1)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 5), (1, 2, 4), ()])
def test_observations_of_the_wrong_shape(shape):
    """One without its batch axis, and one of another environment, among them."""
    agent = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE))
    for name in ("act", "plan"):
        says = rf"MPCAgent.{name}: expected observations \[B, 4\], got shape "
        with pytest.raises(ValueError, match=says) as e:
            getattr(agent, name)(np.zeros(shape, np.float32))
        assert f"got shape {shape}" in str(e.value)
        assert ("pass obs[None]" in str(e.value)) == (shape == (4,))
        assert ("another environment" in str(e.value)) == (shape != (4,))


@pytest.mark.parametrize(
    ("obs", "says"),
    [
        ([[0.0] * 4], r"got list\. Pass np.array\(obs\)"),
        (((0.0,) * 4,), r"got tuple\. Pass np.array\(obs\)"),
        (torch.zeros(1, 4), r"got Tensor\. Pass obs.numpy\(\)"),
        (None, "got NoneType"),
        (0.0, "got float"),
        (np.zeros((1, 4), object), "as numbers, got an array of object"),
        (np.full((1, 4), "left"), "as numbers, got an array of <U4"),
        (np.zeros((1, 4), complex), "as numbers, got an array of complex"),
    ],
)
@pytest.mark.parametrize("name", ["act", "plan"])
def test_observations_of_another_kind(obs, says, name):
    agent = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE))
    with pytest.raises(TypeError, match=f"MPCAgent.{name}: expected observations .*{says}"):
        getattr(agent, name)(obs)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, bool])
def test_observations_may_be_any_real_numbers(dtype):
    agent = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE))
    assert agent.act(np.zeros((2, 4), dtype)).shape == (2,)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"objective": "margin"}, "objective as a function, .* got 'margin'"),
        ({"objective": 1.0}, "objective as a function, .* got 1.0"),
        ({"imagination": 0.9}, "an Imagination, got 0.9"),
        ({"imagination": {"discount": 0.9}}, "an Imagination, got {'discount'"),
        ({"imagination": None}, "an Imagination, got None"),
        ({"model": None}, "a model with a method `step`, got NoneType"),
        ({"model": CARTPOLE}, "a model with a method `step`, got Task"),
        ({"model": CARTPOLE.true_step}, "a model with a method `step`, got function"),
        ({"planner": None}, "a planner such as RandomShooting, got None"),
        ({"planner": RandomShooting}, "a planner such as RandomShooting, got <class"),
        ({"planner": RandomShootingConfig()}, "a planner such as RandomShooting, got RandomS"),
    ],
)
def test_settings_that_make_no_sense(settings, says):
    parts = {"model": CARTPOLE.true_dynamics, "planner": planner(CARTPOLE)} | settings
    with pytest.raises(TypeError, match=f"MPCAgent: expected {says}"):
        MPCAgent(CARTPOLE, **parts)


@pytest.mark.parametrize("name", ["discount", "propagation", "spread_weight", "polcy"])
def test_settings_of_other_names(name):
    """How to imagine is said by an Imagination, and a misspelt name never goes unseen."""
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE), **{name: 1})


def test_model_of_another_environment():
    data = collect_episodes(
        "Pendulum-v1", RandomAgent(PENDULUM.action_space, seeded()), num_episodes=2, seed=0
    )
    config = DynamicsConfig(num_members=2, max_updates=1)
    model = EnsembleModel(PENDULUM, seeded(), config).fit(data)
    agent = MPCAgent(CARTPOLE, model, planner(CARTPOLE))
    with pytest.raises(ValueError, match=r"obs \[\(E,\) K, 3\] and action .* 1\]"):
        agent.act(np.zeros((1, 4), np.float32))


def test_agent_hands_on_how_to_imagine():
    """All of it arrives: each setting changes what a plan is said to return."""
    data = collect_episodes(
        "Pendulum-v1", RandomAgent(PENDULUM.action_space, seeded()), num_episodes=2, seed=0
    )
    config = DynamicsConfig(num_members=2, max_updates=20, gaussian=True, angles=())
    model = EnsembleModel(PENDULUM, seeded(), config).fit(data)

    def promised(**how):
        search = planner(PENDULUM, horizon=8, population_size=1)
        agent = MPCAgent(PENDULUM, model, search, Imagination(**how))
        return agent.plan(start_states(PENDULUM, 3)).best_return

    base = promised()
    torch.testing.assert_close(base, promised(num_particles=8, propagation="tsinf"))
    for how in (
        {"discount": 0.9},
        {"spread_weight": -1.0},
        {"generator": seeded(1)},
        {"propagation": "ts1", "generator": seeded(1)},
        {"propagation": "expectation"},
    ):
        assert not torch.allclose(base, promised(**how), atol=1e-6, rtol=0)


# --- a policy and a planner together -------------------------------------------------------------


def test_a_policy_proposes_what_it_would_do():
    start = start_states(PENDULUM, 3).astype(np.float32)
    policy = Policy(PENDULUM, start, seeded(3), hidden_sizes=(16,))
    with torch.no_grad():
        policy.network.weights[-1].normal_(std=0.1, generator=seeded(4))
    search = ICEM(PENDULUM.action_space, seeded(), ICEMConfig(horizon=6, population_size=10))
    agent = MPCAgent(PENDULUM, PENDULUM.true_dynamics, search, policy=policy)
    obs, expected = torch.tensor(start), []
    proposal = agent._proposal(policy, obs)
    with torch.no_grad():
        for _ in range(6):
            expected.append(policy.action(obs))
            obs = PENDULUM.true_step(obs, expected[-1]).next_obs
    torch.testing.assert_close(proposal, torch.stack(expected, 1))
    returns = rollout_returns(PENDULUM.true_dynamics, torch.tensor(start), proposal[:, None])
    assert (agent.plan(start).best_return >= returns[:, 0] - 1e-4).all()


def test_the_proposal_reaches_the_planner():
    """One candidate, and that is the policy's."""

    class Left:
        def action(self, obs):
            return torch.full((*obs.shape[:-1], 1), -1.5)

    config = CEMConfig(population_size=1, num_elites=1, num_iterations=1, execute="best")
    search = CEM(PENDULUM.action_space, seeded(), config)
    obs = start_states(PENDULUM, 3)
    agent = MPCAgent(PENDULUM, PENDULUM.true_dynamics, search, policy=Left())
    for _ in range(2):
        assert agent.act(obs).tolist() == [[-1.5]] * 3
