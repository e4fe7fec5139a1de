"""What each setting of a learned model does, and futures imagined with noise."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from mbrl_helpers import dynamics, networks
from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.data import Transitions, validation_folds
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import Task, get_task
from mbrl_helpers.futures import Imagination, propagate, rollout
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.interfaces import Step
from mbrl_helpers.networks import with_ones

QUICK = {"max_updates": 100, "hidden_sizes": (16,), "termination_sizes": (), "num_folds": 3}
TORQUE = Box(-2, 2, (1,))
KINDS = [{}, {"gaussian": True}, {"method": "dropout"}, {"method": "last_layer"}]
PENDULUM = get_task("Pendulum-v1")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def learner(num_obs=2, seed=0, **changes):
    names = tuple(f"number {i}" for i in range(num_obs))
    task = Task(env_id="a curved system", obs_names=names, space=TORQUE)
    return EnsembleModel(task, seeded(seed), DynamicsConfig(**QUICK | changes))


def transitions(obs, action, next_obs, reward, length=20):
    num = len(obs)
    return Transitions(
        obs=obs.numpy(),
        action=action.numpy(),
        reward=reward.numpy(),
        next_obs=next_obs.numpy(),
        terminated=np.zeros(num, dtype=bool),
        truncated=np.arange(num) % length == length - 1,
        episode=np.arange(num) // length,
    )


def noisy_data(num=240, seed=0):
    """A curved system of two numbers; the noise of the second is ten times that of the first."""
    rng = seeded(seed)
    obs = 2 * torch.rand(num, 2, generator=rng) - 1
    action = 4 * torch.rand(num, 1, generator=rng) - 2
    change = torch.stack([(3 * obs[:, 1]).sin(), action[:, 0] * obs[:, 0]], 1)
    noise = torch.randn(num, 2, generator=rng) * torch.tensor([0.02, 0.2])
    return transitions(obs, action, obs + change + noise, (obs * change).sum(1))


def inputs(data):
    return torch.tensor(data.obs), torch.tensor(data.action)


@pytest.fixture
def trained_on(monkeypatch):
    """What `train_network` is given: a list of (training, validation) pairs, as of each call."""
    calls, original = [], dynamics.train_network

    def watched(network, loss, train, valid, *arguments, **options):
        calls.append((train, valid))
        return original(network, loss, train, valid, *arguments, **options)

    monkeypatch.setattr(dynamics, "train_network", watched)
    return calls


# --- which rows, which members -------------------------------------------------------------------


@pytest.mark.parametrize("bootstrap", [True, False])
def test_bootstrap_draws_rows_with_replacement(trained_on, bootstrap):
    """From what a member does not hold out, and each member draws its own."""
    data = noisy_data()
    learner(num_members=6, max_updates=1, bootstrap=bootstrap).fit(data)
    (x, _), (held_out, _) = trained_on[0]
    assert x.shape == (6, 160, 3)
    counts = []
    for e in range(6):
        rows, count = x[e].unique(dim=0, return_counts=True)
        counts.append(len(rows))
        together = torch.cat([rows, held_out[e]]).unique(dim=0)
        assert len(together) == len(rows) + 80  # nothing is both learned from and held out
        assert bootstrap == (count.max() > 1)
    if bootstrap:
        assert np.mean(counts) == pytest.approx((1 - 1 / math.e) * 160, rel=0.05)
        assert not torch.equal(x[0].unique(dim=0), x[3].unique(dim=0))  # of the same fold
    else:
        assert counts == [160] * 6


def test_each_member_holds_out_its_own_fold(trained_on):
    data = noisy_data()
    fitted = learner(num_members=4, max_updates=1).fit(data)
    folds, units = validation_folds(data, 3), fitted.units
    x = units.inputs.normalize(torch.cat(inputs(data), 1))
    (rows, targets), (held_out, held_out_targets) = trained_on[0]
    for e in range(4):
        assert torch.equal(held_out[e], x[folds == e % 3])
        others = x[folds != e % 3]
        assert torch.equal(rows[e].unique(dim=0), others.unique(dim=0))
    y = units.outputs.normalize(fitted.targets(data))
    rest = units.rest.normalize(y - with_ones(x) @ units.linear)
    torch.testing.assert_close(held_out_targets[1], rest[folds == 1])
    assert targets.shape == (4, 160, 3)


@pytest.mark.parametrize("gaussian", [True, False])
def test_elites_are_best_on_what_they_have_not_seen(trained_on, gaussian):
    settings = {"num_members": 6, "gaussian": gaussian, "max_updates": 60}
    data = noisy_data()
    learning = learner(**settings)
    everyone = learning.fit(data)
    elites = learner(**settings, num_elites=2).fit(data)
    (train, valid), network = trained_on[0], learning.networks["change"]
    new = type(network)(6, network.sizes, seeded())
    varies = ~everyone.units.rest.constant

    def learned(x, y):
        """The two members of whose errors least is left, columns weighted by what has gone."""
        with torch.no_grad():
            before, after = (net.gain_scale(net.loss(net(x), y, varies)) for net in (new, network))
        left = (after / before).log()
        return (left * (1 - left.mean(0).exp())).sum(1).argsort()[:2]

    best = learned(*valid)
    assert set(learned(*train).tolist()) != set(best.tolist())  # they are not the same
    assert elites.num_members == 2
    for of_all, of_elites in zip(
        everyone.predict(*inputs(data)), elites.predict(*inputs(data)), strict=True
    ):
        expected = of_all[best] if gaussian or len(of_all.unique(dim=0)) > 1 else of_all[:2]
        torch.testing.assert_close(of_elites, expected)
    step = elites.step(*inputs(data))
    assert step.next_obs.shape == (2, 240, 2)
    assert step.terminated.shape == (2, 240)


@pytest.mark.parametrize("gaussian", [True, False])
def test_gains_are_shares_of_a_variance(monkeypatch, gaussian):
    """A likelihood may be negative: of it early stopping sees how large the errors are."""
    scores = []

    def watched(*arguments, score=None, **options):
        scores.append(score)
        return {}

    monkeypatch.setattr(dynamics, "train_network", watched)
    learner(gaussian=gaussian, min_terminations=0, max_updates=1).fit(noisy_data())
    assert len(scores) == 2
    loss = torch.tensor([0.3, 0.3 - math.log(2), -5.0])  # the errors of the second are half
    assert torch.equal(scores[1](loss), loss)  # of the termination head: as it is
    if gaussian:
        score = scores[0](loss)
        assert score[1] == pytest.approx(0.25 * float(score[0]))
        assert (score > 0).all()
    else:
        assert torch.equal(scores[0](loss), loss)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("warm_start", [True, False])
def test_warm_start_goes_on_from_the_last_networks(trained_on, kind, warm_start):
    data = noisy_data()
    learning = learner(warm_start=warm_start, max_updates=400, **kind)
    first = learning.fit(data).history["change"]["validation"]
    trained = dict(learning.networks)
    with torch.no_grad():
        (x, y), varies = trained_on[0][1], ~learning.fitted.units.rest.constant
        kept = trained["change"].loss(trained["change"](x), y, varies).mean().item()
    learning.config = dataclasses.replace(learning.config, max_updates=1)
    again = learning.fit(data).history["change"]["validation"]
    if warm_start:
        noise = 0.02 if kind.get("method") == "dropout" else 1e-6  # of its masks
        assert again[0] == pytest.approx(kept, abs=noise)
        assert kept == pytest.approx(min(first), abs=0.05)
        assert learning.networks["change"] is trained["change"]
        assert learning.networks["termination"] is trained["termination"]
    else:
        assert again[0] == pytest.approx(first[0], abs=0.02)
        assert learning.networks["change"] is not trained["change"]
    assert first[0] > min(first) + 0.2


@pytest.mark.parametrize("stop_at", [1, 2, 30])
def test_interrupted_warm_start_is_no_worse(monkeypatch, stop_at):
    data = noisy_data()
    learning = learner(warm_start=True, max_updates=300, learning_rate=1e-3)
    first = learning.fit(data)
    before = first.predict(*inputs(data)).mean
    calls, original = 0, networks.squared_error

    def interrupted(out, target):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        return original(out, target)

    with monkeypatch.context() as patched:
        patched.setattr(networks, "squared_error", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learning.fit(data)
    fitted = learning.fitted
    assert torch.equal(first.predict(*inputs(data)).mean, before)
    after, target = fitted.predict(*inputs(data)).mean, fitted.targets(data)
    if stop_at <= 2:
        torch.testing.assert_close(after, before)
    assert (after - target).square().mean() < 1.1 * (before - target).square().mean()
    assert len(learning.fit(data).history["change"]["updates"]) > 1  # and it goes on from there


# --- angles --------------------------------------------------------------------------------------


def rotating(turn, num=200):
    """A hand of a clock, from anywhere, that always turns by the same angle."""
    angle = 2 * math.pi * torch.rand(num, 1, generator=seeded())
    obs, next_obs = (torch.cat([a.cos(), a.sin(), 0 * a + 5], 1) for a in (angle, angle + turn))
    action = 4 * torch.rand(num, 1, generator=seeded(1)) - 2
    return transitions(obs, action, next_obs, angle[:, 0].sin())


@pytest.mark.parametrize("turn", [math.pi - 0.01, -math.pi + 0.01, 0.3, -1.5])
def test_turns_wrap_around(turn):
    """Just short of half a turn, the angle itself jumps for almost every row."""
    data = rotating(turn)
    fitted = learner(3, angles=((0, 1),), num_members=2, gaussian=False).fit(data)
    targets = fitted.targets(data)
    torch.testing.assert_close(targets[:, 0], torch.full((200,), turn), atol=1e-5, rtol=0)
    assert (targets[:, 1] == 0).all()
    step = fitted.step(*inputs(data))
    expected = torch.tensor(data.next_obs).expand(2, -1, -1)
    torch.testing.assert_close(step.next_obs, expected, atol=1e-4, rtol=0)


def test_angles_may_be_any_pairs_of_columns():
    """Sine before cosine, with another column between, and two pairs."""
    first, second = rotating(0.4), rotating(-2.0)
    pairs = ((3, 0), (1, 4))
    obs, next_obs = (
        torch.tensor(np.stack([a[:, 1], b[:, 0], a[:, 2], a[:, 0], b[:, 1]], 1))
        for a, b in ((first.obs, second.obs), (first.next_obs, second.next_obs))
    )
    data = transitions(obs, torch.tensor(first.action), next_obs, torch.tensor(first.reward))
    fitted = learner(5, angles=pairs, num_members=1).fit(data)
    change = fitted.targets(data)[:, :5]
    expected = torch.tensor([0.0, -2.0, 0.0, 0.4, 0.0]).expand(200, -1)
    torch.testing.assert_close(change, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(fitted.step(obs, inputs(data)[1]).next_obs[0], next_obs,
                               atol=1e-4, rtol=0)  # fmt: skip


@pytest.fixture(scope="module")
def pendulum():
    """Models with angles and without, and held-out episodes."""
    agent = RandomAgent(PENDULUM.action_space, seeded())
    data, test = (
        collect_episodes("Pendulum-v1", agent, num_episodes=n, seed=s) for n, s in ((6, 0), (4, 99))
    )
    settings = {"num_members": 2, "max_updates": 600, "hidden_sizes": (32, 32)}
    fitted = [learner(3, **settings, angles=pairs).fit(data) for pairs in (((0, 1),), ())]
    return *fitted, test


def test_imagined_angles_stay_on_their_circle(pendulum):
    turning, _, test = pendulum
    obs = torch.tensor(test.obs[::40])
    actions = 4 * torch.rand(len(obs), 100, 1, generator=seeded()) - 2
    for generator in (None, seeded()):
        states = rollout(turning, obs, actions, Imagination(generator=generator))
        radius = states[..., :2].square().sum(-1).sqrt()
        torch.testing.assert_close(radius, torch.ones_like(radius), atol=1e-5, rtol=0)


def test_with_angles_the_pendulum_is_learned_well(pendulum):
    turning, plain, test = pendulum
    obs, action = inputs(test)
    errors = [
        (fitted.step(obs, action).next_obs.mean(0) - torch.tensor(test.next_obs)).square().mean(0)
        for fitted in (turning, plain)
    ]
    scale = (torch.tensor(test.next_obs) - obs).square().mean(0)
    assert (errors[0] < 3e-3 * scale).all()
    assert (errors[0][:2] < errors[1][:2]).all()


def test_what_never_changes_does_not_keep_training_going(trained_on):
    """The likelihood of a constant has no limit; it does not count, and no noise is expected."""
    data = noisy_data()
    still = dataclasses.replace(data, reward=0 * data.reward + 7)
    settings = {"gaussian": True, "max_updates": 3000, "patience": 4, "learning_rate": 1e-2}
    fitted = learner(**settings).fit(still)
    assert fitted.history["change"]["updates"][-1] < 2000
    mean, std = fitted.predict(*inputs(data))
    torch.testing.assert_close(mean[..., 2], torch.full((5, 240), 7.0), atol=1e-4, rtol=0)
    assert (std[..., 2] < 1e-4).all()
    assert (std[..., 1] > 0.05).all()


def test_gaussian_model_of_data_without_any_variation():
    data = noisy_data()
    still = dataclasses.replace(data, obs=0 * data.obs, next_obs=0 * data.obs + 2,
                                action=0 * data.action, reward=0 * data.reward - 1)  # fmt: skip
    mean, std = learner(gaussian=True).fit(still).predict(*inputs(still))
    expected = torch.tensor([2.0, 2.0, -1.0]).expand(5, 240, 3)
    torch.testing.assert_close(mean, expected, atol=1e-4, rtol=0)
    assert (std < 1e-4).all()


# --- clamp and noise -----------------------------------------------------------------------------


@pytest.mark.parametrize("clamp", [True, False])
def test_clamp_asks_for_the_nearest_point(clamp):
    """Of the network only: the linear part carries on."""
    data = noisy_data()
    learning = learner(clamp=clamp, num_members=2)
    fitted = learning.fit(data)
    x = torch.cat([4 * torch.randn(50, 2, generator=seeded()), torch.zeros(50, 1)], 1)
    rows = torch.cat(inputs(data), 1)
    nearest = x.clamp(rows.amin(0), rows.amax(0)) if clamp else x
    assert (x.clamp(rows.amin(0), rows.amax(0)) != x).any()
    with torch.no_grad():
        rest = learning.networks["change"](fitted.units.inputs.normalize(nearest))
    linear = with_ones(fitted.units.inputs.normalize(x)) @ fitted.units.linear
    expected = fitted.units.outputs.denormalize(linear + fitted.units.rest.denormalize(rest))
    torch.testing.assert_close(fitted.predict(x[:, :2], x[:, 2:]).mean, expected,
                               atol=1e-3, rtol=1e-3)  # fmt: skip


@pytest.mark.parametrize("clamp", [True, False])
def test_clamp_holds_for_the_end_of_an_episode_too(clamp):
    data = noisy_data()
    data = dataclasses.replace(data, terminated=data.next_obs[:, 0] > 0.5)
    learning = learner(clamp=clamp, num_members=2, termination_sizes=(8,))
    fitted = learning.fit(data)
    step = fitted.step(4 * torch.randn(50, 2, generator=seeded()), torch.zeros(50, 1))
    low, high = (torch.tensor(f(data.next_obs, axis=0)) for f in (np.min, np.max))
    known = step.next_obs.clamp(low, high) if clamp else step.next_obs
    head, norm = learning.networks["termination"], fitted.units.outcome
    action = torch.zeros(2, 50, 1)

    def logits(next_obs):
        outcome = norm.normalize(torch.cat([next_obs, action], -1))
        with torch.no_grad():
            return head(outcome * ~norm.constant)

    logit, other = logits(known)[..., 0], logits(low + high - known)
    torch.testing.assert_close(step.terminated, logit.sigmoid(), atol=1e-4, rtol=1e-4)
    assert (other[..., 0].sigmoid() - step.terminated).abs().max() > 0.1  # it says something


@pytest.mark.parametrize("kind", [{}, {"linear_part": False}], ids=str)
def test_noise_of_a_model_without_variances_is_its_error_on_held_out_data(kind):
    data = noisy_data()
    fitted = learner(num_members=6, **kind).fit(data)
    folds, targets = validation_folds(data, 3), fitted.targets(data)
    mean, std = fitted.predict(*inputs(data))
    held_out = [mean[e, folds == e % 3] - targets[folds == e % 3] for e in range(6)]
    size = torch.stack(held_out).square().mean((0, 1)).sqrt()
    torch.testing.assert_close(std, size.expand(6, 240, -1), rtol=1e-3, atol=1e-6)
    seen = (mean - targets).square().mean((0, 1)).sqrt()
    assert not torch.allclose(seen, size, rtol=0.01)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_finds_the_size_of_the_noise(kind):
    """That of each column, from the units of the data; the reward has none."""
    learning = learner(num_members=3, max_updates=600, hidden_sizes=(32, 32), dropout=0.02, **kind)
    fitted = learning.fit(noisy_data(1200))
    test = noisy_data(400, seed=1)
    std = fitted.predict(*inputs(test)).std.square().mean((0, 1)).sqrt()
    assert 0.17 < std[1] < 0.25
    assert std[0] < 0.3 * std[1]


def test_gaussian_model_equals_the_computation_it_stands_for():
    data = noisy_data()
    learning = learner(num_members=3, gaussian=True)
    fitted = learning.fit(data)
    units = fitted.units
    x = units.inputs.normalize(torch.cat(inputs(data), 1))
    with torch.no_grad():
        mean, log_var = learning.networks["change"](x).chunk(2, -1)
    rest = units.rest.denormalize(mean) + with_ones(x) @ units.linear
    scale = units.rest.std * units.outputs.std
    predicted = fitted.predict(*inputs(data))
    torch.testing.assert_close(predicted.mean, units.outputs.denormalize(rest),
                               atol=1e-4, rtol=1e-4)  # fmt: skip
    torch.testing.assert_close(predicted.std, (0.5 * log_var).exp() * scale, atol=0, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_step_with_a_generator_has_the_predicted_noise(kind):
    data = noisy_data()
    fitted = learner(num_members=2, **kind).fit(data)
    obs, action = (part[:3].repeat(20_000, 1) for part in inputs(data))
    mean, std = fitted.predict(obs[:3], action[:3])
    step = fitted.step(obs, action, seeded(1))
    sampled = step.next_obs.view(2, 20_000, 3, 2)
    torch.testing.assert_close(sampled.std(1), std[..., :2], rtol=0.03, atol=0)
    error = (sampled.mean(1) - obs[:3] - mean[..., :2]).abs()
    assert (error < 5 * std[..., :2] / math.sqrt(20_000) + 1e-6).all()
    flat = sampled - sampled.mean(1, keepdim=True)
    for e in range(2):  # columns, and members, are drawn independently
        for other in (flat[e, :, 0, 1], flat[1 - e, :, 0, 0]):
            both = torch.stack([flat[e, :, 0, 0], other])
            assert torch.corrcoef(both)[0, 1].abs() < 0.04
    torch.testing.assert_close(step.reward, fitted.step(obs, action).reward)
    again = fitted.step(obs, action, seeded(1))
    assert torch.equal(step.next_obs, again.next_obs)


def test_step_without_a_generator_has_none():
    data = noisy_data()
    learning = learner(gaussian=True)
    fitted = learning.fit(data)
    before = torch.get_rng_state(), learning.generator.get_state()
    steps = [fitted.step(*inputs(data)).next_obs for _ in range(2)]
    assert torch.equal(*steps)
    mean = fitted.predict(*inputs(data)).mean
    torch.testing.assert_close(steps[0], inputs(data)[0] + mean[..., :2])
    fitted.step(*inputs(data), seeded())
    after = torch.get_rng_state(), learning.generator.get_state()
    assert all(map(torch.equal, before, after))


# --- futures -------------------------------------------------------------------------------------


class Push:
    """Members that move by their own number each step, with noise of a given size."""

    def __init__(self, strengths=(1.0, 10.0, 100.0), noise=0.5):
        self.strengths, self.noise = torch.tensor(strengths), noise
        self.num_members = len(strengths)

    def step(self, obs, action, generator=None):
        next_obs = obs + self.strengths[:, None, None] * action
        if generator is not None:
            next_obs = next_obs + self.noise * torch.randn(obs.shape, generator=generator)
        return Step(next_obs, next_obs[..., 0], torch.zeros(obs.shape[:-1]))


STARTS = torch.tensor([[0.5], [-1.0], [3.0], [7.0]])
ACTIONS = torch.ones(4, 6, 1)


def test_tsinf_is_each_member_alone():
    data = noisy_data()
    fitted = learner(num_members=3).fit(data)
    obs, actions = torch.tensor(data.obs[:5]), torch.randn(5, 8, 1, generator=seeded())
    states = rollout(fitted, obs, actions)
    for e in range(3):
        state = obs
        for t in range(8):
            torch.testing.assert_close(states[e, :, t], state)
            state = fitted.step(state, actions[:, t]).next_obs[e]
        torch.testing.assert_close(states[e, :, 8], state)
    assert torch.equal(states, rollout(fitted, obs, actions, Imagination(propagation="tsinf")))


def test_expectation_goes_on_from_the_mean():
    data = noisy_data()
    fitted = learner(num_members=3).fit(data)
    obs, actions = torch.tensor(data.obs[:5]), torch.randn(5, 8, 1, generator=seeded())
    state = obs
    states = rollout(fitted, obs, actions, Imagination(propagation="expectation"))
    for t in range(8):
        each = fitted.step(state, actions[:, t]).next_obs
        torch.testing.assert_close(states[:, :, t + 1], each)  # each member's own last word
        state = each.mean(0)
    how = Imagination(propagation="expectation", generator=seeded())
    assert torch.equal(states, rollout(fitted, obs, actions, how))  # no noise
    starts = STARTS.expand(3, -1, -1)
    yielded = [obs for obs, _, _ in propagate(Push(), starts, ACTIONS, how)]
    torch.testing.assert_close(yielded[2], (STARTS + 2 * 37).expand(3, -1, -1))


def test_ts1_visits_several_members():
    """The digits of a future count how often it was with each member."""
    calm = Push(noise=0.0)
    ts1 = Imagination(propagation="ts1", generator=seeded())
    moved = rollout(calm, STARTS, ACTIONS, ts1) - STARTS[:, None]
    assert not (moved[:, 0] == moved[:, 1]).all()  # each start has a deal of its own
    steps = moved.diff(dim=2)[:, 0, :, 0]
    for t in range(6):  # at each step every member serves one place
        assert sorted(steps[:, t].tolist()) == [1, 10, 100]
    assert any(len(set(place.tolist())) > 1 for place in steps)
    assert (
        all(len({tuple(s.tolist()) for s in steps[:, t : t + 2].T}) > 1 for t in (0, 2))
        or len({tuple(s.tolist()) for s in steps.T}) > 2
    )  # dealt anew
    stays = rollout(calm, STARTS, ACTIONS) - STARTS[:, None]
    assert stays[:, 0, -1, 0].tolist() == [6, 60, 600]
    ts1 = Imagination(propagation="ts1", generator=seeded(1))
    many = rollout(calm, STARTS, torch.ones(4, 3000, 1), ts1)
    shares = torch.stack([(many[:, 0, :, 0].diff(dim=1).round() == s).float().mean(1)
                          for s in (1, 10, 100)])  # fmt: skip
    torch.testing.assert_close(shares, torch.full((3, 3), 1 / 3), atol=0.05, rtol=0)


@pytest.mark.parametrize("actions", [ACTIONS, [lambda obs: 0.1 * obs[..., :1]] * 6],
                         ids=["plans", "policies"])  # fmt: skip
def test_ts1_with_members_that_agree_is_tsinf(actions):
    """An action goes with the future that it was chosen for."""
    alike = Push((3.0, 3.0, 3.0), noise=0.0)
    own = torch.randn(3, 4, 1, generator=seeded())  # but the futures are not
    ts1, tsinf = (
        list(propagate(alike, own, actions, Imagination(propagation=name, generator=seeded())))
        for name in ("ts1", "tsinf")
    )
    for a, b in zip(ts1, tsinf, strict=True):
        torch.testing.assert_close(a, b)


def test_a_step_starts_where_the_last_one_ended():
    """Also where futures change members: no place takes over the state of another."""
    own = torch.randn(3, 4, 1, generator=seeded())
    for name in ("ts1", "tsinf"):
        how = Imagination(propagation=name, generator=seeded(3))
        steps = list(propagate(Push(noise=0.0), own, ACTIONS, how))
        assert torch.equal(steps[0][0], own)
        for (obs, action, step), following in zip(steps, [*steps[1:], None], strict=True):
            change = (step.next_obs - obs)[..., 0]
            nearest = (change[..., None] - Push().strengths).abs().amin(-1)
            assert (nearest < 1e-3).all()
            assert action.shape == (3, 4, 1)
            torch.testing.assert_close(step.reward, step.next_obs[..., 0])
            if following is not None:
                assert torch.equal(following[0], step.next_obs)


@pytest.mark.parametrize("name", ["tsinf", "ts1"])
def test_noise_needs_a_generator(name):
    noisy, calm = Push(), Push(noise=0.0)
    with_noise, again, other = (
        rollout(noisy, STARTS, ACTIONS, Imagination(propagation=name, generator=seeded(s)))
        for s in (0, 0, 1)
    )
    assert torch.equal(with_noise, again)
    assert not torch.equal(with_noise, other)
    if name == "tsinf":
        without = rollout(noisy, STARTS, ACTIONS)
        assert torch.equal(without, rollout(calm, STARTS, ACTIONS))
        spread = (with_noise - without)[:, :, 1:].diff(dim=2).std()
        assert spread == pytest.approx(0.5, rel=0.3)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"propagation": "ts2"}, "propagation to be one of .*, got ts2"),
        ({"propagation": "ts1"}, "a generator that deals the members out for 'ts1', got None"),
        ({"propagation": None}, "propagation to be one of .*, got None"),
    ],
)
def test_ways_to_propagate_that_make_no_sense(how, says):
    with pytest.raises(ValueError, match=f"Imagination: expected {says}"):
        Imagination(**how)
