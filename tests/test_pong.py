"""Pong's objects on drawn images, its model on a toy rally with known rules, dreams and weights."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from mbrl_helpers import pong
from mbrl_helpers.atari import DreamConfig, learn_in_dreams
from mbrl_helpers.dqn import Replay, practise
from mbrl_helpers.notebook import RECORDED
from mbrl_helpers.pong import (
    COURT,
    MIDDLE,
    REACH,
    ImaginedRallies,
    ObjectQNetwork,
    PongModel,
    PongModelConfig,
    PongObjects,
    ball_inputs,
    can_dream,
    find_objects,
    load_player,
    make_player,
    make_pong,
    paddle_inputs,
    save_player,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(opponent, me, x, y):
    """An image of the game with objects around these centres; None leaves one out."""
    image = np.zeros((210, COURT, 3), np.uint8)
    image[:] = (144, 72, 17)
    court = image[34:194]
    for middle, columns, colour in ((opponent, slice(16, 20), (213, 130, 74)),
                                    (me, slice(140, 144), (92, 186, 92))):  # fmt: skip
        if middle is not None:
            rows = np.arange(COURT)
            court[abs(rows - middle) < 8, columns] = colour
    if x is not None:
        top, left = round(y - 1.5), round(x - 0.5)
        court[max(top, 0) : max(top + 4, 0), left : left + 2] = 236
    image[24:34] = image[194:] = 236  # the walls
    image[5:20, 30:40] = 236  # not on the court
    return image


# --- what is seen ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "places",
    [(88.5, 50.5, 71.5, 100.5), (20.5, 140.5, 100.5, 1.5), (2.5, 157.5, 20.5, 158.5),
     (-3.5, 163.5, 141.5, -0.5), (60.5, 60.5, 17.5, 60.5)],
)  # fmt: skip
def test_finds_objects_even_where_they_are_cut_off(places):
    found = find_objects(drawn(*places))
    assert found.dtype == np.float32
    if 9 < abs(places[2] - MIDDLE) < 65:  # else the ball lies upon a paddle
        assert found.tolist() == list(places)
    else:
        assert found[2:].tolist() == list(places[2:])


def test_what_is_not_there_is_nan():
    found = find_objects(drawn(None, 50.5, None, None))
    assert np.isnan(found).tolist() == [True, False, True, True]


class Film(gym.Env):
    """Shows given images and rewards, whatever is done; keeps the keys."""

    observation_space = gym.spaces.Box(0, 255, (210, COURT, 3), np.uint8)
    action_space = gym.spaces.Discrete(6)

    def __init__(self, images, rewards):
        self.images, self.rewards, self.keys = list(images), list(rewards), []

    def reset(self, *, seed=None, options=None):
        return self.images.pop(0), {}

    def step(self, action):
        self.keys.append(action)
        return self.images.pop(0), self.rewards.pop(0), False, False, {}


def test_a_ball_in_the_wall_flies_on_and_one_that_made_a_point_is_gone():
    places = [
        (40.5, 50.5, 71.5, 13.5),
        (42.5, 50.5, 75.5, 5.5),
        (44.5, 48.5, None, None),
        (44.5, 46.5, 83.5, 5.5),
        (44.5, 44.5, 156.5, 9.5),
        (44.5, 44.5, None, None),
    ]
    env = PongObjects(Film([drawn(*p) for p in places], [0.0, 0.0, 0.0, -1.0, 0.0]))
    obs, _ = env.reset()
    assert obs.shape == (3, 5) and np.isnan(obs[:2, :4]).all() and not np.isnan(obs[2]).any()
    for action in (0, 2):
        obs, *_ = env.step(action)
    assert obs[-1].tolist() == [44.5, 48.5, 79.5, -2.5, 2]
    assert obs[:, 4].tolist() == [0, 0, 2] and env.unwrapped.keys == [0, 3]
    env.step(1)
    obs, reward, *_ = env.step(0)
    assert reward == -1 and np.isnan(obs[-1, 2:4]).all() and not np.isnan(obs[-1, :2]).any()
    obs, *_ = env.step(0)
    assert np.isnan(obs[-1, 2:4]).all(), "a ball that is out does not fly on"
    assert not can_dream(torch.as_tensor(obs))


# --- symmetry -------------------------------------------------------------------------------------


def upside_down(obs):
    """The same court seen upside down."""
    turned = obs.clone()
    turned[..., [0, 1, 3]] = COURT - 1 - obs[..., [0, 1, 3]]
    turned[..., 4] = torch.where(obs[..., 4] > 0, 3 - obs[..., 4], obs[..., 4])
    return turned


def other_side(obs):
    """The same court in a mirror: left is right, and the paddles change places."""
    turned = obs[..., [1, 0, 2, 3, 4]]
    turned[..., 2] = COURT - 1 - obs[..., 2]
    return turned


def moments(num=200, seed=0):
    """Observations with a ball that flies, nowhere exactly horizontally."""
    obs = torch.randint(20, 140, (num, 3, 5), generator=seeded(seed)).float()
    obs[..., 4] = torch.randint(3, (num, 3), generator=seeded(seed + 1)).float()
    return obs[(obs[:, 1:, 2:4] != obs[:, :-1, 2:4]).flatten(1).all(1)]


@pytest.mark.parametrize(("mirror", "signs"), [(upside_down, [1, -1]), (other_side, [-1, 1])])
def test_mirrors_map_the_balls_motion_onto_itself(mirror, signs):
    """Mirrored twice is not mirrored; the ball's network sees no difference, but turns its move."""
    obs = moments()
    assert torch.equal(mirror(mirror(obs)), obs)
    then = moments(len(obs), seed=5)[: len(obs)]
    obs = obs[: len(then)]
    inputs, sign = ball_inputs(obs, then[:, -1, :2])
    turned, turned_sign = ball_inputs(mirror(obs), mirror(then)[:, -1, :2])
    torch.testing.assert_close(turned, inputs)
    assert torch.equal(turned_sign, sign * torch.tensor(signs))
    assert (inputs[:, 6] > 0).all() and (inputs[:, 7] > 0).all(), "it flies to the right and down"


def test_the_ball_sees_only_the_paddle_ahead():
    obs = moments()
    then = obs[:, -1, :2] + 3
    inputs, sign = ball_inputs(obs, then)
    ahead = (sign[:, 0] > 0).long()  # column of the paddle that it flies to
    other = obs.clone()
    other[torch.arange(len(obs)), :, 1 - ahead] += 7
    assert torch.equal(ball_inputs(other, then)[0], inputs)
    other[torch.arange(len(obs)), :, ahead] += 7
    assert (ball_inputs(other, then)[0] != inputs).any(1).all()


def test_paddles_see_what_moves_them():
    """Mine no ball and no opponent, the opponent's no actions and not me."""
    obs, action = moments(), torch.zeros(len(moments()), dtype=torch.long)
    opponent, me = paddle_inputs(obs, action)
    other = obs.clone()
    other[..., [0, 2, 3]] += 5 * torch.arange(3.0)[:, None]
    changed = paddle_inputs(other, action)
    assert torch.equal(changed[1], me) and not torch.equal(changed[0], opponent)
    other = obs.clone()
    other[..., 1] += 5
    changed = paddle_inputs(other, action + 1)
    assert torch.equal(changed[0], opponent) and (changed[1] != me).any(1).all()


def test_values_upside_down_change_places():
    network = ObjectQNetwork(seeded())
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=seeded(1))
    values = network(moments())
    assert values.shape[1] == 3 and (values[:, 1] != values[:, 2]).all()
    torch.testing.assert_close(network(upside_down(moments()))[:, [0, 2, 1]], values)
    unseen = moments()[:2]
    unseen[:, :, :4] = torch.nan
    assert torch.isfinite(network(unseen)).all()


# --- a toy game with known rules ------------------------------------------------------------------


class Rally(gym.Env):
    """The ball flies 4 pixels a step each way; I move 8. The opponent never misses.

    Who misses it loses a point; then the ball is away for two steps.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3, 5), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.me, self.wait = 79.5, 0
        self._serve()
        self.frames = [[np.nan] * 4 + [0]] * 2 + [self._frame(0)]
        return np.array(self.frames, np.float32), {}

    def _serve(self):
        self.ball = np.array([79.5, 39.5 + 4 * self.np_random.integers(20)])
        self.speed = 4 * (2 * self.np_random.integers(2, size=2) - 1)

    def _frame(self, action):
        x, y = (np.nan, np.nan) if self.wait else self.ball
        return [np.clip(self.ball[1], 15.5, 143.5), self.me, x, y, action]

    def step(self, action):
        self.me = float(np.clip(self.me + (0, -8, 8)[action], 7.5, 151.5))
        reward = 0.0
        if self.wait:
            self.wait -= 1
            if not self.wait:
                self._serve()
        else:
            self.ball = self.ball + self.speed
            if not 4 < self.ball[1] < 156:
                self.speed[1] *= -1
            if self.ball[0] < 24:
                self.speed[0] = 4
            elif self.ball[0] > 136 and abs(self.ball[1] - self.me) < 14:
                self.speed[0] = -4
            elif self.ball[0] > 150:
                reward, self.wait = -1.0, 2
        self.frames = [*self.frames[1:], self._frame(action)]
        return np.array(self.frames, np.float32), reward, False, False, {}


def rallies(num_envs=1):
    return gym.vector.SyncVectorEnv([Rally] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


def played(num_steps, seed=0):
    """Random play of the toy game."""
    games, dice = rallies(), seeded(seed)
    games.reset(seed=seed)
    replay = Replay(num_steps, 1, (3, 5), torch.float32)
    _, agent = make_player(seeded())
    practise(agent, games, replay, num_steps, num_updates=0,
             act=lambda obs: torch.randint(3, (1,), generator=dice).numpy())  # fmt: skip
    return replay


@pytest.fixture(scope="module")
def fitted():
    """A model of the toy game, and its experience."""
    torch.set_num_threads(1)
    replay = played(2_000)
    model = PongModel(seeded(), PongModelConfig(num_members=2, width=32))
    losses = model.fit(replay, 500)
    assert list(losses) == list(pong.OBJECTS) and max(losses.values()) < 0.3
    return model, replay


def test_recovers_a_toy_game(fitted):
    """Moves and points of experience that it has not seen."""
    model, fresh = fitted[0], played(1_001, seed=7)
    use = can_dream(fresh.obs[:, 0]) & (can_dream(fresh.next_obs[:, 0]) | (fresh.reward[:, 0] != 0))
    rows = use.nonzero()[:, 0]
    rows = rows[: len(rows) // 2 * 2]
    assert (fresh.reward[rows, 0] == -1).sum() > 5
    obs, action = fresh.obs[rows, 0], fresh.action[rows, 0]
    next_obs, reward, out = model.step(obs, action, seeded())
    assert torch.equal(next_obs[:, :2], obs[:, 1:]) and torch.equal(
        next_obs[:, 2, 4].long(), action
    )
    assert (reward == fresh.reward[rows, 0]).float().mean() > 0.98
    assert torch.equal(out, reward != 0)
    there = fresh.next_obs[rows, 0, -1, :4]
    right = (next_obs[:, -1, :4] == there)[~out & torch.isfinite(there).all(1)]
    assert (right.float().mean(0) > 0.95).all()


def test_only_what_is_known_is_learned_from(fitted):
    """A row for each observation without gaps that leads to another one, or to a point."""
    _, replay = fitted
    inputs, classes = PongModel.rows(replay)
    assert all(len(x) == len(classes) and torch.isfinite(x).all() for x in inputs)
    points = int(
        (replay.reward[: len(replay), 0][can_dream(replay.obs[: len(replay), 0])] < 0).sum()
    )
    assert points > 5 and int((classes[:, 2] == 2 * REACH[2]).sum()) == points
    assert (classes[:, 3] == -100).sum() == points, "where it is out its height is not learned"
    assert (classes >= 0).sum() == 4 * len(classes) - points


def test_my_point_is_a_ball_that_leaves_on_the_left(fitted):
    """The mirror at work: only balls on the right were ever lost, and yet it knows the left."""
    model, replay = fitted
    lost = (replay.reward[:, 0] < 0) & can_dream(replay.obs[:, 0])
    obs = replay.obs[lost.nonzero()[:10, 0], 0].repeat(20, 1, 1)
    action = torch.zeros(len(obs), dtype=torch.long)
    here, there = (model.step(o, action, seeded())[1] for o in (obs, other_side(obs)))
    assert (here == -1).float().mean() > 0.6 and (there == 1).float().mean() > 0.6
    assert not (here == 1).any() and not (there == -1).any()


def test_members_imagine_their_own_rows(fitted):
    """The first half of the rows is the first member's."""
    model, replay = fitted
    obs = replay.obs[can_dream(replay.obs[:, 0]), 0][:1].expand(8, 3, 5)
    kept = [parameter.clone() for parameter in model.parameters()]
    with torch.no_grad():
        for network in model.networks:  # the second member is sure that nothing moves
            network.weights[-1][1], network.biases[-1][1] = 0, 0
            network.biases[-1][1, 0, network.biases[-1].shape[2] // 2] = 100
    moved = model.step(obs, torch.full((8,), 2), seeded())[0][:, -1, 1] != obs[:, -1, 1]
    assert moved.tolist() == [True] * 4 + [False] * 4
    with torch.no_grad():
        for parameter, old in zip(model.parameters(), kept, strict=True):
            parameter.copy_(old)


# --- dreams ---------------------------------------------------------------------------------------


def test_dreams_have_the_face_of_the_game(fitted):
    model, replay = fitted
    envs = ImaginedRallies(model, replay, 6, seeded(), max_steps=15)
    games = rallies(6)
    assert envs.single_observation_space.shape == games.single_observation_space.shape
    assert envs.action_space == games.action_space
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    obs, info = envs.reset(seed=3)
    assert info == {} and envs.observation_space.contains(obs)
    rng, ages, cut, out = np.random.default_rng(0), np.full(6, -1), 0, 0
    for _ in range(60):
        before = obs.copy()
        next_obs, reward, terminated, truncated, _ = envs.step(rng.integers(3, size=6))
        assert np.array_equal(obs, before), "a step changed the observation before it"
        assert envs.observation_space.contains(next_obs)
        assert (next_obs[:, :2] == before[:, 1:]).all(), "frames move up"
        assert (terminated == (reward != 0)).all() and not (terminated & truncated).any()
        ages = np.where(ages >= 0, ages + 1, ages)
        assert (ages[truncated & (ages >= 0)] == 15).all() and (ages <= 15).all()
        ended, obs = terminated | truncated, next_obs
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
            assert np.array_equal(obs[~ended], next_obs[~ended]), "others were reset, too"
            ages[ended] = 0
        cut, out = cut + truncated.sum(), out + terminated.sum()
    assert cut > 3 and out > 0


def test_the_same_seed_gives_the_same_dream(fitted):
    def dream():
        envs = ImaginedRallies(*fitted, 4, seeded())
        found = [envs.reset(seed=5)[0]]
        found += [envs.step(np.full(4, step % 3))[0] for step in range(10)]
        return np.stack(found)

    assert np.array_equal(dream(), dream())


def test_learns_in_dreams_by_the_loop_of_the_small_games():
    model, agent = make_player(seeded())
    replay = Replay(400, 1, (3, 5), torch.float32)
    few = {f"num_{name}_updates": 20 for name in ("model", "dream", "last")}
    config = DreamConfig(
        num_random_frames=300, num_rounds=1, num_round_frames=100, num_dreams=8, **few
    )
    lessons = learn_in_dreams(rallies(), model, agent, replay, config, imagine=ImaginedRallies)
    rounds = list(lessons)
    assert [r.num_frames for r in rounds] == [300, 400] and model.is_fitted
    assert all(np.isfinite([*r.losses.values(), r.dream_reward]).all() for r in rounds)


# --- weights, the game itself, bad input ----------------------------------------------------------


def test_weights_come_back_as_they_were(tmp_path, fitted):
    """But for the 16 bits that a number is kept in."""
    model, agent = make_player(seeded(1))
    model.fit(fitted[1], 30)
    for parameter in agent.target.parameters():
        torch.nn.init.normal_(parameter, generator=seeded(1))
    save_player(tmp_path / "p.npz", model, agent, command="python train.py")
    other_model, other_agent, command = load_player(tmp_path / "p.npz", seeded(2))
    assert command == "python train.py" and other_model.is_fitted
    obs, action = moments()[:8], torch.zeros(8, dtype=torch.long)
    for mine, other in zip(model.parameters(), other_model.parameters(), strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-3, atol=1e-4)
    steps = [m.step(obs, action, seeded())[0] for m in (model, other_model)]
    assert (steps[0] == steps[1]).float().mean() > 0.95  # a draw may fall on the other side
    torch.testing.assert_close(other_agent.target(obs), agent.target(obs), rtol=0.01, atol=0.05)
    torch.testing.assert_close(other_agent.network(obs), other_agent.target(obs))


def test_shipped_weights_are_small_and_say_where_they_are_from():
    path = RECORDED / "pong.npz"
    assert path.stat().st_size < 300_000
    model, agent, command = load_player(path, seeded())
    assert command.startswith("python tests/benchmarks/pong.py") and "(seed" in command
    for parameter in (*model.parameters(), *agent.target.parameters()):
        assert torch.isfinite(parameter).all() and parameter.std() > 0


def test_the_game_itself_shows_objects():
    pytest.importorskip("ale_py")
    games = make_pong(2, render_mode="rgb_array")
    obs, _ = games.reset(seed=0)
    assert obs.shape == (2, 3, 5) and obs.dtype == np.float32
    lost, known = 0, 0
    for _ in range(130):
        obs, reward, *_ = games.step(np.array([1, 2]))
        assert games.observation_space.contains(np.nan_to_num(obs))
        known += int(can_dream(torch.as_tensor(obs)).sum())
        assert np.isnan(obs[reward != 0, -1, 2:4]).all()
        lost += int((reward < 0).sum())
    assert lost >= 2 and known > 60
    assert obs[0, -1, 1] < obs[1, -1, 1], "one presses up, the other down"
    assert games.render()[0].shape == (210, 160, 3)


def test_bad_input(fitted, monkeypatch):
    model, replay = fitted
    with pytest.raises(ValueError, match=r"find_objects: expected an image \(210, 160, 3\)"):
        find_objects(np.zeros((84, 84)))
    with pytest.raises(ValueError, match=r"PongModel: expected observations \[B, 3, 5\]"):
        model.step(replay.obs[:2, 0, :2], torch.tensor([0, 1]), seeded())
    with pytest.raises(ValueError, match=r"multiple of 2, got \[3, 3, 5\]"):
        model.step(replay.obs[:3, 0], torch.tensor([0, 1, 2]), seeded())
    new = PongModel(seeded())
    with pytest.raises(RuntimeError, match=r"PongModel: expected a fitted model"):
        ImaginedRallies(new, replay, 4, seeded())
    with pytest.raises(RuntimeError, match=r"PongModel: expected a fitted model"):
        new.step(replay.obs[:4, 0], torch.zeros(4, dtype=torch.long), seeded())
    with pytest.raises(ValueError, match=r"PongModelConfig: expected width >= 1"):
        PongModelConfig(width=0)
    with pytest.raises(ValueError, match=r"make_pong: expected num_envs >= 1"):
        make_pong(0)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ModuleNotFoundError, match=r"make_pong: expected the package ale-py"):
        make_pong(1)
