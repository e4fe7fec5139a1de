"""Learning in imagination: gradients, targets and rollouts against what is worked out by hand."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_helpers.agents import MPCAgent, RandomAgent, imagined_returns, rollout_returns
from mbrl_helpers.data import collect_episodes
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel
from mbrl_helpers.envs import Step, TrueDynamics, get_task
from mbrl_helpers.imagination import (
    SAC,
    BackpropConfig,
    DynaConfig,
    SACConfig,
    branch,
    dyna,
    dyna_q,
    improve,
    join,
    real_batch,
)
from mbrl_helpers.planners import CEM, ICEM, MPPI, CEMConfig, ICEMConfig, RandomShooting
from mbrl_helpers.policies import Policy
from mbrl_helpers.uncertainty import disagreement

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
    config = DynamicsConfig(angles=PENDULUM.angles, hidden_sizes=(16,), max_updates=200)
    return EnsembleModel(3, PENDULUM.action_space, seeded(2), config).fit(data)


@pytest.fixture
def policy(data):
    policy = Policy(PENDULUM, data.obs, seeded(3), hidden_sizes=(16,))
    with torch.no_grad():
        policy.network.weights[-1].normal_(std=0.1, generator=seeded(4))
    return policy


def weights(policy):
    return [p.detach().clone() for p in policy.network.parameters()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- backpropagation through a model -------------------------------------------------------------

A = torch.tensor([[0.9, 0.2, 0.0], [0.0, 0.8, 0.1], [0.1, 0.0, 0.7]])
B = torch.tensor([[0.1], [0.0], [0.5]])


def linear_step(obs, action):
    """A known linear model with a quadratic reward of the state after the step."""
    next_obs = obs @ A.T + action @ B.T
    return Step(next_obs, -next_obs.square().sum(-1), torch.zeros_like(next_obs[..., 0]))


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_gradient_through_a_linear_model_is_the_closed_form(discount):
    gain = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    obs, horizon = torch.tensor([[1.0, -1.0, 0.5]]), 4
    returns = imagined_returns(
        TrueDynamics(linear_step), obs, [lambda o: o @ gain.T] * horizon, discount=discount
    )
    returns.sum().backward()
    # By hand: with M = A + B g, s_t = M^t s_0, and dM^t = sum_i M^(t-1-i) B dg M^i.
    m, s0 = A + B @ gain.detach(), obs[0]
    power = torch.linalg.matrix_power
    expected = torch.zeros(3)
    for t in range(1, horizon + 1):
        state = power(m, t) @ s0
        for i in range(t):
            left = -2 * discount ** (t - 1) * state @ power(m, t - 1 - i) @ B  # [1]
            expected += left * (power(m, i) @ s0)
    torch.testing.assert_close(gain.grad[0], expected)


def test_the_terminal_value_counts_and_has_a_gradient():
    gain = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    obs = torch.tensor([[1.0, -1.0, 0.5]])

    def value(state):
        return 3 * state[..., 0]

    with_value, without = (
        imagined_returns(
            TrueDynamics(linear_step), obs, [lambda o: o @ gain.T] * 2,
            terminal_value=terminal, discount=0.5,
        )
        for terminal in (value, None)
    )  # fmt: skip
    m = A + B @ gain
    expected = 0.5**2 * 3 * (m @ m @ obs[0])[0]
    torch.testing.assert_close((with_value - without).sum(), expected)
    ours = torch.autograd.grad((with_value - without).sum(), gain, retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, gain))


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


def test_a_gradient_that_is_not_finite_changes_nothing(policy, data):
    def explode(obs, action):
        return Step(obs * 1e30 * action, obs[..., 0], torch.zeros_like(obs[..., 0]))

    before = weights(policy)
    with pytest.raises(RuntimeError, match=r"improve: expected a finite gradient, got .* shorten"):
        improve(policy, TrueDynamics(explode), torch.tensor(data.obs), seeded())
    assert equal(before, weights(policy))


# --- imagined rollouts ---------------------------------------------------------------------------


def test_rollouts_branch_off_from_real_states_and_go_on(policy, model, data):
    obs = torch.tensor(data.obs[:7])
    batch = branch(model, policy, obs, 3, seeded())
    assert len(batch) == 21 and batch.imagined.all()
    assert torch.equal(batch.obs[:7], obs)
    assert torch.equal(batch.obs[7:], batch.next_obs[:-7])
    assert not batch.terminated.any()  # they were cut: more would have followed


def test_rollouts_in_the_truth_are_true(policy, data):
    batch = branch(PENDULUM.true_dynamics, policy, torch.tensor(data.obs[:7]), 3, seeded())
    step = PENDULUM.true_step(batch.obs, batch.action)
    torch.testing.assert_close(batch.next_obs, step.next_obs)
    torch.testing.assert_close(batch.reward, step.reward)


def test_every_member_has_a_say(policy):
    class Members:
        num_members = 3

        def step(self, obs, action, generator=None):
            number = torch.arange(3.0)[:, None].expand(obs.shape[:2])
            return Step(number[..., None].expand(obs.shape), number, torch.zeros_like(number))

    batch = branch(Members(), policy, torch.zeros(600, 3), 2, seeded())
    assert torch.equal(batch.next_obs[:, 0], batch.reward)  # state and reward of the same member
    counts = [(batch.reward == member).float().mean() for member in range(3)]
    assert counts == pytest.approx([1 / 3] * 3, abs=0.06)
    first, second = batch.reward[:600], batch.reward[600:]
    assert 0.2 < (first == second).float().mean() < 0.47  # drawn anew at each step


def test_rollouts_stop_at_a_predicted_end(policy):
    def ends_above_one(obs, action):
        next_obs = obs + 0.4
        return Step(next_obs, obs[..., 0], (next_obs[..., 0] > 1).float() * 0.6 + 0.2)

    obs = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0.8, 0, 0]])
    batch = branch(TrueDynamics(ends_above_one), policy, obs, 10, seeded())
    assert batch.obs[:, 0].tolist() == pytest.approx([0.0, 0.5, 0.8, 0.4, 0.9, 0.8])
    assert batch.terminated.tolist() == [0, 0, 1, 0, 1, 1]


def test_rollouts_are_cut_where_the_members_disagree(policy, model, data):
    obs = torch.tensor(data.obs[:50])
    free = branch(model, policy, obs, 4, seeded())
    spread = disagreement(model, free.obs, free.action)
    limit = float(spread.quantile(0.6))
    cut = branch(model, policy, obs, 4, seeded(), max_spread=limit)
    assert 0 < len(cut) < len(free)
    assert (disagreement(model, cut.obs, cut.action) <= limit).all()
    assert not cut.terminated.any()
    with pytest.raises(RuntimeError, match=r"branch: expected finite steps on which .* Raise"):
        branch(model, policy, obs, 4, seeded(), max_spread=0.0)


def test_disagreement_is_paid_for(policy, model, data):
    obs = torch.tensor(data.obs[:50])
    free, paid = (
        branch(model, policy, obs, 1, seeded(), spread_weight=weight) for weight in (0.0, -2.0)
    )
    spread = disagreement(model, free.obs, free.action)
    torch.testing.assert_close(paid.reward, free.reward - 2 * spread)


def test_a_model_without_reward_needs_an_objective(policy, data):
    def no_reward(obs, action):
        return Step(obs, None, torch.zeros_like(obs[..., 0]))

    model, obs = TrueDynamics(no_reward), torch.tensor(data.obs)
    for imagine in (
        lambda **how: branch(model, policy, obs, 2, seeded(), **how),
        lambda **how: improve(policy, model, obs, seeded(), BackpropConfig(num_updates=1), **how),
    ):
        with pytest.raises(ValueError, match="expected the model's reward, got None"):
            imagine()
        imagine(objective=lambda obs, action, step: obs[..., 0] + action[..., 0])


# --- soft actor-critic ---------------------------------------------------------------------------


def test_targets_are_those_of_a_hand_computation(policy, data):
    sac = SAC(policy, seeded(5), SACConfig(discount=0.9, reward_scale=0.5))
    for network in (sac.critic, sac.slow_critic):
        with torch.no_grad():
            network.weights[-1].normal_(generator=seeded(6))
    sac.log_entropy_weight.data.fill_(-1.0)
    batch = real_batch(data, policy)[:6]
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
        sac.update(real_batch(data, policy)[:64])
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
    batch = real_batch(data, policy)[:64]
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
        batch = real_batch(data, policy).draw(64, sac.generator)
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


GRID = ["SFF", "HFF", "FFG"]


def grid(seed=0):
    env = gym.make("FrozenLake-v1", desc=GRID, is_slippery=False)
    env.reset(seed=seed)
    return env


def q_learning(env, rng, num_episodes, rate=0.5, discount=0.95, exploration=0.1):
    q, lengths = np.zeros((9, 4)), []
    for _ in range(num_episodes):
        (s, _), ended, lengths = env.reset(), False, [*lengths, 0]
        while not ended:
            best = rng.choice(np.flatnonzero(q[s] == q[s].max()))
            a = rng.integers(4) if rng.random() < exploration else best
            s_next, r, terminated, truncated, _ = env.step(a)
            target = r if terminated else r + discount * q[s_next].max()
            q[s, a] += rate * (target - q[s, a])
            s, ended, lengths[-1] = s_next, terminated or truncated, lengths[-1] + 1
    return q, lengths


def test_dyna_q_without_planning_is_q_learning():
    ours = dyna_q(grid(), np.random.default_rng(3), 60, 0)
    oracle = q_learning(grid(), np.random.default_rng(3), 60)
    assert oracle[0].max() > 0.5  # it has found the goal
    np.testing.assert_array_equal(ours[0], oracle[0])
    assert ours[1] == oracle[1]


def test_dyna_q_with_enough_planning_is_value_iteration():
    q, lengths = dyna_q(grid(), np.random.default_rng(0), 30, 300)
    assert lengths[-1] <= 8
    env, state, values = grid(), 0, []
    while state != 8:
        values.append(q[state].max())
        state = env.step(q[state].argmax())[0]
    assert values == pytest.approx([0.95**k for k in (3, 2, 1, 0)], rel=0.02)
    assert q[0, 1] == 0  # into the hole


# --- a policy and a planner together -------------------------------------------------------------


@pytest.mark.parametrize("kind", [RandomShooting, CEM, ICEM, MPPI])
def test_a_proposed_plan_competes(kind):
    """No search is worse than the plan proposed to it, and around it the search is dense."""
    planner = kind(PENDULUM.action_space, seeded(), kind.Config(population_size=10))
    target = 1.9 * torch.rand(3, 10, 1, generator=seeded(5))

    def score(actions):
        return -(actions - target[:, None]).square().sum((2, 3))

    for proposal in (target, target - 0.1):
        plan = planner.plan(score, 3, trace=True, proposal=proposal)
        first = plan.trace[0].actions
        assert first.shape[1] == 10
        assert torch.equal(first[:, 0], proposal)
        assert (plan.returns >= score(proposal[:, None])[:, 0]).all()
        near = (first - proposal[:, None]).square().mean((2, 3))
        if kind is not RandomShooting:  # its candidates know no centre
            assert (near[:, 1:5].mean(1) < near[:, 5:].mean(1)).all()
        planner.reset()


def test_a_proposal_of_choices_keeps_some_of_all_actions():
    config = CEMConfig(population_size=400, num_iterations=1, init_std=0.5)
    planner = CEM(CARTPOLE.action_space, seeded(), config)
    proposal = torch.nn.functional.one_hot(torch.ones(2, 10, dtype=torch.long), 2).float()
    plan = planner.plan(lambda a: a.sum((2, 3)), 2, trace=True, proposal=proposal)
    shares = plan.trace[0].actions[..., 1].view(2, 2, 200, 10).mean((2, 3))  # around it, and not
    torch.testing.assert_close(shares, torch.tensor([[0.75, 0.5]] * 2), atol=0.03, rtol=0)


def test_the_own_plan_stays_in_the_race():
    """The second decision begins with the planner's plan, too, whatever was proposed."""
    config = ICEMConfig(init_std=1e-6, population_size=8, num_elites=2, num_iterations=1)
    planner = ICEM(PENDULUM.action_space, seeded(), config)
    own = planner.plan(lambda a: a.sum((2, 3)), 1).actions
    far = torch.full((1, 10, 1), 1.5)
    second = planner.plan(lambda a: -a.abs().sum((2, 3)), 1, trace=True, proposal=far)
    torch.testing.assert_close(second.actions[:, :9], own[:, 1:], atol=1e-4, rtol=0)


def test_a_policy_proposes_what_it_would_do(policy, data):
    planner = ICEM(PENDULUM.action_space, seeded(), ICEMConfig(horizon=6, population_size=10))
    agent = MPCAgent(PENDULUM, PENDULUM.true_dynamics, planner, policy=policy)
    proposal, obs, expected = agent._proposal(torch.tensor(data.obs[:3])), data.obs[:3], []
    obs = torch.tensor(obs)
    with torch.no_grad():
        for _ in range(6):
            expected.append(policy.action(obs))
            obs = PENDULUM.true_step(obs, expected[-1]).next_obs
    torch.testing.assert_close(proposal, torch.stack(expected, 1))
    returns = rollout_returns(PENDULUM.true_dynamics, torch.tensor(data.obs[:3]), proposal[:, None])
    assert (agent.plan(data.obs[:3]).returns >= returns[:, 0] - 1e-4).all()


def test_a_proposal_of_another_shape_is_refused():
    planner = ICEM(PENDULUM.action_space, seeded())
    with pytest.raises(ValueError, match=r"plan: expected a proposal of shape \(2, 10, 1\)"):
        planner.plan(lambda actions: actions.sum((2, 3)), 2, proposal=torch.zeros(2, 9, 1))


def test_a_proposal_does_not_hide_another_number_of_environments():
    planner = ICEM(PENDULUM.action_space, seeded())
    planner.plan(lambda actions: actions.sum((2, 3)), 3, proposal=torch.zeros(3, 10, 1))
    with pytest.raises(ValueError, match=r"plan: expected the 3 environments .* got 2\. Call rese"):
        planner.plan(lambda actions: actions.sum((2, 3)), 2, proposal=torch.zeros(2, 10, 1))


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "bad"),
    [(BackpropConfig, {"horizon": 0}), (BackpropConfig, {"num_updates": 0}),
     (BackpropConfig, {"discount": 1.1}), (BackpropConfig, {"learning_rate": 0.0}),
     (BackpropConfig, {"noise": -0.1}),
     (BackpropConfig, {"max_norm": 0.0}), (SACConfig, {"discount": 1.0}),
     (SACConfig, {"target_rate": 0.0}), (SACConfig, {"reward_scale": -1.0}),
     (SACConfig, {"learning_rate": float("nan")}), (SACConfig, {"batch_size": 0}),
     (DynaConfig, {"rollout_length": 0}), (DynaConfig, {"real_share": 1.5}),
     (DynaConfig, {"num_updates": 0})],
)  # fmt: skip
def test_settings_out_of_range_are_refused(config, bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{config.__name__}: expected .*{name}"):
        config(**bad)


def test_rollouts_of_no_steps_are_refused(policy, model, data):
    with pytest.raises(ValueError, match="branch: expected length >= 1, got 0"):
        branch(model, policy, torch.tensor(data.obs), 0, seeded())


def test_no_states_to_start_from_are_refused(policy, model):
    for imagine in (
        lambda: branch(model, policy, torch.zeros(0, 3), 2, seeded()),
        lambda: improve(policy, model, torch.zeros(0, 3), seeded()),
    ):
        with pytest.raises(ValueError, match=r"expected states \[K, 3\] to start from, got"):
            imagine()


def test_experience_with_actions_out_of_bounds_is_refused(policy, data):
    data = experience()
    data.action[3] = 2.5
    with pytest.raises(ValueError, match="expected actions within the bounds"):
        real_batch(data, policy)


def test_batches_join_in_order(policy, data):
    batch = real_batch(data, policy)
    again = join([batch[:5], batch[5:]])
    assert equal(vars(batch).values(), vars(again).values())


def test_imagined_steps_that_are_not_finite_are_left_out(policy, data):
    def half_lost(obs, action):
        lost = obs[..., :1] > 0
        return Step(obs.masked_fill(lost, torch.nan), obs[..., 0], torch.zeros(obs.shape[:-1]))

    obs = torch.tensor(data.obs[:50])
    batch = branch(TrueDynamics(half_lost), policy, obs, 1, seeded())
    assert len(batch) == (obs[:, 0] <= 0).sum() and batch.next_obs.isfinite().all()
    with pytest.raises(RuntimeError, match=r"branch: expected finite steps"):
        branch(TrueDynamics(half_lost), policy, obs[obs[:, 0] > 0], 1, seeded())


def test_one_member_does_not_disagree(policy, data):
    """The limit on disagreement then cuts nothing, as it is documented for true dynamics."""
    obs, truth = torch.tensor(data.obs[:50]), PENDULUM.true_dynamics
    free, limited = (
        branch(truth, policy, obs, 2, seeded(), max_spread=limit) for limit in (None, 1e-6)
    )
    assert torch.equal(free.obs, limited.obs) and len(free) == 100


def test_dyna_without_a_model_has_nothing_to_imagine(policy, data):
    with pytest.raises(ValueError, match=r"dyna: expected a model to imagine"):
        dyna(SAC(policy, seeded()), None, data, DynaConfig(num_updates=2))
