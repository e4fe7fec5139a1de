"""Imagining futures: returns equal real ones, members and particles, and rollouts that branch."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_helpers import futures
from mbrl_helpers.agents import MPCAgent, RandomAgent
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import CARTPOLE_LIMITS, TrueDynamics, cartpole_margin, get_task
from mbrl_helpers.futures import (
    Imagination,
    branch,
    imagined_returns,
    propagate,
    rollout,
    rollout_returns,
)
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.interfaces import Step
from mbrl_helpers.planners import RandomShooting, RandomShootingConfig
from mbrl_helpers.policies import Policy
from mbrl_helpers.uncertainty import disagreement

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


@pytest.fixture(scope="module")
def data():
    agent = RandomAgent(PENDULUM.action_space, seeded(1))
    return collect_episodes("Pendulum-v1", agent, num_episodes=2, seed=0)


@pytest.fixture(scope="module")
def model(data):
    config = DynamicsConfig(hidden_sizes=(16,), max_updates=200)
    return EnsembleModel(PENDULUM, seeded(2), config).fit(data)


@pytest.fixture
def policy(data):
    policy = Policy(PENDULUM, data.obs, seeded(3), hidden_sizes=(16,))
    with torch.no_grad():
        policy.network.weights[-1].normal_(std=0.1, generator=seeded(4))
    return policy


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
    monkeypatch.setattr(futures, "ROWS_AT_ONCE", rows_at_once)
    obs = start_states(task, 5)
    plans = task.actions.uniform((5, 6, 20), seeded())
    value = (lambda obs: 3 + obs[..., 0]) if with_terminal_value else None
    returns = rollout_returns(
        task.true_dynamics, torch.tensor(obs).float(), plans, Imagination(discount=discount),
        objective=objective, terminal_value=value,
    )  # fmt: skip
    env = gym.make(task.env_id).unwrapped
    env.reset(seed=0)
    played = task.actions.decode(plans)
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


def totals_in_a_loop(obs, actions, discount=0.9):
    """What each of the `Members` finds, for a start and actions [H, 1]."""
    totals = []
    for e in range(3):
        x, total = float(obs), 0.0
        for t in range(len(actions)):
            x += (e + 1) * float(actions[t])
            total += discount**t * (x + 100 * e)
            if x > 2:
                break
        totals.append(total)
    return totals


@pytest.mark.parametrize("rows_at_once", [512, 1, 5])
def test_each_member_imagines_its_own_future(monkeypatch, rows_at_once):
    """And the result is their mean, however the candidates are cut into chunks."""
    monkeypatch.setattr(futures, "ROWS_AT_ONCE", rows_at_once)
    obs = torch.randn(2, 1, generator=seeded())
    actions = torch.randn(2, 4, 6, 1, generator=seeded(1))
    returns = rollout_returns(Members(), obs, actions, Imagination(discount=0.9))
    for b in range(2):
        for n in range(4):
            expected = np.mean(totals_in_a_loop(obs[b], actions[b, n]))
            assert returns[b, n].item() == pytest.approx(expected, rel=1e-4)


def test_a_learned_model_imagines_row_by_row_the_same():
    """Environments, candidates and members do not mix."""
    agent = RandomAgent(CARTPOLE.action_space, seeded())
    data = collect_episodes("CartPole-v1", agent, num_episodes=3, seed=0)
    config = DynamicsConfig(num_members=3, max_updates=50, linear_part=False)
    model = EnsembleModel(CARTPOLE, seeded(), config).fit(data)
    obs = torch.tensor(data.obs[:3])
    actions = CARTPOLE.actions.uniform((3, 4, 5), seeded())
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


# --- gradients -----------------------------------------------------------------------------------

A = torch.tensor([[0.9, 0.2, 0.0], [0.0, 0.8, 0.1], [0.1, 0.0, 0.7]])
B = torch.tensor([[0.1], [0.0], [0.5]])


def linear_step(obs, action):
    """A known linear model with a quadratic reward of the state after the step."""
    next_obs = obs @ A.T + action @ B.T
    return Step(next_obs, -next_obs.square().sum(-1), torch.zeros_like(next_obs[..., 0]))


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_gradient_through_a_linear_model_is_the_closed_form(discount):
    gain = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    obs, horizon = torch.tensor([[1.0, -1.0, 0.5]]), 4
    returns = imagined_returns(
        TrueDynamics(linear_step), obs, [lambda o: o @ gain.T] * horizon,
        Imagination(discount=discount),
    )  # fmt: skip
    returns.sum().backward()
    # By hand: with M = A + B g, s_t = M^t s_0, and dM^t = sum_i M^(t-1-i) B dg M^i.
    m, s0 = A + B @ gain.detach(), obs[0]
    power = torch.linalg.matrix_power
    expected = torch.zeros(3)
    for t in range(1, horizon + 1):
        state = power(m, t) @ s0
        for i in range(t):
            left = -2 * discount ** (t - 1) * state @ power(m, t - 1 - i) @ B  # [1]
            expected += left * (power(m, i) @ s0)
    torch.testing.assert_close(gain.grad[0], expected)


def test_the_terminal_value_counts_and_has_a_gradient():
    gain = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    obs = torch.tensor([[1.0, -1.0, 0.5]])

    def value(state):
        return 3 * state[..., 0]

    with_value, without = (
        imagined_returns(
            TrueDynamics(linear_step), obs, [lambda o: o @ gain.T] * 2,
            Imagination(discount=0.5), terminal_value=terminal,
        )
        for terminal in (value, None)
    )  # fmt: skip
    m = A + B @ gain
    expected = 0.5**2 * 3 * (m @ m @ obs[0])[0]
    torch.testing.assert_close((with_value - without).sum(), expected)
    ours = torch.autograd.grad((with_value - without).sum(), gain, retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, gain))


# --- particles, noise and spread -----------------------------------------------------------------


@pytest.mark.parametrize("rows_at_once", [512, 5])
def test_particles_of_a_model_without_noise_tell_nothing_new(monkeypatch, rows_at_once):
    monkeypatch.setattr(futures, "ROWS_AT_ONCE", rows_at_once)
    obs = torch.randn(2, 1, generator=seeded())
    actions = torch.randn(2, 4, 6, 1, generator=seeded(1))
    plain = rollout_returns(Members(), obs, actions)
    for spread_weight in (0.0, -1.5):
        few, many = (
            rollout_returns(
                Members(), obs, actions,
                Imagination(num_particles=num, spread_weight=spread_weight),
            )
            for num in (3, 12)
        )  # fmt: skip
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
        NoisyMembers(), obs, actions,
        Imagination(num_particles=num_particles, generator=seeded()),
    )  # fmt: skip
    rest = returns[0] - actions[0, :, 0, 0]
    # The mean of P/2 particles of variance 1 and P/2 of variance 9.
    expected = np.sqrt((1 + 9) / (2 * num_particles))
    assert rest.std().item() == pytest.approx(expected, rel=0.06)
    assert abs(rest.mean().item()) < 5 * expected / np.sqrt(4000)


@pytest.mark.parametrize("weight", [-2.0, 0.5])
@pytest.mark.parametrize("rows_at_once", [512, 3])
def test_spread_of_the_members_counts(monkeypatch, weight, rows_at_once):
    """Against a loop: mean of the members' returns, and their standard deviation."""
    monkeypatch.setattr(futures, "ROWS_AT_ONCE", rows_at_once)
    obs = torch.randn(2, 1, generator=seeded())
    actions = torch.randn(2, 4, 5, 1, generator=seeded(1))
    how = Imagination(discount=0.9, spread_weight=weight)
    found = rollout_returns(Members(), obs, actions, how)
    for b in range(2):
        for n in range(4):
            totals = totals_in_a_loop(obs[b], actions[b, n])
            expected = np.mean(totals) + weight * np.std(totals)
            assert found[b, n].item() == pytest.approx(expected, rel=1e-4)


def test_spread_is_that_of_the_members_and_not_of_the_noise():
    """Members' returns are means over their particles."""
    obs, actions = torch.zeros(1, 1), torch.zeros(1, 3, 1, 1)
    how = Imagination(num_particles=4000, spread_weight=10.0, generator=seeded())
    assert (rollout_returns(NoisyMembers(), obs, actions, how).abs() < 2).all()


@pytest.mark.parametrize("propagation", ["tsinf", "ts1", "expectation"])
def test_true_dynamics_take_the_settings_of_learned_ones(propagation):
    """So that the two can be swapped, to tell model error from search error."""
    obs, actions = torch.tensor([[1.0, 0.0, 0.5]]), torch.zeros(1, 3, 4, 1)
    plain = rollout_returns(PENDULUM.true_dynamics, obs, actions)
    how = Imagination(propagation=propagation, generator=torch.Generator())
    torch.testing.assert_close(rollout_returns(PENDULUM.true_dynamics, obs, actions, how), plain)


@pytest.mark.parametrize("propagation", ["tsinf", "ts1", "expectation"])
def test_a_model_without_reward_imagines_with_an_objective(propagation):
    def no_reward(obs, action):
        return Step(obs + action, None, torch.zeros_like(obs[..., 0]))

    model, obs, actions = TrueDynamics(no_reward), torch.zeros(1, 1), torch.ones(1, 2, 3, 1)
    how = Imagination(propagation=propagation, generator=seeded())
    returns = rollout_returns(model, obs, actions, how, objective=lambda obs, a, step: obs[..., 0])
    assert returns.tolist() == [[3, 3]]
    assert rollout(model, obs, actions[0, :1], how).flatten().tolist() == [0, 1, 2, 3]
    says = "rollout_returns: expected the model's reward, got None"
    with pytest.raises(ValueError, match=says):
        rollout_returns(model, obs, actions, how)


@pytest.mark.parametrize("given", ["objective", "terminal_value"])
@pytest.mark.parametrize("value", [np.zeros((1, 5)), 1.0, [0.0]])
def test_numbers_that_are_no_tensors_are_refused(given, value):
    obs, actions = torch.tensor([[1.0, 0.0, 0.5]]), torch.zeros(1, 5, 4, 1)
    what = given.replace("_", " ")
    says = f"^rollout_returns: expected the {what} to return a torch tensor, got "
    with pytest.raises(TypeError, match=says):
        rollout_returns(PENDULUM.true_dynamics, obs, actions, **{given: lambda *now: value})


def test_the_noise_is_drawn_where_the_model_takes_some():
    """With the same generator the same; without one none; and none in the mean of the members."""
    obs, actions = torch.zeros(1, 1), torch.zeros(1, 5, 3, 1)

    def imagined(model, seed=None, **how):
        generator = None if seed is None else seeded(seed)
        before = None if seed is None else generator.get_state()
        returns = rollout_returns(model, obs, actions, Imagination(generator=generator, **how))
        drawn = seed is not None and not torch.equal(generator.get_state(), before)
        return returns, drawn

    none, _ = imagined(NoisyMembers())
    first, drawn = imagined(NoisyMembers(), 0)
    assert drawn and not none.any() and first.std() > 0
    assert torch.equal(first, imagined(NoisyMembers(), 0)[0])
    assert not torch.equal(first, imagined(NoisyMembers(), 1)[0])
    mean, drawn = imagined(NoisyMembers(), 0, propagation="expectation")
    assert torch.equal(mean, none) and not drawn
    assert not imagined(Members(), 0)[1]  # whose step takes no generator


def test_futures_start_where_they_are_told():
    """What is yielded is what each member was asked, and what it said."""
    obs, actions = torch.zeros(3, 2, 1), torch.ones(2, 4, 1)
    steps = list(propagate(Members(), obs, actions))
    assert len(steps) == 4
    for before, action, step in steps:
        assert before.shape == action.shape == step.next_obs.shape == (3, 2, 1)
        assert torch.equal(before, obs)
        obs = step.next_obs
    states = rollout(Members(), torch.zeros(2, 1), actions)
    assert states.shape == (3, 2, 5, 1)
    assert torch.equal(states[:, :, 4], obs)


# --- how to imagine: what makes no sense ---------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"discount": 0.0}, ValueError, r"discount in \(0, 1\], got 0.0"),
        ({"discount": -0.5}, ValueError, r"discount in \(0, 1\], got -0.5"),
        ({"discount": 1.5}, ValueError, r"discount in \(0, 1\], got 1.5"),
        ({"discount": 2}, ValueError, r"discount in \(0, 1\], got 2"),
        ({"discount": np.nan}, ValueError, r"discount in \(0, 1\], got nan"),
        ({"discount": "0.9"}, TypeError, "discount as a number, got '0.9'"),
        ({"discount": None}, TypeError, "discount as a number, got None"),
        ({"discount": torch.tensor(0.9)}, TypeError, "discount as a number, got tensor"),
        ({"spread_weight": np.nan}, ValueError, "spread_weight .*, got nan"),
        ({"spread_weight": np.inf}, ValueError, "spread_weight .*, got inf"),
        ({"spread_weight": -np.inf}, ValueError, "spread_weight .*, got -inf"),
        ({"spread_weight": "1"}, TypeError, "spread_weight as a number, got '1'"),
        ({"propagation": "ts2"}, ValueError, r"propagation to be one of \('tsinf'.*, got ts2"),
        ({"propagation": None}, ValueError, "propagation to be one of .*, got None"),
        ({"propagation": "ts1"}, ValueError, "a generator that deals the members out for 'ts1'"),
        ({"num_particles": 0}, ValueError, "num_particles >= 1, got 0"),
        ({"num_particles": -3}, ValueError, "num_particles >= 1, got -3"),
        ({"num_particles": 2.5}, TypeError, "num_particles as an int, got 2.5"),
        ({"num_particles": 3.0}, TypeError, "num_particles as an int, got 3.0"),
        ({"num_particles": True}, TypeError, "num_particles as an int, got True"),
        ({"generator": 0}, TypeError, "generator as a torch.Generator, got 0"),
        ({"generator": np.random.default_rng(0)}, TypeError, "generator as a torch.Generator"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(settings, error, says):
    with pytest.raises(error, match=f"Imagination: expected {says}"):
        Imagination(**settings)


@pytest.mark.parametrize("name", ["discont", "particles", "gamma", "spread_weigth", "objective"])
def test_misspelt_settings_are_refused_at_once(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        Imagination(**{name: 1})


def test_settings_have_names_and_stay():
    with pytest.raises(TypeError, match="positional"):
        Imagination(0.9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Imagination().discount = 0.5
    assert dataclasses.replace(Imagination(discount=0.9), propagation="expectation").discount == 0.9
    with pytest.raises(ValueError, match="Imagination: expected discount"):
        dataclasses.replace(Imagination(), discount=2)


def test_the_ends_of_what_settings_may_be():
    for settings in (
        {"discount": 1}, {"discount": 1e-9}, {"discount": np.float32(0.5)}, {"num_particles": 1},
        {"num_particles": np.int64(3)}, {"spread_weight": -1e9}, {"spread_weight": 0},
        {"propagation": "ts1", "generator": seeded()},
    ):  # fmt: skip
        Imagination(**settings)


@pytest.mark.parametrize("num", [1, 2, 4, 7])
def test_particles_are_dealt_out_to_all_members(num):
    """Where the model is known first: at the agent, or at the call."""
    how = Imagination(num_particles=num)
    says = f"{{}}: expected num_particles as a multiple of the 3 members, got {num}"
    with pytest.raises(ValueError, match=says.format("rollout_returns")):
        rollout_returns(Members(), torch.zeros(1, 1), torch.zeros(1, 2, 3, 1), how)
    with pytest.raises(ValueError, match=says.format("MPCAgent")):
        MPCAgent(PENDULUM, Members(), planner(PENDULUM), how)


@pytest.mark.parametrize(
    ("obs", "actions"),
    [
        ((4,), (1, 2, 3, 2)),
        ((1, 4), (2, 3, 2)),
        ((1, 4), (9, 1, 3, 2)),  # broadcast in silence, nine environments would be one
        ((9, 4), (1, 1, 3, 2)),
        ((2, 4), (3, 2, 3, 2)),
        ((1, 1, 4), (1, 2, 3, 2)),
    ],
)
def test_shapes_that_do_not_belong_together(obs, actions):
    says = r"rollout_returns: expected obs \[B, O\] and actions \[B, N, H, A\], got "
    with pytest.raises(ValueError, match=says) as error:
        rollout_returns(CARTPOLE.true_dynamics, torch.zeros(obs), torch.zeros(actions))
    assert f"got {obs} and {actions}" in str(error.value)


@pytest.mark.parametrize(
    ("obs", "actions"),
    [((4,), (1, 3, 2)), ((1, 4), (3, 2)), ((1, 4), (9, 3, 2)), ((9, 4), (1, 3, 2)),
     ((1, 5, 4), (5, 3, 2))],
)  # fmt: skip
def test_shapes_of_single_futures_that_do_not_belong_together(obs, actions):
    for imagine in (imagined_returns, rollout):
        says = rf"{imagine.__name__}: expected obs \[K, O\] and actions \[K, H, A\], got "
        with pytest.raises(ValueError, match=says):
            imagine(CARTPOLE.true_dynamics, torch.zeros(obs), torch.zeros(actions))


def test_what_is_no_tensor_is_named():
    obs, actions = torch.zeros(1, 4), torch.zeros(1, 2, 3, 2)
    for wrong, name in (((obs.numpy(), actions), "obs"), ((obs, actions.numpy()), "actions")):
        says = rf"rollout_returns: expected {name} as a torch tensor, got ndarray.*as_tensor"
        with pytest.raises(TypeError, match=says):
            rollout_returns(CARTPOLE.true_dynamics, *wrong)
    with pytest.raises(TypeError, match="imagined_returns: expected obs as a torch tensor"):
        imagined_returns(CARTPOLE.true_dynamics, obs.numpy(), actions[0])


def test_functions_of_the_wrong_shape_are_named_by_what_was_called():
    """Broadcast in silence, all plans would tie."""
    obs, actions = torch.zeros(1, 4), torch.zeros(1, 2, 3, 2)
    for wrong in (torch.mean, torch.clone):
        how = {
            "objective": lambda obs, action, step, wrong=wrong: wrong(step.next_obs),
            "terminal_value": lambda obs, wrong=wrong: wrong(obs),
        }
        for name, function in how.items():
            says = f"{{}}: expected the {name.replace('_', ' ')} to return shape"
            with pytest.raises(ValueError, match=says.format("rollout_returns")):
                rollout_returns(CARTPOLE.true_dynamics, obs, actions, **{name: function})
            with pytest.raises(ValueError, match=says.format("imagined_returns")):
                imagined_returns(CARTPOLE.true_dynamics, obs, actions[0, :1], **{name: function})


# --- rollouts that branch ------------------------------------------------------------------------


def test_rollouts_branch_off_from_real_states_and_go_on(policy, model, data):
    obs = torch.tensor(data.obs[:7])
    batch = branch(model, policy, obs, 3, seeded())
    assert len(batch) == 21 and batch.imagined.all()
    assert torch.equal(batch.obs[:7], obs)
    assert torch.equal(batch.obs[7:], batch.next_obs[:-7])
    assert not batch.terminated.any()  # they were cut: more would have followed


def test_rollouts_in_the_truth_are_true(policy, data):
    batch = branch(PENDULUM.true_dynamics, policy, torch.tensor(data.obs[:7]), 3, seeded())
    step = PENDULUM.true_step(batch.obs, batch.action)
    torch.testing.assert_close(batch.next_obs, step.next_obs)
    torch.testing.assert_close(batch.reward, step.reward)


def test_every_member_has_a_say(policy):
    class Members:
        num_members = 3

        def step(self, obs, action, generator=None):
            number = torch.arange(3.0)[:, None].expand(obs.shape[:2])
            return Step(number[..., None].expand(obs.shape), number, torch.zeros_like(number))

    batch = branch(Members(), policy, torch.zeros(600, 3), 2, seeded())
    assert torch.equal(batch.next_obs[:, 0], batch.reward)  # state and reward of the same member
    counts = [(batch.reward == member).float().mean() for member in range(3)]
    assert counts == pytest.approx([1 / 3] * 3, abs=0.06)
    first, second = batch.reward[:600], batch.reward[600:]
    assert 0.2 < (first == second).float().mean() < 0.47  # drawn anew at each step


def test_rollouts_stop_at_a_predicted_end(policy):
    def ends_above_one(obs, action):
        next_obs = obs + 0.4
        return Step(next_obs, obs[..., 0], (next_obs[..., 0] > 1).float() * 0.6 + 0.2)

    obs = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0.8, 0, 0]])
    batch = branch(TrueDynamics(ends_above_one), policy, obs, 10, seeded())
    assert batch.obs[:, 0].tolist() == pytest.approx([0.0, 0.5, 0.8, 0.4, 0.9, 0.8])
    assert batch.terminated.tolist() == [0, 0, 1, 0, 1, 1]


def test_rollouts_are_cut_where_the_members_disagree(policy, model, data):
    obs = torch.tensor(data.obs[:50])
    free = branch(model, policy, obs, 4, seeded())
    spread = disagreement(model, free.obs, free.action)
    limit = float(spread.quantile(0.6))
    cut = branch(model, policy, obs, 4, seeded(), max_spread=limit)
    assert 0 < len(cut) < len(free)
    assert (disagreement(model, cut.obs, cut.action) <= limit).all()
    assert not cut.terminated.any()
    with pytest.raises(RuntimeError, match=r"branch: expected finite steps on which .* Raise"):
        branch(model, policy, obs, 4, seeded(), max_spread=0.0)


def test_disagreement_is_paid_for(policy, model, data):
    obs = torch.tensor(data.obs[:50])
    free, paid = (
        branch(model, policy, obs, 1, seeded(), spread_weight=weight) for weight in (0.0, -2.0)
    )
    spread = disagreement(model, free.obs, free.action)
    torch.testing.assert_close(paid.reward, free.reward - 2 * spread)


def test_rollouts_of_a_model_without_reward_need_an_objective(policy, data):
    def no_reward(obs, action):
        return Step(obs, None, torch.zeros_like(obs[..., 0]))

    model, obs = TrueDynamics(no_reward), torch.tensor(data.obs)
    with pytest.raises(ValueError, match="branch: expected the model's reward, got None"):
        branch(model, policy, obs, 2, seeded())
    batch = branch(
        model, policy, obs, 2, seeded(),
        objective=lambda obs, action, step: obs[..., 0] + action[..., 0],
    )  # fmt: skip
    torch.testing.assert_close(batch.reward, batch.obs[:, 0] + batch.action[:, 0])
    with pytest.raises(ValueError, match="branch: expected the objective to return shape"):
        branch(model, policy, obs, 2, seeded(), objective=lambda obs, action, step: obs)


def test_imagined_steps_that_are_not_finite_are_left_out(policy, data):
    def half_lost(obs, action):
        lost = obs[..., :1] > 0
        return Step(obs.masked_fill(lost, torch.nan), obs[..., 0], torch.zeros(obs.shape[:-1]))

    obs = torch.tensor(data.obs[:50])
    batch = branch(TrueDynamics(half_lost), policy, obs, 1, seeded())
    assert len(batch) == (obs[:, 0] <= 0).sum() and batch.next_obs.isfinite().all()
    with pytest.raises(RuntimeError, match=r"branch: expected finite steps"):
        branch(TrueDynamics(half_lost), policy, obs[obs[:, 0] > 0], 1, seeded())


def test_one_member_does_not_disagree(policy, data):
    """The limit on disagreement then cuts nothing, as it is documented for true dynamics."""
    obs, truth = torch.tensor(data.obs[:50]), PENDULUM.true_dynamics
    free, limited = (
        branch(truth, policy, obs, 2, seeded(), max_spread=limit) for limit in (None, 1e-6)
    )
    assert torch.equal(free.obs, limited.obs) and len(free) == 100


def test_rollouts_of_no_steps_are_refused(policy, model, data):
    with pytest.raises(ValueError, match="branch: expected length >= 1, got 0"):
        branch(model, policy, torch.tensor(data.obs), 0, seeded())


@pytest.mark.parametrize(
    ("obs", "error", "says"),
    [
        (torch.zeros(0, 3), ValueError, r"states \[K, 3\] to start from, got none"),
        (torch.zeros(5, 4), ValueError, r"observations \[K, 3\], got shape \(5, 4\)"),
        (torch.zeros(3), ValueError, r"observations \[K, 3\], got shape \(3,\)"),
        (torch.full((5, 3), torch.nan), ValueError, "finite observations, got NaN .* row 0"),
        (np.zeros((5, 3), np.float32), TypeError, r"states as a torch tensor \[K, 3\], got nda"),
    ],
)
def test_states_that_no_rollout_can_start_from(policy, model, obs, error, says):
    with pytest.raises(error, match=f"branch: expected {says}"):
        branch(model, policy, obs, 2, seeded())
