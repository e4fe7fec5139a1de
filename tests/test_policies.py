"""Policies: what they draw, how probable they say it is, and learning from a teacher."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from mbrl_helpers.envs import get_task
from mbrl_helpers.networks import TrainingConfig
from mbrl_helpers.policies import Policy, distill
from mbrl_helpers.probabilistic import soft_clamp

CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def experience(task, num=200):
    return np.random.default_rng(0).normal(1, 2, (num, len(task.obs_names))).astype(np.float32)


def make(task, *, spread=True, seed=0):
    """A policy; with spread, one that no longer does the same everywhere."""
    policy = Policy(task, experience(task), seeded(seed))
    if spread:
        with torch.no_grad():
            shape = policy.network.weights[-1].shape
            policy.network.weights[-1].copy_(0.5 * torch.randn(shape, generator=seeded(7)))
    return policy


def test_new_policies_prefer_nothing():
    obs = torch.tensor(experience(PENDULUM))
    assert torch.equal(make(PENDULUM, spread=False).action(obs), torch.zeros(200, 1))
    obs = torch.tensor(experience(CARTPOLE))
    actions, log_prob = make(CARTPOLE, spread=False).sample(obs.expand(50, -1, -1), seeded())
    assert log_prob.detach().exp().mean() == pytest.approx(0.5)
    assert actions.detach().mean((0, 1)).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_log_probability_of_squashed_actions_is_that_of_pytorch():
    policy, obs = make(PENDULUM), torch.tensor(experience(PENDULUM))
    action, log_prob = policy.sample(obs, seeded())
    mean, log_std = policy._outputs(obs).double().chunk(2, -1)
    std = soft_clamp(log_std, torch.tensor(-5.0), torch.tensor(2.0)).exp()
    oracle = TransformedDistribution(Normal(mean, std), TanhTransform())
    inside = action.abs() < 1.99  # closer to the bounds the oracle itself is unsure
    expected = oracle.log_prob(action.double() / 2)[inside]
    assert len(expected) > 100
    torch.testing.assert_close(log_prob[inside[:, 0]].double(), expected, atol=1e-3, rtol=1e-3)


def test_discrete_actions_are_drawn_as_often_as_their_probabilities_say():
    policy, obs = make(CARTPOLE), torch.tensor(experience(CARTPOLE, 5))
    actions, log_prob = policy.sample(obs.expand(20_000, -1, -1), seeded())
    assert set(actions.detach().round(decimals=4).unique().tolist()) == {0.0, 1.0}
    shares = actions.detach().mean(0)  # [5, 2]
    probs = torch.softmax(policy._outputs(obs), -1).detach()
    torch.testing.assert_close(shares, probs, atol=0.015, rtol=0)
    said = torch.where(actions[..., 0] > 0.5, probs[:, 0], probs[:, 1])
    torch.testing.assert_close(log_prob.exp(), said.detach())


def test_gradient_of_a_choice_is_that_of_its_probability():
    policy, obs = make(CARTPOLE), torch.tensor(experience(CARTPOLE, 5))
    chosen = policy.action(obs)
    parameters = list(policy.network.parameters())
    ours = torch.autograd.grad(chosen[:, 0].sum(), parameters)
    oracle = torch.autograd.grad(torch.softmax(policy._outputs(obs), -1)[:, 0].sum(), parameters)
    for a, b in zip(ours, oracle, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("task", [CARTPOLE, PENDULUM], ids=["discrete", "continuous"])
def test_it_acts_by_the_most_probable_action_within_the_bounds(task):
    policy, obs = make(task), experience(task)
    acted = policy.act(obs)
    encoded = policy.action(torch.tensor(obs))
    for action, row in zip(acted, encoded, strict=True):
        assert task.action_space.contains(action)
        expected = row.argmax() if policy.is_discrete else row
        assert np.allclose(action, expected.detach().numpy())
    assert len(np.unique(acted)) > 1
    policy.reset(), policy.reset(np.array([True]))
    assert np.array_equal(policy.act(obs), acted)  # it has no memory


def test_leading_axes_make_no_difference():
    policy, obs = make(PENDULUM), torch.tensor(experience(PENDULUM))
    flat = policy.action(obs)
    torch.testing.assert_close(policy.action(obs.view(4, 50, 3)), flat.view(4, 50, 1))


# --- distillation --------------------------------------------------------------------------------


def test_a_student_does_what_its_teacher_did():
    obs = torch.randn(600, 3, generator=seeded(1)) * torch.tensor([1.0, 1.0, 4.0])
    actions = 2 * torch.tanh(obs[:, :1] - 0.5 * obs[:, 2:])
    policy = Policy(PENDULUM, obs.numpy(), seeded())
    history = distill(policy, obs, actions, seeded(2), TrainingConfig(max_updates=600))
    error = (policy.action(obs) - actions).square().mean()
    assert error < 0.02 * actions.var()
    assert history["validation"][-1] < 0.1 * history["validation"][0]


def test_a_student_learns_choices():
    obs = torch.randn(600, 4, generator=seeded(1))
    choice = (obs[:, 2] + obs[:, 3] > 0).long()
    actions = torch.eye(2)[choice]
    policy = Policy(CARTPOLE, obs.numpy(), seeded())
    distill(policy, obs, actions, seeded(2), TrainingConfig(max_updates=300))
    assert (policy.action(obs).argmax(-1) == choice).float().mean() > 0.95


# --- bad input -----------------------------------------------------------------------------------


def test_foreign_experience_is_refused():
    with pytest.raises(ValueError, match=r"expected observations \[B, 3\] of Pendulum"):
        Policy(PENDULUM, experience(CARTPOLE), seeded())
    bad = experience(PENDULUM)
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="expected finite observations"):
        Policy(PENDULUM, bad, seeded())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_acting_on_what_is_not_a_finite_observation_is_refused(value):
    policy = make(PENDULUM)
    with pytest.raises(ValueError, match=r"Policy.act: expected finite observations.*row 1\."):
        policy.act(np.array([[1, 0, 0], [1, value, 0]], np.float32))
    with pytest.raises(ValueError, match=r"Policy.act: .*got shape \(3,\)"):
        policy.act(np.array([1, 0, 0], np.float32))


def test_actions_out_of_bounds_are_refused():
    policy, obs = make(PENDULUM), torch.tensor(experience(PENDULUM))
    with pytest.raises(ValueError, match="expected actions within the bounds"):
        distill(policy, obs, torch.full((200, 1), 2.5), seeded())
    with pytest.raises(ValueError, match="expected actions within the bounds"):
        policy.to_unit(torch.tensor([[torch.nan]]))


def test_wrong_shapes_of_lessons_are_refused():
    policy, obs = make(CARTPOLE), torch.tensor(experience(CARTPOLE))
    with pytest.raises(ValueError, match=r"distill: expected .* actions \[T, 2\]"):
        distill(policy, obs, torch.zeros(200, 1), seeded())
    with pytest.raises(ValueError, match="distill: expected at least 2 observations"):
        distill(policy, obs[:1], torch.eye(2)[:1], seeded())


def test_experience_must_be_there_and_finite():
    with pytest.raises(ValueError, match=r"Policy: expected experience \[T, 3\].* got no row"):
        Policy(PENDULUM, np.zeros((0, 3), np.float32), seeded())
    obs = torch.tensor(experience(PENDULUM))
    obs[5, 0] = torch.nan
    with pytest.raises(ValueError, match=r"distill: expected"):
        distill(make(PENDULUM), obs, torch.zeros(len(obs), 1), seeded())


def test_an_action_that_cannot_move_stays():
    policy = make(PENDULUM)
    policy.middle, policy.half_range = torch.tensor([2.0]), torch.tensor([0.0])
    action = torch.full((4, 1), 2.0)
    assert torch.equal(policy.clip(action), action)
    assert torch.equal(policy.to_unit(action), torch.zeros(4, 1))
