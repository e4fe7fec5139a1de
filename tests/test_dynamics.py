"""Learned models: what they recover, what they keep, and what they refuse."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl_helpers import dynamics
from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.data import Transitions, collect_episodes, windows
from mbrl_helpers.dynamics import (
    DynamicsConfig,
    EnsembleModel,
    cross_entropy,
    rollout,
    squared_error,
)
from mbrl_helpers.envs import encode_actions, get_task
from mbrl_helpers.networks import with_ones

# Small, and the termination head is trained whether or not the data have terminations.
QUICK = {"max_updates": 100, "hidden_sizes": (16,), "termination_sizes": (8,)}
QUICK |= {"min_terminations": 0}
TORQUE = Box(-1, 1, (1,))
MATRIX = torch.tensor([[0.9, 0.2, 0.0], [-0.1, 1.1, 0.0], [0.0, 0.0, 1.0]])
PUSH = torch.tensor([0.05, 0.3, 0.0])
CONSTANT = 123.25  # the third column of the linear system never changes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_step(obs, action):
    """Next observation, and a reward linear in observation and action."""
    return obs @ MATRIX.T + action * PUSH, obs[..., 0] - 2 * obs[..., 1] + action[..., 0] + 3


def linear_data(num_episodes=3, length=20, seed=0):
    rng = seeded(seed)
    num = num_episodes * length
    obs = torch.randn(num, 3, generator=rng) * torch.tensor([1.0, 5.0, 0.0])
    obs[:, 2] = CONSTANT
    action = 2 * torch.rand(num, 1, generator=rng) - 1
    next_obs, reward = linear_step(obs, action)
    return Transitions(
        obs=obs.numpy(),
        action=action.numpy(),
        reward=reward.numpy(),
        next_obs=next_obs.numpy(),
        terminated=np.zeros(num, dtype=bool),
        truncated=np.arange(num) % length == length - 1,
        episode=np.repeat(np.arange(num_episodes), length),
    )


def model(num_obs=3, space=TORQUE, seed=0, **changes):
    return EnsembleModel(num_obs, space, seeded(seed), DynamicsConfig(**QUICK | changes))


@pytest.fixture(scope="module")
def linear_model():
    return model(num_members=4).fit(linear_data())


def random_episodes(env_id, num_episodes, seed):
    agent = RandomAgent(get_task(env_id).action_space, seeded(seed))
    return collect_episodes(env_id, agent, num_episodes=num_episodes, seed=seed)


def on_data(fitted, data):
    """The mean of the members' predictions for the rows of data."""
    step = fitted.step(torch.tensor(data.obs), encode_actions(fitted.action_space, data.action))
    return [part.mean(0).numpy() for part in step]


@pytest.fixture(scope="module")
def cartpole():
    """A model of 60 random episodes, and 40 others to test it on."""
    fitted = EnsembleModel(
        4, Discrete(2), seeded(), DynamicsConfig(num_members=2, max_updates=1000)
    ).fit(random_episodes("CartPole-v1", 60, seed=0))
    return fitted, random_episodes("CartPole-v1", 40, seed=1000)


# --- what it learns ------------------------------------------------------------------------------


def test_recovers_a_linear_system_from_few_transitions(linear_model):
    """Also far outside the data, where the network is silent and the linear part carries on."""
    for reach in (1.0, 10.0):
        obs = reach * torch.randn(200, 3, generator=seeded(1)) * torch.tensor([1.0, 5.0, 0.0])
        obs[:, 2] = CONSTANT
        action = 2 * torch.rand(200, 1, generator=seeded(2)) - 1
        next_obs, reward = linear_step(obs, action)
        step = linear_model.step(obs, action)
        change = (next_obs - obs)[:, :2].std(0)
        assert ((step.next_obs[..., :2] - next_obs[:, :2]).abs().amax((0, 1)) < 0.01 * change).all()
        assert (step.reward - reward).abs().max() < 0.01 * reward.std()


def test_constant_columns_stay_constant(linear_model):
    """It predicts changes: what never changed is predicted never to change."""
    obs = torch.randn(50, 3, generator=seeded())
    obs[:, 2] = CONSTANT
    for _ in range(20):
        obs = linear_model.step(obs, torch.zeros(50, 1)).next_obs[0]
        torch.testing.assert_close(obs[:, 2], torch.full((50,), CONSTANT), atol=1e-3, rtol=0)


def test_data_without_any_variation():
    """No column varies: nothing divides by zero, and nothing is predicted to change."""
    data = linear_data()
    still = dataclasses.replace(
        data, obs=0 * data.obs + 3, next_obs=0 * data.obs + 3, action=0 * data.action,
        reward=0 * data.reward + 7,
    )  # fmt: skip
    next_obs, reward, terminated = on_data(model().fit(still), still)
    np.testing.assert_allclose(next_obs, still.next_obs, atol=1e-5)
    np.testing.assert_allclose(reward, 7, atol=1e-5)
    assert (terminated < 0.05).all()


def test_cartpole_is_predicted_far_better_than_no_change(cartpole):
    fitted, test = cartpole
    next_obs, reward, _ = on_data(fitted, test)
    error = np.square(next_obs - test.next_obs).mean(0)
    no_change = np.square(test.obs - test.next_obs).mean(0)
    assert (no_change > 1e4 * error).all()
    np.testing.assert_allclose(reward, 1, atol=1e-3)


def test_termination_head_finds_the_end(cartpole):
    fitted, test = cartpole
    probability, truth = on_data(fitted, test)[2], test.terminated
    assert ((probability >= 0) & (probability <= 1)).all()
    right_order = probability[truth][:, None] > probability[~truth]
    assert right_order.mean() > 0.99  # area under the ROC curve; 0.5 for a constant
    never = 1 - truth.mean()  # how often it is right to say that it goes on
    assert 1 - ((probability > 0.5) == truth).mean() < 0.5 * (1 - never)


@pytest.mark.parametrize("trained", [False, True])
def test_without_terminations_it_expects_none(trained):
    data = random_episodes("Pendulum-v1", 2, seed=0)
    fitted = model(min_terminations=0 if trained else 1)
    assert (on_data(fitted.fit(data), data)[2] < 0.01).all()
    assert ("termination" in fitted.history) == trained


@pytest.mark.parametrize("num_terminations", [9, 10])
def test_from_few_terminations_it_draws_no_rule(num_terminations):
    """Until there are enough to learn from, it gives their share for every state."""
    data = linear_data()
    ended = np.zeros(60, dtype=bool)
    ended[data.next_obs[:, 0].argsort()[-num_terminations:]] = num_terminations > 0
    fitted = model(min_terminations=10).fit(dataclasses.replace(data, terminated=ended))
    probability = on_data(fitted, data)[2]
    share = (num_terminations + 0.5) / 61
    assert np.allclose(probability, share) == (num_terminations < 10)
    assert ("termination" in fitted.history) == (num_terminations >= 10)


def test_reward_head_learns_the_pendulums_reward():
    """Of the state *before* the step: shifted by a step it fits clearly worse."""
    config = DynamicsConfig(num_members=1, max_updates=400, termination_sizes=())
    fitted = EnsembleModel(3, get_task("Pendulum-v1").action_space, seeded(), config)
    fitted.fit(random_episodes("Pendulum-v1", 8, seed=0))
    test = random_episodes("Pendulum-v1", 4, seed=1000)
    _, reward, _ = on_data(fitted, test)
    inside = ~test.truncated[:-1]
    unexplained = np.square(reward - test.reward).mean() / test.reward.var()
    late = np.square(reward[:-1] - test.reward[1:])[inside].mean() / test.reward.var()
    assert unexplained < 0.03
    assert late > 3 * unexplained


def test_linear_part_may_be_left_out():
    with_it, without = (model(linear_part=on).fit(linear_data()) for on in (True, False))
    errors = [
        np.abs(on_data(fitted, linear_data(seed=1))[0] - linear_data(seed=1).next_obs).mean()
        for fitted in (with_it, without)
    ]
    assert errors[0] < 0.1 * errors[1]


# --- one step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_members", [1, 5])
def test_step_has_a_prediction_per_member(num_members):
    fitted = model(num_members=num_members, linear_part=False).fit(linear_data())
    obs, action = torch.randn(7, 3, generator=seeded()), torch.zeros(7, 1)
    step = fitted.step(obs, action)
    shapes = [(num_members, 7, 3), (num_members, 7), (num_members, 7)]
    assert [part.shape for part in step] == shapes
    own = torch.randn(num_members, 7, 3, generator=seeded(1))
    step = fitted.step(own, torch.zeros(num_members, 7, 1))
    assert [part.shape for part in step] == shapes
    for e in range(num_members):  # member e saw its own rows
        alone = fitted.step(own[e], action)
        for whole, single in zip(step, alone, strict=True):
            torch.testing.assert_close(whole[e], single[e])
    if num_members > 1:
        assert not torch.allclose(step.next_obs[0] - own[0], step.next_obs[1] - own[1])


@pytest.mark.parametrize("linear_part", [True, False])
def test_step_equals_the_computation_it_stands_for(linear_part):
    """Normalise, add linear part and network, denormalise, add the change; inside the data."""
    fitted = model(linear_part=linear_part, num_members=2).fit(linear_data())
    data = linear_data()
    obs, action = torch.tensor(data.obs), torch.tensor(data.action)
    x = fitted.in_norm.normalize(torch.cat([obs, action], 1))
    with torch.no_grad():
        rest = fitted.rest_norm.denormalize(fitted.networks["change"](x))
        out = fitted.out_norm.denormalize(with_ones(x) @ fitted.linear + rest)
        next_obs = obs + out[..., :-1]
        nearest = next_obs.clamp(
            torch.tensor(data.next_obs.min(0)), torch.tensor(data.next_obs.max(0))
        )
        logit = fitted.networks["termination"](fitted.next_norm.normalize(nearest))
    step = fitted.step(obs, action)
    torch.testing.assert_close(step.next_obs, next_obs, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(step.reward, out[..., -1], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(step.terminated, logit[..., 0].sigmoid(), atol=1e-5, rtol=1e-4)


def test_outside_the_data_the_network_answers_for_the_nearest_point():
    fitted = model(linear_part=False).fit(linear_data())
    low, high = (torch.tensor(f(linear_data().obs, axis=0)) for f in (np.min, np.max))
    obs = 20 * torch.randn(50, 3, generator=seeded())
    outside, inside = (fitted.step(o, torch.zeros(50, 1)) for o in (obs, obs.clamp(low, high)))
    change = outside.next_obs - obs
    torch.testing.assert_close(change, inside.next_obs - obs.clamp(low, high), atol=1e-4, rtol=1e-4)


def test_losses():
    out, target = torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]]), torch.tensor([[0.0], [1.0]])
    torch.testing.assert_close(squared_error(out, target), torch.tensor([2.5, 0.5]))
    p = out.sigmoid()[..., 0]
    expected = -((1 - p[:, 0]).log() + p[:, 1].log()) / 2
    torch.testing.assert_close(cross_entropy(out, target), expected)


# --- fitting -------------------------------------------------------------------------------------


def weights(fitted):
    return [p for network in fitted.networks.values() for p in network.parameters()]


def test_same_generator_state_same_model():
    first, second, other = (model(seed=seed).fit(linear_data()) for seed in (0, 0, 1))
    again = first.fit(linear_data())
    assert not all(map(torch.equal, weights(first), weights(second)))  # the generator went on
    again.generator.manual_seed(0)
    again.fit(linear_data())
    assert all(map(torch.equal, weights(again), weights(second)))
    assert not all(map(torch.equal, weights(second), weights(other)))


def test_fitting_anew_forgets():
    data, fitted = linear_data(), model()
    flipped = dataclasses.replace(data, next_obs=2 * data.obs - data.next_obs, reward=-data.reward)
    fitted.fit(flipped).fit(data)
    np.testing.assert_allclose(on_data(fitted, data)[1], data.reward, atol=0.1)


def test_history_has_every_look():
    history = model(max_updates=100, patience=100).fit(linear_data()).history
    assert history.keys() == {"change", "termination"}
    for losses in history.values():
        assert losses["updates"] == [0, 25, 50, 75, 100]
        assert len(losses["train"]) == len(losses["validation"]) == 5


def test_planning_before_fitting():
    unfitted = model()
    assert not unfitted.is_fitted
    with pytest.raises(RuntimeError, match=r"EnsembleModel.step: .*Call fit\(transitions\) first"):
        unfitted.step(torch.zeros(1, 3), torch.zeros(1, 1))
    assert unfitted.fit(linear_data()).is_fitted


@pytest.mark.parametrize("stop_at", [1, 30])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("fitted_before", [False, True])
def test_interrupt_leaves_a_usable_model(monkeypatch, loss, stop_at, fitted_before):
    calls, original = 0, getattr(dynamics, loss)

    def interrupted(out, target):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        return original(out, target)

    fitted, data = model(), linear_data()
    if fitted_before:
        elsewhere = dataclasses.replace(data, obs=data.obs + 9, next_obs=data.next_obs - 9)
        fitted.fit(elsewhere)
    monkeypatch.setattr(dynamics, loss, interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted.fit(data)
    assert fitted.is_fitted
    next_obs, reward, terminated = on_data(fitted, data)
    # The linear part is there from the start: the interrupted model is already a good one.
    assert np.abs(next_obs - data.next_obs).mean() < 0.05 * np.abs(data.obs - data.next_obs).mean()
    assert np.abs(reward - data.reward).mean() < 0.05 * data.reward.std()
    assert (terminated < 0.5).all()


def broken_later(data):
    """NaN put into the array after it was checked."""
    data.obs[4, 1] = np.nan
    return data


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data[:4], "a transition for each, got 4 transitions for 5 folds"),
        (broken_later, "got nan in obs, row .*, column 1"),
    ],
)
def test_data_that_cannot_be_fitted(linear_model, spoil, says):
    """And what was learned before is still there."""
    before = on_data(linear_model, linear_data(seed=5))
    with pytest.raises(ValueError, match=says):
        linear_model.fit(spoil(linear_data(seed=9)))
    for old, new in zip(before, on_data(linear_model, linear_data(seed=5)), strict=True):
        np.testing.assert_array_equal(old, new)
    unfitted = model()
    with pytest.raises(ValueError, match=says):
        unfitted.fit(spoil(linear_data()))
    assert not unfitted.is_fitted


@pytest.mark.parametrize(
    ("num_obs", "space", "error", "says"),
    [
        (4, TORQUE, ValueError, "observations of size 4, got 3. Is this data of another env"),
        (3, Box(-1, 1, (2,)), ValueError, r"actions of shape \[..., 2\], got \(60, 1\)"),
        (3, Discrete(2), TypeError, "expected integers for .*another environment"),
    ],
)
def test_data_of_another_environment(num_obs, space, error, says):
    with pytest.raises(error, match=says):
        model(num_obs, space).fit(linear_data())


def test_discrete_actions_of_another_environment():
    data = dataclasses.replace(linear_data(), action=np.arange(60) % 3)
    with pytest.raises(ValueError, match=r"from 0 to 2\. Is this data of another environment"):
        model(3, Discrete(2)).fit(data)


@pytest.mark.parametrize(
    ("obs", "action"),
    [((5, 4), (5, 1)), ((5, 3), (5, 2)), ((5, 3), (6, 1)), ((2, 5, 3), (2, 5, 1)),
     ((4, 5, 3), (5, 1)), ((3,), (1,)), ((1, 4, 5, 3), (1, 4, 5, 1))],
)  # fmt: skip
def test_step_of_wrong_shapes(linear_model, obs, action):
    with pytest.raises(ValueError, match=r"EnsembleModel.step: expected .* E = 4, got") as error:
        linear_model.step(torch.zeros(obs), torch.zeros(action))
    assert f"got {obs} and {action}" in str(error.value)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"num_members": 0}, ValueError, "num_members >= 1, got 0"),
        ({"max_updates": 2.5}, TypeError, "max_updates as an int, got 2.5"),
        ({"check_every": 0}, ValueError, "check_every >= 1, got 0"),
        ({"patience": True}, TypeError, "patience as an int, got True"),
        ({"batch_size": -1}, ValueError, "batch_size >= 1, got -1"),
        ({"hidden_sizes": (64, 0)}, ValueError, "layer 1 >= 1, got 0"),
        ({"termination_sizes": (8.0,)}, TypeError, "layer 0 as an int, got 8.0"),
        ({"ridge": 0.0}, ValueError, r"ridge in \(0, inf\), .* got 0\.0"),
        ({"learning_rate": float("nan")}, ValueError, r"learning_rate in \(0, inf\), got nan"),
        ({"weight_decay": -1.0}, ValueError, r"weight_decay in \[0, inf\), got -1.0"),
        ({"num_folds": 1}, ValueError, "num_folds >= 2, .* got 1"),
        ({"dropout": 1.0}, ValueError, r"dropout in \(0, 1\), got 1\.0"),
        ({"method": "bagging"}, ValueError, "method to be one of .* got bagging"),
        ({"method": "dropout", "gaussian": True}, ValueError, "gaussian False unless"),
        ({"num_elites": 6}, ValueError, "num_elites <= num_members, .* got 6"),
        ({"num_elites": 0}, ValueError, "num_elites >= 1, got 0"),
        ({"method": "last_layer", "num_elites": 2}, ValueError, "num_elites .* unless method"),
        ({"angles": ((0, 0),)}, ValueError, "angles as pairs of different columns"),
        ({"angles": ((0, 1, 2),)}, ValueError, "angles as pairs of different columns"),
        ({"min_gain": 1.0}, ValueError, r"min_gain in \[0, 1\), .* got 1\.0"),
        ({"min_gain": -0.1}, ValueError, r"min_gain in \[0, 1\), .* got -0\.1"),
    ],
)
def test_settings_that_make_no_sense(settings, error, says):
    with pytest.raises(error, match=f"DynamicsConfig: expected {says}"):
        DynamicsConfig(**settings)


@pytest.mark.parametrize(
    "changes",
    [{"num_members": 2}, {"hidden_sizes": (8,)}, {"linear_part": False}, {"ridge": 1.0},
     {"termination_sizes": ()}, {"num_folds": 2}, {"bootstrap": True}, {"clamp": False},
     {"method": "dropout"}, {"method": "last_layer"}, {"gaussian": True}, {"angles": ((2, 3),)},
     {"max_updates": 20},
     {"check_every": 3}, {"patience": 1}, {"min_gain": 0.5}, {"batch_size": 8},
     {"learning_rate": 0.1},
     {"weight_decay": 10.0}, {"min_terminations": 5}],
)  # fmt: skip
def test_every_setting_makes_a_difference(changes):
    data = random_episodes("CartPole-v1", 4, seed=0)
    base = {"num_members": 1, "max_updates": 40, "check_every": 5, "patience": 3}
    base |= {"learning_rate": 0.01, "batch_size": 32, "min_terminations": 4}
    results = []
    for settings in (base, base | changes):
        fitted = EnsembleModel(4, Discrete(2), seeded(), DynamicsConfig(**settings)).fit(data)
        step = fitted.step(torch.tensor(data.obs), encode_actions(Discrete(2), data.action))
        results.append(torch.cat([step.next_obs, step.terminated[..., None]], -1))
    assert results[0].shape != results[1].shape or not torch.equal(*results)


# --- predictions over many steps -----------------------------------------------------------------


def test_rollout_of_the_truth_is_what_happened():
    data = random_episodes("Pendulum-v1", 2, seed=3)
    states, actions = map(torch.tensor, windows(data, 50))
    imagined = rollout(get_task("Pendulum-v1").true_dynamics, states[:, 0], actions)
    assert imagined.shape == (1, *states.shape) == (1, 8, 51, 3)
    torch.testing.assert_close(imagined[0], states, atol=1e-3, rtol=0)


def test_each_member_goes_on_from_its_own_prediction():
    data = random_episodes("CartPole-v1", 6, seed=0)
    fitted = EnsembleModel(
        4, Discrete(2), seeded(), DynamicsConfig(num_members=3, max_updates=50)
    ).fit(data)
    states, actions = windows(data, 5)
    actions = encode_actions(Discrete(2), actions)
    imagined = rollout(fitted, torch.tensor(states[:, 0]), actions)
    assert imagined.shape == (3, *states.shape)
    for t in range(5):
        action = actions[:, t].expand(3, -1, -1)
        expected = fitted.step(imagined[:, :, t], action).next_obs
        torch.testing.assert_close(imagined[:, :, t + 1], expected)
    assert not torch.allclose(imagined[0], imagined[1])


@pytest.mark.parametrize(
    ("obs", "actions"), [((4,), (1, 5, 2)), ((3, 4), (3, 2)), ((3, 4), (2, 5, 2))]
)
def test_rollouts_of_the_wrong_shape(obs, actions):
    with pytest.raises(ValueError, match=r"rollout: expected obs \[K, O\] and actions"):
        rollout(get_task("CartPole-v1").true_dynamics, torch.zeros(obs), torch.zeros(actions))


def test_units_do_not_matter():
    """Small numbers are no constants: metres or micrometres, the model learns the same."""
    data = linear_data()
    small = dataclasses.replace(data, obs=1e-7 * data.obs, next_obs=1e-7 * data.next_obs)
    plain, tiny = model().fit(data), model().fit(small)
    obs, action = torch.tensor(data.obs), torch.tensor(data.action)
    expected, found = plain.step(obs, action), tiny.step(1e-7 * obs, action)
    torch.testing.assert_close(1e7 * found.next_obs, expected.next_obs, rtol=1e-3, atol=1e-3)


def test_columns_of_angles_are_counted_from_the_first():
    with pytest.raises(ValueError, match=r"expected angles among the 3 columns"):
        model(angles=((0, -2),))
