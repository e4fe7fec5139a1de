"""Planners: known optima, failures that never win, and the shapes of everything."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from mbrl_helpers.actions import Actions
from mbrl_helpers.planners import (
    RandomShooting,
    RandomShootingConfig,
    best_plan,
    checked_returns,
)

ARM = Box(
    np.array([-2, 0], np.float32), np.array([2, 5], np.float32)
)  # two joints of different reach
DISCRETE = Discrete(3)
SPACES = [ARM, Box(-2, 2, (1,)), DISCRETE, Discrete(4, start=7)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def planner(space=ARM, seed=0, **config):
    config = {"horizon": 15, "population_size": 100} | config
    return RandomShooting(space, seeded(seed), RandomShootingConfig(**config))


def plan(search, score, num_envs):
    """The first decision."""
    return search.plan(score, search.start(num_envs))[0]


def distance_to(target):
    """Score that is highest, 0, at target [..., H, A]."""
    return lambda actions: -(actions - target).square().sum((-2, -1))


# --- known optima --------------------------------------------------------------------------------


def test_finds_the_optimum_of_a_quadratic():
    """Each of B environments its own, closer the more candidates there are."""
    target = torch.tensor([[[-1.5, 0.5]], [[0.0, 2.5]], [[1.9, 4.8]]])  # [B, H=1, A]
    errors = []
    for population_size in (10, 100, 10_000):
        search = planner(horizon=1, population_size=population_size)
        found = plan(search, distance_to(target[:, None]), 3)
        errors.append((found.actions - target).abs().max().item())
        torch.testing.assert_close(found.best_return, distance_to(target)(found.actions))
    assert errors[2] < 0.15
    assert errors[0] > errors[1] > errors[2]


def test_finds_the_best_of_all_discrete_plans():
    """3 to the power of 3 plans, each with a value of its own, drawn often enough to see all."""
    values = torch.rand(3, 3, 3, generator=seeded(5))

    def score(actions):
        return values[tuple(actions.argmax(-1).unbind(-1))]

    found = plan(planner(DISCRETE, horizon=3, population_size=500), score, 2)
    best = np.unravel_index(int(values.argmax()), values.shape)
    assert found.actions.argmax(-1).tolist() == [list(best)] * 2
    assert found.best_return.tolist() == [values.max().item()] * 2


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_keeps_the_best_candidate_of_each_environment(space):
    """Batched equals one environment at a time, given the same candidates."""
    actions = Actions.of(space).uniform((4, 30, 5), seeded())
    returns = torch.randn(4, 30, generator=seeded(1))
    chosen, value = best_plan(actions, returns)
    for b in range(4):
        n = max(range(30), key=returns[b].tolist().__getitem__)
        assert torch.equal(chosen[b], actions[b, n])
        assert value[b] == returns[b, n]
        alone = best_plan(actions[b : b + 1], returns[b : b + 1])
        assert torch.equal(chosen[b : b + 1], alone[0])


# --- candidates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_candidates_are_uniform_over_the_action_space(space):
    search = planner(space, horizon=5, population_size=1000)
    actions = search.sample(search.start(4), 0)
    assert torch.equal(actions, Actions.of(space).uniform((4, 1000, 5), seeded()))
    assert actions.dtype == torch.float32
    flat = actions.flatten(0, 2)
    if isinstance(space, Discrete):
        assert flat.shape == (20_000, space.n)
        assert set(flat.unique().tolist()) == {0, 1}
        assert (flat.sum(1) == 1).all()
        assert (flat.mean(0) - 1 / space.n).abs().max() < 0.02
    else:
        low, high = torch.tensor(space.low), torch.tensor(space.high)
        assert flat.shape == (20_000, len(low))
        assert ((flat >= low) & (flat <= high)).all()
        unit = (flat - low) / (high - low)
        quantiles = torch.quantile(unit, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]), dim=0)
        expected = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])[:, None].expand_as(quantiles)
        torch.testing.assert_close(quantiles, expected, atol=0.02, rtol=0)
    for dim in range(3):  # nothing is repeated along environments, candidates or time
        assert not torch.equal(actions.select(dim, 0), actions.select(dim, 1))


def test_settings_decide_what_is_scored():
    shapes = []

    def score(actions):
        shapes.append(tuple(actions.shape))
        return torch.zeros(actions.shape[:2])

    found = plan(planner(horizon=7, population_size=11), score, 3)
    assert shapes == [(3, 11, 7, 2)]
    assert found.actions.shape == (3, 7, 2)
    assert found.best_return.shape == (3,)


def test_same_generator_state_same_plan():
    score = distance_to(torch.zeros(2))
    plans = [plan(planner(seed=seed, horizon=4), score, 2).actions for seed in (0, 0, 1)]
    assert torch.equal(plans[0], plans[1])
    assert not torch.equal(plans[0], plans[2])


def test_the_past_makes_no_difference():
    score = distance_to(torch.zeros(2))
    used, new = planner(seed=0), planner(seed=5)
    _, state = used.plan(score, used.start(3))
    state = used.restart(state, torch.tensor([True, False, True]))
    used.generator.manual_seed(5)
    again, _ = used.plan(score, state)
    assert torch.equal(again.actions, plan(new, score, 3).actions)


# --- failed predictions --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_failed_predictions_never_win_and_are_counted(bad):
    returns = torch.randn(3, 50, generator=seeded())
    broken = returns.clone()
    broken[0, :49], broken[2, 7] = bad, bad
    found = plan(planner(population_size=50), lambda actions: broken.clone(), 3)
    assert found.num_failed == 50
    assert found.best_return[0] == returns[0, 49]
    assert found.best_return[1] == returns[1].max()
    assert found.best_return[2] == torch.cat([returns[2, :7], returns[2, 8:]]).max()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_all_failed_names_the_environment(bad):
    returns = torch.zeros(4, 100)
    returns[1, :99] = bad  # one of them is enough
    returns[2] = bad
    says = r"RandomShooting.plan: .* none among 100 candidates of environment 2\. The model"
    with pytest.raises(RuntimeError, match=says):
        plan(planner(), lambda actions: returns, 4)


def test_scores_are_checked_without_changing_them():
    returns = torch.tensor([[1.0, torch.nan, 2.0]])
    checked, num_failed = checked_returns("here", lambda actions: returns, torch.zeros(1, 3, 2, 1))
    assert (checked.tolist(), num_failed) == ([[1.0, -torch.inf, 2.0]], 1)
    assert returns.isnan().sum() == 1


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(), (2,), (100,), (100, 2), (2, 100, 1), (2, 99), (2, 15), (2, 100, 15)]
)
def test_scores_of_the_wrong_shape(shape):
    says = r"RandomShooting.plan: expected score to return shape \(2, 100\).*Sum over"
    with pytest.raises(ValueError, match=says) as error:
        plan(planner(), lambda actions: torch.zeros(shape), 2)
    assert f"got {shape}" in str(error.value)


@pytest.mark.parametrize("name", ["horizon", "population_size"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-5, ValueError), (2.5, TypeError), (10.0, TypeError), (True, TypeError),
     ("10", TypeError), (None, TypeError)],
)  # fmt: skip
def test_settings_that_are_no_counts(name, value, error):
    with pytest.raises(error, match=f"RandomShootingConfig: expected {name} .*, got ") as message:
        RandomShootingConfig(**{name: value})
    assert repr(value) in str(message.value)


def test_numpys_whole_numbers_are_fine():
    config = {"horizon": np.int64(3), "population_size": np.int32(4)}
    found = plan(planner(DISCRETE, **config), lambda actions: torch.zeros(1, 4), 1)
    assert found.actions.shape == (1, 3, 3)


@pytest.mark.parametrize("low, high", [(-np.inf, np.inf), (0, np.inf), (-np.inf, 0)])
def test_unbounded_actions_are_refused(low, high):
    says = r"RandomShooting: expected an action space with finite bounds, got Box.*search"
    with pytest.raises(ValueError, match=says):
        planner(Box(low, high, (2,)))


def test_other_action_spaces_are_refused():
    with pytest.raises(TypeError, match="Discrete or a Box"):
        RandomShooting(MultiDiscrete([2, 2]), seeded())
