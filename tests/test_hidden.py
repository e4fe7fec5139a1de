"""Hidden state: what is seen, what is believed, how it is learned, and how agents use it."""

import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from mbrl_helpers import ICEM, ICEMConfig, RandomAgent, Task, collect_episodes, evaluate
from mbrl_helpers.envs import get_task
from mbrl_helpers.exercises import build10
from mbrl_helpers.hidden.agent import BeliefAgent
from mbrl_helpers.hidden.cell import Cell, Guess, balanced_kl, kl_divergence
from mbrl_helpers.hidden.glimpses import Glimpses, pendulum_glimpses
from mbrl_helpers.hidden.model import RecurrentConfig, RecurrentModel
from mbrl_helpers.interfaces import Step
from mbrl_helpers.notebook import generator

QUICK = RecurrentConfig(seen=2, num_updates=4, num_more_updates=2, sequence=12, batch_size=8)


def experience(blank=0.5, num_episodes=2, noise=0.0):
    task = pendulum_glimpses(blank=blank, noise=noise)
    agent = RandomAgent(task.action_space, generator(0), correlation=0.9)
    return task, collect_episodes(task, agent, num_episodes=num_episodes, seed=40)


def fitted(config=QUICK, **world):
    task, played = experience(**world)
    return RecurrentModel(task, generator(1), config).fit(played), played


def planner_of(task):
    config = ICEMConfig(horizon=4, population_size=8, num_iterations=2, num_elites=3)
    return ICEM(task.action_space, generator(2), config)


@pytest.fixture(scope="module")
def model():
    return fitted()[0]


# --- what is seen --------------------------------------------------------------------------------


def test_glimpses_show_some_columns_some_of_the_time():
    clear, half = pendulum_glimpses(), pendulum_glimpses(blank=0.5)
    agent = [RandomAgent(clear.action_space, generator(3)) for _ in range(3)]
    full = collect_episodes("Pendulum-v1", agent[0], num_episodes=1, seed=5)
    seen = collect_episodes(clear, agent[1], num_episodes=1, seed=5)
    blanked = collect_episodes(half, agent[2], num_episodes=1, seed=5)
    assert np.array_equal(seen.obs[:, :2], full.obs[:, :2])
    assert (seen.obs[:, 2] == 1).all()
    mask = blanked.obs[:, 2]
    assert 0.35 < mask.mean() < 0.65
    assert np.array_equal(blanked.obs[:, :2], full.obs[:, :2] * mask[:, None])
    assert np.array_equal(blanked.reward, full.reward)


def test_glimpses_are_the_same_for_a_seed_and_stay_in_the_space():
    task = pendulum_glimpses(blank=0.3, noise=0.2)
    runs = [
        collect_episodes(task, RandomAgent(task.action_space, generator(3)), num_episodes=1, seed=5)
        for _ in range(2)
    ]
    assert np.array_equal(runs[0].obs, runs[1].obs)
    env = gym.make(task.env_id)
    assert all(env.observation_space.contains(obs) for obs in runs[0].obs)
    clear = collect_episodes(
        pendulum_glimpses(), RandomAgent(task.action_space, generator(3)), num_episodes=1, seed=5
    )
    seen = runs[0].obs[:, 2] == 1
    error = (runs[0].obs - clear.obs)[seen][:, :2]
    assert 0.17 < error.std() < 0.23


@pytest.mark.parametrize(
    ("columns", "more", "message"),
    [
        ((), {}, "expected columns among the 3"),
        ((0, 3), {}, "expected columns among the 3"),
        ((0,), {"blank": 1.0}, r"expected blank in \[0, 1\)"),
        ((0,), {"noise": -1.0}, "noise >= 0"),
    ],
)
def test_glimpses_refuse(columns, more, message):
    with pytest.raises(ValueError, match=f"Glimpses: .*{message}"):
        Glimpses(gym.make("Pendulum-v1"), columns, **more)


def test_glimpses_refuse_pictures():
    class Picture(gym.Env):
        observation_space = gym.spaces.Box(0, 1, (4, 4))
        action_space = gym.spaces.Discrete(2)

    with pytest.raises(TypeError, match=r"Glimpses: expected a flat Box observation"):
        Glimpses(Picture(), (0,))


# --- the divergence ------------------------------------------------------------------------------


def guesses(seed=0):
    g = generator(seed)
    return [
        Guess(torch.randn(7, 3, generator=g), torch.rand(7, 3, generator=g) + 0.1) for _ in "qp"
    ]


def test_divergence_is_torchs():
    q, p = guesses()
    assert torch.allclose(kl_divergence(q, p), torch_kl(Normal(*q), Normal(*p)).sum(-1), atol=1e-5)


def test_divergence_of_equals_is_zero_and_else_positive():
    q, p = guesses()
    assert torch.allclose(kl_divergence(q, q), torch.zeros(7), atol=1e-6)
    assert (kl_divergence(q, p) > 0).all()


def test_divergence_counts_the_last_numbers_of_a_state():
    q, p = guesses()
    longer = [
        Guess(torch.cat([torch.full((7, 2), i), g.mean], 1), g.std) for i, g in ((0.0, q), (9.0, p))
    ]
    assert torch.allclose(kl_divergence(*longer), kl_divergence(q, p))


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
def test_balance_shares_the_gradient_and_not_the_value(balance):
    q, p = guesses()
    mean_q, mean_p = q.mean.clone().requires_grad_(), p.mean.clone().requires_grad_()
    value = balanced_kl(Guess(mean_q, q.std), Guess(mean_p, p.std), balance)
    assert torch.allclose(value, kl_divergence(q, p))
    value.sum().backward()
    whole = (p.mean - q.mean) / p.std**2
    assert torch.allclose(mean_p.grad, balance * whole, atol=1e-4)
    assert torch.allclose(mean_q.grad, -(1 - balance) * whole, atol=1e-4)


# --- one step ------------------------------------------------------------------------------------


def a_cell(num_noisy=0, memory=3):
    cell = Cell(1, 1, 1, memory=memory, width=8, look_std=0.1, num_noisy=num_noisy,
                generator=generator(4))  # fmt: skip
    with torch.no_grad():
        for weights in cell.parameters():
            weights.add_(0.3 * torch.randn(weights.shape, generator=generator(5)))
    return cell


@pytest.mark.parametrize("num_noisy", [0, 2, 5])
def test_what_is_not_seen_leaves_the_prior(num_noisy):
    cell, g = a_cell(num_noisy), generator(6)
    prior = cell.predict(torch.randn(9, 5, generator=g), torch.randn(9, 1, generator=g))
    look, ones = torch.randn(9, 2, generator=g), torch.ones(9, 1)
    after = cell.correct(prior, look, 0 * ones, 0.5 * ones, ones)
    assert torch.equal(after.mean, prior.mean)
    assert torch.equal(after.std, prior.std)
    assert torch.equal(kl_divergence(after, prior), torch.zeros(9))
    seen = cell.correct(prior, look, ones, 0.5 * ones, ones)
    assert not torch.isclose(seen.mean, prior.mean).all(1).any()


def test_the_first_look_is_believed():
    cell, g = a_cell(), generator(6)
    prior = cell.predict(torch.randn(9, 5, generator=g), torch.randn(9, 1, generator=g))
    look, ones = torch.randn(9, 2, generator=g), torch.ones(9, 1)
    state = cell.correct(prior, look, ones, ones, 0 * ones).mean
    assert torch.allclose(state[:, 3:] - look, torch.zeros(9, 2), atol=1e-5) or torch.allclose(
        cell.difference(look, state[:, 3:]), torch.zeros(9, 2), atol=1e-5
    )
    assert torch.equal(state[:, :3], torch.zeros(9, 3))


def test_a_turn_of_an_angle_changes_nothing():
    cell, g = a_cell(), generator(6)
    state, action = torch.randn(9, 5, generator=g), torch.randn(9, 1, generator=g)
    turned = state.clone()
    turned[:, 3] += 2 * math.pi
    assert torch.allclose(
        cell.predict(turned, action).mean - turned,
        cell.predict(state, action).mean - state,
        atol=1e-4,
    )
    ones, look = torch.ones(9, 1), torch.randn(9, 2, generator=g)
    a, b = (cell.correct(Guess(s, ones), look, ones, ones, ones).mean - s for s in (state, turned))
    assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("num_noisy", [0, 2, 5])
def test_only_the_stochastic_part_is_drawn(num_noisy):
    cell, g = a_cell(num_noisy), generator(6)
    guess = cell.predict(torch.randn(9, 5, generator=g), torch.randn(9, 1, generator=g))
    drawn = cell.sample(guess, torch.ones(9, num_noisy))
    assert torch.equal(drawn[:, : 5 - num_noisy], guess.mean[:, : 5 - num_noisy])
    if num_noisy:
        assert torch.allclose(drawn[:, 5 - num_noisy :], guess.mean[:, 5 - num_noisy :] + guess.std)


# --- a filter ------------------------------------------------------------------------------------


def looks_and_actions(model, played):
    rows = played[played.episode == played.episodes[0]]
    obs = torch.tensor(np.concatenate([rows.obs, rows.next_obs[-1:]]))
    return obs[None], model.task.actions.encode(rows.action)[None]


def test_filter_step_by_step_is_the_filter_that_is_trained(model):
    _, played = experience()
    obs, actions = looks_and_actions(model, played)
    beliefs = model.filter(obs, actions)
    data = model._sequences(played)
    one = replace(data, **{name: getattr(data, name)[:1] for name in vars(data)})
    with torch.no_grad():
        states, _, _ = model.unroll(one, one.seen.t())
    assert torch.allclose(states[:, 0], beliefs[0, :, :-2], atol=1e-4)


def test_filter_of_many_is_the_filter_of_each(model):
    _, played = experience(num_episodes=3)
    parts = [played[played.episode == number] for number in played.episodes]
    obs = torch.stack([torch.tensor(np.concatenate([p.obs, p.next_obs[-1:]])) for p in parts])
    actions = torch.stack([model.task.actions.encode(p.action) for p in parts])
    together = model.filter(obs, actions)
    for i in range(3):
        assert torch.allclose(
            together[i], model.filter(obs[i : i + 1], actions[i : i + 1])[0], atol=1e-5
        )


def test_beliefs_count_the_steps_since_the_last_look(model):
    belief = model.start(1)
    look, blank = torch.tensor([[1.0, 0.0, 1.0]]), torch.zeros(1, 3)
    belief = model.correct(belief, blank)
    assert belief[0, -2:].tolist() == [1.0, 0.0]
    for obs, expected in (
        (look, [0.0, 1.0]),
        (blank, [1.0, 1.0]),
        (blank, [2.0, 1.0]),
        (look, [0.0, 1.0]),
    ):
        belief = model.correct(model.predict(belief, torch.zeros(1, 1)), obs)
        assert belief[0, -2:].tolist() == expected


def test_what_a_blank_look_contains_is_of_no_account(model):
    belief = model.correct(model.start(2), torch.tensor([[0.6, 0.8, 1.0]]).expand(2, 3))
    belief = model.predict(belief, torch.ones(2, 1))
    after = model.correct(belief, torch.tensor([[0.0, 0.0, 0.0], [0.6, -0.8, 0.0]]))
    assert torch.allclose(after[0], after[1], atol=1e-6)
    assert torch.allclose(after[:, :-2], belief[:, :-2], atol=1e-6)


def test_step_is_predict_with_a_reward(model):
    belief = model.correct(model.start(3), torch.tensor([[0.6, 0.8, 1.0]]).expand(3, 3))
    action = torch.tensor([[-2.0], [0.0], [2.0]])
    step = model.step(belief[None], action[None])
    assert isinstance(step, Step)
    assert torch.allclose(step.next_obs[0], model.predict(belief, action))
    assert step.reward.shape == step.terminated.shape == (1, 3)
    assert (step.terminated == 0).all()


def test_a_stochastic_model_imagines_with_noise_only_if_asked():
    model, _ = fitted(replace(QUICK, stochastic=True))
    belief = model.correct(model.start(3), torch.tensor([[0.6, 0.8, 1.0]]).expand(3, 3))
    plain, again = (model.step(belief, torch.zeros(3, 1)).next_obs for _ in range(2))
    noisy = model.step(belief, torch.zeros(3, 1), generator(7)).next_obs
    assert torch.equal(plain, again)
    memory = model.cell.memory
    assert torch.equal(noisy[:, :memory], plain[:, :memory])
    assert not torch.isclose(noisy[:, memory], plain[:, memory]).any()


def test_learns_to_filter_a_linear_system_nearly_as_well_as_kalman():
    """The oracle: half of the looks blank, noisy; its error is the least there is."""
    task, played, system, truth, given = swinging(num_episodes=60)
    config = RecurrentConfig(seen=1, sequence=20, num_updates=500, blank=0.2)
    model = RecurrentModel(task, generator(8), config).fit(played)
    obs, actions, seen = given
    beliefs = model.filter(obs, actions)
    own = model.look(beliefs)[:, 10:, 0] - truth[:, 10:]
    best = torch.stack([
        torch.tensor([build10.foresee(system, o[: t + 1, 0].numpy(), s[: t + 1].numpy(),
                                      a[:, 0].numpy(), 0)[0] for t in range(10, len(o))])
        for o, s, a in zip(obs, seen, actions, strict=True)
    ])  # fmt: skip
    kalman = (best - truth[:, 10:]).square().mean().sqrt()
    persistence = truth[:, 11:] - truth[:, 10:-1]
    assert own.square().mean().sqrt() < 2.0 * kalman
    assert own.square().mean().sqrt() < 0.8 * persistence.square().mean().sqrt()


def swinging(num_episodes):
    """Experience of the build's pendulum, and four episodes more with the truth."""
    from mbrl_helpers.data import Transitions

    system = build10.swing(noise=0.1, drift=0.001)
    build10_steps = build10.STEPS
    looks, seen, actions, _ = build10.episodes(system, 0.5, 0, seed=11)
    obs = np.stack([looks, seen.astype(float)], -1).astype(np.float32)
    chosen = slice(0, num_episodes)
    steps, flat = build10_steps * num_episodes, lambda x: x.reshape(-1, *x.shape[2:])
    last = np.tile(np.arange(build10_steps) == build10_steps - 1, num_episodes)
    played = Transitions(
        flat(obs[chosen, :-1]), flat(actions[chosen, :, None]).astype(np.float32),
        np.zeros(steps, np.float32), flat(obs[chosen, 1:]), np.zeros(steps, bool), last,
        np.repeat(np.arange(num_episodes), build10_steps),
    )  # fmt: skip
    space = gym.spaces.Box(-4, 4, (1,), np.float32)
    task = Task(env_id="none", obs_names=("position", "seen"), space=space)
    truth = replayed(system, actions[-4:], seed=11)
    given = (torch.tensor(obs[-4:]), torch.tensor(actions[-4:, :, None]).float(),
             torch.tensor(seen[-4:]))  # fmt: skip
    return task, played, system, truth, given


def replayed(system, actions, seed):
    """The truth [4, T+1] of the last episodes: the draws of `build10.episodes`, again."""
    rng = np.random.default_rng(seed)
    size, num = len(system["mean"]), build10.NUM_EPISODES
    state = rng.multivariate_normal(system["mean"], system["cov"], num)
    every = np.repeat(rng.normal(size=(num, build10.STEPS // 5 + 1)), 5, axis=1)[:, : build10.STEPS]
    assert np.array_equal(every[-4:], actions)
    truth = [state @ system["C"]]
    for t in range(build10.STEPS):
        drift = rng.multivariate_normal(np.zeros(size), system["Q"], num)
        state = state @ system["A"].T + every[:, t, None] * system["B"] + drift
        truth.append(state @ system["C"])
    return torch.tensor(np.stack(truth, 1)[-4:]).float()


# --- learning ------------------------------------------------------------------------------------


def test_a_later_fit_goes_on_in_the_units_of_the_first(model):
    task, played = experience(num_episodes=3)
    own = RecurrentModel(task, generator(1), QUICK).fit(played)
    units, weights = own.units, own._weights()
    assert own.fit(played) is own
    assert own.units is units
    assert any(
        not torch.equal(a, b)
        for a, b in zip(weights.values(), own._weights().values(), strict=True)
    )


def test_same_seed_same_model():
    a, b = fitted()[0], fitted()[0]
    assert all(
        torch.equal(x, y) for x, y in zip(a._weights().values(), b._weights().values(), strict=True)
    )


@pytest.mark.parametrize(
    "change",
    [{"memory": 5}, {"stochastic": True}, {"overshooting": 0.0}, {"blank": 0.0}, {"kl_weight": 0.0},
     {"kl_balance": 0.1}, {"free_nats": 1e3}, {"look_std": 0.2}, {"open_steps": 2},
     {"weight_decay": 1.0}, {"stochastic": True, "deterministic": False}],
)  # fmt: skip
def test_every_setting_changes_what_is_learned(change):
    base = QUICK if "deterministic" not in change else replace(QUICK, stochastic=True)
    plain, changed = fitted(base)[0], fitted(replace(QUICK, **change))[0]
    same = plain.losses["total"] == changed.losses["total"] and all(
        a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(plain._weights().values(), changed._weights().values(), strict=False)
    )
    assert not same


def test_short_episodes_and_an_end_inside_a_sequence_are_learned_from():
    """CartPole falls after some twenty steps: sequences of 24 are padded, and ends are learned."""
    whole = get_task("CartPole-v1")
    agent = RandomAgent(whole.action_space, generator(0))
    played = collect_episodes(whole, agent, num_episodes=20, seed=3)
    assert min((played.episode == n).sum() for n in played.episodes) < 24
    config = RecurrentConfig(num_updates=60, batch_size=32)
    model = RecurrentModel(whole, generator(1), config).fit(played)
    assert model.can_end
    data = model._sequences(played)
    assert data.valid.sum() == len(played)
    assert data.ended.sum() == 20
    draw = data.draw(200, 24, generator(2))
    assert draw.valid.shape == (200, 24)
    assert (draw.valid.diff(dim=1) <= 0).all()  # padding at the end alone
    assert (draw.ended * (1 - draw.valid) == 0).all()
    belief = model.correct(model.start(1), torch.zeros(1, 4))
    with torch.no_grad():
        step = model.step(belief, torch.tensor([[1.0, 0.0]]))
    assert 0 <= float(step.terminated) <= 1


def test_an_interrupt_keeps_the_best_so_far(monkeypatch):
    task, played = experience()
    model = RecurrentModel(task, generator(1), replace(QUICK, num_updates=500))
    update, calls = model._update, []

    def interrupted(episodes):
        calls.append(1)
        if len(calls) == 120:
            raise KeyboardInterrupt
        return update(episodes)

    monkeypatch.setattr(model, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(played)
    assert len(model.losses["total"]) == 2
    assert all(w.isfinite().all() for w in model._weights().values())
    obs, actions = looks_and_actions(model, played)
    assert model.filter(obs, actions).isfinite().all()
    monkeypatch.undo()
    model.fit(played)
    assert model.losses["total"][-1] < 10


def test_a_loss_that_is_not_finite_leaves_the_weights_from_before():
    task, played = experience()
    model = RecurrentModel(task, generator(1), QUICK).fit(played)
    before = model._weights()
    model.units["reward_std"] = torch.tensor(0.0)
    with pytest.raises(
        RuntimeError, match=r"RecurrentModel.fit: expected a finite loss, got (nan|inf)"
    ):
        model.fit(played)
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), model._weights().values(), strict=True)
    )


# --- agents --------------------------------------------------------------------------------------


def test_an_agent_believes_what_the_filter_does(model):
    task = model.task
    agent = BeliefAgent(model, planner_of(task), std=0.3)
    beliefs = []

    def act(obs):
        action = agent.act(obs)
        beliefs.append(agent.belief[0].clone())
        return action

    played = collect_episodes(task, act, num_episodes=1, seed=9)
    obs, actions = looks_and_actions(model, played)
    assert torch.allclose(torch.stack(beliefs[:200]), model.filter(obs, actions)[0, :-1], atol=1e-5)


def test_an_ended_episode_is_forgotten_and_others_are_not(model):
    agent = BeliefAgent(model, planner_of(model.task))
    look = np.array([[1, 0, 1], [0.6, 0.8, 1]], np.float32)
    for _ in range(3):
        agent.act(look)
    kept = agent.belief[1].clone()
    agent.reset(np.array([True, False]))
    assert torch.equal(agent.belief[0], model.start(1)[0])
    assert torch.equal(agent.belief[1], kept)
    agent.act(look)
    first = model.correct(model.start(1), torch.tensor(look[:1]))
    assert torch.allclose(agent.belief[0, :-2], first[0, :-2], atol=1e-6)
    agent.reset()
    assert agent.belief is None


def test_agents_play_side_by_side_as_alone(model):
    returns = evaluate(model.task, BeliefAgent(model, planner_of(model.task)), num_episodes=3)
    assert returns.shape == (3,)
    assert np.isfinite(returns).all()


# --- keeping it ----------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    _, played = experience()
    model.save(tmp_path / "model.npz")
    again = RecurrentModel.load(tmp_path / "model.npz")
    obs, actions = looks_and_actions(model, played)
    assert torch.equal(model.filter(obs, actions), again.filter(obs, actions))
    assert again.config == model.config
    again.generator.manual_seed(0)
    again.fit(played)  # goes on


def test_another_file_is_named(model, tmp_path):
    _, played = experience()
    played.save(tmp_path / "played.npz")
    with pytest.raises(ValueError, match=r"RecurrentModel.load: .*another kind of thing"):
        RecurrentModel.load(tmp_path / "played.npz")


# --- what can't be meant -------------------------------------------------------------------------


def test_before_the_first_fit():
    task, _ = experience()
    model = RecurrentModel(task, generator(1), QUICK)
    for call in (
        lambda: model.predict(model.start(1), torch.zeros(1, 1)),
        lambda: model.step(model.start(1), torch.zeros(1, 1)),
        lambda: model.correct(model.start(1), torch.zeros(1, 3)),
        lambda: BeliefAgent(model, planner_of(task)).act(np.zeros((1, 3), np.float32)),
        lambda: model.save("never.npz"),
    ):
        with pytest.raises(RuntimeError, match="expected a model that has learned"):
            call()


def test_experience_of_another_environment():
    task, _ = experience()
    agent = RandomAgent(get_task("CartPole-v1").action_space, generator(0))
    other = collect_episodes("CartPole-v1", agent, num_episodes=1, seed=0)
    with pytest.raises(ValueError, match=r"RecurrentModel.fit: expected looks of 3 numbers.*got 4"):
        RecurrentModel(task, generator(1), QUICK).fit(other)
    pixels = replace(other, obs=other.obs[:, :3], next_obs=other.next_obs[:, :3])
    with pytest.raises(ValueError, match=r"Actions.encode: expected actions of shape \[..., 1\]"):
        RecurrentModel(task, generator(1), QUICK).fit(pixels)


def test_nothing_seen_at_all():
    task, played = experience()
    blind = replace(played, obs=0 * played.obs, next_obs=0 * played.next_obs)
    with pytest.raises(ValueError, match="experience in which something was seen, got 400 steps"):
        RecurrentModel(task, generator(1), QUICK).fit(blind)


def test_nan_in_a_look(model):
    agent = BeliefAgent(model, planner_of(model.task))
    with pytest.raises(ValueError, match=r"BeliefAgent.act: .*NaN or infinity in row 1"):
        agent.act(np.array([[1, 0, 1], [np.nan, 0, 1]], np.float32))
    _, played = experience()
    played.obs[3, 0] = np.nan
    with pytest.raises(ValueError, match="expected finite numbers"):
        RecurrentModel(model.task, generator(1), QUICK).fit(played)


def test_other_shapes(model):
    agent = BeliefAgent(model, planner_of(model.task))
    with pytest.raises(ValueError, match=r"BeliefAgent.act: expected observations \[B, 3\]"):
        agent.act(np.zeros((1, 4), np.float32))
    agent.act(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="expected the 2 environments of the last call, got 1"):
        agent.act(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match=r"RecurrentModel.correct: expected obs \[2, 3\]"):
        model.correct(model.start(2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="one look more than there"):
        model.filter(torch.zeros(1, 5, 3), torch.zeros(1, 5, 1))


def test_agents_refuse(model):
    with pytest.raises(ValueError, match=r"BeliefAgent: expected std >= 0"):
        BeliefAgent(model, planner_of(model.task), std=-1.0)
    other = get_task("CartPole-v1")
    config = ICEMConfig(horizon=4, population_size=8, num_iterations=2, num_elites=3)
    with pytest.raises(ValueError, match="BeliefAgent: expected a planner for"):
        BeliefAgent(model, ICEM(other.action_space, generator(0), config))
    discrete = RecurrentModel(other, generator(0), RecurrentConfig())
    with pytest.raises(TypeError, match="BeliefAgent: expected continuous actions for noise"):
        BeliefAgent(discrete, ICEM(other.action_space, generator(0), config), std=0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"open_steps": 24}, "open_steps below sequence 24"),
        ({"deterministic": False}, "deterministic True where nothing is stochastic"),
        ({"memory": 0}, "memory >= 1"),
        ({"blank": 1.5}, r"blank in \[0, 1\]"),
        ({"look_std": 0.0}, r"look_std in \(0, inf"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=f"RecurrentConfig: expected {message}"):
        RecurrentConfig(**settings)


def test_the_column_of_the_mask_must_be_there():
    with pytest.raises(ValueError, match="RecurrentModel: expected seen as a column"):
        RecurrentModel(pendulum_glimpses(), generator(0), RecurrentConfig(seen=3))
