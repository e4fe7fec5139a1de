"""Pictures: looks of many pixels, and a model that finds in them the angle it then believes in.

Axes: ... any leading axes, B environments, T rows of data, P pixels, S + 2 belief.
"""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from mbrl_helpers import saving
from mbrl_helpers.checks import check_counts, check_range
from mbrl_helpers.data import Transitions
from mbrl_helpers.envs import Task
from mbrl_helpers.hidden.model import RecurrentConfig, RecurrentModel
from mbrl_helpers.interfaces import Step
from mbrl_helpers.networks import uninterrupted
from mbrl_helpers.saving import Saved

SIDE = 16  # of a picture, in pixels
LENGTH, HALF_WIDTH = 0.85, 0.2  # of the rod, in halves of a side


def draw_rod(angle: Tensor) -> Tensor:
    """Grey pictures [..., SIDE * SIDE] in [0, 1] of a rod at angles [...] from upright, in rad.

    The rod hangs on the middle; its edges are smoothed over a pixel.
    """
    centres = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    up, right = torch.meshgrid(-centres, centres, indexing="ij")
    points = torch.stack([right, up], -1).view(-1, 2)
    rod = torch.stack([-angle.sin(), angle.cos()], -1)[..., None, :]
    along = (points * rod).sum(-1, keepdim=True).clamp(0, LENGTH)
    apart = (points - along * rod).norm(dim=-1)
    return ((HALF_WIDTH - apart) * SIDE / 2 + 0.5).clamp(0, 1)


class Pictures(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Pendulum-v1 seen as a picture, its rows one after the other: an angle, and no velocity.

    Args:
        env: whose observation begins with cosine and sine of an angle, both within -1 and 1.

    Raises:
        TypeError: for another observation.

    Source: taught in notebook 10.
    """

    def __init__(self, env: gym.Env) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if (
            not isinstance(space, gym.spaces.Box)
            or (len(space.shape) != 1 or space.shape[0] < 2)
            or (np.abs([space.low[:2], space.high[:2]]) != 1).any()
        ):
            raise TypeError(
                "Pictures: expected an observation that begins with cosine and sine of an angle, "
                f"got {space}. It is made for Pendulum-v1."
            )
        self.observation_space = gym.spaces.Box(0, 1, (SIDE * SIDE,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The picture [P]."""
        cos, sin = torch.tensor(observation[:2])
        return draw_rod(torch.atan2(sin, cos)).numpy()


def pendulum_pictures() -> Task:
    """Pendulum-v1 as pictures of 16 x 16 pixels."""
    env_id = "Pictures/Pendulum-v1"
    if env_id not in gym.registry:
        gym.register(env_id, _make, max_episode_steps=200)
    names = tuple(f"pixel {row}, {column}" for row in range(SIDE) for column in range(SIDE))
    return Task(env_id=env_id, obs_names=names)


def _make(**more: Any) -> gym.Env:
    return Pictures(gym.make("Pendulum-v1", **more).unwrapped)


@dataclass(frozen=True, kw_only=True)
class CodeConfig:
    """Settings of the autoencoder that makes an angle of a picture.

    Attributes:
        circle: whether the two numbers of the code are put on a circle: what is seen turns.
        network: whether a network corrects the linear code (principal components).
        width: of the hidden layers.
        batch_size: pictures in an update.
        num_updates: of the first fit.
        num_more_updates: of each later one, which goes on from the last.
        learning_rate: for the first half of a fit; then it falls to nothing.
        weight_decay: of AdamW.
    """

    circle: bool = True
    network: bool = True
    width: int = 128
    batch_size: int = 64
    num_updates: int = 1000
    num_more_updates: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        names = ("width", "batch_size", "num_updates", "num_more_updates")
        check_counts("CodeConfig", **{name: getattr(self, name) for name in names})
        check_range(self, "learning_rate", 0, 1, ends="(]")
        check_range(self, "weight_decay", 0, float("inf"))


class PictureModel(Saved):
    """A recurrent model of what an autoencoder makes of pictures: two numbers, on a circle.

    The encoder begins linear, with the first two principal components of the pictures that it is
    first fitted to; a network corrects it, so that a decoder can draw the pictures again.
    What is believed and imagined is the angle of the code, by a `RecurrentModel`, whose face it
    has. Which way round the code turns, and where its zero is, nobody tells it.

    Attributes:
        recurrent: the model of the codes.
        line: mean [P] and axes [P, 2] of the linear code; None before the first fit.

    Source: Ha and Schmidhuber 2018 (seeing and remembering are learned apart). Taught in
    notebook 10.
    """

    kind = "picture model"

    def __init__(
        self,
        task: Task,
        generator: torch.Generator,
        config: RecurrentConfig | None = None,
        code_config: CodeConfig | None = None,
    ) -> None:
        """Make a model to be fitted.

        Args:
            task: whose observations are pictures [P], all of them seen.
            generator: for weights, mini-batches and noise.
            config: settings of the recurrent model.
            code_config: settings of the autoencoder.
        """
        if config is not None and config.seen is not None:
            raise ValueError(
                f"PictureModel: expected seen=None, for all pictures are seen, got {config.seen}. "
                "Leave it out."
            )
        self.task, self.generator = task, generator
        self.code_config = c = code_config or CodeConfig()
        coded = Task(
            env_id=task.env_id, obs_names=("code 0", "code 1"), space=task.action_space,
            angles=((0, 1),) if c.circle else (),
        )  # fmt: skip
        self.recurrent = RecurrentModel(coded, generator, config)
        last = nn.Linear(c.width, 2)
        self.encoder = nn.Sequential(nn.Linear(task.num_obs, c.width), nn.SiLU(), last)
        self.decoder = nn.Sequential(
            nn.Linear(2, c.width), nn.SiLU(), nn.Linear(c.width, task.num_obs)
        )
        self.networks = nn.ModuleList([self.encoder, self.decoder])
        for weights in self.networks.parameters():
            bound = weights.shape[-1] ** -0.5 if weights.ndim > 1 else 0.0
            nn.init.uniform_(weights, -bound, bound, generator=generator)
        nn.init.zeros_(last.weight)  # before training the code is linear
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), c.learning_rate, weight_decay=c.weight_decay
        )
        self.line: tuple[Tensor, Tensor] | None = None

    # --- what it sees ----------------------------------------------------------------------------

    def code(self, obs: Tensor) -> Tensor:
        """Two numbers [..., 2] for pictures [..., P]; on a circle, cosine and sine of an angle."""
        if self.line is None:
            raise RuntimeError(
                "PictureModel.code: expected a model that has learned, got one before its first "
                "fit. Call fit(transitions) first."
            )
        if obs.shape[-1] != self.task.num_obs:
            raise ValueError(
                f"PictureModel.code: expected pictures of {self.task.num_obs} pixels, got "
                f"{tuple(obs.shape)}. Are they of another environment?"
            )
        mean, axes = self.line
        code = (obs - mean) @ axes
        if self.code_config.network:
            code = code + self.encoder(obs - mean)
        return normalize(code, dim=-1) if self.code_config.circle else code

    def look(self, belief: Tensor) -> Tensor:
        """Pictures [..., P] of what would be seen in these beliefs [..., S+2]."""
        with torch.no_grad():
            return self.decoder(self.recurrent.look(belief)).clamp(0, 1)

    # --- what it believes: see RecurrentModel ----------------------------------------------------

    def start(self, num_envs: int) -> Tensor:
        """Beliefs [B, S+2] before anything has been seen."""
        return self.recurrent.start(num_envs)

    def features(self, belief: Tensor) -> Tensor:
        """What networks are told of beliefs [..., S+2]."""
        return self.recurrent.features(belief)

    def in_units(self, reward: Tensor) -> Tensor:
        """Rewards [...] in units of their standard deviation, around their mean."""
        return self.recurrent.in_units(reward)

    def predict(self, belief: Tensor, action: Tensor) -> Tensor:
        """The prior: beliefs [..., S+2] one encoded action [..., A] later, eyes shut."""
        return self.recurrent.predict(belief, action)

    def correct(self, belief: Tensor, obs: Tensor) -> Tensor:
        """The posterior: beliefs [B, S+2] once pictures [B, P] have been looked at."""
        return self.recurrent.correct(belief, self.code(obs))

    @torch.inference_mode()
    def filter(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Beliefs [B, T+1, S+2] after each picture [B, T+1, P] of B episodes."""
        return self.recurrent.filter(self.code(obs), actions)

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """One imagined step, eyes shut: beliefs in place of observations."""
        return self.recurrent.step(obs, action, generator)

    # --- how it learns ---------------------------------------------------------------------------

    def fit(self, transitions: Transitions, *, progress: bool = False) -> "PictureModel":
        """Learn to see, then to believe, going on from the last fit.

        Whatever breaks it off, an interrupt too, leaves it as it was.

        Args:
            transitions: all experience so far, whole episodes.
            progress: whether to show a progress bar.

        Returns:
            The model itself.

        Raises:
            ValueError: for pictures of another size, values that are not within 0 and 1, or
                pictures that hardly differ.
            RuntimeError: if a loss is not finite.
        """
        if transitions.obs.shape[1] != self.task.num_obs:
            raise ValueError(
                f"PictureModel.fit: expected pictures of {self.task.num_obs} pixels, got "
                f"{transitions.obs.shape[1]}. Is this experience of another environment?"
            )
        transitions.check_finite()
        pictures = torch.tensor(np.concatenate([transitions.obs, transitions.next_obs[-1:]]))
        if pictures.min() < 0 or pictures.max() > 1:
            raise ValueError(
                "PictureModel.fit: expected pixels within 0 and 1, got values from "
                f"{float(pictures.min()):.4g} to {float(pictures.max()):.4g}. Divide by 255?"
            )
        seeing = copy.deepcopy(self.networks.state_dict()), self.line
        believing, whole = self.recurrent.state(), False
        try:
            self._learn_to_see(pictures, progress)
            with torch.inference_mode():
                obs, next_obs = (
                    self.code(torch.tensor(x)).numpy()
                    for x in (transitions.obs, transitions.next_obs)
                )
            coded = dataclasses.replace(transitions, obs=obs, next_obs=next_obs)
            self.recurrent.fit(coded, progress=progress)
            whole = True
        finally:
            if not whole:
                with uninterrupted():
                    self.networks.load_state_dict(seeing[0])
                    self.line = seeing[1]
                    self.recurrent.restore(believing)
        return self

    def _learn_to_see(self, pictures: Tensor, progress: bool) -> None:
        """Fit the line once, and the autoencoder each time, to pictures [T, P]."""
        c = self.code_config
        count = c.num_more_updates if self.line else c.num_updates
        self.line = self.line or principal_axes(pictures)
        for number in tqdm(range(count), desc="seeing", disable=not progress):
            share = min(1.0, 2 * (1 - number / count) + 0.02)
            self.optimizer.param_groups[0]["lr"] = c.learning_rate * share
            rows = torch.randint(len(pictures), (c.batch_size,), generator=self.generator)
            loss = self.loss(pictures[rows])
            if not loss.isfinite():
                raise RuntimeError(
                    f"PictureModel.fit: expected a finite loss, got {float(loss)}. Lower "
                    "learning_rate; the model is as it was."
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def loss(self, pictures: Tensor) -> Tensor:
        """Squared error of pictures [T, P] drawn again from their codes, summed over pixels."""
        drawn = self.decoder(self.code(pictures))
        return (drawn - pictures).square().sum(-1).mean()

    # --- keeping it ------------------------------------------------------------------------------

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""
        if self.line is None:
            raise RuntimeError(
                "PictureModel.save: expected a model that has learned, got one before its first "
                "fit. Call fit(transitions) first."
            )
        settings, arrays = self.recurrent.contents()
        arrays = {f"recurrent/{k}": v for k, v in arrays.items()}
        arrays |= {f"networks/{k}": v.numpy() for k, v in self.networks.state_dict().items()}
        arrays |= {"mean": self.line[0].numpy(), "axes": self.line[1].numpy()}
        kept = {"task": self.task.settings(), "code_config": dataclasses.asdict(self.code_config)}
        return kept | {"recurrent": settings}, arrays

    @classmethod
    def of_contents(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "PictureModel":
        """Make it of what a file has kept; a later fit goes on with new optimisers."""
        task, code = Task.of_settings(settings["task"]), CodeConfig(**settings["code_config"])
        model = cls(task, torch.Generator(), code_config=code)
        kept = {k: torch.tensor(v) for k, v in saving.under("networks/", arrays).items()}
        model.networks.load_state_dict(kept)
        model.line = torch.tensor(arrays["mean"]), torch.tensor(arrays["axes"])
        model.recurrent = RecurrentModel.of_contents(
            settings["recurrent"], saving.under("recurrent/", arrays)
        )
        return model


def principal_axes(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [P] of pictures [T, P], and axes [P, 2] along which they vary most, to variance 1.

    Raises:
        ValueError: for pictures that do not vary along two directions.
    """
    mean = pictures.mean(0)
    _, size, axes = torch.linalg.svd(pictures - mean, full_matrices=False)
    if len(size) < 2 or size[1] < 1e-4 * max(1.0, float(size[0])):
        raise ValueError(
            f"PictureModel.fit: expected pictures that differ, got {len(pictures)} that are one, "
            "or lie on a line. Collect some in which the thing turns."
        )
    return mean, axes[:2].T * (len(pictures) ** 0.5 / size[:2])
