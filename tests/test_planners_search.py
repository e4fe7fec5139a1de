"""Planners that search around a mean: CEM, iCEM and MPPI, one by one and what they share."""

import itertools
import math
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl_helpers.agents import MPCAgent
from mbrl_helpers.envs import get_task
from mbrl_helpers.planners import (
    CEM,
    ICEM,
    MPPI,
    RandomShooting,
    best_candidates,
    coloured,
)
from mbrl_helpers.training import evaluate

ARM = Box(
    np.array([-2, 0], np.float32), np.array([2, 5], np.float32)
)  # two joints of different reach
DISCRETE = Discrete(3)
WIDE = Box(-1000, 1000, (2,))  # with a small init_std nothing reaches its bounds
SEARCHES = [CEM, ICEM, MPPI]
ALL = [RandomShooting, *SEARCHES]

each_search = pytest.mark.parametrize("kind", SEARCHES)
each_planner = pytest.mark.parametrize("kind", ALL)
each_space = pytest.mark.parametrize("space", [ARM, DISCRETE], ids=["box", "discrete"])
failures = pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def planner(kind, space=ARM, seed=0, **config):
    config = {"horizon": 4, "population_size": 40} | config
    return kind(space, seeded(seed), kind.Config(**config))


def plan(search, score, num_envs, **how):
    """The first decision."""
    return search.plan(score, search.start(num_envs), **how)[0]


def decisions(search, score, num_envs, num=2, **how):
    """One after another, each with the state of the last."""
    plans, state = [], search.start(num_envs)
    for _ in range(num):
        found, state = search.plan(score, state, **how)
        plans.append(found)
    return plans


def snapshot(state):
    """Copies of what a state holds."""
    return {name: part.clone() for name, part in vars(state).items()}


def same(first, second):
    """Whether two states, or snapshots of them, are equal to the bit."""
    first, second = (part if isinstance(part, dict) else vars(part) for part in (first, second))
    return all(torch.equal(first[name], second[name]) for name in ("mean", "std", "kept"))


def distance_to(target):
    """Score that is highest, 0, at target [..., H, A]."""
    return lambda actions: -(actions - target).square().sum((-2, -1))


def targets(space, num_envs, horizon=4, seed=9):
    """[B, 1, H, A], another one for each environment."""
    if space is DISCRETE:
        index = torch.randint(3, (num_envs, 1, horizon), generator=seeded(seed))
        return torch.eye(3)[index]
    low, high = torch.tensor(space.low), torch.tensor(space.high)
    return low + (high - low) * torch.rand(num_envs, 1, horizon, len(low), generator=seeded(seed))


def shifted(plans):
    """The same plans [..., H, A] one step later; their last action is repeated."""
    return torch.cat([plans[..., 1:, :], plans[..., -1:, :]], dim=-2)


# --- known optima --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["inside", "on the bounds"])
@pytest.mark.parametrize(
    ("kind", "settings", "error"),
    [
        (CEM, {"num_elites": 50}, 0.06),
        (ICEM, {"num_elites": 50, "noise_exponent": 0.0, "population_decay": 1.0}, 0.06),
        (MPPI, {"init_std": 0.1, "temperature": 0.02}, 0.2),
    ],
)
def test_finds_the_optimum_of_a_quadratic(kind, settings, error, where):
    """Closer than random shooting that scores as many candidates."""
    target = targets(ARM, 4)
    if where == "on the bounds":
        low, high = torch.tensor(ARM.low), torch.tensor(ARM.high)
        target = torch.where(target > (low + high) / 2, high, low)
    score = distance_to(target)
    search = planner(kind, num_iterations=15, population_size=500, **settings)
    found = plan(search, score, 4, trace=True)
    errors = (found.actions - target[:, 0]).abs().amax((1, 2))
    assert errors.max() < error
    num = sum(step.returns.shape[1] for step in found.trace)
    shot = plan(planner(RandomShooting, population_size=num), score, 4)
    assert (score(found.actions[:, None])[:, 0] > shot.best_return).all()


@each_search
@pytest.mark.parametrize("execute", ["best", "mean"])
def test_finds_a_discrete_plan_of_many(kind, execute):
    """One of 3 to the power of 10, for each environment another, by 1,500 candidates at most."""
    target = targets(DISCRETE, 5, horizon=10)
    settings = {"horizon": 10, "population_size": 100, "num_iterations": 15, "execute": execute}
    found = plan(planner(kind, DISCRETE, **settings), distance_to(target), 5)
    assert torch.equal(found.actions, target[:, 0])
    shot = planner(RandomShooting, DISCRETE, horizon=10, population_size=1500)
    assert (plan(shot, distance_to(target), 5).best_return < 0).all()


@each_search
def test_finds_the_best_of_all_discrete_plans(kind):
    """Though what an action is worth depends on the others."""
    values = torch.rand(2, 27, generator=seeded(5))

    def score(actions):
        index = (actions.argmax(-1) * torch.tensor([9, 3, 1])).sum(-1)
        return values.gather(1, index)

    settings = {"horizon": 3, "population_size": 300, "execute": "best"}
    found = plan(planner(kind, DISCRETE, **settings), score, 2)
    assert torch.equal(found.best_return, values.amax(1))


@each_search
def test_the_mean_stays_within_the_bounds(kind):
    """To the last digit, for an environment may check; rounding can carry a mean of equals over."""
    space = Box(-0.7, 1.1, (3,))
    for seed in range(5):
        for slope in (-100, 100):
            search = planner(kind, space, seed, num_iterations=5, execute="mean")
            found = plan(search, lambda actions, s=slope: s * actions.sum((2, 3)), 4)
            assert all(space.contains(action) for action in found.actions.flatten(0, 1).numpy())


# --- updates -------------------------------------------------------------------------------------


@each_space
@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-300])
def test_mppi_without_temperature_takes_the_best(space, temperature):
    search = planner(MPPI, space, temperature=temperature)
    values = torch.randn(3, 1, 4, 2 if space is ARM else 3, generator=seeded())
    found = plan(search, lambda a: (values * a).sum((2, 3)) - 1000, 3, trace=True)
    (step,) = found.trace
    torch.testing.assert_close(step.mean, step.actions[torch.arange(3), step.returns.argmax(1)])
    torch.testing.assert_close(found.actions, step.mean)


@each_space
@pytest.mark.parametrize("temperature", [1e30, 1e300])
def test_mppi_of_endless_temperature_is_the_plain_mean(space, temperature):
    """Of those that did not fail."""
    score = distance_to(targets(space, 3))

    def broken(actions):
        returns = score(actions)
        returns[:, :7] = torch.nan
        return returns

    for function, first in ((score, 0), (broken, 7)):
        search = planner(MPPI, space, temperature=temperature)
        (step,) = plan(search, function, 3, trace=True).trace
        torch.testing.assert_close(step.mean, step.actions[:, first:].mean(1))


@each_space
def test_mppi_weighs_by_the_exponential_of_the_return(space):
    search = planner(MPPI, space, temperature=2.0, num_iterations=2)
    found, state = search.plan(distance_to(targets(space, 3)), search.start(3), trace=True)
    for step in found.trace:
        for b in range(3):
            weights = [math.exp(value / 2) for value in step.returns[b].tolist()]
            mean = sum(w * a for w, a in zip(weights, step.actions[b], strict=True)) / sum(weights)
            torch.testing.assert_close(step.mean[b], mean)
        assert torch.equal(step.std, state.std)


def test_cem_with_all_as_elites_is_the_sample_mean():
    settings = {"num_elites": 40, "momentum": 0.0, "min_std": 0.0, "init_std": 0.01}
    search = planner(CEM, WIDE, **settings)
    trace = plan(search, distance_to(targets(WIDE, 3)), 3, trace=True).trace
    for step in trace:
        assert step.actions.abs().max() < 1000
        torch.testing.assert_close(step.mean, step.actions.mean(1), rtol=1e-4, atol=1e-4)
        std = step.actions.std(1, correction=0)
        torch.testing.assert_close(step.std, std, rtol=1e-4, atol=1e-4)


def test_cem_samples_what_it_says():
    """First around the middle of the bounds, then around the mean of the last iteration."""
    search = planner(CEM, WIDE, population_size=20_000, init_std=0.1, momentum=0.0)
    trace = plan(search, lambda a: a[..., 0, 0], 1, trace=True).trace
    mean, std = torch.zeros(1, 4, 2), torch.full((1, 4, 2), 100.0)
    for step in trace:
        assert ((step.actions.mean(1) - mean).abs() < 0.03 * std).all()
        assert ((step.actions.std(1) / std - 1).abs() < 0.03).all()
        mean, std = step.mean, step.std


@pytest.mark.parametrize("kind", [CEM, ICEM])
@pytest.mark.parametrize("momentum, min_std", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_momentum_and_least_deviation(kind, momentum, min_std):
    search = planner(kind, momentum=momentum, min_std=min_std, num_iterations=6)
    half_range = torch.tensor([2, 2.5])
    mean, std = torch.tensor([0, 2.5]), 0.5 * half_range
    for step in plan(search, distance_to(targets(ARM, 3)), 3, trace=True).trace:
        mean = momentum * mean + (1 - momentum) * step.elites.mean(1)
        std = momentum * std + (1 - momentum) * step.elites.std(1, correction=0)
        std = std.clamp(min=min_std * half_range)
        torch.testing.assert_close(step.mean, mean)
        torch.testing.assert_close(step.std, std)
    assert (std == min_std * half_range).any() == (min_std > 0)


@pytest.mark.parametrize("kind", [CEM, ICEM])
@pytest.mark.parametrize("momentum, min_std", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_probabilities_are_the_frequencies_of_the_elites(kind, momentum, min_std):
    search = planner(kind, DISCRETE, momentum=momentum, min_std=min_std)
    old = torch.full((3, 4, 3), 1 / 3)
    for step in plan(search, distance_to(targets(DISCRETE, 3)), 3, trace=True).trace:
        counts = torch.stack([(step.elites.argmax(-1) == a).sum(1) for a in range(3)], dim=-1)
        mean = momentum * old + (1 - momentum) * counts / search.config.num_elites
        old = (1 - min_std) * mean + min_std / 3
        torch.testing.assert_close(step.mean, old)
        torch.testing.assert_close(step.mean.sum(-1), torch.ones(3, 4))
        assert not step.std.any()


@each_space
@pytest.mark.parametrize("kind", [CEM, ICEM])
def test_elites_are_the_best_candidates(kind, space):
    search = planner(kind, space)
    for step in plan(search, distance_to(targets(space, 3)), 3, trace=True).trace:
        again = distance_to(targets(space, 3))(step.elites)
        best = step.returns.sort(1, descending=True).values[:, : search.config.num_elites]
        torch.testing.assert_close(again, best)


def test_best_candidates_are_sorted_and_whole():
    """The best one takes the place of failures."""
    actions = torch.arange(12.0).view(2, 6, 1, 1)
    returns = torch.tensor([[3.0, 1, 5, 2, 4, 0], [-torch.inf, 7, -torch.inf, -torch.inf, 8, 9]])
    elites = best_candidates(actions, returns, 5)
    assert elites.shape == (2, 5, 1, 1)
    assert elites.flatten(1).tolist() == [[2, 4, 0, 3, 1], [11, 10, 7, 11, 11]]


# --- iCEM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decay", "fresh"), [(2.0, [40, 20, 10]), (1.0, [40] * 3), (100.0, [40, 8, 8])]
)
def test_icem_needs_fewer_candidates_each_time(decay, fresh):
    """Never fewer than its elites. Those it keeps come on top, and the mean in the end."""
    search = planner(ICEM, num_elites=8, keep_fraction=0.5, population_decay=decay)
    plans = decisions(search, distance_to(targets(ARM, 2)), 2, trace=True)
    for kept, found in zip((0, 4), plans, strict=True):
        expected = [fresh[0] + kept, fresh[1] + 4, fresh[2] + 4 + 1]
        assert [step.actions.shape[1] for step in found.trace] == expected


@each_space
def test_icem_keeps_elites_and_tries_the_mean(space):
    search = planner(ICEM, space, num_elites=8, keep_fraction=0.5, population_decay=1.0)
    score = distance_to(targets(space, 2))
    now, then = decisions(search, score, 2, trace=True)
    first, second, third = now.trace
    assert torch.equal(second.actions[:, 40:], first.elites[:, :4])
    assert torch.equal(third.actions[:, 40:44], second.elites[:, :4])
    mean = second.mean if space is ARM else torch.eye(3)[second.mean.argmax(-1)]
    assert torch.equal(third.actions[:, 44], mean)
    assert torch.equal(then.trace[0].actions[:, 40:], shifted(third.elites[:, :4]))


@each_space
def test_icem_without_elites_to_keep(space):
    search = planner(ICEM, space, keep_fraction=0.0, population_decay=1.0)
    trace = plan(search, distance_to(targets(space, 2)), 2, trace=True).trace
    assert [step.actions.shape[1] for step in trace] == [40, 40, 41]


@pytest.mark.parametrize("warm_start", [True, False])
def test_icem_begins_with_what_it_kept_or_without(warm_start):
    search, score = planner(ICEM, warm_start=warm_start), distance_to(targets(ARM, 2))
    found, state = search.plan(score, search.start(2), trace=True)
    kept = shifted(found.trace[-1].elites[:, :3])
    assert torch.equal(state.kept, kept)
    first = search.plan(score, state, trace=True)[0].trace[0].actions
    assert first.shape[1] == 40 + 3 * warm_start
    assert torch.equal(first[:, 40:], kept[:, : 3 * warm_start])


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 2, 7, 30])
def test_colours_of_noise(horizon):
    """Each as strong as white noise; the larger the exponent, the closer neighbours are."""
    torch.testing.assert_close(coloured(horizon, 0.0), torch.eye(horizon))
    similar = []
    for exponent in (0.0, 0.5, 1.0, 2.0, 4.0, 1000.0):
        matrix = coloured(horizon, exponent)
        covariance = matrix.T @ matrix
        torch.testing.assert_close(covariance.diag(), torch.ones(horizon))
        similar.append(covariance.diag(1).mean().item())
    if horizon > 2:
        assert similar == sorted(similar)
        assert similar[0] == pytest.approx(0, abs=1e-6)
        assert similar[3] > 0.5


def test_icem_samples_coloured_noise():
    """Over time; actions and candidates do not mix."""
    search = planner(ICEM, WIDE, horizon=6, population_size=20_000, init_std=0.01,
                     noise_exponent=2.0)  # fmt: skip
    (actions,) = plan(search, distance_to(torch.zeros(2)), 1, trace=True).trace[0].actions
    noise = actions.flatten(1).T / 10  # all steps of a pair of actions
    matrix = coloured(6, 2.0)
    expected = torch.kron(matrix.T @ matrix, torch.eye(2))
    torch.testing.assert_close(torch.cov(noise), expected, atol=0.04, rtol=0)


@each_search
def test_discrete_actions_come_as_often_as_they_should(kind):
    """As their probabilities say, part of it uniform, also when noise is coloured."""
    search = planner(kind, DISCRETE, population_size=20_000, init_std=0.3)
    mean = torch.tensor([[[0.2, 0.5, 0.3], [0, 0, 1], [1, 0, 0], [0.9, 0.1, 0]]])
    state = replace(search.start(1), mean=mean)
    expected = 0.7 * mean + 0.3 / 3
    found, _ = search.plan(distance_to(targets(DISCRETE, 1)), state, trace=True)
    step = found.trace[0]
    assert set(step.actions.unique().tolist()) == {0, 1}
    assert (step.actions.sum(-1) == 1).all()
    torch.testing.assert_close(step.actions.mean(1), expected, atol=0.015, rtol=0)


# --- what is executed and shown ------------------------------------------------------------------


@each_space
@each_search
def test_shows_what_it_did(kind, space):
    search = planner(kind, space, num_iterations=3)
    score, size = distance_to(targets(space, 2)), 2 if space is ARM else 3
    found, state = search.plan(score, search.start(2))
    assert found.trace == ()
    found, _ = search.plan(score, state, trace=True)
    assert len(found.trace) == 3
    num_elites = 0 if kind is MPPI else 10
    for step in found.trace:
        num = step.returns.shape[1]
        assert kind is ICEM or num == 40
        assert step.actions.shape == (2, num, 4, size)
        assert step.elites.shape == (2, num_elites, 4, size)
        assert step.mean.shape == step.std.shape == (2, 4, size)
        torch.testing.assert_close(step.returns, score(step.actions))
    assert found.actions.shape == (2, 4, size)


def test_random_shooting_shows_what_it_did():
    score = distance_to(targets(ARM, 2))
    (step,) = plan(planner(RandomShooting), score, 2, trace=True).trace
    assert step.actions.shape == (2, 40, 4, 2)
    assert step.elites.shape == (2, 0, 4, 2)


@each_space
@each_planner
@pytest.mark.parametrize("proposed", [False, True], ids=["alone", "with a proposal"])
@pytest.mark.parametrize("change", [-100, 0, 100])
def test_executes_the_best_of_all_iterations_or_the_mean(kind, space, change, proposed):
    """And tells the highest return of all, whether the first iteration found it or the last."""
    target = targets(space, 3)
    for execute in ("best", "mean"):
        calls = []

        def score(actions, calls=calls):
            calls.append(actions)
            return distance_to(target)(actions) + change * len(calls)

        settings = {} if kind is RandomShooting else {"num_iterations": 3, "execute": execute}
        search = planner(kind, space, **settings)
        proposal = targets(space, 3, seed=2)[:, 0] if proposed else None
        found = plan(search, score, 3, trace=True, proposal=proposal)
        returns = torch.cat([step.returns for step in found.trace], dim=1)
        assert torch.equal(found.best_return, returns.amax(1))
        if execute == "best" or kind is RandomShooting:
            actions = torch.cat([step.actions for step in found.trace], dim=1)
            expected = actions[torch.arange(3), returns.argmax(1)]
        else:
            mean = found.trace[-1].mean
            expected = mean if space is ARM else torch.eye(3)[mean.argmax(-1)]
        assert torch.equal(found.actions, expected)


@each_space
@each_planner
def test_the_best_return_is_the_score_of_what_is_executed(kind, space):
    """Where that is the best candidate; of a mean plan it is a bound that no candidate passes."""
    score = distance_to(targets(space, 5))
    for execute in ("best", "mean") if kind is not RandomShooting else ("best",):
        settings = {} if kind is RandomShooting else {"num_iterations": 3, "execute": execute}
        search = planner(kind, space, **settings)
        for found in decisions(search, score, 5, 3, trace=True):
            again = score(found.actions[:, None])[:, 0]
            if execute == "best":
                torch.testing.assert_close(again, found.best_return, atol=1e-6, rtol=1e-6)
            returns = torch.cat([score(step.actions) for step in found.trace], 1)
            torch.testing.assert_close(returns.amax(1), found.best_return, atol=1e-6, rtol=1e-6)


# --- from one decision to the next ---------------------------------------------------------------


@each_space
@each_search
def test_the_next_plan_begins_with_the_last_one(kind, space):
    """One step later, and open at its end."""
    search, score = planner(kind, space), distance_to(targets(space, 2))
    found, state = search.plan(score, search.start(2), trace=True)
    assert torch.equal(state.mean[:, :3], found.trace[-1].mean[:, 1:])
    middle = torch.tensor([0, 2.5]) if space is ARM else torch.full((3,), 1 / 3)
    torch.testing.assert_close(state.mean[:, 3], middle.expand(2, -1))
    if space is ARM:
        search._noise = lambda state, num: torch.zeros(len(state), num, 4, 2)
        step = search.plan(score, state, trace=True)[0].trace[0]
        assert torch.equal(step.actions[:, 0], state.mean)


@each_space
@each_search
def test_without_warm_start_every_plan_begins_anew(kind, space):
    search, score = planner(kind, space, warm_start=False), distance_to(targets(space, 2))
    state, plans = search.start(2), []
    for _ in range(3):
        search.generator.manual_seed(0)
        found, state = search.plan(score, state)
        plans.append(found.actions)
    assert torch.equal(plans[0], plans[1]) and torch.equal(plans[0], plans[2])
    assert torch.equal(plans[0], plan(planner(kind, space), score, 2).actions)


@each_space
@each_planner
def test_equal_states_and_generators_give_equal_plans(kind, space):
    """Whichever planner has made the state, and however often it is used."""
    score = distance_to(targets(space, 9, horizon=20))
    one, two, other = (planner(kind, space, seed, horizon=20) for seed in (0, 0, 1))
    first, state = one.plan(score, one.start(9))
    again, _ = two.plan(score, two.start(9))
    assert torch.equal(first.actions, again.actions)
    assert torch.equal(first.best_return, again.best_return)
    assert not torch.equal(first.actions, plan(other, score, 9).actions)
    noise, results = one.generator.get_state(), []
    for search in (one, other, one):
        search.generator.set_state(noise)
        results.append(search.plan(score, state))
    for found, after in results:
        assert torch.equal(found.actions, results[0][0].actions)
        assert same(after, results[0][1])


@each_space
@each_planner
def test_a_new_start_is_a_new_planner(kind, space):
    used, new = planner(kind, space, seed=0), planner(kind, space, seed=5)
    decisions(used, distance_to(targets(space, 3)), 3)
    used.generator.manual_seed(5)
    score = distance_to(targets(space, 2, seed=3))  # another number of environments is fine now
    for one, other in zip(decisions(used, score, 2), decisions(new, score, 2), strict=True):
        assert torch.equal(one.actions, other.actions)
    assert same(used.start(4), new.start(4)) and len(used.start(4)) == 4


@each_space
@each_planner
def test_a_restart_before_the_first_plan_changes_nothing(kind, space):
    search = planner(kind, space)
    state = search.start(3)
    assert same(search.restart(state, torch.tensor([True, False, True])), state)


@each_space
@each_search
def test_only_environments_that_ended_are_forgotten(kind, space):
    kept, ended, other = (planner(kind, space) for _ in range(3))
    score, flags = distance_to(targets(space, 3)), torch.tensor([True, False, True])
    states = [search.plan(score, search.start(3))[1] for search in (kept, ended)]
    # Another past of the environments that end, which must leave no trace:
    target = targets(space, 3).clone()
    target[[0, 2]] = target[[0, 2]].roll(1, -1)
    states.append(other.plan(distance_to(target), other.start(3))[1])
    states[1], states[2] = ended.restart(states[1], flags), other.restart(states[2], flags)
    assert torch.equal(states[1].mean[[0, 2]], ended.init_mean.expand(2, -1, -1))
    assert torch.equal(states[1].mean[1], states[0].mean[1])
    steps = [
        search.plan(score, state, trace=True)[0].trace[0]
        for search, state in zip((kept, ended, other), states, strict=True)
    ]
    assert torch.equal(steps[0].actions[1], steps[1].actions[1])
    for b in (0, 2):
        assert not torch.equal(steps[0].actions[b], steps[1].actions[b])
    assert torch.equal(steps[1].actions, steps[2].actions)


@each_space
@each_planner
@pytest.mark.parametrize("flags", [[True, False, True], [False] * 3, [True] * 3])
def test_a_restart_touches_the_rows_that_ended(kind, space, flags):
    """Those alone, in every part of the state; and the state that was given stays."""
    search, flags = planner(kind, space), torch.tensor(flags)
    _, state = search.plan(distance_to(targets(space, 3)), search.start(3))
    before = snapshot(state)
    after = search.restart(state, flags)
    assert same(state, before)
    for name, part in vars(after).items():
        assert part.shape == before[name].shape
        assert torch.equal(part[~flags], before[name][~flags])
    assert torch.equal(after.mean[flags], search.init_mean.expand(int(flags.sum()), -1, -1))
    if kind is ICEM and flags.any():
        assert not torch.equal(after.kept[flags], before["kept"][flags])
        assert (after.kept[flags] == after.kept[flags][:, :1]).all()  # the middle, again and again


@each_search
def test_a_state_of_another_number_of_environments_is_refused(kind):
    """By the shape that the score returns, and by that of the proposal."""
    search = planner(kind)
    _, state = search.plan(distance_to(torch.zeros(2)), search.start(3))
    with pytest.raises(
        ValueError, match=r"plan: expected score to return shape \(3, 4\d\) .*, got"
    ):
        search.plan(lambda actions: torch.zeros(2, 40), state)
    with pytest.raises(ValueError, match=r"plan: expected a proposal of shape \(3, 4, 2\), got"):
        search.plan(distance_to(torch.zeros(2)), state, proposal=torch.zeros(2, 4, 2))


@each_planner
def test_states_of_other_plans_are_refused(kind):
    """A horizon of 1, too, which would be broadcast in silence."""
    search, score = planner(kind), distance_to(torch.zeros(2))
    name = kind.__name__
    for other in (planner(kind, horizon=1), planner(kind, horizon=5), planner(kind, DISCRETE)):
        says = rf"{name}.{{}}: expected the state of plans of shape \(4, 2\).*{name}.start"
        with pytest.raises(ValueError, match=says.format("plan")):
            search.plan(score, other.start(2))
        with pytest.raises(ValueError, match=says.format("restart")):
            search.restart(other.start(2), torch.tensor([True, False]))
    with pytest.raises(TypeError, match=rf"{name}.plan: expected a PlannerState, got 2\. Begin"):
        search.plan(score, 2)


@each_planner
@pytest.mark.parametrize(("num", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_numbers_of_environments_that_make_no_sense(kind, num, error):
    says = f"{kind.__name__}.start: expected num_envs .*got {num}"
    with pytest.raises(error, match=says):
        planner(kind).start(num)


@each_space
@each_search
def test_a_batch_equals_one_environment_at_a_time(kind, space):
    """Given the same noise, also at the second decision."""
    noise = torch.randn(6, 3, 40, 4, 2 if space is ARM else 1, generator=seeded())
    target = targets(space, 3)

    def plans(envs):
        search = planner(kind, space, num_iterations=3)
        parts = iter(noise[:, envs])
        search._noise = lambda state, num: next(parts)[:, :num]
        return decisions(search, distance_to(target[envs]), len(target[envs]))

    together = plans(slice(None))
    for b in range(3):
        for one, both in zip(plans(slice(b, b + 1)), together, strict=True):
            torch.testing.assert_close(one.actions[0], both.actions[b])
            torch.testing.assert_close(one.best_return[0], both.best_return[b])


# --- a state is a value --------------------------------------------------------------------------


@each_space
@each_planner
@pytest.mark.parametrize("warm_start", [True, False])
def test_planning_leaves_the_state_it_was_given(kind, space, warm_start):
    """Of a start, of a decision, of a restart; and the proposal, and the planner itself."""
    settings = {} if kind is RandomShooting else {"warm_start": warm_start}
    search, score = planner(kind, space, **settings), distance_to(targets(space, 3))
    proposal = targets(space, 3, seed=2)[:, 0]
    middle, given, begin = search.init_mean.clone(), proposal.clone(), search.start(3)
    decided = search.plan(score, begin)[1]
    restarted = search.restart(decided, torch.tensor([True, False, True]))
    for state in (begin, decided, restarted):
        before, attributes = snapshot(state), dict(vars(search))
        for how in ({}, {"proposal": proposal}):
            search.plan(score, state, **how)
            assert same(state, before)
        assert vars(search) == attributes  # the same objects: nothing is kept in a planner
    assert torch.equal(search.init_mean, middle) and torch.equal(proposal, given)
    with pytest.raises(FrozenInstanceError):
        begin.mean = middle


class Interrupts:
    """A score that fails at a call, as models do, or as someone does who has waited enough."""

    def __init__(self, score, at, how):
        self.score, self.at, self.how, self.calls = score, at, how, itertools.count(1)

    def __call__(self, actions):
        if next(self.calls) < self.at:
            return self.score(actions)
        if self.how is None:
            return torch.full(actions.shape[:2], torch.nan)
        raise self.how


@each_space
@each_planner
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(
    ("how", "error"),
    [(None, RuntimeError), (ZeroDivisionError("mine"), ZeroDivisionError),
     (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["all failed", "own error", "interrupt"],
)  # fmt: skip
def test_a_plan_that_failed_leaves_the_last_one_in_place(kind, space, at, how, error):
    if kind is RandomShooting:
        at = 1
    settings = {} if kind is RandomShooting else {"num_iterations": 3}
    used, undisturbed = (planner(kind, space, **settings) for _ in range(2))
    score = distance_to(targets(space, 2))
    states = []
    for search in (used, undisturbed):
        search.generator.manual_seed(0)
        states.append(search.plan(score, search.start(2))[1])
    before = snapshot(states[0])
    for proposal in (None, targets(space, 2, seed=2)[:, 0]):
        with pytest.raises(error):
            used.plan(Interrupts(score, at, how), states[0], proposal=proposal)
        assert same(states[0], before)
    plans = []
    for search, state in zip((used, undisturbed), states, strict=True):
        search.generator.manual_seed(1)
        plans.append(search.plan(score, state))
    assert torch.equal(plans[0][0].actions, plans[1][0].actions)
    assert same(plans[0][1], plans[1][1])


# --- plans that are proposed ---------------------------------------------------------------------

TORQUE, PUSHES = Box(-2, 2, (1,)), Discrete(2)


@each_planner
def test_a_proposed_plan_competes(kind):
    """No search is worse than the plan proposed to it, and around it the search is dense."""
    search = kind(TORQUE, seeded(), kind.Config(population_size=10))
    target = 1.9 * torch.rand(3, 10, 1, generator=seeded(5))

    def score(actions):
        return -(actions - target[:, None]).square().sum((2, 3))

    for proposal in (target, target - 0.1):
        found = plan(search, score, 3, trace=True, proposal=proposal)
        first = found.trace[0].actions
        assert first.shape[1] == 10
        assert torch.equal(first[:, 0], proposal)
        assert (found.best_return >= score(proposal[:, None])[:, 0]).all()
        near = (first - proposal[:, None]).square().mean((2, 3))
        if kind is not RandomShooting:  # its candidates know no centre
            assert (near[:, 1:5].mean(1) < near[:, 5:].mean(1)).all()


@each_search
def test_a_single_candidate_is_the_proposal(kind):
    settings = {"population_size": 1, "num_iterations": 1}
    search = planner(kind, **settings | ({} if kind is MPPI else {"num_elites": 1}))
    proposal = targets(ARM, 2)[:, 0]
    found = plan(search, distance_to(torch.zeros(2)), 2, trace=True, proposal=proposal)
    assert torch.equal(found.trace[0].actions[:, 0], proposal)


def test_a_proposal_of_choices_keeps_some_of_all_actions():
    search = planner(CEM, PUSHES, horizon=10, population_size=400, num_iterations=1, init_std=0.5)
    proposal = torch.nn.functional.one_hot(torch.ones(2, 10, dtype=torch.long), 2).float()
    found = plan(search, lambda a: a.sum((2, 3)), 2, trace=True, proposal=proposal)
    shares = found.trace[0].actions[..., 1].view(2, 2, 200, 10).mean((2, 3))  # around it, and not
    torch.testing.assert_close(shares, torch.tensor([[0.75, 0.5]] * 2), atol=0.03, rtol=0)


def test_the_own_plan_stays_in_the_race():
    """The second decision begins with the planner's plan, too, whatever was proposed."""
    settings = {"init_std": 1e-6, "population_size": 8, "num_elites": 2, "num_iterations": 1}
    search = planner(ICEM, TORQUE, horizon=10, **settings)
    own, state = search.plan(lambda a: a.sum((2, 3)), search.start(1))
    far = torch.full((1, 10, 1), 1.5)
    second, _ = search.plan(lambda a: -a.abs().sum((2, 3)), state, trace=True, proposal=far)
    torch.testing.assert_close(second.actions[:, :9], own.actions[:, 1:], atol=1e-4, rtol=0)


@each_planner
@pytest.mark.parametrize("shape", [(2, 3, 2), (2, 4, 1), (1, 4, 2), (3, 4, 2), (4, 2)])
def test_a_proposal_of_another_shape_is_refused(kind, shape):
    says = rf"{kind.__name__}.plan: expected a proposal of shape \(2, 4, 2\)"
    with pytest.raises(ValueError, match=says) as error:
        plan(planner(kind), distance_to(torch.zeros(2)), 2, proposal=torch.zeros(shape))
    assert f"got {shape}" in str(error.value)


# --- settings ------------------------------------------------------------------------------------

BASE = {"num_iterations": 3, "execute": "mean"}
CHANGES = {
    "horizon": 5, "population_size": 60, "num_iterations": 4, "init_std": 0.2,
    "warm_start": False, "execute": "best", "num_elites": 4, "min_std": 0.4, "momentum": 0.6,
    "noise_exponent": 0.5, "population_decay": 2.0, "keep_fraction": 0.9, "temperature": 0.1,
}  # fmt: skip


@each_space
@pytest.mark.parametrize(
    "kind, name", [(kind, field.name) for kind in ALL for field in fields(kind.Config)]
)
def test_every_setting_makes_a_difference(kind, name, space):
    """A setting that is not listed above is a failure too."""
    base = {} if kind is RandomShooting else BASE
    plans = []
    for changes in ({}, {name: CHANGES[name]}):
        search = planner(kind, space, **base | changes)
        # Rugged: a plan that all settings find would show no difference.
        weights = targets(space, 30, search.config.horizon) + torch.arange(30.0).view(-1, 1, 1, 1)
        steps = torch.arange(1.0, 1 + search.config.horizon)[:, None]

        def score(actions, weights=weights * steps):
            return (7 * (weights * actions).sum((2, 3))).sin()

        plans.append(decisions(search, score, 30))
    assert not torch.equal(plans[0][1].actions, plans[1][1].actions)


@each_planner
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_counts_that_make_no_sense(kind, value):
    error = ValueError if type(value) is int else TypeError
    names = {"horizon", "population_size", "num_iterations", "num_elites"}
    for name in names & {field.name for field in fields(kind.Config)}:
        with pytest.raises(error, match=rf"{kind.Config.__name__}: expected {name} .*got {value}"):
            kind.Config(**{name: value})


@pytest.mark.parametrize(
    ("name", "wanted", "values"),
    [
        ("init_std", r"in \(0, 1\]", [0.0, -0.1, 1.1]),
        ("execute", "to be 'best' or 'mean'", ["worst", None]),
        ("num_elites", "<= population_size", [1000]),
        ("min_std", r"in \[0, 1\]", [-0.1, 1.1]),
        ("momentum", r"in \[0, 1\)", [-0.1, 1.0]),
        ("noise_exponent", r"in \[0, inf\)", [-0.1]),
        ("population_decay", r"in \[1, inf\)", [0.9, 0.0, -1.0]),
        ("keep_fraction", r"in \[0, 1\]", [-0.1, 1.1]),
        ("temperature", r"in \(0, inf\)", [0.0, -1.0]),
    ],
)
def test_settings_that_make_no_sense(name, wanted, values):
    if name not in ("execute", "num_elites"):
        values = [*values, math.nan, math.inf, -math.inf]
    kinds = [kind for kind in SEARCHES if name in {field.name for field in fields(kind.Config)}]
    assert kinds
    for kind in kinds:
        for value in values:
            says = f"{kind.Config.__name__}: expected {name} {wanted}.*, got {value}. Change it"
            with pytest.raises(ValueError, match=says):
                kind.Config(**{name: value})


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], 1j])
def test_settings_that_are_no_numbers(value):
    names = {"init_std", "min_std", "momentum", "noise_exponent", "population_decay",
             "keep_fraction", "temperature"}  # fmt: skip
    for kind in SEARCHES:
        for name in names & {field.name for field in fields(kind.Config)}:
            says = rf"{kind.Config.__name__}: expected {name} as a number, got"
            with pytest.raises(TypeError, match=says):
                kind.Config(**{name: value})


def test_misspelt_settings():
    for kind in ALL:
        with pytest.raises(TypeError, match="horizn"):
            kind.Config(horizn=3)
        with pytest.raises(TypeError, match="positional"):
            kind.Config(3)


def test_the_ends_of_what_settings_may_be():
    score = distance_to(targets(ARM, 2))
    settings = {"init_std": 1.0, "min_std": 1.0, "momentum": 0.99, "num_elites": 40}
    more = {"keep_fraction": 1.0, "noise_exponent": 1000.0, "population_decay": 1.0}
    one = {"horizon": 1, "population_size": 1, "num_iterations": 1}
    for kind, changes in [
        (CEM, settings),
        (ICEM, settings | more),
        (CEM, one | {"num_elites": 1}),
        (ICEM, one | {"num_elites": 1}),
        (MPPI, one),
        (RandomShooting, {"horizon": 1, "population_size": 1}),
    ]:
        search = planner(kind, **changes)
        for found in decisions(search, score, 2):
            assert found.actions.isfinite().all()


@each_planner
def test_settings_of_another_planner(kind):
    """Even if they have all that is needed and more: random shooting has no mean to execute."""
    for other in ALL:
        if other is not kind:
            names = kind.__name__, kind.Config.__name__, other.Config.__name__
            with pytest.raises(TypeError, match="{}: expected a {}, got {}. Each".format(*names)):
                kind(ARM, seeded(), other.Config())


@each_planner
def test_defaults_are_settings(kind):
    assert kind(ARM, seeded()).config == kind.Config()


@each_planner
def test_spaces_without_an_end(kind):
    says = f"{kind.__name__}: expected an action space with finite bounds, got Box"
    with pytest.raises(ValueError, match=says):
        planner(kind, Box(-1, np.inf, (2,)))


@each_planner
def test_scores_of_the_wrong_shape(kind):
    for shape in ((), (40,), (2, 40, 1), (40, 2), (1, 40)):
        says = rf"{kind.__name__}.plan: expected score to return shape \(2, 40\)"
        with pytest.raises(ValueError, match=says):
            plan(planner(kind), lambda actions, shape=shape: torch.zeros(shape), 2)


# --- failed predictions --------------------------------------------------------------------------


@each_space
@each_planner
@failures
def test_failed_predictions_never_win_nor_mix_in(kind, space, bad):
    """All fail that would have been best, and so do all but one at first."""
    target, calls = targets(space, 3), []
    target[..., 0, 0] = 1 if space is DISCRETE else 2

    def broken(actions):
        returns = distance_to(target)(actions)
        fails = actions[..., 0, 0] > 0
        if not calls:
            fails[1] = torch.arange(40) != actions[1, :, 0, 0].argmin()
        calls.append(int(fails.sum()))
        return torch.where(fails, bad, returns)

    settings = {} if kind is RandomShooting else {"num_iterations": 4, "execute": "best"}
    if kind in (CEM, ICEM):
        settings["momentum"] = 0.0
    found = plan(planner(kind, space, **settings), broken, 3, trace=True)
    assert found.num_failed == sum(calls) > 50
    assert found.best_return.isfinite().all()
    assert (found.actions[[0, 2], 0, 0] <= 0).all()
    for step in found.trace:
        assert not step.returns.isnan().any()
        assert step.mean.isfinite().all()
        assert step.std.isfinite().all()
        assert (step.elites[[0, 2], :, 0, 0] <= 0).all()
    first = found.trace[0]
    only = first.actions[1, first.returns[1].isfinite()]
    assert len(only) == 1
    if kind is MPPI:
        assert torch.equal(first.mean[1:2], only)
    else:
        assert torch.equal(first.elites[1], only.expand_as(first.elites[1]))


@each_search
@failures
def test_all_failed_names_the_environment(kind, bad):
    """Also if it happens after the first iteration."""
    calls = []

    def broken(actions):
        calls.append(actions.shape[1])
        returns = torch.zeros(actions.shape[:2])
        returns[2] = bad if len(calls) == 3 else 0
        returns[1, 1:] = bad
        return returns

    says = rf"{kind.__name__}.plan: .* none among .* environment 2\. The model"
    with pytest.raises(RuntimeError, match=says) as e:
        plan(planner(kind, num_iterations=3), broken, 3)
    assert f"among {calls[2]} candidates" in str(e.value)


# --- in an agent ---------------------------------------------------------------------------------


@each_search
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_plans_in_inference_mode_and_out_of_it(kind, env_id):
    """What one leaves behind, the other can go on with."""
    task = replace(get_task(env_id))  # a copy, whose actions are first asked for in here
    obs = np.zeros((3, len(task.obs_names)), np.float32) + 0.1

    def actions(mode):
        search = planner(kind, task.action_space)
        agent = MPCAgent(task, task.true_dynamics, search)
        played = []
        for ended in ([False, True, False], [True] * 3, None):
            with torch.inference_mode(mode):
                played.append(agent.act(obs))
                agent.reset(None if ended is None else np.array(ended))
        return [*played, agent.act(obs)]

    for inside, outside in zip(actions(True), actions(False), strict=True):
        np.testing.assert_array_equal(inside, outside)
        assert all(task.action_space.contains(action) for action in inside)


@each_search
def test_balances_the_pole_with_the_truth(kind):
    """With 144 model calls a decision, where random shooting's defaults take 1,000."""
    task = get_task("CartPole-v1")
    settings = {"horizon": 12, "population_size": 12, "num_iterations": 1}
    settings |= {} if kind is MPPI else {"num_elites": 4}
    search = planner(kind, task.action_space, **settings)
    agent = MPCAgent(task, task.true_dynamics, search)
    assert evaluate(task, agent, num_episodes=1).tolist() == [500]


def test_swings_the_pendulum_up_with_the_truth():
    task = get_task("Pendulum-v1")
    search = planner(CEM, task.action_space, horizon=15, population_size=40, num_iterations=3)
    agent = MPCAgent(task, task.true_dynamics, search)
    assert evaluate(task, agent, num_episodes=3).mean() > -400


@each_search
@pytest.mark.parametrize("ended", [[True], [True, False], [[True, False, True]]])
def test_flags_for_another_number_of_environments_are_refused(kind, ended):
    """One flag for three environments would be broadcast in silence."""
    search = planner(kind)
    _, state = search.plan(distance_to(torch.zeros(2)), search.start(3))
    says = rf"{kind.__name__}.restart: expected ended of shape \(3,\)"
    with pytest.raises(ValueError, match=says):
        search.restart(state, torch.tensor(ended))
