"""CarRacing from pixels, the other way: a world model whose state nobody designed.

An encoder makes numbers of two images, dynamics and a reward head imagine in these numbers, and a
decoder shows what they stand for. All are trained together, over several steps ahead.

Axes: B windows, K rollouts, L steps of a window, Z latent state, A action.
"""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mbrl_helpers import saving
from mbrl_helpers.cars.driving import SEARCH, Drive, View, thumbnail
from mbrl_helpers.cars.vision import ACTIONS
from mbrl_helpers.checks import check_counts, check_range, check_setting
from mbrl_helpers.futures import rollout_returns
from mbrl_helpers.interfaces import Step
from mbrl_helpers.networks import load_network, network_arrays
from mbrl_helpers.planners import ICEM, ICEMConfig, PlannerState


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Settings of a latent world model and its training.

    Attributes:
        num_latent: Z.
        window: L, steps that a training window imagines.
        batch_size: windows in a gradient step.
        learning_rate: of Adam.
        reward_scale: rewards are learned in units of this.
    """

    num_latent: int = 96
    window: int = 8
    batch_size: int = 32
    learning_rate: float = 1e-3
    reward_scale: float = 4.0

    def __post_init__(self) -> None:
        check_counts(
            "LatentConfig",
            num_latent=self.num_latent,
            window=self.window,
            batch_size=self.batch_size,
        )
        check_setting(self, "num_latent", self.num_latent >= 2, ">= 2: of one, all states are one")
        check_range(self, "learning_rate", 0, float("inf"), ends="()")
        check_range(self, "reward_scale", 0, float("inf"), ends="()")


class LatentNetwork(nn.Module):
    """The networks of a deterministic latent world model: to encode, imagine and decode.

    Source: the deterministic path of PlaNet, Hafner et al. 2019. Taught in notebook 08.
    """

    def __init__(self, generator: torch.Generator, config: LatentConfig) -> None:
        """Make networks with random weights."""
        super().__init__()
        self.config = config
        size = config.num_latent
        self.encoder = nn.Sequential(
            nn.Conv2d(6, 24, 4, 2, 1), nn.SiLU(), nn.Conv2d(24, 48, 4, 2, 1), nn.SiLU(),
            nn.Flatten(), nn.Linear(48 * 36, size), nn.LayerNorm(size),
        )  # fmt: skip
        self.dynamics = nn.Sequential(
            nn.Linear(size + 2, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(),
            nn.Linear(256, size),
        )  # fmt: skip
        self.settle = nn.LayerNorm(size)  # keeps long imaginations within bounds
        self.reward = nn.Sequential(nn.Linear(2 * size + 2, 128), nn.SiLU(), nn.Linear(128, 1))
        self.decoder = nn.Sequential(
            nn.Linear(size, 48 * 36), nn.SiLU(), nn.Unflatten(1, (48, 6, 6)),
            nn.ConvTranspose2d(48, 24, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(24, 3, 4, 2, 1),
        )  # fmt: skip
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                    size = layer.weight[0].numel()
                    layer.weight.normal_(0, size**-0.5, generator=generator)
                    assert layer.bias is not None
                    layer.bias.zero_()

    def encode(self, before: Tensor, now: Tensor) -> Tensor:
        """Latent state [B, Z] of two images [B, 24, 24, 3] uint8, a decision apart."""
        pair = torch.cat([before, now], -1).movedim(-1, 1)
        return self.encoder(pair.float() / 255)

    def decode(self, latent: Tensor) -> Tensor:
        """The images [B, 24, 24, 3] in 0 … 1 that latent states [B, Z] stand for."""
        return self.decoder(latent).movedim(1, -1)

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """One decision in the latent space: obs [..., Z], action [..., 2]; there is no noise."""
        next_obs = self.settle(obs + self.dynamics(torch.cat([obs, action], -1)))
        reward = self.reward(torch.cat([obs, next_obs, action], -1))[..., 0]
        return Step(next_obs, self.config.reward_scale * reward, torch.zeros_like(reward))


@dataclass(frozen=True, eq=False)
class FittedLatent(saving.Saved):
    """What a fit gives: a `Model` whose observations are latent states; it stays as it is.

    Attributes:
        network: encodes, imagines and decodes.
        history: mean squared error of images and of rewards (in units of its scale), per 50 updates
            of the fit.
    """

    kind = "fitted latent model"

    network: LatentNetwork
    history: list[tuple[float, float]]

    def encode(self, before: Tensor, now: Tensor) -> Tensor:
        """See `LatentNetwork.encode`."""
        return self.network.encode(before, now)

    def decode(self, latent: Tensor) -> Tensor:
        """See `LatentNetwork.decode`."""
        return self.network.decode(latent)

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """See `LatentNetwork.step`."""
        return self.network.step(obs, action, generator)

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""
        settings = {"config": dataclasses.asdict(self.network.config), "history": self.history}
        return settings, network_arrays(self.network)

    @classmethod
    def of_contents(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "FittedLatent":
        """Make it of what a file has kept."""
        network = LatentNetwork(torch.Generator(), LatentConfig(**settings["config"]))
        load_network(network, arrays)
        history = [(image, reward) for image, reward in settings["history"]]
        return cls(network.requires_grad_(False), history)


class LatentModel:
    """Learns a latent world model from drives.

    Source: as PlaNet, with the images' error in place of its variational bound.

    Attributes:
        network: what it trains.
    """

    def __init__(self, generator: torch.Generator, config: LatentConfig | None = None) -> None:
        """Make a model to be trained."""
        self.config, self.generator = config or LatentConfig(), generator
        self.network = LatentNetwork(generator, self.config)

    def fit(self, drives: list[Drive], *, num_updates: int, progress: bool = False) -> FittedLatent:
        """Train on windows of the drives; a further call goes on.

        Args:
            drives: at least one of more than L decisions.
            num_updates: gradient steps.
            progress: whether to show a progress bar.

        Raises:
            ValueError: if no drive is so long.
        """
        check_counts("LatentModel.fit", num_updates=num_updates)
        windows = latent_windows(drives, self.config.window)
        parameters = list(self.network.parameters())
        optimizer = torch.optim.Adam(parameters, self.config.learning_rate)
        losses: list[tuple[float, float]] = []
        history: list[tuple[float, float]] = []
        for update in tqdm(range(1, num_updates + 1), "latent model", disable=not progress):
            rows = torch.randint(
                len(windows.actions), (self.config.batch_size,), generator=self.generator
            )
            image, reward = window_loss(self.network, *(part[rows] for part in windows))
            optimizer.zero_grad()
            (image + 0.05 * reward).backward()
            nn.utils.clip_grad_norm_(parameters, 10)
            optimizer.step()
            losses.append((float(image.detach()), float(reward.detach())))
            if update % 50 == 0:
                means = np.mean(losses[-50:], axis=0)
                history.append((float(means[0]), float(means[1])))
        return FittedLatent(copy.deepcopy(self.network).requires_grad_(False), history)


class Windows(NamedTuple):
    """Stretches of drives, to imagine and to compare with.

    Attributes:
        images: [W, L+2, 24, 24, 3] uint8: two to encode, and one after each decision.
        actions: [W, L, 2] of the decisions, the first one taken at the second image.
        rewards: [W, L] that they earned.
    """

    images: Tensor
    actions: Tensor
    rewards: Tensor


def latent_windows(drives: list[Drive], length: int) -> Windows:
    """All windows of L = length decisions.

    Raises:
        ValueError: if no drive is longer than that.
    """
    parts = []
    for drive in drives:
        images, log = torch.tensor(drive.images), drive.transitions
        for start in range(1, len(log) - length + 1):
            stop = start + length
            parts.append((
                images[start - 1 : stop + 1], torch.tensor(log.action[start:stop]),
                torch.tensor(log.reward[start:stop]),
            ))  # fmt: skip
    if not parts:
        raise ValueError(
            f"LatentModel.fit: expected a drive of more than {length} decisions, got none. "
            "Drive for longer, or take a shorter window."
        )
    return Windows(*(torch.stack(column) for column in zip(*parts, strict=True)))


def window_loss(
    network: LatentNetwork, images: Tensor, actions: Tensor, rewards: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared error of the imagined images and rewards of windows (see `Windows`)."""
    latent = network.encode(images[:, 0], images[:, 1])
    latents, imagined = [latent], []
    for action in actions.unbind(1):
        latent, reward, _ = network.step(latent, action)
        latents.append(latent)
        imagined.append(reward)
    seen = network.decode(torch.stack(latents, 1).flatten(0, 1))
    truth = images[:, 1:].flatten(0, 1).float() / 255
    error = (torch.stack(imagined, 1) - rewards) / network.config.reward_scale
    # A drawing a pixel off is a small error; a road or none decides: sums, not means, of them.
    return 10 * (seen - truth).square().mean(), error.square().mean()


class LatentDriver:
    """Drives by planning in the latent space, on the predicted reward alone."""

    def __init__(
        self, model: FittedLatent, generator: torch.Generator, config: ICEMConfig = SEARCH
    ) -> None:
        """Drive with a model.

        Raises:
            TypeError: for anything but a fitted one.
        """
        if not isinstance(model, FittedLatent):
            raise TypeError(
                f"LatentDriver: expected a FittedLatent, got {type(model).__name__}. Pass what "
                "LatentModel.fit returns."
            )
        self.model, self.planner = model, ICEM(ACTIONS, generator, config)
        self.state: PlannerState | None = None
        self.last: Tensor | None = None

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget plan and images, for a new episode."""
        self.state = self.last = None

    @torch.inference_mode()
    def act(self, view: View) -> np.ndarray:
        """Steering and pedal [2]: the first action of the best plan."""
        now = torch.tensor(thumbnail(view.frame))[None]
        latent = self.model.encode(now if self.last is None else self.last, now)
        self.last = now
        state = self.planner.start(1) if self.state is None else self.state
        plan, self.state = self.planner.plan(
            lambda actions: rollout_returns(self.model, latent, actions), state
        )
        return plan.actions[0, 0].numpy()
