"""The latent world model, on networks and drives made by hand: what belongs together."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cars_scenes import blank
from torch import nn

from mbrl_helpers.cars.driving import SEARCH, Drive, View, thumbnail
from mbrl_helpers.cars.latent import (
    FittedLatent,
    LatentConfig,
    LatentDriver,
    LatentModel,
    LatentNetwork,
    latent_windows,
    window_loss,
)
from mbrl_helpers.data import Transitions
from mbrl_helpers.planners import ICEMConfig


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def a_drive(length, first=0):
    """Of which image, action and reward number t are t, but for their signs and places."""
    count = np.arange(first, first + length, dtype=np.float32)
    images = np.zeros((length + 1, 24, 24, 3), np.uint8)
    images += np.arange(first, first + length + 1, dtype=np.uint8)[:, None, None, None]
    log = Transitions(
        obs=np.zeros((length, 10), np.float32), action=np.stack([count, -count], 1),
        reward=100 + count, next_obs=np.zeros((length, 10), np.float32),
        terminated=np.zeros(length, bool), truncated=np.zeros(length, bool),
        episode=np.zeros(length, np.int64),
    )  # fmt: skip
    return Drive(log, np.zeros((length, 2), np.float32), images, 0.0, 4 * length)


def some_drive(seed, length=12):
    """Of noise."""
    rng, one = np.random.default_rng(seed), a_drive(length)
    one.images[...] = rng.integers(0, 256, one.images.shape)
    one.transitions.action[...] = rng.uniform(-1, 1, (length, 2))
    one.transitions.reward[...] = rng.standard_normal(length)
    return one


# --- settings ------------------------------------------------------------------------------------


def test_settings_unless_given():
    config = LatentConfig()
    assert (config.num_latent, config.window, config.batch_size) == (96, 8, 32)
    assert (config.learning_rate, config.reward_scale) == (1e-3, 4.0)
    assert LatentModel(generator()).config == config


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_latent": 0}, ValueError, "num_latent >= 1"),
        ({"num_latent": 1}, ValueError, "num_latent >= 2"),
        ({"num_latent": 2.0}, TypeError, "num_latent as an int"),
        ({"window": 0}, ValueError, "window >= 1"),
        ({"window": True}, TypeError, "window as an int"),
        ({"batch_size": -1}, ValueError, "batch_size >= 1"),
        ({"batch_size": None}, TypeError, "batch_size as an int"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate in"),
        ({"learning_rate": 0}, ValueError, "learning_rate in"),
        ({"learning_rate": math.inf}, ValueError, "learning_rate in"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate as a number"),
        ({"reward_scale": 0.0}, ValueError, "reward_scale in"),
        ({"reward_scale": math.nan}, ValueError, "reward_scale in"),
        ({"reward_scale": -4.0}, ValueError, "reward_scale in"),
    ],
)
def test_impossible_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=f"LatentConfig: expected {message}"):
        LatentConfig(**settings)


def test_settings_at_their_bounds():
    assert LatentConfig(num_latent=2, window=1, batch_size=1, learning_rate=1e-9).window == 1
    assert LatentConfig(learning_rate=0.5, reward_scale=0.5).reward_scale == 0.5


# --- windows -------------------------------------------------------------------------------------


def test_windows_of_a_drive():
    """Three decisions a window: the first image is only there to be the one before."""
    images, actions, rewards = latent_windows([a_drive(6), a_drive(3, 50), a_drive(4, 30)], 3)
    assert images.shape == (4, 5, 24, 24, 3)
    assert images.dtype == torch.uint8
    assert images[..., 0, 0, 0].tolist() == [
        [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6], [30, 31, 32, 33, 34],
    ]  # fmt: skip
    assert actions[..., 0].tolist() == [[1, 2, 3], [2, 3, 4], [3, 4, 5], [31, 32, 33]]
    assert torch.equal(actions[..., 1], -actions[..., 0])
    assert torch.equal(rewards, 100 + actions[..., 0])
    single = latent_windows([a_drive(2)], 1)
    assert single.images[..., 0, 0, 0].tolist() == [[0, 1, 2]]
    assert single.actions[..., 0].tolist() == [[1]]


def test_a_drive_must_be_longer_than_a_window():
    with pytest.raises(ValueError, match=r"LatentModel.fit: expected a drive of more than 8 deci"):
        LatentModel(generator()).fit([a_drive(8)], num_updates=1)
    with pytest.raises(ValueError, match=r"LatentModel.fit: expected a drive of more than 8 deci"):
        LatentModel(generator()).fit([], num_updates=1)
    with pytest.raises(ValueError, match=r"LatentModel.fit: expected num_updates >= 1, got 0"):
        LatentModel(generator()).fit([a_drive(9)], num_updates=0)


# --- networks ------------------------------------------------------------------------------------


class Does(nn.Module):
    """A network that is a function, of which it keeps the arguments."""

    def __init__(self, function):
        super().__init__()
        self.function, self.given = function, []

    def forward(self, x):
        self.given.append(x)
        return self.function(x)


def made_by_hand(**parts):
    """Of two latent numbers; each part is a function."""
    network = LatentNetwork(generator(), LatentConfig(num_latent=2, window=2, reward_scale=4.0))
    for name, function in parts.items():
        setattr(network, name, Does(function))
    return network


def test_encoding_takes_the_image_before_first():
    network = made_by_hand(encoder=lambda x: x)
    before, now = torch.randint(0, 256, (2, 5, 24, 24, 3), generator=generator()).to(torch.uint8)
    pair = network.encode(before, now)
    assert pair.shape == (5, 6, 24, 24)
    for channel in range(3):
        assert torch.allclose(pair[:, channel], before[..., channel] / 255)
        assert torch.allclose(pair[:, 3 + channel], now[..., channel] / 255)


def test_decoding_puts_the_colours_last():
    network = made_by_hand(decoder=lambda x: x)
    image = torch.rand(5, 3, 24, 24, generator=generator())
    seen = network.decode(image)
    assert seen.shape == (5, 24, 24, 3)
    assert torch.equal(seen[2, 7, 9], image[2, :, 7, 9])


def test_a_step_by_hand():
    network = made_by_hand(
        dynamics=lambda x: 10 * x[..., 2:], settle=lambda z: z / 2, reward=lambda x: x[..., 3:4]
    )
    obs, action = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.3, -0.4]]])
    step = network.step(obs, action, generator())
    assert step.next_obs[0, 0].tolist() == pytest.approx([(1 + 3) / 2, (2 - 4) / 2])
    (given,) = network.dynamics.given
    assert given[0, 0].tolist() == pytest.approx([1, 2, 0.3, -0.4])
    (given,) = network.reward.given
    assert given[0, 0].tolist() == pytest.approx([1, 2, 2, -1, 0.3, -0.4])
    assert step.reward.tolist() == [[pytest.approx(4.0 * -1)]]
    assert step.terminated.tolist() == [[0]]


def test_shapes_and_first_weights():
    network = LatentNetwork(generator(), LatentConfig(num_latent=10))
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == {
        "encoder.0.weight": (24, 6, 4, 4), "encoder.0.bias": (24,),
        "encoder.2.weight": (48, 24, 4, 4), "encoder.2.bias": (48,),
        "encoder.5.weight": (10, 1728), "encoder.5.bias": (10,),
        "encoder.6.weight": (10,), "encoder.6.bias": (10,),
        "dynamics.0.weight": (256, 12), "dynamics.0.bias": (256,),
        "dynamics.2.weight": (256, 256), "dynamics.2.bias": (256,),
        "dynamics.4.weight": (10, 256), "dynamics.4.bias": (10,),
        "settle.weight": (10,), "settle.bias": (10,),
        "reward.0.weight": (128, 22), "reward.0.bias": (128,),
        "reward.2.weight": (1, 128), "reward.2.bias": (1,),
        "decoder.0.weight": (1728, 10), "decoder.0.bias": (1728,),
        "decoder.3.weight": (48, 24, 4, 4), "decoder.3.bias": (24,),
        "decoder.5.weight": (24, 3, 4, 4), "decoder.5.bias": (3,),
    }  # fmt: skip
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            wanted = value[0].numel() ** -0.5
            assert float(value.std()) == pytest.approx(wanted, rel=0.25), name
            assert abs(float(value.mean())) < 0.2 * wanted, name
        elif name.endswith("bias"):
            assert not value.any()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):  # each halves or doubles an image
            assert (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))
    again = LatentNetwork(generator(), LatentConfig(num_latent=10)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())
    images = torch.zeros(2, 24, 24, 3, dtype=torch.uint8)
    latent = network.encode(images, images)
    assert latent.shape == (2, 10)
    assert network.decode(latent).shape == (2, 24, 24, 3)


def test_loss_by_hand():
    """The latent is the brightness of the second and of the first image; an action adds to it.

    Three windows of two decisions. Images have one brightness, which the decoder draws.
    """
    network = made_by_hand(
        encoder=lambda x: torch.stack([x[:, 3].mean((1, 2)), x[:, 0].mean((1, 2))], 1),
        dynamics=lambda x: x[..., 2:],
        settle=lambda z: z,
        reward=lambda x: x[..., 2:3] + 100 * x[..., 3:4],
        decoder=lambda z: z[:, :1, None, None].expand(-1, 3, 24, 24),
    )
    shades = torch.tensor([[51, 51, 102, 204], [102, 0, 51, 255], [0, 255, 255, 255]])
    images = shades.to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 24, 24, 3)
    actions = torch.tensor([[[0.2, 0], [0.4, 0]], [[0.3, 0], [0.2, 0]], [[0, 0.5], [0, 0.1]]])
    rewards = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    imagined = np.array([[0.2, 0.4, 0.8], [0, 0.3, 0.5], [1, 1, 1]])
    truth = shades[:, 1:].numpy() / 255
    said = 4 * (imagined[:, 1:] + 100 * np.array([[0.2, 0.2], [0.4, 0.4], [0.5, 0.6]]))
    image, reward = window_loss(network, images, actions, rewards)
    assert float(image) == pytest.approx(10 * np.mean((imagined - truth) ** 2), rel=1e-5)
    assert float(reward) == pytest.approx(np.mean(((said - rewards.numpy()) / 4) ** 2), rel=1e-5)


# --- training ------------------------------------------------------------------------------------

SMALL = LatentConfig(num_latent=4, window=2, batch_size=2, learning_rate=3e-3, reward_scale=0.1)


def test_training_by_hand():
    """Adam on the image's loss and a twentieth of the reward's, with gradients of at most 10."""
    drives = [some_drive(0), some_drive(1)]
    model, rng = LatentModel(generator(7), SMALL), generator(7)
    network = LatentNetwork(rng, SMALL)
    windows = latent_windows(drives, 2)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses, norms = [], []
    for _ in range(100):
        rows = torch.randint(20, (2,), generator=rng)
        image, reward = window_loss(network, *(part[rows] for part in windows))
        optimizer.zero_grad()
        (image + reward / 20).backward()
        norms.append(float(nn.utils.clip_grad_norm_(network.parameters(), 10)))
        optimizer.step()
        losses.append((float(image.detach()), float(reward.detach())))
    assert max(norms) > 12 > 9 > min(norms)
    fitted = model.fit(drives, num_updates=100)
    assert len(fitted.history) == 2
    wanted = [np.mean(losses[:50], 0), np.mean(losses[50:], 0)]
    assert np.allclose(fitted.history, wanted, rtol=1e-3)
    for name, value in fitted.network.state_dict().items():
        assert torch.allclose(value, network.state_dict()[name], atol=1e-3), name


def test_a_further_fit_goes_on_and_leaves_the_last_one_as_it_is():
    drives = [some_drive(0)]
    model = LatentModel(generator(), SMALL)
    first = model.fit(drives, num_updates=60)
    assert len(first.history) == 1
    assert all(isinstance(pair, tuple) for pair in first.history)
    before = copy.deepcopy(first.network.state_dict())
    second = model.fit(drives, num_updates=49)
    assert second.history == []
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not torch.equal(second.network.settle.weight, first.network.settle.weight)
    assert torch.equal(second.network.settle.weight, model.network.settle.weight)
    assert not any(weight.requires_grad for weight in first.network.parameters())
    again = LatentModel(generator(), SMALL)
    assert again.fit(drives, num_updates=60).history == first.history


def test_training_shows_its_progress_if_asked(capsys):
    LatentModel(generator(), SMALL).fit([some_drive(0)], num_updates=1)
    assert capsys.readouterr().err == ""
    LatentModel(generator(), SMALL).fit([some_drive(0)], num_updates=2, progress=True)
    assert "2/2" in capsys.readouterr().err


@pytest.fixture(scope="module")
def fitted():
    return LatentModel(generator(), SMALL).fit([some_drive(0)], num_updates=50)


def test_a_fitted_latent_model_does_what_its_network_does(fitted):
    images = torch.tensor(some_drive(3).images)
    latent = fitted.encode(images[:2], images[1:3])
    assert torch.equal(latent, fitted.network.encode(images[:2], images[1:3]))
    assert torch.equal(fitted.decode(latent), fitted.network.decode(latent))
    step = fitted.step(latent.expand(1, 2, 4), torch.ones(1, 2, 2))
    wanted = fitted.network.step(latent.expand(1, 2, 4), torch.ones(1, 2, 2))
    assert torch.equal(step.next_obs, wanted.next_obs)
    assert torch.equal(step.reward, wanted.reward)


def test_a_fitted_latent_model_is_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path / "latent")
    loaded = FittedLatent.load(tmp_path / "latent")
    assert loaded.history == fitted.history
    assert loaded.network.config == SMALL
    images = torch.tensor(some_drive(3).images)
    latent = fitted.encode(images[:-1], images[1:])
    assert torch.equal(loaded.encode(images[:-1], images[1:]), latent)
    assert torch.equal(loaded.decode(latent), fitted.decode(latent))
    action = torch.rand(len(latent), 2, generator=generator())
    assert torch.equal(loaded.step(latent, action).reward, fitted.step(latent, action).reward)
    assert not any(weight.requires_grad for weight in loaded.network.parameters())
    (tmp_path / "else").write_text("mine")
    with pytest.raises(ValueError, match=r"FittedLatent.save: expected a new path"):
        fitted.save(tmp_path / "else")
    with pytest.raises(ValueError, match=r"FittedLatent.load: expected a file that can be read"):
        FittedLatent.load(tmp_path / "else")
    with pytest.raises(FileNotFoundError, match=r"FittedLatent.load"):
        FittedLatent.load(tmp_path / "nothing")


# --- the driver ----------------------------------------------------------------------------------


def view(shade):
    return View(blank((shade, shade, shade)), np.zeros(10, np.float32), None)


def small(shade):
    return torch.tensor(thumbnail(blank((shade, shade, shade))))[None]


def test_latent_driver_encodes_this_image_and_the_last_one():
    pairs = []

    class Kept(LatentNetwork):
        def encode(self, before, now):
            pairs.append((before, now))
            return super().encode(before, now)

    driver = LatentDriver(
        FittedLatent(Kept(generator(), SMALL), []), generator(),
        ICEMConfig(horizon=2, population_size=8, num_elites=2),
    )  # fmt: skip
    for shade in (10, 20, 30):
        action = driver.act(view(shade))
        assert action.shape == (2,)
        assert np.abs(action).max() <= 1
    driver.reset()
    driver.act(view(40))
    wanted = [(10, 10), (10, 20), (20, 30), (40, 40)]
    for pair, shades in zip(pairs, wanted, strict=True):
        assert all(torch.equal(a, small(s)) for a, s in zip(pair, shades, strict=True))


def test_latent_driver_takes_the_first_action_of_the_best_plan():
    """The first decision is paid for steering 0.5 and pedal -0.5, the second for the contrary."""
    network = made_by_hand(
        encoder=lambda x: 0 * x[:, :2, 0, 0],
        dynamics=lambda x: torch.ones_like(x[..., :2]),
        settle=lambda z: z,
        reward=lambda x: (
            -((x[..., 4:] - torch.tensor([0.5, -0.5]) * (1 - 2 * x[..., :2])).square().sum(-1))[
                ..., None
            ]
        ),
    )
    driver = LatentDriver(FittedLatent(network, []), generator(),
                          ICEMConfig(horizon=2, population_size=200, num_elites=20))  # fmt: skip
    assert driver.act(view(10)) == pytest.approx([0.5, -0.5], abs=0.1)
    assert driver.state.mean[0, 0].tolist() == pytest.approx([-0.5, 0.5], abs=0.1)  # the next one


def test_latent_driver_goes_on_from_its_last_plan(fitted):
    driver, calls, started = LatentDriver(fitted, generator()), [], []
    assert driver.planner.config == SEARCH

    def plan(score, state):
        calls.append((score, state))
        actions = torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.6], [0.7, 0.8]]])
        return SimpleNamespace(actions=actions), f"state {len(calls)}"

    start = lambda num: started.append(num) or "start"  # noqa: E731
    driver.planner = SimpleNamespace(start=start, plan=plan)
    assert driver.act(view(10)).tolist() == pytest.approx([0.1, 0.2])
    driver.act(view(20))
    driver.reset()
    driver.act(view(30))
    assert [state for _, state in calls] == ["start", "state 1", "start"]
    assert started == [1, 1]
    actions = torch.rand(1, 3, 2, 2, generator=generator())
    latent = fitted.encode(small(30), small(30)).expand(1, 3, 4)
    one = fitted.step(latent, actions[:, :, 0])
    two = fitted.step(one.next_obs, actions[:, :, 1])
    assert torch.allclose(calls[2][0](actions), one.reward + two.reward, atol=1e-5)


def test_latent_driver_needs_a_fitted_model():
    with pytest.raises(TypeError, match="LatentDriver: expected a FittedLatent, got LatentModel"):
        LatentDriver(LatentModel(generator(), SMALL), generator())
