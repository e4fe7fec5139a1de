"""Playing an Atari-like game in a dream of it: a model of the next frame, and looking ahead in it.

The games are MinAtar's: a frame is C planes of 10 x 10 cells that are on or off (ball, paddle,
bricks). An observation is the last few frames, for one of them does not show all that matters.

Axes: B environments or rows, T steps of experience in order, F frames of an observation, C planes,
Y and X cells, A actions.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from tqdm.auto import tqdm

from mbrl_helpers import saving
from mbrl_helpers.checks import check_counts, check_range
from mbrl_helpers.data import Batch, ReplayBuffer
from mbrl_helpers.games.dqn import DQN
from mbrl_helpers.games.dreams import loss_history
from mbrl_helpers.imagination import whole_step
from mbrl_helpers.interfaces import Step
from mbrl_helpers.networks import falling_rate, load_network, network_arrays

GAMES = ("Asterix", "Breakout", "Freeway", "SpaceInvaders")
CELLS = 10  # along each side
END_LOGIT = -1.0  # a dream ends already where the model gives an end one chance in four
LOSSES = ("frame", "reward", "terminated")


def make_games(
    game: str, num_envs: int, *, num_frames: int = 2, max_steps: int = 2_500
) -> SyncVectorEnv:
    """Make B copies of a MinAtar game that wait, after an episode's end, until they are reset.

    Observations are [B, F, C, Y, X] bool, the newest frame last.

    Raises:
        ValueError: for a game that is not known.
        ModuleNotFoundError: if minatar is not installed.
    """
    check_counts("make_games", num_envs=num_envs, num_frames=num_frames, max_steps=max_steps)
    if game not in GAMES:
        raise ValueError(f"make_games: expected one of {GAMES}, got {game!r}. Pick one.")
    try:
        from minatar.gym import register_envs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "make_games: expected the package minatar, got none. Install it: pip install minatar."
        ) from error
    if f"MinAtar/{game}-v1" not in gym.registry:
        register_envs()

    def make() -> gym.Env:
        env = gym.make(f"MinAtar/{game}-v1", max_episode_steps=max_steps, disable_env_checker=True)
        shape = env.observation_space.shape
        assert shape is not None
        space: gym.Space = gym.spaces.Box(0, 1, (shape[-1], CELLS, CELLS), dtype=np.bool_)
        env = gym.wrappers.TransformObservation(env, lambda obs: obs.transpose(2, 0, 1), space)
        return gym.wrappers.FrameStackObservation(env, num_frames)

    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


class Imagined(NamedTuple):
    """What the model says of one step.

    Attributes:
        frame: [B, C, Y, X] logits of the cells of the next frame.
        reward: [B] logit of a reward of 1.
        terminated: [B] logit of the end.
    """

    frame: Tensor
    reward: Tensor
    terminated: Tensor


class FrameNetwork(nn.Module):
    """What each cell will be, from the 5 x 5 cells around it, the walls, and the action.

    Rewards and ends happen somewhere: each cell says how likely one happens there, and a soft
    maximum over the cells (log-sum-exp) how likely one happens at all.
    """

    wall: Tensor

    def __init__(
        self, obs_shape: tuple[int, ...], num_actions: int, generator: torch.Generator, *,
        width: int = 32,
    ) -> None:  # fmt: skip
        """Make a network for observations [F, C, Y, X] and A actions."""
        super().__init__()
        num_frames, num_planes = obs_shape[:2]
        self.obs_shape, self.num_actions = tuple(obs_shape), num_actions
        self.around = nn.Conv2d(num_frames * num_planes, width, 5, padding=2)
        self.walls = nn.Conv2d(1, width, 5, bias=False)
        self.action = nn.Linear(num_actions, width, bias=False)
        self.mix = nn.Conv2d(width, width, 1)
        self.anywhere = nn.Linear(width, width, bias=False)
        self.out = nn.Conv2d(width, num_planes + 2, 1)
        # Few cells are on, so the weights of the first layer begin larger than usual.
        stds = {"around": 0.3, "walls": 0.3, "action": 0.3, "mix": 1.2 * width**-0.5,
                "anywhere": 0.0, "out": 0.2 * width**-0.5}  # fmt: skip
        for name, std in stds.items():
            layer = getattr(self, name)
            nn.init.normal_(layer.weight, std=std, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        wall = torch.nn.functional.pad(torch.zeros(1, 1, CELLS, CELLS), (2, 2, 2, 2), value=1.0)
        self.register_buffer("wall", wall)
        self.by_channels()

    def by_channels(self) -> None:
        """Lay the weights out in memory so that convolutions are fast."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, obs: Tensor, action: Tensor) -> Imagined:
        """Predict from obs [B, F, C, Y, X] and action [B] int64."""
        planes = obs.float().flatten(1, 2).contiguous(memory_format=torch.channels_last)
        pushed = self.action(one_hot(action, self.num_actions).float())[:, :, None, None]
        hidden = (self.around(planes) + self.walls(self.wall) + pushed).relu()
        anywhere = self.anywhere(hidden.amax((2, 3)))[:, :, None, None]  # what is seen somewhere
        out = self.out((self.mix(hidden) + anywhere).relu())
        num_planes = self.obs_shape[1]
        now = planes[:, -num_planes:]
        frame = out[:, :num_planes] + 4 * now - 2  # at first: all stays as it is
        # 100 cells of logit 0 add up to log(100) = 4.6: at first an event has a logit of -1.
        events = out[:, num_planes:].flatten(2).logsumexp(2) - 5.6
        return Imagined(frame, events[:, 0], events[:, 1])


@dataclass(frozen=True, kw_only=True)
class FrameModelConfig:
    """Settings of the next-frame model.

    Attributes:
        width: channels of the hidden layers.
        batch_size: rows of one update.
        learning_rate: at first; it falls to nearly nothing within each fit.
        weight_decay: L2 penalty, in the gradient; keeps far cells from mattering by chance.
    """

    width: int = 32
    batch_size: int = 32
    learning_rate: float = 1e-2
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        check_counts("FrameModelConfig", width=self.width, batch_size=self.batch_size)
        check_range(self, "learning_rate", 0, math.inf, ends="()")
        check_range(self, "weight_decay", 0, math.inf)


@dataclass(frozen=True, eq=False)
class FittedFrames(saving.Saved):
    """What a fit gives: a model of a game (see `dreams.GameModel`) that stays as it is.

    Attributes:
        config: with which it was fitted.
        network: what the next frame will be.
        single: [C] bool, planes that have had one cell on in every frame.
        sticky: how often the game repeats an action, as far as seen.
        history: the course of the losses "frame", "reward", "terminated" [nats] in the fit.
    """

    kind = "frame model"

    config: FrameModelConfig
    network: FrameNetwork
    single: Tensor
    sticky: float
    history: dict[str, list[float]]

    @property
    def num_members(self) -> int:
        """One."""
        return 1

    @property
    def num_actions(self) -> int:
        """A."""
        return self.network.num_actions

    @property
    def observation_space(self) -> gym.Space:
        """[F, C, Y, X] bool."""
        space: gym.Space = gym.spaces.Box(0, 1, self.network.obs_shape, dtype=np.bool_)
        return space

    @property
    def action_space(self) -> gym.spaces.Discrete:
        """A choices."""
        return gym.spaces.Discrete(self.num_actions)

    @torch.inference_mode()
    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """Imagine the most likely step.

        Args:
            obs: [B, F, C, Y, X] bool.
            action: [B] int64.
            generator: not needed, as nothing is left to chance.

        Returns:
            Next observation like obs, reward [B] float32 and terminated [B] bool.
        """
        _check_obs("FittedFrames.step", obs, self.network.obs_shape)
        said = self.network(obs, action)
        frame = said.frame > 0
        for plane in self.single.nonzero()[:, 0].tolist():
            cells = said.frame[:, plane].flatten(1)
            one = one_hot(cells.argmax(1), cells.shape[1]).bool()
            frame[:, plane] = one.view(-1, CELLS, CELLS)
        next_obs = torch.cat([obs[:, 1:], frame[:, None]], 1)
        return Step(next_obs, (said.reward > 0).float(), said.terminated > END_LOGIT)

    def can_start(self, obs: Tensor) -> Tensor:
        """A dream may start from any observation: [K] True."""
        return torch.ones(len(obs), dtype=torch.bool)

    def bonus(self, experience: Batch, curiosity: float) -> Callable[[Tensor], Tensor]:
        """What is earned by the objects' being where they rarely were: obs [B, F, ...] -> [B].

        Objects are the planes of which one cell is on in every frame (see `dreams.ImaginedEnv`).
        """
        times = experience.next_obs[:, -1].sum(0)  # [C, Y, X]
        worth = curiosity * self.single[:, None, None] * (1 + times).rsqrt()
        return lambda obs: (worth * obs[:, -1]).sum((1, 2, 3))

    def losses(self, rows: Batch) -> Tensor:
        """Nats [3, B] that next frame, reward and end of each row cost."""
        return frame_losses(self.network, rows)

    @torch.inference_mode()
    def executed(self, rows: Batch) -> Tensor:
        """Which action the game executed in each row [T]: the chosen one, or the last one again.

        A sticky game does not say. But the frames do: whichever explains them better, if clearly.

        Args:
            rows: T steps in the order in which they were played.
        """

        def cost(action: Tensor) -> Tensor:
            tried = replace(rows, action=action)
            parts = [self.losses(tried[i : i + 500]) for i in range(0, len(action), 500)]
            return torch.cat(parts, 1).sum(0)

        chosen = executed = rows.action
        margin = cost(chosen) - 2.0
        for _ in range(2):  # once more, for an action that sticks twice
            last = executed.roll(1)
            executed = torch.where(cost(last) < margin, last, chosen)
        return executed

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""
        settings = {
            "config": dataclasses.asdict(self.config), "obs_shape": self.network.obs_shape,
            "num_actions": self.num_actions, "sticky": self.sticky, "history": self.history,
        }  # fmt: skip
        arrays = {f"network/{name}": v for name, v in network_arrays(self.network).items()}
        arrays["single"] = self.single.numpy()
        return settings, arrays

    @classmethod
    def of_contents(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "FittedFrames":
        """Make it of what a file has kept."""
        config = FrameModelConfig(**settings["config"])
        shape, num_actions = settings["obs_shape"], settings["num_actions"]
        network = FrameNetwork(shape, num_actions, torch.Generator(), width=config.width)
        load_network(network, saving.under("network/", arrays))
        network.requires_grad_(False)
        network.by_channels()  # in another layout sums differ by their last bit
        single = torch.tensor(arrays["single"])
        return cls(config, network, single, settings["sticky"], settings["history"])


class FrameModel:
    """Learns what the next frame will be, whether there is a reward, and whether it is the end.

    Attributes:
        network: as it was trained.
        fitted: the latest fit; None before the first.
    """

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        num_actions: int,
        generator: torch.Generator,
        config: FrameModelConfig | None = None,
    ) -> None:
        """Make a model to be fitted, of observations [F, C, Y, X] and A actions."""
        check_counts("FrameModel", num_actions=num_actions)
        self.config, self.generator = config or FrameModelConfig(), generator
        self.network = FrameNetwork(obs_shape, num_actions, generator, width=self.config.width)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), weight_decay=self.config.weight_decay, fused=True
        )
        self.fitted: FittedFrames | None = None

    @property
    def num_members(self) -> int:
        """One."""
        return 1

    def fit(
        self, buffer: ReplayBuffer, num_updates: int, *, progress: bool = False
    ) -> FittedFrames:
        """Train on all steps of one game; goes on from the last fit.

        The first fit believes that every action was executed as chosen. Each further one first
        asks the last one which of them stuck (see `FittedFrames.executed`): where a game is sticky,
        fit twice.

        Raises:
            ValueError: without steps or updates, or for observations of another game.
            TypeError: for cells that are not on or off.
        """
        check_counts("FrameModel.fit", num_updates=num_updates, rows=len(buffer))
        rows = buffer.batch()
        _check_obs("FrameModel.fit", rows.obs, self.network.obs_shape)
        if rows.obs.dtype != torch.bool:
            raise TypeError(
                f"FrameModel.fit: expected cells that are on or off (bool), got {rows.obs.dtype}. "
                "Play games of make_games."
            )
        weight, sticky, chosen = row_weights(rows), 0.0, rows.action
        if self.fitted is not None:
            rows = replace(rows, action=self.fitted.executed(rows))
            sticky = share_stuck(chosen, rows.action, otherwise=self.fitted.sticky)
        losses = self._train(rows, weight, num_updates, progress)
        network = copy.deepcopy(self.network).requires_grad_(False)
        single = (rows.obs[:, -1].sum((-2, -1)) == 1).all(0)
        history = loss_history(LOSSES, losses)
        fitted = FittedFrames(self.config, network, single, sticky, history)
        if self.fitted is None:  # now it can be asked
            sticky = share_stuck(chosen, fitted.executed(rows), otherwise=0.0)
            fitted = replace(fitted, sticky=sticky)
        self.fitted = fitted
        return fitted

    def _train(self, rows: Batch, weight: Tensor, num_updates: int, progress: bool) -> list[Tensor]:
        """Make updates, and give the losses [3] of each."""
        losses, size = [], (50, self.config.batch_size)
        for update in tqdm(range(num_updates), desc="fit", disable=not progress):
            rate = falling_rate(update, num_updates) * self.config.learning_rate
            self.optimizer.param_groups[0]["lr"] = rate
            if update % size[0] == 0:  # many draws at once are cheaper
                draws = torch.multinomial(weight, size[0] * size[1], True, generator=self.generator)
                draws = draws.view(size)
            parts = frame_losses(self.network, rows[draws[update % size[0]]])
            self.optimizer.zero_grad(set_to_none=True)
            (parts[0] + 3 * parts[1] + 3 * parts[2]).mean().backward()
            whole_step(self.optimizer)
            losses.append(parts.detach().mean(1))
        return losses


def frame_losses(network: FrameNetwork, rows: Batch) -> Tensor:
    """Nats [3, B] that next frame, reward and end of each row cost."""
    said = network(rows.obs, rows.action)
    loss = functools.partial(binary_cross_entropy_with_logits, reduction="none")
    frame = loss(said.frame, rows.next_obs[:, -1].float()).sum((1, 2, 3))
    reward = loss(said.reward, (rows.reward > 0).float())
    return torch.stack([frame, reward, loss(said.terminated, rows.terminated.float())])


def _check_obs(where: str, obs: Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(obs.shape[1:]) != wanted:
        raise ValueError(
            f"{where}: expected observations [B, {', '.join(map(str, wanted))}], got "
            f"{list(obs.shape)}. Make the model for this game's observations."
        )


def share_stuck(chosen: Tensor, executed: Tensor, *, otherwise: float) -> float:
    """How often an action stuck, of those that differ from the one before it.

    Args:
        chosen: [T] int64.
        executed: [T] int64.
        otherwise: what to say where no action can have stuck, since all are alike.
    """
    matters = chosen != executed.roll(1)
    return float((executed != chosen)[matters].float().mean()) if matters.any() else otherwise


@dataclass(frozen=True)
class LookAhead:
    """Tries every sequence of a few actions in the model, and asks the agent what follows them.

    Attributes:
        model: fitted.
        agent: knows the value of what lies beyond.
        depth: how many actions it thinks ahead.
    """

    model: FittedFrames
    agent: DQN
    depth: int = 3

    def __post_init__(self) -> None:
        check_counts("LookAhead", depth=self.depth)

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Choose actions [B] for obs [B, F, C, Y, X].

        Source: expectimax; whatever is chosen, the game may repeat the action before it.
        """
        num, sticky = self.model.num_actions, self.model.sticky
        dream, steps = torch.as_tensor(obs), []
        for _ in range(self.depth):
            action = torch.arange(num).repeat(len(dream))
            dream, reward, terminated = self.model.step(dream.repeat_interleave(num, 0), action)
            steps.append((reward, self.agent.config.discount * ~terminated))
        value = self.agent.target(dream).amax(1)
        for reward, factor in steps[:0:-1]:
            after = (reward + factor * value).view(-1, num)  # of each action, if it is executed
            before = torch.arange(num).repeat(len(after) // num)[:, None]
            value = (1 - sticky) * after.amax(1) + sticky * after.gather(1, before)[:, 0]
        # What sticks now sticks whatever is chosen: it can't change the order.
        reward, factor = steps[0]
        return (reward + factor * value).view(-1, num).argmax(1).numpy()

    def reset(self, ended: np.ndarray | None = None) -> None:
        """It remembers nothing of an episode."""


def row_weights(rows: Batch) -> Tensor:
    """How often to draw each row: rarer for inputs that come often, more often for events.

    By *input* only, never by loss: what a sticky action made of an input has a large loss, and
    would be drawn far more often than it happens.
    """
    bits = np.packbits(rows.obs.flatten(1).numpy(), axis=1)
    inputs = np.column_stack([bits, rows.action.numpy().astype(np.uint8)])
    _, which, count = np.unique(inputs, axis=0, return_inverse=True, return_counts=True)
    weight = torch.as_tensor(count[which.ravel()] ** -0.5)
    return weight * (1 + 3 * (rows.reward > 0) + 2 * rows.terminated)
