"""Learning beside noise, constants, clocks, ends and interrupts that have nothing to teach."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl_helpers import dynamics, networks
from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.data import Folds, Transitions, validation_folds
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import Task, get_task
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.networks import (
    EnsembleNetwork,
    Normalizer,
    TrainingConfig,
    squared_error,
    train_network,
    uninterrupted,
    with_ones,
)
from mbrl_helpers.probabilistic import GaussianNetwork, gaussian_nll
from mbrl_helpers.units import never_back

SMALL = {"num_members": 2, "num_folds": 2, "hidden_sizes": (16,), "max_updates": 200}
PUSH = Box(-1, 1, (1,))
CARTPOLE = get_task("CartPole-v1")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def learner(num_obs, space=PUSH, seed=0, **changes):
    names = tuple(f"number {i}" for i in range(num_obs))
    task = Task(env_id="a small world", obs_names=names, space=space)
    return EnsembleModel(task, seeded(seed), DynamicsConfig(**SMALL | changes))


def transitions(obs, action, next_obs, reward=None, terminated=None, lengths=20):
    """Rows cut into episodes; of lengths, or all as long."""
    num = len(obs)
    if isinstance(lengths, int):
        lengths = [lengths] * (num // lengths)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    last = np.append(episode[1:] != episode[:-1], True)
    ended = np.zeros(num, bool) if terminated is None else np.asarray(terminated, bool)
    action = np.asarray(action)
    return Transitions(
        obs=np.asarray(obs, np.float32),
        action=action.astype(np.float32 if action.dtype.kind == "f" else np.int64),
        reward=np.asarray(np.zeros(num) if reward is None else reward, np.float32),
        next_obs=np.asarray(next_obs, np.float32),
        terminated=ended,
        truncated=last & ~ended,
        episode=episode,
    )


def inputs(fitted, data):
    batch = data.tensors(fitted.task.actions)
    return batch.obs, batch.action


def swing(obs, action):
    """A pendulum without its circle; rewarded for height."""
    change = np.stack([0.1 * obs[:, 1], 0.3 * action[:, 0] - 0.3 * np.sin(2 * obs[:, 0])], 1)
    return change, np.cos(2 * obs[:, 0])


def prey(obs, action):
    """Two kinds of animals, of which the second eats the first."""
    a, b = obs.T + 2.5
    change = np.stack([0.05 * a * (1 - 0.8 * b + action[:, 0]), 0.05 * b * (0.8 * a - 1)], 1)
    return change, -np.abs(a - 2)


WORLDS = {"swing": swing, "prey": prey}


def experience(name, num=400, seed=0):
    rng = np.random.default_rng(seed)
    obs, action = rng.uniform(-2, 2, (num, 2)), rng.uniform(-1, 1, (num, 1))
    change, reward = WORLDS[name](obs, action)
    return transitions(obs, action, obs + change, reward)


def with_column(data, column, next_column):
    """The same with another number at the end of the observation."""
    obs, next_obs = (
        np.column_stack([part, np.broadcast_to(values, len(data))]).astype(np.float32)
        for part, values in ((data.obs, column), (data.next_obs, next_column))
    )
    return dataclasses.replace(data, obs=obs, next_obs=next_obs)


# --- what can't be learned costs others nothing --------------------------------------------------

CURVES = {
    "fold": lambda x: (x[:, 0] + x[:, 1]).abs(),
    "hinge": lambda x: 1.5 * torch.maximum(x[:, 0], -x[:, 1]),
    "bowl": lambda x: x[:, 0].square() + x[:, 1].cos(),
}


def curve(kind, num, seed, num_noise, scatter=0.05):
    """Rows of a number that can be learned, up to a little noise, and of noise alone."""
    rng = seeded(seed)
    x = 4 * torch.rand(num, 3, generator=rng) - 2
    y = CURVES[kind](x)[:, None] + scatter * torch.randn(num, 1, generator=rng)
    return x, torch.cat([y, torch.randn(num, num_noise, generator=rng)], 1)


def as_one(loss):
    """All columns as one, as if each counted as much as any other."""
    return lambda out, target: loss(out, target).mean(-1, keepdim=True)


def error_of_the_first(kind, seed, num_noise, *, gaussian=False, lumped=False):
    """Held-out squared error of the number that can be learned."""
    made, loss = (GaussianNetwork, gaussian_nll) if gaussian else (EnsembleNetwork, squared_error)
    network = made(2, (3, 32, 1 + num_noise), seeded(seed))
    train, valid = curve(kind, 400, 100 + seed, num_noise), curve(kind, 100, 200 + seed, num_noise)
    train_network(
        network, as_one(loss) if lumped else loss, train, valid, seeded(seed),
        TrainingConfig(), score=network.gain_scale,
    )  # fmt: skip
    x, y = curve(kind, 500, 300 + seed, num_noise, scatter=0)
    with torch.no_grad():
        mean, _ = network.moments(network(x))
    return float((mean[..., 0] - y[:, 0]).square().mean())


@pytest.mark.parametrize(("kind", "seed"), [("fold", 0), ("hinge", 0), ("hinge", 1), ("bowl", 1)])
def test_noise_beside_it_does_not_end_the_learning_of_a_number(kind, seed):
    alone, beside, lumped = (
        error_of_the_first(kind, seed, n, lumped=how)
        for n, how in ((0, False), (8, False), (8, True))
    )
    assert beside < 1.5 * alone
    assert lumped > 2.25 * alone  # if all columns counted alike, it would


@pytest.mark.parametrize("kind", ["fold", "bowl"])
def test_noise_beside_it_does_not_end_the_learning_of_a_likelihood(kind):
    alone, beside, lumped = (
        error_of_the_first(kind, 0, n, gaussian=True, lumped=how)
        for n, how in ((0, False), (8, False), (8, True))
    )
    assert beside < 1.5 * alone
    assert lumped > 1.75 * alone


def test_weights_are_not_chosen_by_what_gets_worse_while_others_are_learned():
    """A column of noise that is learned by heart: the learnable one's best weights are kept."""
    seen = []

    def watched(out, target):
        losses = squared_error(out, target)
        if not torch.is_grad_enabled():
            seen.append(losses)
        return losses

    network = EnsembleNetwork(2, (3, 32, 2), seeded())
    train, valid = curve("fold", 60, 0, 1), curve("fold", 100, 1, 1)
    train_network(network, watched, train, valid, seeded(), TrainingConfig(max_updates=1000))
    looks = torch.stack(seen)  # [looks, E, C]
    assert (looks[-1, :, 1] > looks[0, :, 1]).all()
    with torch.no_grad():
        kept = squared_error(network(valid[0]), valid[1])
    assert (kept[:, 0] < 1.2 * looks[..., 0].amin(0)).all()
    for e in range(2):  # and they are those of one look
        assert torch.isclose(looks[:, e], kept[e], rtol=1e-4).all(1).any()


USELESS = {
    "noise": lambda rng, num: rng.normal(size=(2, num)),
    "steps": lambda rng, num: rng.integers(0, 2, (2, num)),
    "a constant": lambda rng, num: np.full((2, num), 1e5),
}


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("what", USELESS)
def test_what_can_not_be_learned_does_not_choose_the_elites(monkeypatch, what, gaussian):
    """The members that are planned with are the best ones, and the same without it."""
    chosen, original = [], dynamics.ranked

    def watched(first, loss):
        keep = [0, 1, -1]  # the numbers of the world, and the reward
        without, mean = original(first[:, keep], loss[:, keep]), loss[:, keep].mean(1)
        orders = original(first, loss), without, loss.mean(1).argsort(), mean.argsort()
        chosen.append([set(order[:2].tolist()) for order in orders])
        return orders[0]

    monkeypatch.setattr(dynamics, "ranked", watched)
    for seed in (0, 5):
        data = experience("swing", 200, seed)
        data = with_column(data, *USELESS[what](np.random.default_rng(seed), 200))
        settings = {"num_members": 5, "num_folds": 5, "num_elites": 2, "gaussian": gaussian}
        fitted = learner(3, seed=seed, max_updates=300, **settings).fit(data)
        assert fitted.num_members == 2
    assert all(beside == alone for beside, alone, *_ in chosen)
    if what != "a constant" and not gaussian:  # ranked by the mean loss, others were the best
        assert any(beside != alone for *_, beside, alone in chosen)


SYSTEMS = {
    "two springs": (
        [
            [1.0, 0.1, 0.0, 0.0],
            [-0.3, 0.97, 0.1, 0.0],
            [0.0, 0.0, 1.0, 0.1],
            [0.1, 0.0, -0.3, 0.97],
        ],
        [0.0, 0.1, 0.0, 0.0],
    ),
    "three rooms": ([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9]], [0.2, 0.0, 0.0]),
}


def rounded(system, digit, seed, num=400):
    """A linear system, seen to so many parts of one, with a quadratic reward."""
    matrix, push = map(np.array, SYSTEMS[system])
    rng = np.random.default_rng(seed)
    obs, action = rng.uniform(-1, 1, (num, len(matrix))), rng.uniform(-1, 1, (num, 1))
    next_obs = obs @ matrix.T + action * push
    reward = -(obs[:, 0] ** 2) - 0.5 * obs[:, 1] ** 2 - 0.1 * action[:, 0] ** 2
    seen = [np.round(part / digit) * digit if digit else part for part in (obs, next_obs)]
    return transitions(seen[0], action, seen[1], reward)


def reward_error(system, digit):
    data, test = rounded(system, digit, 0), rounded(system, 0, 1)
    fitted = learner(data.obs.shape[1], max_updates=2000, hidden_sizes=(32,)).fit(data)
    mean = fitted.predict(*inputs(fitted, test)).mean[..., -1]
    return float((mean - torch.tensor(test.reward)).square().mean())


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_reward_is_learned_beside_observations_that_are_rounded(monkeypatch, system):
    """Of what is rounded, the linear part leaves over noise only; the reward is curved."""
    found = reward_error(system, 0.02)
    variance = rounded(system, 0, 1).reward.var()
    assert found < 0.01 * variance
    original = dynamics.train_network
    monkeypatch.setattr(
        dynamics, "train_network",
        lambda network, loss, *rest, **options: original(network, as_one(loss), *rest, **options),
    )  # fmt: skip
    assert reward_error(system, 0.02) > 3 * found


# --- constants, offsets and scales ---------------------------------------------------------------


def by_hand(learning, obs, action):
    """What the normalised networks say, in units of the data, in 64 bits."""
    fitted, network = learning.fitted, learning.networks["change"]
    units, raw = fitted.units, torch.cat([obs, action], 1)
    x, known = (
        units.inputs.normalize(rows.double()) * ~units.inputs.constant
        for rows in (raw, raw.clamp(*units.input_range))
    )
    with torch.no_grad():
        rest, _ = network.moments(network(known.float()))
    rest = units.rest.denormalize(rest.double() * ~units.rest.constant)
    rest = torch.where(units.rest.constant, units.rest.mean.double(), rest)
    return units.outputs.denormalize(rest + with_ones(x) @ units.linear.double())


def check_by_hand(learning, data):
    fitted = learning.fitted
    said, expected = (
        fitted.predict(*inputs(fitted, data)).mean,
        by_hand(learning, *inputs(fitted, data)),
    )
    off = (said - expected).abs().amax((0, 1))
    assert (off <= 1e-3 * fitted.units.outputs.std).all()


CONSTANTS = [0.0, -3.7, 1e5, 1e8, 2e11, -1e9]
KINDS = [{}, {"gaussian": True, "max_updates": 100}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", WORLDS)
def test_a_constant_changes_nothing_however_large_it_is(name, kind):
    data, test = experience(name), experience(name, seed=1)
    said = []
    for constant in CONSTANTS:
        learning = learner(3, **kind)
        fitted = learning.fit(with_column(data, constant, constant))
        check_by_hand(learning, with_column(test, constant, constant))
        mean, std = fitted.predict(*inputs(fitted, with_column(test, constant, constant)))
        assert (mean[..., 2].abs() <= 1e-6 * max(1, abs(constant))).all()
        said.append((mean[..., [0, 1, 3]], std[..., [0, 1, 3]]))
        spread = fitted.units.outputs.std[[0, 1, 3]]
    for mean, std in said[1:]:
        assert ((mean - said[0][0]).abs() <= 1e-3 * spread).all()
        assert ((std - said[0][1]).abs() <= 1e-3 * spread).all()
    plain = learner(2, **kind).fit(data)
    target = plain.targets(test)
    errors = [
        (mean - target).square().mean((0, 1)).sqrt()
        for mean in (said[0][0], plain.predict(*inputs(plain, test)).mean)
    ]
    assert (errors[0] < 1.5 * errors[1] + 1e-3 * spread).all()


@pytest.mark.parametrize("constant", CONSTANTS)
def test_a_constant_is_told_from_small_changes(constant):
    """Also one whose rows are scattered by rounding."""
    next_to_it = np.nextafter(np.float32(constant), np.float32(np.inf))  # of 0, not normal
    data = torch.tensor(np.where(np.arange(1000) % 3, np.float32(constant), next_to_it))[:, None]
    norm = Normalizer(torch.cat([data, torch.full((1000, 1), constant)], 1))
    assert norm.constant.tolist() == [True, True]
    assert norm.mean[1] == np.float32(constant)
    assert (norm.centre == 0).all()
    assert (norm.normalize(torch.full((1, 2), constant)).abs() < 1).all()
    scale = 1e-3 * max(1e-3, abs(constant))
    varied = constant + scale * torch.randn(1000, 1, dtype=torch.double, generator=seeded())
    norm = Normalizer(varied.float())
    assert not norm.constant.any()
    assert norm.std.item() == pytest.approx(scale, rel=0.1)


def moved(data, scale, offset):
    """The first number in other units: times scale, plus offset; as 32 bits can say it."""
    obs, next_obs = data.obs.astype(float), data.next_obs.astype(float)
    for part in (obs, next_obs):
        part[:, 0] = part[:, 0] * scale + offset
    return dataclasses.replace(
        data, obs=obs.astype(np.float32), next_obs=next_obs.astype(np.float32)
    )


@pytest.mark.parametrize(
    ("scale", "offset"), [(1, 1e3), (1, -1e4), (1e6, 0), (1e-6, 0), (1e6, 1e9), (1e-6, 1e-2)]
)
@pytest.mark.parametrize("name", WORLDS)
def test_the_units_of_a_number_do_not_matter(name, scale, offset):
    data, test = experience(name), experience(name, seed=1)
    other = moved(test, scale, offset)
    plain, learning = learner(2).fit(data), learner(2)
    fitted = learning.fit(moved(data, scale, offset))
    check_by_hand(learning, other)
    assert not fitted.units.inputs.constant.any()
    truth = plain.targets(test)
    found = fitted.predict(*inputs(fitted, other)).mean / torch.tensor([scale, 1, 1])
    errors = [
        (said - truth).square().mean((0, 1)).sqrt()
        for said in (found, plain.predict(*inputs(plain, test)).mean)
    ]
    rounding = 1e-7 * abs(offset) / scale
    assert (errors[0] < 1.5 * errors[1] + rounding + 1e-3 * truth.std(0)).all()
    step = fitted.step(*inputs(fitted, other))
    expected = torch.tensor(other.obs[:, 0]) + scale * found[..., 0]
    torch.testing.assert_close(step.next_obs[..., 0], expected, rtol=3e-7, atol=1e-5 * scale)


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e4])
@pytest.mark.parametrize("network_of", [EnsembleNetwork, GaussianNetwork])
def test_folded_weights_take_inputs_less_their_centre(network_of, offset):
    network = network_of(2, (3, 8, 2), seeded())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(1)))
    data = torch.randn(50, 3, generator=seeded(2)) + torch.tensor([offset, 0.5, 0.0])
    data[:, 2] = 1e9
    norm = Normalizer(data)
    assert norm.centre.tolist() == [norm.mean[0].item() if offset else 0, 0, 0]
    folded = network.folded(norm, torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0]))
    with torch.no_grad():
        mean, std = network.moments(network(norm.normalize(data) * ~norm.constant))
        said, noise = folded.moments(folded(data - norm.centre))
        expected = mean * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -1.0])
        torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)
        if std is not None:
            torch.testing.assert_close(noise, std * torch.tensor([2.0, 0.5]), atol=0, rtol=1e-3)
        elsewhere = data - norm.centre
        elsewhere[:, 2] = -7e5  # nothing has been learned of it
        assert torch.equal(folded(elsewhere), folded(data - norm.centre))


# --- clocks --------------------------------------------------------------------------------------

NUM, LENGTH = 160, 20  # eight episodes
TIME = np.arange(NUM)
PER_EPISODE = TIME // LENGTH
CLOCKS = {
    "counter": TIME,
    "count down": 1000 - 3 * TIME,
    "time stamp": 1e6 + 0.5 * TIME,
    "episode number": PER_EPISODE,
}
NO_CLOCKS = {
    "constant": 0 * TIME + 5,
    "flag at the very end": TIME >= NUM - 3,
    "position": np.random.default_rng(0).normal(size=NUM).cumsum(),
    "velocity": np.random.default_rng(1).normal(size=NUM),
    "goal": np.random.default_rng(2).permutation(8)[PER_EPISODE],
    "step": TIME % LENGTH,
    "steps left": LENGTH - TIME % LENGTH,
    "position from 0": np.random.default_rng(3).random((8, LENGTH)).cumsum(1).ravel(),
}


def of_columns(columns, num=NUM):
    obs = np.column_stack([np.asarray(c, float) for c in columns])[:num]
    return transitions(obs, np.zeros((num, 1)), obs, lengths=LENGTH)


def test_what_never_comes_back_is_a_clock():
    data = of_columns([*CLOCKS.values(), *NO_CLOCKS.values()])
    expected = [True] * len(CLOCKS) + [False] * len(NO_CLOCKS)
    assert never_back(data).tolist() == expected
    assert never_back(data).dtype == torch.bool


def test_of_one_episode_nothing_is_said_to_be_a_clock():
    assert not never_back(of_columns([*CLOCKS.values(), *NO_CLOCKS.values()], LENGTH)).any()


@pytest.mark.parametrize("num_episodes", [2, 7])
def test_of_few_episodes_a_constant_of_each_is_no_clock(num_episodes):
    """Chance may have put two goals in order; a counter shows in each episode what it is."""
    found = never_back(of_columns(CLOCKS.values(), num_episodes * LENGTH)).tolist()
    assert found == [True, True, True, False]


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("clock", ["counter", "count down", "time stamp"])
@pytest.mark.parametrize("name", WORLDS)
def test_what_a_clock_says_changes_no_prediction(name, clock, clamp):
    data, ticks = experience(name, NUM), CLOCKS[clock]
    tick = ticks[1] - ticks[0]
    data = dataclasses.replace(
        with_column(data, ticks, ticks + tick), terminated=data.obs[:, 0] > 1
    )
    fitted = learner(3, clamp=clamp).fit(data)
    obs, action = inputs(fitted, data)
    mean, std = fitted.predict(obs, action)
    torch.testing.assert_close(
        mean[..., 2], torch.full((2, NUM), float(tick)), rtol=1e-3, atol=1e-3
    )
    ended = fitted.step(obs, action).terminated
    assert ended.std() > 0.1  # of the rest it says something
    for other in (ticks[::-1].copy(), 0 * ticks - 1e3, 0 * ticks + 1e7):
        obs[:, 2] = torch.tensor(other)
        for before, now in zip((mean, std), fitted.predict(obs, action), strict=True):
            assert torch.equal(before, now)
        assert torch.equal(fitted.step(obs, action).terminated, ended)


# --- ends that hang on the action ----------------------------------------------------------------


def points(num, size, seed):
    return np.random.default_rng(seed).uniform(-1, 1, (num, size))


def quitting(num, seed):
    """An action that ends it all, at once."""
    obs, action = points(num, 2, seed), np.random.default_rng(seed).integers(0, 4, num)
    return transitions(obs, action, 0.95 * obs, terminated=action == 1), Discrete(4), action == 1


def leaving(num, seed):
    """The same, but only where one may leave: a choice counts in a part of the world."""
    obs, action = points(num, 2, seed), np.random.default_rng(seed).integers(0, 2, num)
    ended = (action == 1) & (obs[:, 0] > 0)
    clear = np.abs(obs[:, 0]) > 0.2
    return transitions(obs, action, obs, terminated=ended), Discrete(2), np.where(clear, ended, -1)


def braking(num, seed):
    """The action times the velocity."""
    obs, action = points(num, 2, seed), points(num, 1, seed + 1000)
    product = action[:, 0] * obs[:, 1]
    ended = np.where(np.abs(product + 0.3) > 0.15, product < -0.3, -1)
    data = transitions(obs, action, obs + [0.1, 0] * obs[:, 1:], terminated=product < -0.3)
    return data, PUSH, ended


@pytest.mark.parametrize("world", [quitting, leaving, braking])
def test_an_end_that_hangs_on_the_action_is_found(world):
    data, space, _ = world(1200, 0)
    settings = {"hidden_sizes": (), "max_updates": 2000, "num_folds": 5}
    fitted = learner(2, space, **settings).fit(data)
    test, _, ended = world(300, 1)
    said = fitted.step(*inputs(fitted, test)).terminated.mean(0).numpy()
    assert (said[ended == 1] > 0.9).mean() > 0.95
    assert (said[ended == 0] < 0.1).mean() > 0.95
    if world is quitting:
        assert (said[ended == 1] > 0.9).all()
        assert (said[ended == 0] < 0.1).all()


def blind_to_actions(fitted):
    weights = fitted.termination.weights[0]
    num_obs = fitted.task.num_obs
    assert weights[:, :num_obs].abs().max() > 0
    return bool((weights[:, num_obs:] == 0).all())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_for_cartpole_the_head_is_not_shown_the_action(seed):
    agent = RandomAgent(CARTPOLE.action_space, seeded(seed))
    data = collect_episodes(CARTPOLE, agent, num_episodes=30, seed=seed)
    config = DynamicsConfig(max_updates=1000, hidden_sizes=())
    assert blind_to_actions(EnsembleModel(CARTPOLE, seeded(seed), config).fit(data))


def fence(seed, num=600, lengths=20):
    """A walk that ends where the box does: next to it, an action tells of the end as well."""
    obs, action = 1.5 * points(num, 2, seed), points(num, 1, seed + 1000)
    next_obs = obs + np.column_stack([0.4 * action[:, 0], 0.1 * obs[:, 0]])
    return transitions(obs, action, next_obs, terminated=next_obs[:, 0] > 1.4, lengths=lengths)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_a_box_ends_the_head_is_not_shown_the_action(seed):
    fitted = learner(2, hidden_sizes=(), max_updates=1000, num_folds=5, num_members=5).fit(
        fence(seed)
    )
    assert blind_to_actions(fitted)


def lottery(seed, lengths):
    """Each step may be the last."""
    num = sum(lengths)
    rng = np.random.default_rng(seed)
    obs, action = rng.normal(size=(num, 3)), rng.uniform(-1, 1, (num, 3))
    ended = rng.random(num) < 0.1
    return transitions(obs, action, obs, terminated=ended, lengths=lengths)


@pytest.mark.parametrize(
    ("lengths", "settings"),
    [
        ([20] * 30, {}),
        ([550, 12, 12, 12, 12], {}),  # a fold of few rows, which are held out many times
        ([400, 100, 50, 25, 25], {}),
        ([20] * 30, {"num_members": 20, "num_folds": 2}),  # a row is held out by ten members
    ],
)
def test_chance_is_not_taken_for_the_action(lengths, settings):
    quick = {"num_members": 5, "num_folds": 5, "hidden_sizes": (), "max_updates": 50} | settings
    for seed in range(4):
        learning = learner(3, Box(-1, 1, (3,)), seed, **quick)
        assert blind_to_actions(learning.fit(lottery(seed, lengths)))


def test_a_head_that_is_not_shown_the_action_stays_so_in_a_warm_start(monkeypatch):
    """Also if a fit is interrupted before it, or has too few ends to train it."""
    learning, data = learner(2, warm_start=True), fence(0)
    first = learning.fit(data)
    said = first.step(*inputs(first, data)).terminated
    assert blind_to_actions(first)
    calm = fence(0)
    calm.terminated[5:] = False
    again = learning.fit(calm)
    assert "termination" not in again.history
    assert blind_to_actions(again)
    with monkeypatch.context() as patched:
        patched.setattr(networks, "squared_error", interrupt)
        with pytest.raises(KeyboardInterrupt):
            learning.fit(data)
    assert blind_to_actions(learning.fitted)
    torch.testing.assert_close(learning.fitted.step(*inputs(first, data)).terminated, said,
                               atol=0.05, rtol=0)  # fmt: skip


@pytest.mark.parametrize("world", [quitting, braking])
def test_a_head_that_has_been_shown_the_action_keeps_it_in_a_warm_start(world):
    data, space, _ = world(800, 0)
    learning = learner(2, space, warm_start=True, hidden_sizes=(), max_updates=1000)
    assert not blind_to_actions(learning.fit(data))
    head = learning.networks["termination"]
    again = learning.fit(data)
    assert learning.networks["termination"] is head
    assert not blind_to_actions(again)
    losses = again.history["termination"]["validation"]
    assert losses[0] < 1.2 * min(losses) + 0.01  # it goes on from what it knew


# --- folds ---------------------------------------------------------------------------------------


def episodes(numbers, lengths):
    """Episodes with these numbers; observations tell rows apart for ever."""
    episode = np.repeat(numbers, [lengths[n] for n in numbers])
    step = np.concatenate([np.arange(lengths[n]) for n in numbers])
    rng = np.random.default_rng(0)
    obs = np.stack([episode + 0.01 * step, step % 7], 1)
    action, next_obs = rng.uniform(-1, 1, (len(obs), 1)), obs + 0.1 * obs[:, ::-1] ** 2
    data = transitions(obs, action, next_obs, lengths=[lengths[n] for n in numbers])
    return dataclasses.replace(data, episode=episode)


LENGTHS = [int(n) for n in np.random.default_rng(0).integers(12, 41, 40)]


@pytest.mark.parametrize("num_folds", [2, 5])
@pytest.mark.parametrize("at_first", [1, 3, 12])
def test_an_episode_stays_in_its_folds(at_first, num_folds):
    """However many come, or are dropped from the front."""
    folds, known = Folds(num_folds), {}
    for newest in range(at_first, 40):
        oldest = max(0, newest - 15)
        data = episodes(range(oldest, newest), LENGTHS)
        dealt = folds.deal(data)
        assert set(dealt) == set(range(num_folds))
        if newest == at_first:
            assert np.array_equal(dealt, validation_folds(data, num_folds))
        for number in range(oldest, newest):
            own = dealt[data.episode == number]
            assert np.array_equal(known.setdefault(number, own), own)
            assert number < at_first or len(set(own)) == 1  # whole, if it came later
    sizes = np.bincount([known[n][0] for n in range(at_first, 39)], minlength=num_folds)
    assert sizes.max() - sizes.min() <= 1


def test_a_number_that_is_given_again_is_another_episode():
    folds, longer = Folds(2), [*LENGTHS]
    folds.deal(episodes(range(4), LENGTHS))
    longer[3] += 5
    dealt = folds.deal(episodes(range(4), longer))
    assert len(dealt) == sum(longer[:4])


@pytest.mark.parametrize("numbers", [[0, 2, 4], [1, 3]])
def test_folds_of_which_no_episode_is_left_are_an_error(numbers):
    folds = Folds(2)
    folds.deal(episodes(range(6), LENGTHS))
    says = (
        rf"Folds\.deal: expected episodes of each of 2 folds, got those of \[{numbers[0]}\]\. Keep"
    )
    with pytest.raises(ValueError, match=says):
        folds.deal(episodes(numbers, LENGTHS))
    assert len(folds.deal(episodes([*numbers, 5 - numbers[0]], LENGTHS)))  # it goes on with more


@pytest.mark.parametrize(
    "kind", [{}, {"bootstrap": True}, {"gaussian": True, "num_members": 4}], ids=str
)
@pytest.mark.parametrize(("at_first", "keep"), [(1, 99), (2, 6), (6, 4)])
def test_no_member_is_ever_judged_by_what_it_was_trained_on(monkeypatch, kind, at_first, keep):
    """In this fit or an earlier one, of a run that goes on from the last networks."""
    original, trained = dynamics.train_network, {}
    units = {}

    def watched(network, loss, train, valid, *arguments, **options):
        for e in range(network.num_members):
            own = trained.setdefault(e, set())
            own |= rows_of(train[0][e])
            assert not own & rows_of(valid[0][e])
        return original(network, loss, train, valid, *arguments, **options)

    def rows_of(x):
        """What tells them apart, in units of the data: normalisers change from fit to fit."""
        raw = x.double() * units["inputs"].std + units["inputs"].mean
        return {round(1000 * float(row)) for row in raw[:, 0]}

    make = dynamics.Units.of.__func__

    def kept(cls, *arguments):
        units["inputs"] = make(cls, *arguments).inputs
        return make(cls, *arguments)

    monkeypatch.setattr(dynamics.Units, "of", classmethod(kept))
    monkeypatch.setattr(dynamics, "never_back", lambda data: torch.zeros(2, dtype=torch.bool))
    monkeypatch.setattr(dynamics, "train_network", watched)
    learning = learner(2, **{"num_members": 3, "max_updates": 2, "warm_start": True} | kind)
    for newest in range(at_first, at_first + 10):
        data = episodes(range(max(0, newest - keep), newest), LENGTHS)
        learning.fit(data)
    assert len(trained) == learning.config.num_members
    assert all(len(rows) > 20 for rows in trained.values())


# --- interrupts ----------------------------------------------------------------------------------


@pytest.fixture
def gradients_again():
    """Whatever an interrupt in the middle of `no_grad` leaves behind."""
    yield
    torch.set_grad_enabled(True)


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("send", ["kill", "raise_signal"])
@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupt_waits_until_the_block_is_done_and_comes_once(send, times):
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        for _ in range(times):
            if send == "kill":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                signal.raise_signal(signal.SIGINT)
        done.append(sum(range(1000)))
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with uninterrupted():  # nothing is left of it
        pass


def test_without_an_interrupt_nothing_happens():
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError), uninterrupted():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is before


def test_in_a_block_within_a_block_an_interrupt_waits_for_the_outer_one():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_program_does_about_interrupts_it_still_does():
    came = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            assert came == []
        assert came == [signal.SIGINT]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a program in the background
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pytest.fail("it was interrupted")  # which would end all tests
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_put_off():
    before, seen = signal.getsignal(signal.SIGINT), []

    def elsewhere():
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))
        data = experience("swing", 60)
        seen.append(learner(2, max_updates=2).fit(data))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen[0] is before
    assert len(seen) == 2


@contextmanager
def interrupt_at(when):
    """Send an interrupt at the n-th call of any function; yields how many there were."""
    calls = [0]

    def watch(frame, event, argument):
        if event in ("call", "c_call"):
            calls[0] += 1
            if calls[0] == when:
                signal.raise_signal(signal.SIGINT)

    sys.setprofile(watch)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("warm_start", [True, False])
@pytest.mark.parametrize("kind", [{}, {"gaussian": True}, {"method": "last_layer"}], ids=str)
def test_wherever_a_fit_is_interrupted_there_is_a_model(gradients_again, kind, warm_start):
    data = fence(0, 80)
    settings = {"max_updates": 6, "check_every": 2, "hidden_sizes": (4,), "min_terminations": 5}

    def fit(learning, when):
        with interrupt_at(when) as calls:
            learning.fit(data)
        return calls[0]

    def new():
        return learner(2, warm_start=warm_start, **settings | kind)

    learning, anew = new(), 0
    num_calls = fit(new(), -1)
    learning.fit(data)
    assert num_calls > 300
    for when in range(1, num_calls, num_calls // 15):
        before = learning.fitted
        with suppress(KeyboardInterrupt):
            fit(learning, when)
        fitted = learning.fitted
        anew += fitted is not before
        step = fitted.step(*inputs(fitted, data), seeded())
        assert all(
            part.isfinite().all() for part in (*step, *fitted.predict(*inputs(fitted, data)))
        )
        error = (fitted.predict(*inputs(fitted, data)).mean - fitted.targets(data)).square().mean(1)
        assert (error < 0.2 * fitted.units.outputs.std.square()).all()  # as good as a line
        assert (fitted.termination.weights[0][:, 2:] == 0).all()  # of the action
        first = new()
        with suppress(KeyboardInterrupt):
            fit(first, when)
        if first.fitted is not None:
            assert first.fitted.predict(*inputs(fitted, data)).mean.isfinite().all()
    assert anew > 7  # mostly it was of the interrupted fit
    learning.fit(data)


IMPORT = """
import signal, sys
import torch

class Watch:
    sent = 0
    def find_spec(self, name, path=None, target=None):
        if name.startswith("torch") and "mbrl_helpers.networks" in sys.modules and not self.sent:
            self.sent += 1
            signal.raise_signal(signal.SIGINT)

watch = Watch()
sys.meta_path.insert(0, watch)
try:
    import mbrl_helpers.networks
except KeyboardInterrupt:
    print("interrupted")
import mbrl_helpers.networks as networks
x = torch.randn(40, 2)
network = networks.EnsembleNetwork(2, (2, 4, 1), torch.Generator())
config = networks.TrainingConfig(max_updates=3)
networks.train_network(
    network, networks.squared_error, (x, x[:, :1]), (x, x[:, :1]), torch.Generator(), config
)
print("sent", watch.sent)
"""


def test_an_interrupt_during_the_import_leaves_a_python_that_can_fit():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupted", "sent", "1"]
