"""What stands in the way of learning is found, and nothing where all is well."""

import numpy as np
import pytest
import torch
from worlds import HEALTHY, SICK

from mbrl_helpers import (
    DynamicsConfig,
    EnsembleModel,
    RandomAgent,
    Task,
    collect_episodes,
    diagnose,
)
from mbrl_helpers.diagnosis import KINDS, remembering


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def experience(task, seed=0, num_episodes=20):
    agent = RandomAgent(task.action_space, seeded(seed + 10), correlation=0.5)
    return collect_episodes(task, agent, num_episodes=num_episodes, seed=5000 * seed)


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_where_all_is_well(name):
    found = diagnose(HEALTHY[name], experience(HEALTHY[name]), seeded())
    assert found.findings == ()
    assert "Nothing looks wrong" in str(found)


@pytest.mark.parametrize("name", SICK)
def test_what_is_wrong_is_found_where_it_is(name):
    task, kind, column = SICK[name]
    found = diagnose(task, experience(task), seeded())
    assert any(f.kind == kind and column in f.columns for f in found.findings), str(found)
    # A reason of its own only: nothing is blamed on a bound that has nothing to do with it.
    assert (kind == "clipped") == any(f.kind == "clipped" for f in found.findings)
    what, cure = KINDS[kind]
    assert what in str(found)
    assert cure in str(found)


def test_errors_are_shares_of_the_spread_on_held_out_episodes():
    task = HEALTHY["lift"]
    data = experience(task)
    found = diagnose(task, data, seeded())
    assert found.names == ("o0", "o1", "o2", "reward")
    assert np.isnan(found.error[2])  # the goal never changes within an episode
    assert found.line[3] > 2 * found.error[3]  # |x - goal| is no line
    train, test = data[data.episode % 5 != 4], data[data.episode % 5 == 4]
    model = EnsembleModel(task, seeded(), DynamicsConfig(num_members=2)).fit(train)
    obs, action = torch.tensor(test.obs), task.actions.encode(test.action)
    rest = model.predict(obs, action).mean.mean(0) - model.targets(test)
    share = rest[:, -1].square().mean().sqrt() / model.targets(data)[:, -1].std(correction=0)
    assert found.error[3] == pytest.approx(float(share), rel=1e-3)
    table = str(found).splitlines()
    assert table[3].startswith("o2")
    assert "always alike" in table[3]


def test_a_clock_is_named():
    task = HEALTHY["mass"]
    data = experience(task, num_episodes=6)
    clock = np.arange(len(data), dtype=np.float32)[:, None]
    parts = vars(data) | {"obs": np.hstack([data.obs, clock]),
                          "next_obs": np.hstack([data.next_obs, clock + 1])}  # fmt: skip
    timed = Task(env_id=task.env_id, obs_names=("x", "v", "time"), space=task.action_space)
    found = diagnose(timed, type(data)(**parts), seeded())
    assert found.clocks == ("time",)
    assert found.findings == ()
    assert "a clock" in str(found)


def test_too_few_episodes_are_refused():
    task = HEALTHY["mass"]
    with pytest.raises(ValueError, match=r"^diagnose: expected at least 5 episodes.* got 4\. Coll"):
        diagnose(task, experience(task, num_episodes=4), seeded())


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("since", [0, 5])
def test_memory_puts_the_steps_before_in_front(steps, since):
    task = HEALTHY["mass"]
    data = experience(task, num_episodes=2)
    rows = remembering(data, task, steps, since=since)
    first = max(steps, since)
    part = rows[rows.episode == 1]
    whole = data[data.episode == 1]
    assert len(part) == len(whole) - first
    row = np.hstack([whole.obs, whole.action])
    for t in (0, len(part) - 1):
        past = row[first + t - steps : first + t].ravel()
        np.testing.assert_array_equal(part.obs[t], [*past, *whole.obs[first + t]])
        np.testing.assert_array_equal(part.next_obs[t], [*past, *whole.next_obs[first + t]])


def test_memory_longer_than_every_episode_is_refused():
    task = HEALTHY["mass"]
    with pytest.raises(ValueError, match=r"^remembering: expected an episode of more than 90"):
        remembering(experience(task, num_episodes=2), task, 90)


@pytest.mark.parametrize("columns", [((0, 1),), ((1, 0),)])
def test_a_fit_refuses_angles_that_are_none(columns):
    task = HEALTHY["mass"]
    model = EnsembleModel(task, seeded(), DynamicsConfig(angles=columns))
    with pytest.raises(ValueError, match=r"^EnsembleModel\.fit: expected columns .* Name the"):
        model.fit(experience(task))


@pytest.mark.parametrize(("radius", "noise"), [(2.0, 0.0), (0.1, 0.005), (1.0, 0.05)])
def test_a_fit_takes_circles_of_any_size_and_trembling_ones(radius, noise):
    task = HEALTHY["pendulum"]
    data = experience(task, num_episodes=5)
    rng = np.random.default_rng(0)
    for name in ("obs", "next_obs"):
        seen = getattr(data, name)
        seen[:, :2] = radius * seen[:, :2] + noise * rng.normal(size=(len(seen), 2))
    EnsembleModel(task, seeded(), DynamicsConfig(num_members=2, max_updates=25)).fit(data)
