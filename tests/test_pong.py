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
    assert np.isnan(find_objects(drawn(None, 50.5, None, None))).tolist() == [True, False, True, True]


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
    places = [(40.5, 50.5, 71.5, 13.5), (42.5, 50.5, 75.5, 5.5), (44.5, 48.5, None, None),
              (44.5, 46.5, 83.5, 5.5), (44.5, 44.5, 156.5, 9.5), (44.5, 44.5, None, None)]  # fmt: skip
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
    assert values.shape[1] == 3 and values.std() > 0.1
    torch.testing.assert_close(network(upside_down(moments()))[:, [0, 2, 1]], values)
    assert torch.isfinite(network(torch.full((1, 3, 5), torch.nan).nan_to_num_(0) / 0)).all()
