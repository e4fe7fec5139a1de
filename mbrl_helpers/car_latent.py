"""CarRacing from pixels, the other road: a world model whose state nobody designed.

An encoder makes numbers of two images, dynamics and a reward head imagine in these numbers, and a
decoder shows what they stand for. All are trained together, over several steps ahead.

Axes: B windows, K rollouts, L steps of a window, Z latent state, A action.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mbrl_helpers.agents import rollout_returns
from mbrl_helpers.car_racing import SEARCH, Drive, View, thumbnail
from mbrl_helpers.car_vision import ACTIONS
from mbrl_helpers.envs import Step
from mbrl_helpers.planners import ICEM, ICEMConfig


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


class LatentModel(nn.Module):
    """A deterministic latent world model; once trained, a `Model` whose observations are latent.

    Source: the deterministic path of PlaNet, Hafner et al. 2019, with the images' error in place of
    its variational bound. Taught in notebook 08.
    """

    num_members = 1

    def __init__(self, generator: torch.Generator, config: LatentConfig | None = None) -> None:
        """Make a model to be trained."""
        super().__init__()
        self.config, self.generator = config or LatentConfig(), generator
        size = self.config.num_latent
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

    def fit(
        self, drives: list[Drive], *, num_updates: int, progress: bool = False
    ) -> list[tuple[float, float]]:
        """Train on windows of the drives; a further call goes on.

        Returns:
            Mean squared error of images and of rewards (in units of its scale), per 50 updates.
        """
        windows = self._windows(drives)
        optimizer = torch.optim.Adam(self.parameters(), self.config.learning_rate)
        losses, history = [], []
        for update in tqdm(range(1, num_updates + 1), "latent model", disable=not progress):
            rows = torch.randint(
                len(windows[1]), (self.config.batch_size,), generator=self.generator
            )
            image, reward = self._loss(*(part[rows] for part in windows))
            optimizer.zero_grad()
            (image + 0.05 * reward).backward()
            nn.utils.clip_grad_norm_(self.parameters(), 10)
            optimizer.step()
            losses.append((float(image.detach()), float(reward.detach())))
            if update % 50 == 0:
                history.append(tuple(np.mean(losses[-50:], axis=0)))
        return history

    def _windows(self, drives: list[Drive]) -> tuple[Tensor, ...]:
        """All windows: images [.., L+2, 24, 24, 3], actions [.., L, 2] and rewards [.., L]."""
        length, parts = self.config.window, []
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
        return tuple(torch.stack(column) for column in zip(*parts, strict=True))

    def _loss(self, images: Tensor, actions: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the imagined images and rewards of a batch of windows."""
        latent = self.encode(images[:, 0], images[:, 1])
        latents, imagined = [latent], []
        for action in actions.unbind(1):
            latent, reward, _ = self.step(latent, action)
            latents.append(latent)
            imagined.append(reward)
        seen = self.decode(torch.stack(latents, 1).flatten(0, 1))
        truth = images[:, 1:].flatten(0, 1).float() / 255
        error = (torch.stack(imagined, 1) - rewards) / self.config.reward_scale
        # A drawing a pixel off is a small error; a road or none decides: sums, not means, of them.
        return 10 * (seen - truth).square().mean(), error.square().mean()


class LatentDriver:
    """Drives by planning in the latent space, on the predicted reward alone."""

    def __init__(
        self, model: LatentModel, generator: torch.Generator, config: ICEMConfig = SEARCH
    ) -> None:
        self.model, self.planner = model, ICEM(ACTIONS, generator, config)
        self.reset()

    def reset(self) -> None:
        """Forget plan and images, for a new episode."""
        self.planner.reset()
        self.last: Tensor | None = None

    @torch.inference_mode()
    def act(self, view: View) -> np.ndarray:
        """Steering and pedal [2]: the first action of the best plan."""
        now = torch.tensor(thumbnail(view.frame))[None]
        latent = self.model.encode(now if self.last is None else self.last, now)
        self.last = now
        plan = self.planner.plan(lambda a: rollout_returns(self.model, latent, a), num_envs=1)
        return plan.actions[0, 0].numpy()
