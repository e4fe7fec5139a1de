"""Learning in imagination: gradients, targets and mixtures against what is worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.data import join
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import TrueDynamics, get_task
from mbrl_helpers.futures import imagined_returns
from mbrl_helpers.imagination import SAC, BackpropConfig, DynaConfig, SACConfig, dyna, improve
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.interfaces import Step
from mbrl_helpers.policies import Policy

CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def experience(task=PENDULUM, num_episodes=2):
    agent = RandomAgent(task.action_space, seeded(1))
    return collect_episodes(task.env_id, agent, num_episodes=num_episodes, seed=0)


@pytest.fixture(scope="module")
def data():
    return experience()


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


def weights(policy):
    return [p.detach().clone() for p in policy.network.parameters()]


def real(data, task=PENDULUM):
    return data.tensors(task.actions)


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- backpropagation through a model -------------------------------------------------------------


def test_improving_raises_the_real_return_and_leaves_the_model(policy, model, data):
    obs = torch.tensor(data.obs)
    before = model.step(obs, torch.zeros(len(obs), 1))
    truth = PENDULUM.true_dynamics
    acts = [policy.action] * 20
    with torch.no_grad():
        first = imagined_returns(truth, obs, acts).mean()
    history = improve(policy, model, obs, seeded(), BackpropConfig(num_updates=30, horizon=20))
    with torch.no_grad():
        assert imagined_returns(truth, obs, acts).mean() > first + 1
    assert len(history["return"]) == len(history["gradient_norm"]) == 30
    assert equal(before, model.step(obs, torch.zeros(len(obs), 1)))


@pytest.mark.parametrize(
    "change",
    [{"num_updates": 3}, {"horizon": 4}, {"num_starts": 5}, {"discount": 0.5},
     {"learning_rate": 0.1}, {"noise": 0.0}, {"max_norm": 1e-6}, {"spread_weight": -5.0}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_setting_of_backpropagation_matters(model, data, change):
    results = []
    for settings in ({}, {}, change):
        policy = Policy(PENDULUM, data.obs, seeded(3), hidden_sizes=(16,))
        config = BackpropConfig(**{"num_updates": 2, "horizon": 3, "num_starts": 4} | settings)
        improve(policy, model, torch.tensor(data.obs), seeded(), config)
        results.append(weights(policy))
    assert equal(*results[:2]) and not equal(results[0], results[2])


def test_choices_are_improved_too():
    data = experience(CARTPOLE, 5)
    policy = Policy(CARTPOLE, data.obs, seeded(3))
    obs, truth = torch.tensor(data.obs), CARTPOLE.true_dynamics
    config = BackpropConfig(num_updates=60, horizon=30, discount=1.0)
    history = improve(policy, truth, obs, seeded(), config, objective=CARTPOLE.objective)
    first, last = np.mean(history["return"][:5]), np.mean(history["return"][-5:])
    assert first < 20 < 24 < last


def test_a_task_first_used_for_planning_can_be_learned_in(data):
    """As after loading a model and looking at a rollout, which asks for its task's actions."""
    task = replace(PENDULUM)  # a copy that nobody has asked for its actions
    with torch.inference_mode():
        assert task.actions.size == 1
    policy, obs = Policy(task, data.obs, seeded()), torch.tensor(data.obs)
    config = BackpropConfig(num_updates=1, horizon=2, num_starts=4)
    improve(policy, task.true_dynamics, obs, seeded(), config)


def test_a_gradient_that_is_not_finite_changes_nothing(policy, data):
    def explode(obs, action):
        return Step(obs * 1e30 * action, obs[..., 0], torch.zeros_like(obs[..., 0]))

    before = weights(policy)
    with pytest.raises(RuntimeError, match=r"improve: expected a finite gradient, got .* shorten"):
        improve(policy, TrueDynamics(explode), torch.tensor(data.obs), seeded())
    assert equal(before, weights(policy))


# --- soft actor-critic ---------------------------------------------------------------------------


def test_targets_are_those_of_a_hand_computation(policy, data):
    sac = SAC(policy, seeded(5), SACConfig(discount=0.9, reward_scale=0.5))
    for network in (sac.critic, sac.slow_critic):
        with torch.no_grad():
            network.weights[-1].normal_(generator=seeded(6))
    sac.log_entropy_weight.data.fill_(-1.0)
    batch = real(data)[:6]
    batch.terminated[2] = 1.0
    sac.generator = seeded(8)
    targets = sac.targets(batch)

    action, log_prob = policy.sample(batch.next_obs, seeded(8))
    x = torch.cat([policy.inputs.normalize(batch.next_obs), action / 2], 1)
    for row in range(6):
        q1, q2 = (sac.slow_critic(x[row : row + 1])[i].item() for i in range(2))
        follows = min(q1, q2) - np.exp(-1.0) * float(log_prob[row].detach())
        expected = 0.5 * float(batch.reward[row]) + (0.0 if row == 2 else 0.9 * follows)
        assert float(targets[row]) == pytest.approx(expected, rel=1e-4)


def test_an_update_moves_critics_policy_and_entropy_weight_and_slowly_the_copies(policy, data):
    sac = SAC(policy, seeded(5), SACConfig(target_rate=0.25))
    before, slow = weights(policy), [p.clone() for p in sac.slow_critic.parameters()]
    for _ in range(2):  # the first moves the critics' last layers only
        old_slow = [p.clone() for p in sac.slow_critic.parameters()]
        sac.update(real(data)[:64])
    for old, fast, now in zip(
        old_slow, sac.critic.parameters(), sac.slow_critic.parameters(), strict=True
    ):
        torch.testing.assert_close(now, 0.75 * old + 0.25 * fast)
    assert not equal(before, weights(policy))
    assert not equal(slow, sac.slow_critic.parameters())
    assert sac.log_entropy_weight != 0
    assert all(p.requires_grad for p in sac.critic.parameters())


def test_the_entropy_weight_keeps_the_entropy(policy, data):
    """With too little entropy the weight rises, with too much it falls."""
    batch = real(data)[:64]
    for log_std, sign in ((-4.0, 1), (1.0, -1)):
        with torch.no_grad():
            policy.network.weights[-1].zero_()
            policy.network.biases[-1][..., 1].fill_(log_std)
        sac = SAC(policy, seeded(5))
        sac.update(batch)
        assert np.sign(float(sac.log_entropy_weight.detach())) == sign


def test_it_solves_a_task_of_one_step(data):
    """Reward is highest for action 1.2; every step is the last."""
    policy = Policy(PENDULUM, data.obs, seeded(3), hidden_sizes=(16,))
    sac = SAC(policy, seeded(5), SACConfig(reward_scale=1.0, learning_rate=5e-3))
    obs = torch.tensor(data.obs)
    for _ in range(800):
        batch = real(data).draw(64, sac.generator)
        batch.action.copy_(4 * torch.rand(64, 1, generator=sac.generator) - 2)
        batch.reward.copy_(-10 * (batch.action[:, 0] - 1.2).square())
        batch.terminated.fill_(1.0)
        sac.update(batch)
    assert policy.action(obs).mean().item() == pytest.approx(1.2, abs=0.2)


def test_discrete_actions_are_refused():
    policy = Policy(CARTPOLE, experience(CARTPOLE).obs, seeded())
    with pytest.raises(TypeError, match="SAC: expected continuous actions"):
        SAC(policy, seeded())


# --- Dyna ----------------------------------------------------------------------------------------


class Watched(SAC):
    """Keeps the batches that it is given."""

    def update(self, batch):
        self.batches = [*getattr(self, "batches", []), batch]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_real_and_imagined_rows_keep_their_labels(policy, model, data, share):
    sac = Watched(policy, seeded(5), SACConfig(batch_size=40))
    config = DynaConfig(num_updates=6, num_starts=10, rollout_length=2, real_share=share)
    dyna(sac, model, data, config)
    real = {row.tobytes() for row in np.hstack([data.obs, data.next_obs])}
    assert len(sac.batches) == 6
    for batch in sac.batches:
        assert len(batch) == 40 and int((~batch.imagined).sum()) == round(40 * share)
        rows = torch.cat([batch.obs, batch.next_obs], 1).numpy()
        for row, imagined in zip(rows, batch.imagined, strict=True):
            assert (row.tobytes() in real) != bool(imagined)


def test_without_imagined_rows_no_model_is_asked(policy, data):
    sac = Watched(policy, seeded(5))
    dyna(sac, None, data, DynaConfig(num_updates=2, real_share=1.0))
    assert len(sac.batches) == 2


def test_old_branches_are_forgotten(policy, model, data):
    sac = Watched(policy, seeded(5), SACConfig(batch_size=500))
    config = DynaConfig(
        num_updates=4, branch_every=1, num_branches=2, num_starts=3, rollout_length=1,
        real_share=0.0,
    )  # fmt: skip
    dyna(sac, model, data, config)
    numbers = [len(batch.obs.unique(dim=0)) for batch in sac.batches]
    assert numbers[0] <= 3 and max(numbers) <= 6
    first, last = (
        {tuple(row) for row in sac.batches[i].obs.tolist()} for i in (0, 3)
    )  # same real states may be drawn twice, all three hardly
    assert first != last and not first <= last


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "bad"),
    [(BackpropConfig, {"horizon": 0}), (BackpropConfig, {"num_updates": 0}),
     (BackpropConfig, {"num_starts": 0}),
     (BackpropConfig, {"discount": 1.1}), (BackpropConfig, {"learning_rate": 0.0}),
     (BackpropConfig, {"noise": -0.1}), (BackpropConfig, {"spread_weight": float("nan")}),
     (BackpropConfig, {"max_norm": 0.0}), (SACConfig, {"discount": 1.0}),
     (SACConfig, {"target_rate": 0.0}), (SACConfig, {"reward_scale": -1.0}),
     (SACConfig, {"learning_rate": float("nan")}), (SACConfig, {"batch_size": 0}),
     (SACConfig, {"hidden_sizes": (0,)}), (DynaConfig, {"branch_every": 0}),
     (DynaConfig, {"num_branches": 0}), (DynaConfig, {"num_starts": 0}),
     (DynaConfig, {"max_spread": -0.1}), (DynaConfig, {"max_spread": float("nan")}),
     (DynaConfig, {"spread_weight": float("inf")}),
     (DynaConfig, {"rollout_length": 0}), (DynaConfig, {"real_share": 1.5}),
     (DynaConfig, {"num_updates": 0})],
)  # fmt: skip
def test_settings_out_of_range_are_refused(config, bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{config.__name__}: expected .*{name}"):
        config(**bad)


@pytest.mark.parametrize(
    ("config", "bad"),
    [(BackpropConfig, {"horizon": 2.5}), (BackpropConfig, {"discount": "0.9"}),
     (SACConfig, {"hidden_sizes": 64}), (DynaConfig, {"max_spread": "1"}),
     (DynaConfig, {"num_updates": True})],
)  # fmt: skip
def test_settings_of_another_kind_are_refused(config, bad):
    (name,) = bad
    with pytest.raises(TypeError, match=f"{config.__name__}: expected {name} as"):
        config(**bad)


@pytest.mark.parametrize("config", [BackpropConfig, SACConfig, DynaConfig])
def test_misspelt_settings_are_refused(config):
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_update'"):
        config(num_update=3)


@pytest.mark.parametrize(
    ("obs", "error", "says"),
    [
        (torch.zeros(0, 3), ValueError, r"states \[K, 3\] to start from, got none"),
        (torch.zeros(5, 4), ValueError, r"observations \[K, 3\], got shape \(5, 4\)"),
        (torch.full((5, 3), torch.inf), ValueError, "finite observations"),
        (np.zeros((5, 3), np.float32), TypeError, "states as a torch tensor"),
    ],
)
def test_states_that_cannot_be_started_from_are_refused(policy, model, obs, error, says):
    with pytest.raises(error, match=f"improve: expected {says}"):
        improve(policy, model, obs, seeded())


def test_a_model_without_reward_needs_an_objective(policy, data):
    def no_reward(obs, action):
        return Step(obs, None, torch.zeros_like(obs[..., 0]))

    model, obs = TrueDynamics(no_reward), torch.tensor(data.obs)
    config = BackpropConfig(num_updates=1)
    with pytest.raises(ValueError, match="expected the model's reward, got None"):
        improve(policy, model, obs, seeded(), config)
    objective = {"objective": lambda obs, action, step: obs[..., 0] + action[..., 0]}
    improve(policy, model, obs, seeded(), config, **objective)
    sac, config = SAC(policy, seeded()), DynaConfig(num_updates=1, num_starts=20)
    with pytest.raises(ValueError, match="branch: expected the model's reward, got None"):
        dyna(sac, model, data, config)
    dyna(sac, model, data, config, **objective)


def test_experience_with_actions_out_of_bounds_is_refused(policy, model):
    data = experience()
    data.action[3] = 2.5
    before = weights(policy)
    with pytest.raises(ValueError, match="dyna: expected actions within the bounds"):
        dyna(SAC(policy, seeded()), model, data, DynaConfig(num_updates=1))
    assert equal(before, weights(policy))


def test_batches_join_in_order(policy, data):
    batch = real(data)
    again = join([batch[:5], batch[5:]])
    assert equal(vars(batch).values(), vars(again).values())


def test_dyna_without_a_model_has_nothing_to_imagine(policy, data):
    with pytest.raises(ValueError, match=r"dyna: expected a model to imagine"):
        dyna(SAC(policy, seeded()), None, data, DynaConfig(num_updates=2))
