"""Pictures of a pendulum, the model that reads angles off them, and an actor that dreams."""

import copy
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_helpers import ICEM, ICEMConfig, RandomAgent, collect_episodes, evaluate
from mbrl_helpers.hidden.actor import ActorCritic, ActorCriticConfig, lambda_returns
from mbrl_helpers.hidden.agent import BeliefActor, BeliefAgent
from mbrl_helpers.hidden.glimpses import pendulum_glimpses
from mbrl_helpers.hidden.model import RecurrentConfig, RecurrentModel
from mbrl_helpers.hidden.pictures import (
    SIDE,
    CodeConfig,
    PictureModel,
    Pictures,
    draw_rod,
    pendulum_pictures,
    principal_axes,
)
from mbrl_helpers.notebook import generator

QUICK = RecurrentConfig(num_updates=4, num_more_updates=2, sequence=12, batch_size=8)
CODE = CodeConfig(num_updates=300, num_more_updates=20)
DREAMS = ActorCriticConfig(
    num_updates=3, num_more_updates=2, horizon=5, num_starts=8, hidden_sizes=(8,)
)


def experience(task=None, num_episodes=2):
    task = task or pendulum_pictures()
    agent = RandomAgent(task.action_space, generator(0), correlation=0.9)
    return collect_episodes(task, agent, num_episodes=num_episodes, seed=40)


def fitted(code=CODE):
    return PictureModel(pendulum_pictures(), generator(1), QUICK, code).fit(experience())


@pytest.fixture(scope="module")
def model():
    return fitted()


# --- pictures ------------------------------------------------------------------------------------


def test_a_rod_points_where_its_angle_says():
    up, left, down = draw_rod(torch.tensor([0.0, np.pi / 2, np.pi])).view(3, SIDE, SIDE)
    half = SIDE // 2
    assert up[:half].sum() > 5 * up[half:].sum()
    assert down[half:].sum() > 5 * down[:half].sum()
    assert left[:, :half].sum() > 5 * left[:, half:].sum()
    assert torch.allclose(up, down.flip(0), atol=1e-5)


def test_a_picture_shows_the_angle_and_nothing_else():
    full = collect_episodes(
        "Pendulum-v1", lambda obs: np.ones((len(obs), 1)), num_episodes=1, seed=7
    )
    seen = collect_episodes(
        pendulum_pictures(), lambda obs: np.ones((len(obs), 1)), num_episodes=1, seed=7
    )
    angle = torch.atan2(torch.tensor(full.obs[:, 1]), torch.tensor(full.obs[:, 0]))
    assert np.allclose(seen.obs, draw_rod(angle), atol=1e-5)
    assert np.array_equal(seen.reward, full.reward)
    env = gym.make(pendulum_pictures().env_id)
    assert env.observation_space.contains(seen.obs[0])


def test_pictures_refuse_other_observations():
    class Small(gym.Env):
        observation_space = gym.spaces.Discrete(3)
        action_space = gym.spaces.Discrete(2)

    for env in (Small(), gym.make("CartPole-v1"), gym.make("MountainCar-v0")):
        with pytest.raises(TypeError, match="Pictures: expected an observation that begins"):
            Pictures(env)


# --- seeing --------------------------------------------------------------------------------------


def test_principal_axes_are_those_of_the_covariance():
    data = torch.randn(500, 4, generator=generator(3)) * torch.tensor([3.0, 2.0, 0.3, 0.1])
    mean, axes = principal_axes(data)
    code = (data - mean) @ axes
    assert torch.allclose(code.T @ code / 500, torch.eye(2), atol=1e-4)
    assert torch.allclose(code.mean(0), torch.zeros(2), atol=1e-5)
    assert (axes[:2].abs() > 10 * axes[2:].abs().max()).any(0).all()


def test_codes_go_once_round_as_the_rod_does(model):
    angle = torch.linspace(-np.pi, np.pi, 721)
    with torch.no_grad():
        code = model.code(draw_rod(angle))
    assert torch.allclose(code.norm(dim=-1), torch.ones(721), atol=1e-5)
    found = torch.atan2(code[:, 1], code[:, 0])
    turn = torch.remainder(found.diff() + np.pi, 2 * np.pi) - np.pi
    assert abs(turn.sum().abs() - 2 * np.pi) < 1e-3
    assert (turn * turn.sum() > 0).float().mean() > 0.97


def test_a_decoder_draws_what_was_encoded(model):
    pictures = torch.tensor(experience().obs)
    with torch.no_grad():
        drawn = model.decoder(model.code(pictures))
    assert (drawn - pictures).square().sum() < 0.5 * (pictures - pictures.mean(0)).square().sum()


def test_the_straight_line_stays_one():
    model = fitted(replace(CODE, network=False, num_updates=2))
    mean, axes = model.line
    pictures = torch.tensor(experience().obs)
    expected = torch.nn.functional.normalize((pictures - mean) @ axes, dim=-1)
    assert torch.equal(model.code(pictures), expected)


def test_without_the_circle_nothing_is_an_angle():
    model = fitted(replace(CODE, circle=False, num_updates=2))
    assert model.recurrent.task.angles == ()
    with torch.no_grad():
        assert model.code(torch.tensor(experience().obs)).norm(dim=-1).std() > 0.05


# --- the face of a recurrent model ---------------------------------------------------------------


def test_filter_step_by_step_is_the_filter(model):
    played = experience(num_episodes=1)
    obs, actions = torch.tensor(played.obs)[None], model.task.actions.encode(played.action)[None]
    beliefs = model.filter(obs, actions[:, :-1])[0]
    belief = model.correct(model.start(1), obs[:, 0])
    for t in range(5):
        assert torch.allclose(belief[0], beliefs[t], atol=1e-5)
        belief = model.correct(model.predict(belief, actions[:, t]), obs[:, t + 1])


def test_what_is_believed_can_be_looked_at(model):
    belief = model.correct(model.start(3), draw_rod(torch.tensor([0.1, 2.0, -2.0])))
    assert model.look(belief).shape == (3, SIDE * SIDE)
    assert ((model.look(belief) >= 0) & (model.look(belief) <= 1)).all()


def test_same_seed_same_model(model):
    pictures = torch.tensor(experience().obs[:5])
    assert torch.equal(fitted().code(pictures), model.code(pictures))


def test_agents_play_in_pictures(model):
    search = ICEMConfig(horizon=3, population_size=6, num_iterations=1, num_elites=2)
    planner = ICEM(model.task.action_space, generator(2), search)
    assert evaluate(model.task, BeliefAgent(model, planner), num_episodes=1).shape == (1,)


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save(tmp_path / "model.npz")
    again = PictureModel.load(tmp_path / "model.npz")
    played = experience(num_episodes=1)
    obs, actions = torch.tensor(played.obs)[None], model.task.actions.encode(played.action)[None]
    assert torch.equal(again.filter(obs, actions[:, :-1]), model.filter(obs, actions[:, :-1]))
    again.fit(experience())
    with pytest.raises(ValueError, match=r"RecurrentModel.load: expected .*picture model"):
        RecurrentModel.load(tmp_path / "model.npz")


@pytest.mark.parametrize("part", ["seeing", "believing"])
def test_an_interrupt_leaves_it_as_it_was(part, monkeypatch):
    model, pictures = fitted(replace(CODE, num_updates=3)), torch.tensor(experience().obs[:5])
    before, weights = model.code(pictures), copy.deepcopy(model.recurrent.cell.state_dict())
    optimizer = model.optimizer if part == "seeing" else model.recurrent.optimizer
    step, calls = optimizer.step, iter(range(100))

    def interrupted(*args, **more):
        step(*args, **more)
        if next(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(optimizer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(experience())
    assert torch.equal(model.code(pictures), before)
    after = model.recurrent.cell.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    monkeypatch.undo()
    model.fit(experience())
    assert not torch.equal(model.code(pictures), before)


def test_an_interrupted_first_fit_is_none(monkeypatch):
    model = PictureModel(pendulum_pictures(), generator(1), QUICK, CODE)
    monkeypatch.setattr(model.recurrent.optimizer, "step", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.fit(experience())
    with pytest.raises(RuntimeError, match="before its first"):
        model.code(torch.zeros(1, SIDE * SIDE))
    monkeypatch.undo()
    model.fit(experience())
    assert len(model.recurrent.losses["total"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 255 * x, r"expected pixels within 0 and 1, got values from 0 to 255"),
        (lambda x: x * 0 + 0.5, r"expected pictures that differ"),
        (lambda x: x - 1, r"expected pixels within 0 and 1, got values from -1"),
    ],
)
def test_pictures_that_are_none_are_refused(change, message):
    played = experience()
    played = replace(played, obs=change(played.obs), next_obs=change(played.next_obs))
    model = PictureModel(pendulum_pictures(), generator(1), QUICK, CODE)
    with pytest.raises(ValueError, match=f"PictureModel.fit: {message}"):
        model.fit(played)


def test_all_pictures_are_seen():
    with pytest.raises(ValueError, match="PictureModel: expected seen=None"):
        PictureModel(pendulum_pictures(), generator(1), replace(QUICK, seen=1))


@pytest.mark.parametrize("use", ["code", "save"])
def test_before_the_first_fit(use, tmp_path):
    model = PictureModel(pendulum_pictures(), generator(1))
    call = {"code": lambda: model.code(torch.zeros(1, SIDE * SIDE)),
            "save": lambda: model.save(tmp_path / "model.npz")}[use]  # fmt: skip
    with pytest.raises(RuntimeError, match=f"PictureModel.{use}: expected a model that has"):
        call()


def test_pictures_of_another_size(model):
    with pytest.raises(ValueError, match=r"PictureModel.code: expected pictures of 256 pixels"):
        model.correct(model.start(1), torch.zeros(1, 100))
    with pytest.raises(ValueError, match=r"PictureModel.fit: expected pictures of 256 pixels"):
        model.fit(experience(pendulum_glimpses()))


@pytest.mark.parametrize("settings", [{"num_updates": 0}, {"learning_rate": 0.0}, {"width": 1.5}])
def test_settings_of_codes_are_checked(settings):
    with pytest.raises((ValueError, TypeError), match=f"CodeConfig.*{next(iter(settings))}"):
        CodeConfig(**settings)


# --- an actor and a critic -----------------------------------------------------------------------


def by_hand(reward, value, discount, decay):
    """The definition: a weighted mean of the returns of each number of real rewards."""
    returns = []
    for start in range(len(reward)):
        ahead = len(reward) - start
        steps = [
            sum(discount**k * reward[start + k] for k in range(n)) + discount**n * value[start + n]
            for n in range(1, ahead + 1)
        ]
        weights = [(1 - decay) * decay**n for n in range(ahead - 1)] + [decay ** (ahead - 1)]
        returns.append(sum(w * s for w, s in zip(weights, steps, strict=True)))
    return torch.stack(returns)


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_lambda_returns_are_their_definition(decay):
    reward = torch.randn(6, 3, generator=generator(1))
    value = torch.randn(7, 3, generator=generator(2))
    found = lambda_returns(reward, value, 0.9, decay)
    assert torch.allclose(found, by_hand(reward, value, 0.9, decay), atol=1e-5)


def test_lambda_returns_refuse_as_many_values_as_rewards():
    with pytest.raises(ValueError, match="lambda_returns: expected a value more than the 6"):
        lambda_returns(torch.zeros(6), torch.zeros(6), 0.9, 0.9)


class Line:
    """Beliefs that are one number, which an action moves; reward for being at 1."""

    task = pendulum_glimpses()

    def start(self, num_envs):
        return torch.zeros(num_envs, 1)

    def features(self, belief):
        return belief

    def in_units(self, reward):
        return reward

    def filter(self, obs, actions):
        return torch.rand(1, obs.shape[1], 1, generator=generator(7)) * 4 - 2

    def step(self, obs, action, generator=None):
        after = obs + 0.2 * action
        return type("Step", (), {"next_obs": after, "reward": -(after[..., 0] - 1).square()})


def test_an_actor_learns_to_go_where_reward_is():
    learner = ActorCritic(Line(), generator(5), ActorCriticConfig(num_updates=300, horizon=8))
    returns = learner.improve(experience(Line.task))
    assert np.mean(returns[-20:]) > np.mean(returns[:20]) + 1
    left, right = learner.policy.action(torch.tensor([[-1.0], [2.5]])).detach()[:, 0]
    assert left > 0.5 and right < -0.5
    near, far = learner.value(torch.tensor([[1.0], [-2.0]])).detach()
    assert near > far


def dreaming(config=DREAMS):
    task = pendulum_glimpses(blank=0.5)
    played = experience(task)
    model = RecurrentModel(task, generator(1), replace(QUICK, seen=2)).fit(played)
    return ActorCritic(model, generator(2), config), played


def test_learning_in_dreams_leaves_the_model_alone_and_repeats_itself():
    runs = []
    for _ in range(2):
        learner, played = dreaming()
        before = {k: v.clone() for k, v in learner.model.cell.state_dict().items()}
        runs.append(learner.improve(played))
        after = learner.model.cell.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
    assert runs[0] == runs[1]


def test_actors_play_side_by_side_as_alone():
    learner, played = dreaming()
    learner.improve(played)
    together = evaluate(learner.model.task, BeliefActor(learner), num_episodes=2)
    assert together.shape == (2,)
    agent, obs = BeliefActor(learner), torch.tensor(played.obs[:3]).numpy()
    both = agent.act(obs[:2])
    alone = BeliefActor(learner)
    assert np.allclose(alone.act(obs[:1]), both[:1], atol=1e-5)
    with pytest.raises(ValueError, match=r"BeliefActor.act: expected the 2 environments"):
        agent.act(obs)


def test_a_gradient_that_is_not_finite_is_named():
    learner, played = dreaming()
    learner.model.step = lambda obs, action: type(
        "Step", (), {"next_obs": obs, "reward": action[..., 0] * float("nan")}
    )
    with pytest.raises(RuntimeError, match=r"ActorCritic.improve: expected a finite gradient"):
        learner.improve(played)


def test_terminal_states_are_refused():
    learner, played = dreaming()
    ended = replace(played, terminated=played.truncated, truncated=played.terminated)
    with pytest.raises(ValueError, match=r"expected episodes that a clock ends, got 2 terminal"):
        learner.improve(ended)


def test_an_actor_dreams_in_pictures(model):
    learner = ActorCritic(model, generator(2), DREAMS)
    learner.improve(experience())
    assert evaluate(model.task, BeliefActor(learner), num_episodes=1).shape == (1,)


@pytest.mark.parametrize(
    "settings", [{"horizon": 0}, {"decay": 1.5}, {"discount": 0.0}, {"hidden_sizes": (0,)}]
)
def test_settings_of_dreams_are_checked(settings):
    with pytest.raises(ValueError, match=f"ActorCriticConfig.*{next(iter(settings))}"):
        ActorCriticConfig(**settings)
