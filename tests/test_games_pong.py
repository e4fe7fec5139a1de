"""Pong's objects on drawn images, its model on a toy rally with known rules, dreams and weights."""

import copy
import math
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from games_scenes import catches
from gymnasium.vector import AutoresetMode

from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.games import pong
from mbrl_helpers.games.dqn import act_and_learn
from mbrl_helpers.games.dreams import DreamConfig, ImaginedEnv, learn_in_dreams
from mbrl_helpers.games.pong import (
    COURT,
    MIDDLE,
    REACH,
    FittedPong,
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
    training_rows,
)
from mbrl_helpers.notebook import RECORDED


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
    games, dice, buffer = rallies(), seeded(seed), ReplayBuffer(num_steps)
    games.reset(seed=seed)
    act_and_learn(
        lambda obs: torch.randint(3, (1,), generator=dice).numpy(), games, buffer, num_steps
    )
    return buffer


@pytest.fixture(scope="module")
def fitted():
    """A model of the toy game, and its experience."""
    torch.set_num_threads(1)
    buffer = played(2_000)
    model = PongModel(seeded(), PongModelConfig(num_members=2, width=32)).fit(buffer, 500)
    assert list(model.history) == list(pong.OBJECTS)
    assert max(losses[-1] for losses in model.history.values()) < 0.3
    return model, buffer


def test_recovers_a_toy_game(fitted):
    """Moves and points of experience that it has not seen."""
    model, fresh = fitted[0], played(1_001, seed=7).batch()
    fresh = fresh[can_dream(fresh.obs) & (can_dream(fresh.next_obs) | (fresh.reward != 0))]
    fresh = fresh[: len(fresh) // 2 * 2]
    assert (fresh.reward == -1).sum() > 5
    next_obs, reward, out = model.step(fresh.obs, fresh.action, seeded())
    assert torch.equal(next_obs[:, :2], fresh.obs[:, 1:])
    assert torch.equal(next_obs[:, 2, 4].long(), fresh.action)
    assert (reward == fresh.reward).float().mean() > 0.98
    assert torch.equal(out, reward != 0)
    there = fresh.next_obs[:, -1, :4]
    right = (next_obs[:, -1, :4] == there)[~out & torch.isfinite(there).all(1)]
    assert (right.float().mean(0) > 0.95).all()


def test_only_what_is_known_is_learned_from(fitted):
    """A row for each observation without gaps that leads to another one, or to a point."""
    rows = fitted[1].batch()
    inputs, classes = training_rows(rows)
    assert all(len(x) == len(classes) and torch.isfinite(x).all() for x in inputs)
    points = int((rows.reward[can_dream(rows.obs)] < 0).sum())
    assert points > 5 and int((classes[:, 2] == 2 * REACH[2]).sum()) == points
    assert (classes[:, 3] == -100).sum() == points, "where it is out its height is not learned"
    assert (classes >= 0).sum() == 4 * len(classes) - points


def test_my_point_is_a_ball_that_leaves_on_the_left(fitted):
    """The mirror at work: only balls on the right were ever lost, and yet it knows the left."""
    model, rows = fitted[0], fitted[1].batch()
    obs = rows.obs[(rows.reward < 0) & can_dream(rows.obs)][:10].repeat(20, 1, 1)
    action = torch.zeros(len(obs), dtype=torch.long)
    here, there = (model.step(o, action, seeded()).reward for o in (obs, other_side(obs)))
    assert (here == -1).float().mean() > 0.6 and (there == 1).float().mean() > 0.6
    assert not (here == 1).any() and not (there == -1).any()


def test_members_imagine_their_own_rows(fitted):
    """The first half of the rows is the first member's."""
    model, rows = fitted[0], fitted[1].batch()
    obs = rows.obs[can_dream(rows.obs)][:1].expand(8, 3, 5)
    networks = copy.deepcopy(model.networks)
    with torch.no_grad():
        for network in networks:  # the second member is sure that nothing moves
            network.weights[-1][1], network.biases[-1][1] = 0, 0
            network.biases[-1][1, 0, network.biases[-1].shape[2] // 2] = 100
    calm = FittedPong(model.config, networks, {})
    moved = calm.step(obs, torch.full((8,), 2), seeded()).next_obs[:, -1, 1] != obs[:, -1, 1]
    assert moved.tolist() == [True] * 4 + [False] * 4


def test_a_fit_stays_as_it_is_and_the_next_one_goes_on_from_it(fitted):
    _, buffer = fitted
    model = PongModel(seeded(), PongModelConfig(num_members=2, width=16))
    assert model.fitted is None
    first = model.fit(buffer, 60)
    kept = [p.clone() for p in first.networks.parameters()]
    second = model.fit(buffer, 30)
    assert model.fitted is second
    assert all(map(torch.equal, kept, first.networks.parameters()))
    assert second.history["ball x"][-1] < first.history["ball x"][-1]
    assert {name: len(losses) for name, losses in first.history.items()} == dict.fromkeys(
        pong.OBJECTS, 2
    )


def test_weight_decay_keeps_weights_small(fitted):
    size = []
    for decay in (0.0, 10.0):
        model = PongModel(seeded(), PongModelConfig(num_members=2, width=16, weight_decay=decay))
        networks = model.fit(fitted[1], 30).networks
        size.append(sum(p.square().sum().item() for p in networks.parameters()))
    assert size[1] < 0.5 * size[0]


# --- dreams ---------------------------------------------------------------------------------------


def test_dreams_have_the_face_of_the_game(fitted):
    envs = ImaginedEnv(*fitted, 6, seeded(), max_steps=15)
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
        envs = ImaginedEnv(*fitted, 4, seeded())
        found = [envs.reset(seed=5)[0]]
        found += [envs.step(np.full(4, step % 3))[0] for step in range(10)]
        return np.stack(found)

    assert np.array_equal(dream(), dream())


def test_learns_in_dreams_by_the_loop_of_the_small_games():
    model, agent = make_player(seeded())
    few = {f"num_{name}_updates": 20 for name in ("model", "dream", "last")}
    config = DreamConfig(
        num_random_frames=300, num_rounds=1, num_round_frames=100, num_dreams=8, **few
    )
    rounds = list(learn_in_dreams(rallies(), model, agent, ReplayBuffer(400), config))
    assert [r.num_frames for r in rounds] == [300, 400] and model.fitted is rounds[-1].model
    assert all(np.isfinite([*r.losses.values(), r.dream_reward]).all() for r in rounds)


def test_dreams_of_it_need_a_ball_in_play_and_no_curiosity(fitted):
    model, buffer = fitted
    with pytest.raises(ValueError, match=r"FittedPong: expected no curiosity, got 0.1"):
        ImaginedEnv(model, buffer, 4, seeded(), curiosity=0.1)
    with pytest.raises(ValueError, match=r"ImaginedEnv: expected num_envs as a multiple of .* 2 m"):
        ImaginedEnv(model, buffer, 5, seeded())
    with pytest.raises(ValueError, match=r"expected an observation from which a dream can start"):
        ImaginedEnv(model, played(2), 4, seeded())


# --- weights, the game itself, bad input ----------------------------------------------------------


def lively(seed=1):
    """An agent that has learned nothing, and yet not all its values are zero."""
    agent = make_player(seeded(seed))[1]
    for parameter in agent.target.parameters():
        torch.nn.init.normal_(parameter, generator=seeded(seed))
    return agent


LOADED = """
import sys, numpy as np, torch
torch.set_num_threads(1)
from mbrl_helpers.games.pong import load_player
model, agent, _ = load_player(sys.argv[1], torch.Generator())
obs = torch.tensor(np.load(sys.argv[2]))
step = model.step(obs, torch.arange(len(obs)) % 3, torch.Generator().manual_seed(0))
np.savez(sys.argv[3], values=agent.target(obs).numpy(), action=agent.act(obs.numpy()),
         **{name: part.numpy() for name, part in step._asdict().items()})
"""


@pytest.mark.parametrize("num_bits", [16, 32])
def test_a_saved_player_plays_the_same_in_another_process(tmp_path, fitted, num_bits):
    """To the bit; with 16 of them it is the loaded player that is compared."""
    path, obs = tmp_path / "player.npz", moments()[:40]
    model, agent = fitted[0], lively()
    save_player(path, model, agent, command="python train.py", num_bits=num_bits)
    if num_bits == 16:
        model, agent, command = load_player(path, seeded())
        assert command == "python train.py"
    np.save(tmp_path / "obs.npy", obs.numpy())
    files = [str(path), *(str(tmp_path / name) for name in ("obs.npy", "found.npz"))]
    subprocess.run([sys.executable, "-c", LOADED, *files], check=True)
    step = model.step(obs, torch.arange(40) % 3, seeded())
    wanted = {name: part.numpy() for name, part in step._asdict().items()}
    with torch.no_grad():
        wanted |= {"values": agent.target(obs).numpy(), "action": agent.act(obs.numpy())}
    with np.load(files[-1]) as found:
        assert set(found.files) == set(wanted)
        for name, value in wanted.items():
            assert np.array_equal(found[name], value), name


def test_half_of_the_bits_make_nearly_the_same_player(tmp_path, fitted):
    model, agent = fitted[0], lively()
    for num_bits in (16, 32):
        save_player(tmp_path / f"{num_bits}.npz", model, agent, num_bits=num_bits)
    sizes = [(tmp_path / f"{num_bits}.npz").stat().st_size for num_bits in (16, 32)]
    assert sizes[0] < 0.6 * sizes[1]
    other_model, other_agent, _ = load_player(tmp_path / "16.npz", seeded(2))
    for mine, other in zip(
        model.networks.parameters(), other_model.networks.parameters(), strict=True
    ):
        torch.testing.assert_close(other, mine, rtol=1e-3, atol=1e-4)
    obs, action = moments()[:8], torch.zeros(8, dtype=torch.long)
    steps = [m.step(obs, action, seeded()).next_obs for m in (model, other_model)]
    assert (steps[0] == steps[1]).float().mean() > 0.95  # a draw may fall on the other side
    torch.testing.assert_close(other_agent.target(obs), agent.target(obs), rtol=0.01, atol=0.05)
    torch.testing.assert_close(other_agent.network(obs), other_agent.target(obs))


def test_a_model_alone_comes_back_as_it_was(tmp_path, fitted):
    model = fitted[0]
    model.save(tmp_path / "model.npz")
    again = FittedPong.load(tmp_path / "model.npz")
    obs, action = moments()[:8], torch.ones(8, dtype=torch.long)
    assert (again.config, again.history) == (model.config, model.history)
    for mine, other in zip(
        model.step(obs, action, seeded()), again.step(obs, action, seeded()), strict=True
    ):
        assert torch.equal(mine, other)
    assert not any(p.requires_grad for p in again.networks.parameters())
    with pytest.raises(ValueError, match=r"load_player: .* pong model, not player"):
        load_player(tmp_path / "model.npz", seeded())
    with pytest.raises(FileNotFoundError, match=r"FittedPong.load: expected a file"):
        FittedPong.load(tmp_path / "none.npz")
    (tmp_path / "model.npz").write_bytes((tmp_path / "model.npz").read_bytes()[:2_000])
    with pytest.raises(ValueError, match=r"FittedPong.load: expected a file that can be read"):
        FittedPong.load(tmp_path / "model.npz")


def test_shipped_weights_are_small_and_say_where_they_are_from():
    path = RECORDED / "pong.npz"
    assert path.stat().st_size < 300_000
    model, agent, command = load_player(path, seeded())
    assert command.startswith("python tests/benchmarks/pong.py") and "(seed" in command
    for parameter in (*model.networks.parameters(), *agent.target.parameters()):
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


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"width": 0}, ValueError, "width >= 1, got 0"),
        ({"num_members": 0}, ValueError, "num_members >= 1"),
        ({"batch_size": 1.5}, TypeError, "batch_size as an int"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate in \(0, inf\)"),
        ({"learning_rate": math.nan}, ValueError, r"learning_rate in \(0, inf\), got nan"),
        ({"learning_rate": -0.1}, ValueError, r"learning_rate in \(0, inf\)"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate as a number"),
        ({"weight_decay": -1}, ValueError, r"weight_decay in \[0, inf\)"),
        ({"weight_decay": math.inf}, ValueError, r"weight_decay in \[0, inf\)"),
    ],
)
def test_settings_are_checked(settings, error, message):
    with pytest.raises(error, match=rf"PongModelConfig: expected {message}"):
        PongModelConfig(**settings)


def test_bad_input(fitted, monkeypatch, tmp_path):
    model, buffer = fitted
    obs = moments()
    with pytest.raises(ValueError, match=r"find_objects: expected an image \(210, 160, 3\)"):
        find_objects(np.zeros((84, 84)))
    with pytest.raises(ValueError, match=r"FittedPong.step: expected observations \[B, 3, 5\]"):
        model.step(obs[:2, :2], torch.tensor([0, 1]), seeded())
    with pytest.raises(ValueError, match=r"multiple of 2, got \[3, 3, 5\]"):
        model.step(obs[:3], torch.tensor([0, 1, 2]), seeded())
    with pytest.raises(ValueError, match=r"FittedPong.step: expected a generator"):
        model.step(obs[:2], torch.tensor([0, 1]))
    new = PongModel(seeded())
    with pytest.raises(ValueError, match=r"PongModel.fit: expected rows >= 1, got 0"):
        new.fit(ReplayBuffer(4), 5)
    with pytest.raises(ValueError, match=r"PongModel.fit: expected num_updates >= 1, got 0"):
        new.fit(buffer, 0)
    with pytest.raises(ValueError, match=r"PongModel.fit: expected steps in which all objects"):
        new.fit(played(2), 5)
    other = ReplayBuffer(3)
    act_and_learn(lambda obs: np.zeros(1, int), catches(1), other, 3)
    with pytest.raises(ValueError, match=r"PongModel.fit: expected observations \[T, 3, 5\]"):
        new.fit(other, 5)
    assert new.fitted is None
    with pytest.raises(ValueError, match=r"save_player: expected num_bits 16 or 32, got 8"):
        save_player(tmp_path / "p.npz", model, lively(), num_bits=8)
    with pytest.raises(ValueError, match=r"make_pong: expected num_envs >= 1"):
        make_pong(0)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ModuleNotFoundError, match=r"make_pong: expected the package ale-py"):
        make_pong(1)
