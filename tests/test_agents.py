"""Agents: imagined returns equal real ones, and planning with the truth balances the pole."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl_helpers import agents
from mbrl_helpers.agents import MPCAgent, RandomAgent, rollout_returns
from mbrl_helpers.data import collect_episodes
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import (
    CARTPOLE_LIMITS,
    Step,
    TrueDynamics,
    cartpole_margin,
    decode_actions,
    get_task,
)
from mbrl_helpers.planners import RandomShooting, RandomShootingConfig, sample_actions
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


# --- imagined returns ----------------------------------------------------------------------------


def real_return(env, obs, plan, objective, terminal_value, discount):
    """What Gymnasium pays for a plan, played from obs until it ends."""
    if len(obs) == 4:
        env.state, env.steps_beyond_terminated = obs, None
    else:
        env.state = np.array([np.arctan2(obs[1], obs[0]), obs[2]])
    total = 0.0
    for t, action in enumerate(plan):
        obs, reward, terminated, _, _ = env.step(action)
        total += discount**t * objective(obs, reward)
        if terminated:
            return total
    return total + discount ** len(plan) * terminal_value(obs)


def in_numpy(obs, reward):
    """The margin once more, from its definition."""
    return reward * (1 - 0.3 * sum((obs[[0, 2]] / CARTPOLE_LIMITS) ** 2))


@pytest.mark.parametrize("rows_at_once", [512, 1, 7])
@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("with_terminal_value", [False, True])
@pytest.mark.parametrize(
    ("task", "objective", "in_the_loop"),
    [
        (CARTPOLE, None, lambda obs, reward: reward),
        (CARTPOLE, cartpole_margin, in_numpy),
        (PENDULUM, None, lambda obs, reward: reward),
        (PENDULUM, lambda obs, action, step: step.next_obs[..., 0], lambda obs, reward: obs[0]),
    ],
)
def test_true_dynamics_imagine_what_gymnasium_pays(
    monkeypatch, task, objective, in_the_loop, with_terminal_value, discount, rows_at_once
):
    """Rewards count until the end; what lies beyond the horizon only for those still running."""
    monkeypatch.setattr(agents, "ROWS_AT_ONCE", rows_at_once)
    obs = start_states(task, 5)
    plans = sample_actions(task.action_space, (5, 6, 20), seeded())
    value = (lambda obs: 3 + obs[..., 0]) if with_terminal_value else None
    returns = rollout_returns(
        task.true_dynamics, torch.tensor(obs).float(), plans,
        objective=objective, terminal_value=value, discount=discount,
    )  # fmt: skip
    env = gym.make(task.env_id).unwrapped
    env.reset(seed=0)
    played = decode_actions(task.action_space, plans)
    expected = [
        [real_return(env, o, p, in_the_loop, value or (lambda obs: 0), discount) for p in row]
        for o, row in zip(obs, played, strict=True)
    ]
    np.testing.assert_allclose(returns, expected, rtol=1e-4, atol=1e-4)
    if task is CARTPOLE and objective is None and discount == 1 and not with_terminal_value:
        assert returns.min() < 20 == returns.max()  # some ended, some did not


class Members:
    """Three members that disagree on where it goes, what it pays, and when it ends."""

    num_members = 3

    def step(self, obs, action):
        e = torch.arange(3.0)[:, None]
        next_obs = obs + (e + 1)[..., None] * action
        return Step(next_obs, next_obs[..., 0] + 100 * e, (next_obs[..., 0] > 2).float() * 0.6)


@pytest.mark.parametrize("rows_at_once", [512, 1, 5])
def test_each_member_imagines_its_own_future(monkeypatch, rows_at_once):
    """And the result is their mean, however the candidates are cut into chunks."""
    monkeypatch.setattr(agents, "ROWS_AT_ONCE", rows_at_once)
    obs = torch.randn(2, 1, generator=seeded())
    actions = torch.randn(2, 4, 6, 1, generator=seeded(1))
    returns = rollout_returns(Members(), obs, actions, discount=0.9)
    for b in range(2):
        for n in range(4):
            totals = []
            for e in range(3):
                x, total = float(obs[b]), 0.0
                for t in range(6):
                    x += (e + 1) * float(actions[b, n, t])
                    total += 0.9**t * (x + 100 * e)
                    if x > 2:
                        break
                totals.append(total)
            assert returns[b, n].item() == pytest.approx(np.mean(totals), rel=1e-4)


def test_a_learned_model_imagines_row_by_row_the_same():
    """Environments, candidates and members do not mix."""
    agent = RandomAgent(CARTPOLE.action_space, seeded())
    data = collect_episodes("CartPole-v1", agent, num_episodes=3, seed=0)
    config = DynamicsConfig(num_members=3, max_updates=50, linear_part=False)
    model = EnsembleModel(4, CARTPOLE.action_space, seeded(), config).fit(data)
    obs = torch.tensor(data.obs[:3])
    actions = sample_actions(CARTPOLE.action_space, (3, 4, 5), seeded())
    whole = rollout_returns(model, obs, actions, objective=cartpole_margin)
    for b in range(3):
        for n in range(4):
            state, total, running = obs[b].expand(3, 1, 4), torch.zeros(3), torch.ones(3)
            for t in range(5):
                action = actions[b, n, t].expand(3, 1, 2)
                step = model.step(state, action)
                total += running * cartpole_margin(state, action, step)[:, 0]
                running *= step.terminated[:, 0] < 0.5
                state = step.next_obs
            torch.testing.assert_close(whole[b, n], total.mean())


@pytest.mark.parametrize(
    ("probability", "counted"), [(0.0, 10), (0.2, 10), (0.49, 10), (0.51, 1), (1.0, 1)]
)
def test_small_probabilities_of_an_end_do_not_pile_up(probability, counted):
    def step(obs, action):
        one = torch.ones(obs.shape[:-1])
        return Step(obs, one, probability * one)

    returns = rollout_returns(TrueDynamics(step), torch.zeros(1, 1), torch.zeros(1, 2, 10, 1))
    assert returns.tolist() == [[counted, counted]]


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
    candidates = sample_actions(task.action_space, (4, 20, 6), seeded())
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
        np.testing.assert_array_equal(actions[b], decode_actions(task.action_space, best))
    assert all(task.action_space.contains(action) for action in actions)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": None},
        {"objective": lambda obs, action, step: step.next_obs[..., 1]},
        {"discount": 0.5},
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
    torch.testing.assert_close(plan.returns, again[:, 0])


def test_sees_a_model_that_was_fitted_meanwhile():
    model = EnsembleModel(4, CARTPOLE.action_space, seeded(), DynamicsConfig(max_updates=1))
    agent = MPCAgent(CARTPOLE, model, planner(CARTPOLE))
    obs = start_states(CARTPOLE, 2)
    with pytest.raises(RuntimeError, match="expected a fitted model"):
        agent.act(obs)
    data = collect_episodes(
        "CartPole-v1", RandomAgent(CARTPOLE.action_space, seeded()), num_episodes=2, seed=0
    )
    model.fit(data)
    assert agent.act(obs).shape == (2,)


def test_failed_candidates_are_counted():
    def diverging(obs, action):
        step = CARTPOLE.true_step(obs, action)
        return step._replace(reward=torch.where(action[..., 0] == 1, step.reward, torch.nan))

    config = {"horizon": 1, "population_size": 50}
    agent = MPCAgent(CARTPOLE, TrueDynamics(diverging), planner(CARTPOLE, **config))
    assert agent.act(np.zeros((3, 4), np.float32)).tolist() == [0, 0, 0]
    num_pushes_right = sample_actions(CARTPOLE.action_space, (3, 50, 1), seeded())[..., 1].sum()
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
    with pytest.raises(ValueError, match=r"MPCAgent.plan: .*finite observations.*environment 1\."):
        agent.plan(np.array([[0] * 4, [0, 0, value, 0]], np.float32))


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


def test_reset_reaches_the_planner():
    told = []
    search = planner(CARTPOLE)
    search.reset = told.append
    agent = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, search)
    agent.reset()
    agent.reset(np.array([True, False]))
    assert told[0] is None
    assert told[1].tolist() == [True, False]


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 5), (1, 2, 4), ()])
def test_observations_of_the_wrong_shape(shape):
    """One without its batch axis, and one of another environment, among them."""
    agent = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE))
    with pytest.raises(ValueError, match=r"\[B, 4\] of CartPole-v1, got .*pass obs\[None\]") as e:
        agent.act(np.zeros(shape, np.float32))
    assert f"got shape {shape}" in str(e.value)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"discount": 0.0}, ValueError, "0 < discount <= 1, got 0.0"),
        ({"discount": 1.5}, ValueError, "0 < discount <= 1, got 1.5"),
        ({"objective": "margin"}, TypeError, "objective as a function, .* got 'margin'"),
    ],
)
def test_settings_that_make_no_sense(settings, error, says):
    with pytest.raises(error, match=f"MPCAgent: expected {says}"):
        MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE), **settings)


def test_model_of_another_environment():
    data = collect_episodes(
        "Pendulum-v1", RandomAgent(PENDULUM.action_space, seeded()), num_episodes=2, seed=0
    )
    config = DynamicsConfig(num_members=2, max_updates=1)
    model = EnsembleModel(3, PENDULUM.action_space, seeded(), config).fit(data)
    agent = MPCAgent(CARTPOLE, model, planner(CARTPOLE))
    with pytest.raises(ValueError, match=r"obs \[\(E,\) K, 3\] and action .* 1\]"):
        agent.act(np.zeros((1, 4), np.float32))
