"""Agents: imagined returns equal real ones, and planning with the truth balances the pole."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl_helpers import agents
from mbrl_helpers.agents import (
    CorrelatedNoise,
    MPCAgent,
    NoisyAgent,
    RandomAgent,
    rollout_returns,
)
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


@pytest.mark.parametrize("rows_at_once", [512, 5])
def test_particles_of_a_model_without_noise_tell_nothing_new(monkeypatch, rows_at_once):
    monkeypatch.setattr(agents, "ROWS_AT_ONCE", rows_at_once)
    obs = torch.randn(2, 1, generator=seeded())
    actions = torch.randn(2, 4, 6, 1, generator=seeded(1))
    plain = rollout_returns(Members(), obs, actions)
    for spread_weight in (0.0, -1.5):
        few, many = (
            rollout_returns(Members(), obs, actions, num_particles=num, spread_weight=spread_weight)
            for num in (3, 12)
        )
        torch.testing.assert_close(few, many)
        assert torch.equal(few, plain) == (spread_weight == 0)


class NoisyMembers:
    """Two members that pay what a coin of their own size shows."""

    num_members = 2

    def step(self, obs, action, generator=None):
        next_obs = obs + 0
        if generator is not None:
            noise = torch.randn(obs.shape, generator=generator)
            next_obs = next_obs + torch.tensor([1.0, 3.0])[:, None, None] * noise
        reward = next_obs[..., 0] + action[..., 0]
        return Step(next_obs, reward, torch.zeros(obs.shape[:-1]))


@pytest.mark.parametrize("num_particles", [2, 8, 32])
def test_particles_average_the_noise_away(num_particles):
    """Each imagines its own; that of a candidate is not mixed with another's."""
    obs, actions = torch.zeros(1, 1), torch.zeros(1, 4000, 1, 1)
    actions[0, ::2] = 100.0
    returns = rollout_returns(
        NoisyMembers(), obs, actions, num_particles=num_particles, generator=seeded()
    )
    rest = returns[0] - actions[0, :, 0, 0]
    # The mean of P/2 particles of variance 1 and P/2 of variance 9.
    expected = np.sqrt((1 + 9) / (2 * num_particles))
    assert rest.std().item() == pytest.approx(expected, rel=0.06)
    assert abs(rest.mean().item()) < 5 * expected / np.sqrt(4000)


@pytest.mark.parametrize("weight", [-2.0, 0.5])
@pytest.mark.parametrize("rows_at_once", [512, 3])
def test_spread_of_the_members_counts(monkeypatch, weight, rows_at_once):
    """Against a loop: mean of the members' returns, and their standard deviation."""
    monkeypatch.setattr(agents, "ROWS_AT_ONCE", rows_at_once)
    obs = torch.randn(2, 1, generator=seeded())
    actions = torch.randn(2, 4, 5, 1, generator=seeded(1))
    found = rollout_returns(Members(), obs, actions, discount=0.9, spread_weight=weight)
    for b in range(2):
        for n in range(4):
            totals = []
            for e in range(3):
                x, total = float(obs[b]), 0.0
                for t in range(5):
                    x += (e + 1) * float(actions[b, n, t])
                    total += 0.9**t * (x + 100 * e)
                    if x > 2:
                        break
                totals.append(total)
            expected = np.mean(totals) + weight * np.std(totals)
            assert found[b, n].item() == pytest.approx(expected, rel=1e-4)


def test_spread_is_that_of_the_members_and_not_of_the_noise():
    """Members' returns are means over their particles."""
    obs, actions = torch.zeros(1, 1), torch.zeros(1, 3, 1, 1)
    how = {"num_particles": 4000, "spread_weight": 10.0, "generator": seeded()}
    assert (rollout_returns(NoisyMembers(), obs, actions, **how).abs() < 2).all()


@pytest.mark.parametrize(
    ("num", "error", "says"),
    [
        (4, ValueError, "num_particles as a multiple of the 3 members, got 4"),
        (2, ValueError, "num_particles as a multiple of the 3 members, got 2"),
        (0, ValueError, "num_particles >= 1, got 0"),
        (3.0, TypeError, "num_particles as an int, got 3.0"),
    ],
)
def test_numbers_of_particles_that_make_no_sense(num, error, says):
    with pytest.raises(error, match=f"rollout_returns: expected {says}"):
        rollout_returns(Members(), torch.zeros(1, 1), torch.zeros(1, 2, 3, 1), num_particles=num)


def test_agent_hands_on_how_to_imagine():
    """All of it arrives: each setting changes what a plan is said to return."""
    data = collect_episodes(
        "Pendulum-v1", RandomAgent(PENDULUM.action_space, seeded()), num_episodes=2, seed=0
    )
    config = DynamicsConfig(num_members=2, max_updates=20, gaussian=True)
    model = EnsembleModel(3, PENDULUM.action_space, seeded(), config).fit(data)

    def promised(**how):
        agent = MPCAgent(PENDULUM, model, planner(PENDULUM, horizon=8, population_size=1), **how)
        return agent.plan(start_states(PENDULUM, 3)).returns

    base = promised()
    torch.testing.assert_close(base, promised(num_particles=8, propagation="tsinf"))
    for how in (
        {"spread_weight": -1.0},
        {"generator": seeded(1)},
        {"propagation": "ts1", "generator": seeded(1)},
        {"propagation": "expectation"},
    ):
        assert not torch.allclose(base, promised(**how), atol=1e-6, rtol=0)


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
    with pytest.raises(ValueError, match="expected finite bounds, got Box"):
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
            agent = NoisyAgent(still(), rng, std=0.2, correlation=0.95)
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

    task, model = PENDULUM, PENDULUM.true_dynamics

    def __init__(self, action):
        self.action, self.told = action, []

    def act(self, obs):
        return np.full((len(obs), 1), self.action, dtype=np.float32)

    def reset(self, ended=None):
        self.told.append(ended)


def still(action=0.5):
    return Still(action)


def test_exploration_noise_is_a_share_of_half_the_range():
    agent = NoisyAgent(still(), seeded(), std=0.1)
    actions = agent.act(np.zeros((20_000, 3)))
    assert actions.shape == (20_000, 1)
    assert actions.dtype == np.float32
    assert actions.mean() == pytest.approx(0.5, abs=0.01)
    assert actions.std() == pytest.approx(0.2, rel=0.03)  # half the range is 2
    assert np.corrcoef(actions[:, 0], agent.act(np.zeros((20_000, 3)))[:, 0])[0, 1] < 0.05
    again = NoisyAgent(still(), seeded(), std=0.1).act(np.zeros((20_000, 3)))
    np.testing.assert_array_equal(actions, again)


def test_exploration_stays_within_the_bounds_and_may_be_none():
    actions = NoisyAgent(still(1.9), seeded(), std=1.0).act(np.zeros((500, 3)))
    assert all(PENDULUM.action_space.contains(action) for action in actions)
    assert (actions == 2).mean() > 0.3
    assert (actions == -2).any()
    calm = NoisyAgent(still(), seeded(), std=0.0).act(np.zeros((5, 3)))
    np.testing.assert_array_equal(calm, still().act(np.zeros((5, 3))))


def test_noisy_agent_passes_on_who_it_is():
    inner = still()
    agent = NoisyAgent(inner, seeded(), std=0.3, correlation=0.5)
    assert agent.model is inner.model
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
        NoisyAgent(still(), seeded(), std=std)


def test_noise_on_discrete_actions():
    agent = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner(CARTPOLE))
    with pytest.raises(TypeError, match=r"NoisyAgent: expected continuous actions, got Discrete"):
        NoisyAgent(agent, seeded(), std=0.1)


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
    with pytest.raises(ValueError, match=r"MPCAgent.plan: .*finite observations.*row 1\."):
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


@pytest.mark.parametrize("propagation", ["tsinf", "ts1", "expectation"])
def test_true_dynamics_take_the_settings_of_learned_ones(propagation):
    """So that the two can be swapped, to tell model error from search error."""
    task = get_task("Pendulum-v1")
    obs, actions = torch.tensor([[1.0, 0.0, 0.5]]), torch.zeros(1, 3, 4, 1)
    plain = rollout_returns(task.true_dynamics, obs, actions)
    noisy = rollout_returns(
        task.true_dynamics, obs, actions, propagation=propagation, generator=torch.Generator()
    )
    torch.testing.assert_close(noisy, plain)


def test_what_is_imagined_after_the_end_is_of_no_account():
    """NaN there must not fail a plan that has already reached its goal; before the end it must."""

    def step(obs, action):
        next_obs = obs + 1
        after = next_obs[..., 0] >= 2
        reward = torch.where(after, torch.nan, action[..., 0])
        return Step(next_obs, reward, (next_obs[..., 0] >= 1).float())

    model, obs = TrueDynamics(step), torch.zeros(1, 1)
    actions = torch.tensor([[[1.0], [5.0]], [[torch.nan], [5.0]]])[None]
    kwargs = {"terminal_value": lambda obs: torch.full(obs.shape[:-1], torch.nan)}
    for more in ({}, kwargs):
        returns = rollout_returns(model, obs, actions, **more)[0]
        assert returns[0] == 1 and returns[1].isnan()
