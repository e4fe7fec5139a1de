"""A model of one's own, with nothing but `step`, does all that the kit's own models do.

The oracle is always `TrueDynamics` of the same equations.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mbrl_helpers.agents import MPCAgent, NoisyAgent, RandomAgent
from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.envs import CARTPOLE_LIMITS, Task, TrueDynamics, get_task
from mbrl_helpers.futures import (
    PROPAGATIONS,
    Imagination,
    branch,
    imagined_returns,
    propagate,
    rollout,
    rollout_returns,
)
from mbrl_helpers.imagination import SAC, BackpropConfig, DynaConfig, SACConfig, dyna, improve
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.interfaces import Step, num_members
from mbrl_helpers.planners import CEM, ICEM, MPPI, RandomShooting
from mbrl_helpers.policies import Policy
from mbrl_helpers.training import closed_loop, evaluate
from mbrl_helpers.uncertainty import disagreement

CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")
TASKS = [CARTPOLE, PENDULUM]
PLANNERS = [RandomShooting, CEM, ICEM, MPPI]

each_task = pytest.mark.parametrize("task", TASKS, ids=["discrete", "continuous"])
each_planner = pytest.mark.parametrize("kind", PLANNERS)
each_propagation = pytest.mark.parametrize("propagation", PROPAGATIONS)


class OwnCartPole:
    def step(self, obs, action):
        return CARTPOLE.true_step(obs, action)


class OwnPendulum:
    def step(self, obs, action):
        return PENDULUM.true_step(obs, action)


class ThreeOf:
    """Three members of the same equations, which differ by their noise alone."""

    num_members = 3

    def __init__(self, task, noise=0.0):
        self.task, self.noise = task, noise

    def step(self, obs, action, generator=None):
        assert obs.shape[0] == action.shape[0] == 3 and obs.ndim == action.ndim == 3
        step = self.task.true_step(obs, action)
        if generator is None:
            return step
        noise = torch.randn(obs.shape, generator=generator) * torch.arange(3.0)[:, None, None]
        return step._replace(next_obs=step.next_obs + self.noise * noise)


def own(task):
    return OwnCartPole() if task is CARTPOLE else OwnPendulum()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def experience(task, num_episodes=3):
    agent = RandomAgent(task.action_space, seeded(1))
    return collect_episodes(task, agent, num_episodes=num_episodes, seed=0)


def states(task, num, seed=0):
    """[num, O] on the circle, near the start."""
    obs = 0.1 * torch.randn(num, task.num_obs, generator=seeded(seed))
    if task is PENDULUM:
        angle = torch.randn(num, generator=seeded(seed))
        obs[:, 0], obs[:, 1] = angle.cos(), angle.sin()
    return obs


def new_policy(task, seed=3):
    policy = Policy(task, states(task, 50).numpy(), seeded(seed), hidden_sizes=(16,))
    with torch.no_grad():
        policy.network.weights[-1].normal_(std=0.1, generator=seeded(4))
    return policy


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.network.parameters()])


# --- planning ------------------------------------------------------------------------------------


@each_task
@each_planner
@each_propagation
@pytest.mark.parametrize("proposed", [False, True], ids=["alone", "with a policy"])
def test_agents_plan_the_same_as_with_the_truth(task, kind, propagation, proposed):
    """To the bit, over a few decisions, with an episode that ends between them."""
    played = []
    for model in (own(task), task.true_dynamics):
        config = kind.Config(horizon=6, population_size=20)
        how = Imagination(
            discount=0.95, propagation=propagation, num_particles=2, spread_weight=-0.5,
            generator=seeded(7),
        )  # fmt: skip
        agent = MPCAgent(
            task, model, kind(task.action_space, seeded(), config), how,
            terminal_value=lambda obs: obs[..., 0],
            policy=new_policy(task) if proposed else None,
        )  # fmt: skip
        actions = []
        for seed in range(3):
            plan = agent.plan(states(task, 3, seed).numpy())
            actions.append((plan.actions, plan.best_return))
            agent.reset(np.array([False, seed == 1, False]))
        played.append(actions)
    for (mine, mine_best), (truth, truth_best) in zip(*played, strict=True):
        assert torch.equal(mine, truth)
        assert torch.equal(mine_best, truth_best)


@pytest.mark.parametrize(
    "objective", ["task", None, lambda obs, action, step: -step.next_obs[..., 0].abs()]
)
def test_every_objective_is_at_hand(objective):
    obs, planned = states(CARTPOLE, 20).numpy(), []
    for model in (own(CARTPOLE), CARTPOLE.true_dynamics):
        planner = RandomShooting(CARTPOLE.action_space, seeded())
        planned.append(MPCAgent(CARTPOLE, model, planner, objective=objective).plan(obs))
    assert torch.equal(planned[0].best_return, planned[1].best_return)


def test_it_balances_the_pole():
    agent = MPCAgent(CARTPOLE, own(CARTPOLE), RandomShooting(CARTPOLE.action_space, seeded()))
    assert evaluate(CARTPOLE, agent, num_episodes=1).tolist() == [500]


def test_noise_around_it():
    returns = []
    for model in (own(PENDULUM), PENDULUM.true_dynamics):
        config = ICEM.Config(horizon=5, population_size=12, num_iterations=2)
        agent = MPCAgent(PENDULUM, model, ICEM(PENDULUM.action_space, seeded(), config))
        noisy = NoisyAgent(PENDULUM, agent, seeded(1), std=0.3, correlation=0.5)
        returns.append(evaluate(PENDULUM, noisy, num_episodes=1).tolist())
    assert returns[0] == returns[1]


# --- imagining -----------------------------------------------------------------------------------


@each_task
@pytest.mark.parametrize(
    ("propagation", "with_generator"),
    [(name, True) for name in PROPAGATIONS] + [("tsinf", False), ("expectation", False)],
)
def test_futures_are_those_of_the_truth(task, propagation, with_generator):
    obs, results = states(task, 5), []
    actions = task.actions.uniform((5, 4, 9), seeded())
    for model in (own(task), task.true_dynamics):
        generator = seeded(7) if with_generator else None
        how = Imagination(discount=0.9, propagation=propagation, generator=generator)
        functions = {"objective": task.objective, "terminal_value": lambda obs: obs[..., 1]}
        found = [
            rollout(model, obs, actions[:, 0], how),
            rollout_returns(model, obs, actions, how, **functions),
            imagined_returns(model, obs, actions[:, 0], how, **functions),
        ]
        for parts in propagate(model, obs[None], actions[:, 0], how):
            found += [*parts[:2], *parts[2]]
        if generator is not None:
            found.append(generator.get_state())
        results.append(found)
    assert len(results[0]) == len(results[1]) >= 3 + 9 * 5
    for mine, truth in zip(*results, strict=True):
        assert torch.equal(mine, truth)


@each_task
def test_policies_imagine_in_it(task):
    obs, policy = states(task, 5), new_policy(task)
    acts = [policy.action] * 6
    mine, truth = (imagined_returns(m, obs, acts) for m in (own(task), task.true_dynamics))
    assert torch.equal(mine, truth) and mine.requires_grad == (task is PENDULUM)


@each_task
def test_rollouts_branch_off_in_it(task):
    """A limit on disagreement cuts nothing: there is nobody to disagree with."""
    obs, policy = states(task, 30), new_policy(task)
    for how in ({}, {"max_spread": 0.0, "spread_weight": -1.0}, {"objective": task.objective}):
        mine, truth = (
            branch(model, policy, obs, 4, seeded(), **how)
            for model in (own(task), task.true_dynamics)
        )
        assert len(mine) == len(truth) > 30
        for one, other in zip(vars(mine).values(), vars(truth).values(), strict=True):
            assert torch.equal(one, other)


# --- learning ------------------------------------------------------------------------------------


@each_task
def test_policies_improve_in_it(task):
    results = []
    for model in (own(task), task.true_dynamics):
        policy = new_policy(task)
        before = weights(policy)
        config = BackpropConfig(num_updates=5, horizon=8, num_starts=16, spread_weight=-0.5)
        history = improve(
            policy, model, states(task, 40), seeded(), config, objective=task.objective,
            terminal_value=lambda obs: obs[..., 0],
        )  # fmt: skip
        assert not torch.equal(before, weights(policy))
        results.append((history, weights(policy)))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_an_actor_critic_learns_in_it():
    data, results = experience(PENDULUM, 1), []
    for model in (own(PENDULUM), PENDULUM.true_dynamics):
        policy = new_policy(PENDULUM)
        sac = SAC(policy, seeded(5), SACConfig(batch_size=32))
        config = DynaConfig(num_updates=60, num_starts=20, max_spread=0.5, spread_weight=-1.0)
        dyna(sac, model, data, config)
        results.append(weights(policy))
    assert torch.equal(*results)


class Line:
    """Learns by least squares what follows; knows what is paid, and where it ends."""

    def __init__(self, transitions):
        rows = transitions.tensors(CARTPOLE.actions)
        inputs = torch.cat([rows.obs, rows.action], 1)
        self.matrix = torch.linalg.lstsq(inputs, rows.next_obs, driver="gelsd").solution

    def step(self, obs, action):
        next_obs = torch.cat([obs, action], -1) @ self.matrix
        cart, pole = CARTPOLE_LIMITS
        fell = (next_obs[..., 0].abs() > cart) | (next_obs[..., 2].abs() > pole)
        return Step(next_obs, torch.ones_like(obs[..., 0]), fell.float())


def test_the_closed_loop_learns_it():
    rng = seeded()
    planner = RandomShooting(CARTPOLE.action_space, rng)

    def learn(transitions):
        return MPCAgent(CARTPOLE, Line(transitions), planner)

    first = RandomAgent(CARTPOLE.action_space, rng)
    records = list(
        closed_loop(CARTPOLE, first, learn, ReplayBuffer(), num_episodes=4, num_random_episodes=3)
    )
    assert [record.random for record in records] == [True, True, True, False]
    assert type(records[-1].agent.model) is Line
    by_chance = max(record.episode_return for record in records[:3])
    assert evaluate(CARTPOLE, records[-1].agent, num_episodes=2).min() > 3 * by_chance


# --- three members, noise ------------------------------------------------------------------------


@each_task
@each_propagation
def test_three_members_alike_are_as_one(task, propagation):
    obs, model = states(task, 5), ThreeOf(task)
    actions = task.actions.uniform((5, 4, 9), seeded())
    how = Imagination(discount=0.9, propagation=propagation, num_particles=6, generator=seeded())
    truth = rollout_returns(task.true_dynamics, obs, actions, Imagination(discount=0.9))
    torch.testing.assert_close(rollout_returns(model, obs, actions, how), truth)
    found = rollout(model, obs, actions[:, 0], how)
    assert found.shape == (3, 5, 10, task.num_obs)
    expected = rollout(task.true_dynamics, obs, actions[:, 0])
    torch.testing.assert_close(found, expected.expand(3, -1, -1, -1))
    each = imagined_returns(model, obs, actions[:, 0], how)
    torch.testing.assert_close(each, truth[:, 0].expand(3, -1))
    steps = list(propagate(model, obs.expand(3, -1, -1), actions[:, 0], how))
    assert all(part.shape[:2] == (3, 5) for _, _, step in steps for part in step)


@each_task
@each_planner
def test_agents_plan_with_three_members(task, kind):
    """Among the same candidates the same plan, whatever rounding their mean brings."""
    config = kind.Config(horizon=6, population_size=20)
    obs, best = states(task, 3).numpy(), []
    for model in (ThreeOf(task), task.true_dynamics):
        agent = MPCAgent(task, model, kind(task.action_space, seeded(), config))
        best.append(agent.plan(obs).best_return)
    torch.testing.assert_close(*best)


@each_propagation
def test_its_noise_comes_from_the_generator(propagation):
    """The first member has none, the third the most; its mean has none at all."""
    model, obs = ThreeOf(PENDULUM, noise=0.1), states(PENDULUM, 200)
    actions = torch.zeros(200, 1, 1)

    def last(seed):
        how = Imagination(propagation=propagation, generator=seeded(seed))
        return rollout(model, obs, actions, how)[:, :, -1]

    calm = rollout(PENDULUM.true_dynamics, obs, actions)[0, :, -1]
    found = last(0)
    assert torch.equal(found, last(0))
    std = (found - calm).std((1, 2))
    if propagation == "expectation":
        assert torch.equal(found, calm.expand(3, -1, -1))
    elif propagation == "tsinf":
        assert std[0] == 0
        torch.testing.assert_close(std[1:], torch.tensor([0.1, 0.2]), rtol=0.1, atol=0)
        assert not torch.equal(found, last(1))
    else:  # each place is dealt a member anew: all have the noise of a mixture
        expected = torch.full((3,), float(np.sqrt((0 + 0.01 + 0.04) / 3)))
        torch.testing.assert_close(std, expected, rtol=0.15, atol=0)


def test_policies_learn_with_three_members():
    """Rollouts draw a member at each step, with its noise; nothing is asked that it has not."""
    model, policy, obs = ThreeOf(PENDULUM, noise=0.1), new_policy(PENDULUM), states(PENDULUM, 300)
    batch = branch(model, policy, obs, 2, seeded())
    step = PENDULUM.true_step(batch.obs, batch.action)
    gap = (batch.next_obs - step.next_obs)[:, 2]
    calm = (gap == 0).float().mean()
    assert calm == pytest.approx(1 / 3, abs=0.06)  # those of the member without noise
    assert gap.std() == pytest.approx(np.sqrt((0 + 0.01 + 0.04) / 3), rel=0.15)
    before = weights(policy)
    improve(policy, model, obs, seeded(), BackpropConfig(num_updates=2, horizon=4, num_starts=8))
    after = weights(policy)
    assert not torch.equal(before, after) and after.isfinite().all()
    sac = SAC(policy, seeded(5), SACConfig(batch_size=32))
    dyna(sac, model, experience(PENDULUM, 1), DynaConfig(num_updates=3, num_starts=20))
    assert not torch.equal(after, weights(policy)) and weights(policy).isfinite().all()


# --- members that can't be compared --------------------------------------------------------------


@pytest.mark.parametrize("how", [{"max_spread": 1.0}, {"spread_weight": -1.0}])
def test_their_disagreement_is_nothing_to_go_by(how):
    """Said in words, before the model is asked anything and a policy has learned."""
    policy, asked = new_policy(PENDULUM), []

    class Watched(ThreeOf):
        def step(self, obs, action, generator=None):
            asked.append(obs)
            return super().step(obs, action, generator)

    model, rng = Watched(PENDULUM), seeded()
    says = r"branch: expected a model with `predict` .* got Watched\. Leave max_spread and spread"
    noise = rng.get_state()
    with pytest.raises(TypeError, match=says):
        branch(model, policy, states(PENDULUM, 20), 2, rng, **how)
    assert torch.equal(rng.get_state(), noise)
    sac, before = SAC(policy, rng), weights(policy)
    with pytest.raises(TypeError, match=says):
        dyna(sac, model, experience(PENDULUM, 1), DynaConfig(num_updates=2, **how))
    assert torch.equal(before, weights(policy)) and not asked


@pytest.mark.parametrize(
    "model",
    [
        OwnPendulum(),
        ThreeOf(PENDULUM),
        PENDULUM.true_dynamics,
        SimpleNamespace(step=PENDULUM.true_step, predict=PENDULUM.true_step),
    ],
    ids=["one", "three", "truth", "no units"],
)
def test_it_says_what_it_misses(model):
    says = "disagreement: expected a model with `predict` and the `units` of its data"
    with pytest.raises(TypeError, match=says):
        disagreement(model, states(PENDULUM, 5), torch.zeros(5, 1))


# --- other ways to write one ---------------------------------------------------------------------


class ByName:
    """Its generator has no other way in than by name."""

    num_members = 3

    def step(self, obs, action, *, generator=None):
        return ThreeOf(PENDULUM, 0.1).step(obs, action, generator)


class Net(torch.nn.Module):
    """A network of one's own, whose reward is that of the state."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        with torch.no_grad():
            self.layer.weight.fill_(0.1), self.layer.bias.zero_()

    def step(self, obs, action):
        next_obs = obs + self.layer(torch.cat([obs, action], -1))
        return Step(next_obs, next_obs[..., 0], torch.zeros_like(obs[..., 0]))


class Static:
    @staticmethod
    def step(obs, action):
        return PENDULUM.true_step(obs, action)


@pytest.mark.parametrize(
    "model",
    [
        ByName(),
        Net(),
        Static(),
        Static,
        SimpleNamespace(step=PENDULUM.true_step),
        SimpleNamespace(step=lambda obs, action: PENDULUM.true_step(obs, action), num_members=2),
    ],
    ids=["by name", "network", "static", "class", "function", "function of two"],
)
@each_propagation
def test_ways_to_write_one(model, propagation):
    how = Imagination(propagation=propagation, generator=seeded())
    obs, policy = states(PENDULUM, 4), new_policy(PENDULUM)
    returns = rollout_returns(model, obs, torch.zeros(4, 2, 3, 1), how)
    assert returns.shape == (4, 2) and returns.isfinite().all()
    assert rollout(model, obs, torch.zeros(4, 3, 1), how).shape == (num_members(model), 4, 4, 3)
    assert len(branch(model, policy, obs, 2, seeded())) == 8
    improve(policy, model, obs, seeded(), BackpropConfig(num_updates=1, horizon=2, num_starts=3))
    agent = MPCAgent(PENDULUM, model, ICEM(PENDULUM.action_space, seeded()), how, policy=policy)
    assert agent.act(obs.numpy()).shape == (4, 1)


def test_a_task_of_ones_own_with_a_model_of_ones_own():
    """Nothing of it is registered anywhere."""
    task = Task(env_id="Nowhere", obs_names=("a", "b", "c"), space=PENDULUM.action_space)
    agent = MPCAgent(task, own(PENDULUM), MPPI(task.action_space, seeded()))
    assert agent.act(states(PENDULUM, 2).numpy()).shape == (2, 1)


def test_a_model_without_a_step_is_named():
    """Before it plans; and a learner is told from what it learns."""
    planner = RandomShooting(PENDULUM.action_space, seeded())
    for model, says in (
        (SimpleNamespace(), r"got SimpleNamespace\. Give it one"),
        (SimpleNamespace(step=3), r"got SimpleNamespace\. Give it one"),
        (SimpleNamespace(fit=len), r"got SimpleNamespace\. Pass what fit returns"),
    ):
        with pytest.raises(TypeError, match=f"MPCAgent: expected a model with a method.*{says}"):
            MPCAgent(PENDULUM, model, planner)


def test_true_dynamics_take_a_plain_function():
    model = TrueDynamics(PENDULUM.true_step)
    assert num_members(model) == num_members(own(PENDULUM)) == 1
    obs, actions = states(PENDULUM, 3), torch.zeros(3, 2, 1)
    assert torch.equal(rollout(model, obs, actions), rollout(own(PENDULUM), obs, actions))


class TupleModel:
    """The same equations, written as one would at first: a tuple, and an end that is a bool."""

    def step(self, obs, action):
        true = get_task("CartPole-v1").true_step(obs, action)
        return true.next_obs, true.reward, true.terminated > 0.5


def test_a_tuple_and_a_bool_do_as_well():
    task, generator = get_task("CartPole-v1"), torch.Generator().manual_seed(0)
    obs = torch.tensor([1.0, 1.0, 0.1, 0.5]) * torch.randn(8, 4, generator=generator)
    actions = task.actions.uniform((8, 5, 20), generator)
    own, true = (
        rollout_returns(model, obs, actions) for model in (TupleModel(), task.true_dynamics)
    )
    torch.testing.assert_close(own, true)
    assert 1 < own.min() < own.max() == 20
