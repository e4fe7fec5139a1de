"""Learned models: what they recover, what they keep, and what they refuse."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl_helpers import dynamics, networks
from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.data import Transitions, windows
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel, FittedModel
from mbrl_helpers.envs import Task, get_task
from mbrl_helpers.futures import rollout
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.networks import with_ones

# Small, and the termination head is trained whether or not the data have terminations.
QUICK = {"max_updates": 100, "hidden_sizes": (16,), "termination_sizes": (8,)}
QUICK |= {"min_terminations": 0}
TORQUE = Box(-1, 1, (1,))
MATRIX = torch.tensor([[0.9, 0.2, 0.0], [-0.1, 1.1, 0.0], [0.0, 0.0, 1.0]])
PUSH = torch.tensor([0.05, 0.3, 0.0])
CONSTANT = 123.25  # the third column of the linear system never changes
CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")


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


def task_of(num_obs=3, space=TORQUE):
    """A task that is no environment."""
    names = tuple(f"number {i}" for i in range(num_obs))
    return Task(env_id="a linear system", obs_names=names, space=space)


def learner(num_obs=3, space=TORQUE, seed=0, **changes):
    config = DynamicsConfig(**QUICK | changes)
    return EnsembleModel(task_of(num_obs, space), seeded(seed), config)


@pytest.fixture(scope="module")
def linear_model():
    return learner(num_members=4).fit(linear_data())


def random_episodes(task, num_episodes, seed):
    agent = RandomAgent(task.action_space, seeded(seed))
    return collect_episodes(task, agent, num_episodes=num_episodes, seed=seed)


def rows_of(fitted, data):
    """Observations and encoded actions."""
    batch = data.tensors(fitted.task.actions)
    return batch.obs, batch.action


def on_data(fitted, data):
    """The mean of the members' predictions for the rows of data."""
    return [part.mean(0).numpy() for part in fitted.step(*rows_of(fitted, data))]


@pytest.fixture(scope="module")
def cartpole():
    """A model of 60 random episodes, and 40 others to test it on."""
    config = DynamicsConfig(num_members=2, max_updates=1000)
    fitted = EnsembleModel(CARTPOLE, seeded(), config).fit(random_episodes(CARTPOLE, 60, seed=0))
    return fitted, random_episodes(CARTPOLE, 40, seed=1000)


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
    next_obs, reward, terminated = on_data(learner().fit(still), still)
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
    data = random_episodes(PENDULUM, 2, seed=0)
    fitted = learner(min_terminations=0 if trained else 1).fit(data)
    assert (on_data(fitted, data)[2] < 0.01).all()
    assert ("termination" in fitted.history) == trained


@pytest.mark.parametrize("num_terminations", [9, 10])
def test_from_few_terminations_it_draws_no_rule(num_terminations):
    """Until there are enough to learn from, it gives their share for every state."""
    data = linear_data()
    ended = np.zeros(60, dtype=bool)
    ended[data.next_obs[:, 0].argsort()[-num_terminations:]] = num_terminations > 0
    fitted = learner(min_terminations=10).fit(dataclasses.replace(data, terminated=ended))
    probability = on_data(fitted, data)[2]
    share = (num_terminations + 0.5) / 61
    assert np.allclose(probability, share) == (num_terminations < 10)
    assert ("termination" in fitted.history) == (num_terminations >= 10)


def test_reward_head_learns_the_pendulums_reward():
    """Of the state *before* the step: shifted by a step it fits clearly worse."""
    config = DynamicsConfig(num_members=1, max_updates=400, termination_sizes=(), angles=())
    fitted = EnsembleModel(PENDULUM, seeded(), config).fit(random_episodes(PENDULUM, 8, seed=0))
    test = random_episodes(PENDULUM, 4, seed=1000)
    _, reward, _ = on_data(fitted, test)
    inside = ~test.truncated[:-1]
    unexplained = np.square(reward - test.reward).mean() / test.reward.var()
    late = np.square(reward[:-1] - test.reward[1:])[inside].mean() / test.reward.var()
    assert unexplained < 0.03
    assert late > 3 * unexplained


def test_linear_part_may_be_left_out():
    with_it, without = (learner(linear_part=on).fit(linear_data()) for on in (True, False))
    errors = [
        np.abs(on_data(fitted, linear_data(seed=1))[0] - linear_data(seed=1).next_obs).mean()
        for fitted in (with_it, without)
    ]
    assert errors[0] < 0.1 * errors[1]


# --- one step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_members", [1, 5])
def test_step_has_a_prediction_per_member(num_members):
    fitted = learner(num_members=num_members, linear_part=False).fit(linear_data())
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
    learning, data = learner(linear_part=linear_part, num_members=2), linear_data()
    fitted = learning.fit(data)
    obs, action = torch.tensor(data.obs), torch.tensor(data.action)
    units = fitted.units
    x = units.inputs.normalize(torch.cat([obs, action], 1))
    with torch.no_grad():
        rest = units.rest.denormalize(learning.networks["change"](x))
        out = units.outputs.denormalize(with_ones(x) @ units.linear + rest)
        next_obs = obs + out[..., :-1]
        nearest = next_obs.clamp(
            torch.tensor(data.next_obs.min(0)), torch.tensor(data.next_obs.max(0))
        )
        outcome = units.outcome.normalize(torch.cat([nearest, action.expand(2, -1, -1)], -1))
        logit = learning.networks["termination"](outcome * ~units.outcome.constant)
    step = fitted.step(obs, action)
    torch.testing.assert_close(step.next_obs, next_obs, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(step.reward, out[..., -1], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(step.terminated, logit[..., 0].sigmoid(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gaussian", [True, False])
def test_without_noise_the_means_alone_are_computed(gaussian):
    fitted = learner(gaussian=gaussian, num_members=2).fit(linear_data())
    obs, action = torch.randn(7, 3, generator=seeded()), torch.zeros(7, 1)
    mean = fitted.predict(obs, action).mean
    step = fitted.step(obs, action)
    assert torch.equal(step.next_obs, obs + mean[..., :-1])
    assert torch.equal(step.reward, mean[..., -1])


def test_outside_the_data_the_network_answers_for_the_nearest_point():
    fitted = learner(linear_part=False).fit(linear_data())
    low, high = (torch.tensor(f(linear_data().obs, axis=0)) for f in (np.min, np.max))
    obs = 20 * torch.randn(50, 3, generator=seeded())
    outside, inside = (fitted.step(o, torch.zeros(50, 1)) for o in (obs, obs.clamp(low, high)))
    change = outside.next_obs - obs
    torch.testing.assert_close(change, inside.next_obs - obs.clamp(low, high), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("call", ["step", "predict"])
@pytest.mark.parametrize("whole", [False, True])
def test_numpy_and_torch_mixed_up_is_said_in_words(linear_model, call, whole):
    obs, action = np.zeros((5, 3), np.float32), np.zeros((5, 1), np.float32)
    with pytest.raises(
        TypeError,
        match=rf"FittedModel\.{call}: expected action as a torch tensor, got ndarray\. .*as_tensor",
    ):
        getattr(linear_model, call)(torch.tensor(obs), action)
    with pytest.raises(
        TypeError, match=rf"FittedModel\.{call}: expected obs as a torch tensor, got (ndarray|list)"
    ):
        getattr(linear_model, call)(obs if whole else obs.tolist(), torch.tensor(action))


# --- fitting -------------------------------------------------------------------------------------


def weights(learning):
    return [p for network in learning.networks.values() for p in network.parameters()]


def test_same_generator_state_same_model():
    learning = [learner(seed=seed) for seed in (0, 0, 1)]
    fitted = [each.fit(linear_data()) for each in learning]
    first, second, other = map(weights, learning)
    assert all(map(torch.equal, first, second))
    assert not all(map(torch.equal, second, other))
    again = learning[0].fit(linear_data())
    assert not all(map(torch.equal, weights(learning[0]), second))  # the generator went on
    learning[0].generator.manual_seed(0)
    learning[0].fit(linear_data())
    assert all(map(torch.equal, weights(learning[0]), second))
    rows = rows_of(again, linear_data())
    assert all(map(torch.equal, fitted[0].step(*rows), fitted[1].step(*rows)))
    assert not torch.equal(fitted[0].step(*rows).next_obs, again.step(*rows).next_obs)


def test_fitting_anew_forgets():
    data, learning = linear_data(), learner()
    flipped = dataclasses.replace(data, next_obs=2 * data.obs - data.next_obs, reward=-data.reward)
    learning.fit(flipped)
    np.testing.assert_allclose(on_data(learning.fit(data), data)[1], data.reward, atol=0.1)


def test_history_has_every_look():
    history = learner(max_updates=100, patience=100).fit(linear_data()).history
    assert history.keys() == {"change", "termination"}
    for losses in history.values():
        assert losses["updates"] == [0, 25, 50, 75, 100]
        assert len(losses["train"]) == len(losses["validation"]) == 5


def test_only_what_was_fitted_can_be_planned_with():
    """There is nothing to call before a fit; a fit gives what there is afterwards."""
    learning = learner()
    assert learning.fitted is None
    assert learning.networks == {}
    for name in ("step", "predict", "save", "num_members"):
        assert not hasattr(learning, name)
    fitted = learning.fit(linear_data())
    assert isinstance(fitted, FittedModel)
    assert learning.fitted is fitted
    assert (fitted.task, fitted.config) == (learning.task, learning.config)
    assert learning.fit(linear_data()) is not fitted


KINDS = [{}, {"gaussian": True, "num_elites": 2}, {"method": "dropout"}, {"method": "last_layer"}]


def everything(fitted, data):
    """All that a model says of some data, to be compared to the bit."""
    rows = rows_of(fitted, data)
    said = [*fitted.predict(*rows), *fitted.step(*rows), *fitted.step(*rows, seeded(5))]
    return [*said, fitted.targets(data), rollout(fitted, rows[0][:5], rows[1][:50].view(5, 10, -1))]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("warm_start", [False, True])
def test_a_later_fit_leaves_an_earlier_one_as_it_was(kind, warm_start):
    """Also one that goes on from the same networks, and one that is interrupted."""
    data, learning = linear_data(), learner(warm_start=warm_start, **kind)
    first = learning.fit(data)
    said, history = everything(first, data), {k: dict(v) for k, v in first.history.items()}
    elsewhere = dataclasses.replace(data, obs=data.obs + 9, next_obs=data.next_obs - 9)
    second = learning.fit(elsewhere)
    with torch.no_grad():  # whatever becomes of what was trained
        for parameter in weights(learning):
            parameter.fill_(7.0)
    assert all(map(torch.equal, everything(first, data), said))
    assert first.history == history
    assert not torch.equal(second.predict(*rows_of(second, data)).mean, said[0])


def test_what_was_fitted_cannot_be_changed():
    fitted = learner().fit(linear_data())
    for name, value in (("config", DynamicsConfig()), ("noise_std", None), ("change", None)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(fitted, name, value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted.units.linear = None
    assert not any(p.requires_grad for net in (fitted.change, fitted.termination)
                   for p in net.parameters())  # fmt: skip


def test_the_experience_may_be_altered_afterwards():
    data, same = linear_data(), linear_data()
    fitted = learner().fit(data)
    said = everything(fitted, same)
    for array in (data.obs, data.next_obs, data.action, data.reward):
        array[:] = 7
    assert all(map(torch.equal, everything(fitted, same), said))


@pytest.mark.parametrize("stop_at", [1, 30])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("fitted_before", [False, True])
def test_interrupt_leaves_a_usable_model(monkeypatch, loss, stop_at, fitted_before):
    room = networks if loss == "squared_error" else dynamics
    calls, original = 0, getattr(room, loss)

    def interrupted(out, target):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        return original(out, target)

    learning, data = learner(), linear_data()
    before = None
    if fitted_before:
        elsewhere = dataclasses.replace(data, obs=data.obs + 9, next_obs=data.next_obs - 9)
        before = learning.fit(elsewhere)
    monkeypatch.setattr(room, loss, interrupted)
    with pytest.raises(KeyboardInterrupt):
        learning.fit(data)
    fitted = learning.fitted
    assert isinstance(fitted, FittedModel)
    assert fitted is not before
    next_obs, reward, terminated = on_data(fitted, data)
    # The linear part is there from the start: the interrupted model is already a good one.
    assert np.abs(next_obs - data.next_obs).mean() < 0.05 * np.abs(data.obs - data.next_obs).mean()
    assert np.abs(reward - data.reward).mean() < 0.05 * data.reward.std()
    assert (terminated < 0.5).all()
    assert set(fitted.history) == ({"change"} if loss == "cross_entropy" else set())
    assert fitted.predict(*rows_of(fitted, data)).std.isfinite().all()


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
def test_data_that_cannot_be_fitted(spoil, says):
    """And what was learned before is still there."""
    learning = learner(num_members=4)
    fitted = learning.fit(linear_data())
    before = on_data(fitted, linear_data(seed=5))
    with pytest.raises(ValueError, match=says):
        learning.fit(spoil(linear_data(seed=9)))
    assert learning.fitted is fitted
    for old, new in zip(before, on_data(fitted, linear_data(seed=5)), strict=True):
        np.testing.assert_array_equal(old, new)
    unfitted = learner()
    with pytest.raises(ValueError, match=says):
        unfitted.fit(spoil(linear_data()))
    assert unfitted.fitted is None


@pytest.mark.parametrize(
    ("num_obs", "space", "error", "says"),
    [
        (4, TORQUE, ValueError, "EnsembleModel.fit: expected observations of size 4, got 3. Is "),
        (3, Box(-1, 1, (2,)), ValueError, r"actions of shape \[..., 2\], got \(60, 1\)"),
        (3, Discrete(2), TypeError, "expected integers for .*another environment"),
    ],
)
def test_data_of_another_environment(num_obs, space, error, says):
    with pytest.raises(error, match=says):
        learner(num_obs, space).fit(linear_data())


def test_targets_of_another_environment(linear_model):
    other = dataclasses.replace(linear_data(), obs=np.zeros((60, 4), np.float32),
                                next_obs=np.zeros((60, 4), np.float32))  # fmt: skip
    with pytest.raises(ValueError, match=r"FittedModel\.targets: expected observations of size 3"):
        linear_model.targets(other)
    data = linear_data()
    expected = np.concatenate([data.next_obs - data.obs, data.reward[:, None]], 1)
    np.testing.assert_array_equal(linear_model.targets(data), expected)


def test_discrete_actions_of_another_environment():
    data = dataclasses.replace(linear_data(), action=np.arange(60) % 3)
    with pytest.raises(ValueError, match=r"from 0 to 2\. Is this data of another environment"):
        learner(3, Discrete(2)).fit(data)


@pytest.mark.parametrize(
    ("obs", "action"),
    [((5, 4), (5, 1)), ((5, 3), (5, 2)), ((5, 3), (6, 1)), ((2, 5, 3), (2, 5, 1)),
     ((4, 5, 3), (5, 1)), ((3,), (1,)), ((1, 4, 5, 3), (1, 4, 5, 1)), ((), ())],
)  # fmt: skip
@pytest.mark.parametrize("call", ["step", "predict"])
def test_step_of_wrong_shapes(linear_model, call, obs, action):
    says = rf"FittedModel\.{call}: expected .* E = 4, got .*task\.actions\.encode"
    with pytest.raises(ValueError, match=says) as error:
        getattr(linear_model, call)(torch.zeros(obs), torch.zeros(action))
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
        ({"hidden_sizes": (64, 0)}, ValueError, r"hidden_sizes\[1\] >= 1, got 0"),
        ({"termination_sizes": (8.0,)}, TypeError, r"termination_sizes\[0\] as an int, got 8\.0"),
        ({"ridge": 0.0}, ValueError, r"ridge in \(0, inf\), got 0\.0"),
        ({"learning_rate": float("nan")}, ValueError, r"learning_rate in \(0, inf\), got nan"),
        ({"weight_decay": -1.0}, ValueError, r"weight_decay in \[0, inf\), got -1.0"),
        ({"num_folds": 1}, ValueError, "num_folds >= 2, .* got 1"),
        ({"dropout": 1.0}, ValueError, r"dropout in \(0, 1\), got 1\.0"),
        ({"method": "bagging"}, ValueError, "method to be one of .* got bagging"),
        ({"method": "dropout", "gaussian": True}, ValueError, "gaussian False unless"),
        ({"num_elites": 6}, ValueError, "num_elites <= num_members, .* got 6"),
        ({"num_elites": 0}, ValueError, "num_elites >= 1, got 0"),
        ({"method": "last_layer", "num_elites": 2}, ValueError, "num_elites .* unless the method"),
        ({"angles": ((0, 0),)}, ValueError, "angles as pairs of different columns"),
        ({"angles": ((0, 1, 2),)}, TypeError, "angles as pairs of columns"),
        ({"angles": ((0, -2),)}, ValueError, "angles as pairs of different columns, got"),
        ({"hidden_sizes": 64}, TypeError, "hidden_sizes as a tuple of layer widths, got 64"),
        ({"dropout": "0.1"}, TypeError, "dropout as a number, got '0.1'"),
        ({"min_terminations": -1}, ValueError, "min_terminations >= 0, got -1"),
        ({"min_gain": 1.0}, ValueError, r"min_gain in \[0, 1\), got 1\.0"),
        ({"min_gain": -0.1}, ValueError, r"min_gain in \[0, 1\), got -0\.1"),
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
    data = random_episodes(CARTPOLE, 4, seed=0)
    if "angles" in changes:  # only what is on a circle can be one
        for obs in (data.obs, data.next_obs):
            obs[:, 2], obs[:, 3] = np.cos(5 * obs[:, 2]), np.sin(5 * obs[:, 2])
    base = {"num_members": 1, "max_updates": 40, "check_every": 5, "patience": 3}
    base |= {"learning_rate": 0.01, "batch_size": 32, "min_terminations": 4}
    results = []
    for settings in (base, base | changes):
        fitted = EnsembleModel(CARTPOLE, seeded(), DynamicsConfig(**settings)).fit(data)
        step = fitted.step(*rows_of(fitted, data))
        results.append(torch.cat([step.next_obs, step.terminated[..., None]], -1))
    assert results[0].shape != results[1].shape or not torch.equal(*results)


# --- predictions over many steps -----------------------------------------------------------------


def test_rollout_of_the_truth_is_what_happened():
    data = random_episodes(PENDULUM, 2, seed=3)
    states, actions = map(torch.tensor, windows(data, 50))
    imagined = rollout(PENDULUM.true_dynamics, states[:, 0], actions)
    assert imagined.shape == (1, *states.shape) == (1, 8, 51, 3)
    torch.testing.assert_close(imagined[0], states, atol=1e-3, rtol=0)


def test_each_member_goes_on_from_its_own_prediction():
    data = random_episodes(CARTPOLE, 6, seed=0)
    config = DynamicsConfig(num_members=3, max_updates=50)
    fitted = EnsembleModel(CARTPOLE, seeded(), config).fit(data)
    states, actions = windows(data, 5)
    actions = CARTPOLE.actions.encode(actions)
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
        rollout(CARTPOLE.true_dynamics, torch.zeros(obs), torch.zeros(actions))


def test_units_do_not_matter():
    """Small numbers are no constants: metres or micrometres, the model learns the same."""
    data = linear_data()
    small = dataclasses.replace(data, obs=1e-7 * data.obs, next_obs=1e-7 * data.next_obs)
    plain, tiny = learner().fit(data), learner().fit(small)
    obs, action = torch.tensor(data.obs), torch.tensor(data.action)
    expected, found = plain.step(obs, action), tiny.step(1e-7 * obs, action)
    torch.testing.assert_close(1e7 * found.next_obs, expected.next_obs, rtol=1e-3, atol=1e-3)


# --- angles --------------------------------------------------------------------------------------


def test_angles_are_those_of_the_task_unless_others_are_given():
    data = random_episodes(PENDULUM, 2, seed=0)
    said = []
    for angles in (None, ((0, 1),), ()):
        config = DynamicsConfig(**QUICK, angles=angles)
        learning = EnsembleModel(PENDULUM, seeded(), config)
        fitted = learning.fit(data)
        assert learning.angles == fitted.angles == (() if angles == () else ((0, 1),))
        said.append(fitted.step(*rows_of(fitted, data)).next_obs)
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])


def test_angles_beyond_the_observation():
    says = r"EnsembleModel: expected angles as .*columns among the 3 of the observation, got"
    with pytest.raises(ValueError, match=says):
        learner(angles=((0, 3),))
