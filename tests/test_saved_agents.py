"""An agent that is saved in one process plays the same in another, to the bit."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from mbrl_helpers import (
    CEM,
    ICEM,
    MPPI,
    EnsembleModel,
    ICEMConfig,
    Imagination,
    MPCAgent,
    Policy,
    RandomAgent,
    RandomShooting,
    Task,
    collect_episodes,
    get_task,
)

PLAY = """
import sys
import numpy as np, torch
from mbrl_helpers import MPCAgent
torch.set_num_threads(1)
agent = MPCAgent.load(sys.argv[1])
obs = np.load(sys.argv[2])
np.save(sys.argv[3], np.stack([agent.act(one) for one in obs]))
"""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def models():
    """A fitted model of each of the course's tasks."""
    fitted = {}
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        task = get_task(env_id)
        random_agent = RandomAgent(task.action_space, seeded())
        data = collect_episodes(task, random_agent, num_episodes=3, seed=0)
        fitted[env_id] = EnsembleModel(task, seeded(1)).fit(data)
    return fitted


def states(task, num=6, num_envs=2, seed=3):
    obs = torch.randn(num, num_envs, task.num_obs, generator=seeded(seed)) / 10
    return (obs + torch.eye(task.num_obs)[0] * bool(task.angles)).numpy()


@pytest.mark.parametrize("kind", [RandomShooting, CEM, ICEM, MPPI])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_it_goes_on_in_the_middle_of_its_plans(kind, env_id, models, tmp_path):
    task, rng = get_task(env_id), seeded(2)
    noisy = Imagination(discount=0.98, propagation="ts1", spread_weight=-0.5, generator=rng)
    agent = MPCAgent(task, models[env_id], kind(task.action_space, rng), noisy)
    before, after = states(task), states(task, seed=4)
    for obs in before:
        agent.act(obs)
    agent.save(tmp_path / "agent.npz")
    again = MPCAgent.load(tmp_path / "agent.npz")
    for obs in after:
        np.testing.assert_array_equal(agent.act(obs), again.act(obs))
    assert again.imagination.generator is again.planner.generator
    assert again.num_failed == agent.num_failed


def test_it_plays_the_same_in_another_process(models, tmp_path):
    task, rng = get_task("Pendulum-v1"), seeded(2)
    policy = Policy(task, states(task)[0], rng)
    planner = ICEM(task.action_space, rng, ICEMConfig(horizon=7))
    agent = MPCAgent(
        task, models[task.env_id], planner, Imagination(generator=seeded(5)), policy=policy
    )
    obs = states(task)
    agent.act(obs[0])
    agent.save(tmp_path / "agent.npz")
    np.save(tmp_path / "obs.npy", obs)
    files = [str(tmp_path / name) for name in ("agent.npz", "obs.npy", "actions.npy")]
    subprocess.run([sys.executable, "-c", PLAY, *files], check=True)
    expected = np.stack([agent.act(one) for one in obs])
    np.testing.assert_array_equal(np.load(tmp_path / "actions.npy"), expected)


def test_true_dynamics_are_those_of_the_task(tmp_path):
    task = get_task("CartPole-v1")
    agent = MPCAgent(task, task.true_dynamics, RandomShooting(task.action_space, seeded()))
    agent.save(tmp_path / "agent.npz")
    again = MPCAgent.load(tmp_path / "agent.npz")
    assert again.model == task.true_dynamics and again.objective is task.objective
    np.testing.assert_array_equal(agent.act(states(task)[0]), again.act(states(task)[0]))


def own_objective(obs, action, step):
    return step.reward - action[..., 0]


def own_value(obs):
    return obs[..., 0]


def test_functions_are_given_again(models, tmp_path):
    task, path = get_task("CartPole-v1"), tmp_path / "agent.npz"
    planner = RandomShooting(task.action_space, seeded())
    agent = MPCAgent(
        task, models[task.env_id], planner, objective=own_objective, terminal_value=own_value
    )
    agent.save(path)
    again = MPCAgent.load(path, objective=own_objective, terminal_value=own_value)
    np.testing.assert_array_equal(agent.act(states(task)[0]), again.act(states(task)[0]))
    with pytest.raises(ValueError, match=r"MPCAgent.load: expected objective the function"):
        MPCAgent.load(path, terminal_value=own_value)
    with pytest.raises(ValueError, match=r"MPCAgent.load: expected terminal_value the function"):
        MPCAgent.load(path, objective=own_objective)
    bare = MPCAgent(task, models[task.env_id], planner, objective=None)
    bare.save(path)
    assert MPCAgent.load(path).objective is None
    with pytest.raises(ValueError, match=r"MPCAgent.load: expected objective left out"):
        MPCAgent.load(path, objective=own_objective)


def test_a_task_of_ones_own_comes_with_its_objective(models, tmp_path):
    known, path = get_task("CartPole-v1"), tmp_path / "agent.npz"
    names = tuple("abcd")
    task = Task(env_id="CartPole-v1", obs_names=names, objective=own_objective)
    data = collect_episodes(task, RandomAgent(task.action_space, seeded()), num_episodes=3, seed=0)
    model = EnsembleModel(task, seeded(1)).fit(data)
    agent = MPCAgent(task, model, RandomShooting(task.action_space, seeded()))
    agent.save(path)
    with pytest.raises(ValueError, match=r"MPCAgent.load: expected the task CartPole-v1 with its"):
        MPCAgent.load(path)
    with pytest.raises(ValueError, match=r"MPCAgent.load: expected the task that the agent was"):
        MPCAgent.load(path, task=known)
    again = MPCAgent.load(path, task=task)
    np.testing.assert_array_equal(agent.act(states(task)[0]), again.act(states(task)[0]))


class OwnModel:
    def step(self, obs, action):
        return get_task("CartPole-v1").true_step(obs, action)


def test_code_of_ones_own_is_not_saved(models, tmp_path):
    task, path = get_task("CartPole-v1"), tmp_path / "agent.npz"
    planner = RandomShooting(task.action_space, seeded())
    with pytest.raises(TypeError, match=r"MPCAgent.save: expected a fitted model or .* OwnModel"):
        MPCAgent(task, OwnModel(), planner).save(path)

    class OwnPlanner(RandomShooting):
        pass

    mine = OwnPlanner(task.action_space, seeded())
    with pytest.raises(TypeError, match=r"MPCAgent.save: expected one of the planners"):
        MPCAgent(task, models[task.env_id], mine).save(path)

    class OwnPolicy:
        def action(self, obs):
            return obs[..., :2]

    agent = MPCAgent(task, models[task.env_id], planner, policy=OwnPolicy())
    with pytest.raises(TypeError, match=r"MPCAgent.save: expected a Policy"):
        agent.save(path)
    assert not path.exists()


def test_another_kind_of_file_is_named(models, tmp_path):
    path = tmp_path / "model.npz"
    models["CartPole-v1"].save(path)
    with pytest.raises(ValueError, match=r"MPCAgent.load: .*model.npz .*fitted model, not MPC"):
        MPCAgent.load(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"MPCAgent.load: .*model.npz"):
        MPCAgent.load(path)
    with pytest.raises(FileNotFoundError, match=r"MPCAgent.load: .*nothing.npz"):
        MPCAgent.load(tmp_path / "nothing.npz")
