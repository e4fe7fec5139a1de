"""Atari's Pong from pixels: objects found in the image, a learned model of them, dreams of rallies.

Learned is how paddles and ball move, when a point is made, and how to play. Given, by hand, are
where the objects are in an image (by their colours), that the ball meets only the paddle it flies
to, and that its court is symmetric, left and right, up and down: the opponent's shots show what
ours would do.

Axes: B environments or rows, F frames of an observation, E members, K rows of a member.
"""

import copy
import dataclasses
import functools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from tqdm.auto import tqdm

from mbrl_helpers import saving
from mbrl_helpers.checks import check_counts, check_range
from mbrl_helpers.data import Batch, ReplayBuffer
from mbrl_helpers.games.dqn import DQN, DQNConfig
from mbrl_helpers.games.dreams import DreamConfig, loss_history
from mbrl_helpers.imagination import whole_step
from mbrl_helpers.interfaces import Step
from mbrl_helpers.networks import EnsembleNetwork, falling_rate, load_network, network_arrays

OBJECTS = ("opponent y", "my y", "ball x", "ball y")  # [pixels], of centres, y downwards
KEYS = (0, 2, 3)  # Atari's keys for nothing, up, down; the others do the same
NUM_FRAMES = 3  # F: two of them show a speed, three a change of it
COURT, MIDDLE = 160, 79.5  # [pixels] the court's sides, and where its middle is along each
# An object moves at most so many pixels in a step. One more for the ball: it left the court there.
REACH = (16, 26, 17, 16)
NUM_INPUTS = 10, 12, 8, 9  # of what each object's move depends on
PLAYER = "player"  # what its files hold


def find_objects(image: np.ndarray) -> np.ndarray:
    """Find the centres of paddles and ball by their colours: written by hand, not learned.

    Args:
        image: [210, 160, 3] uint8, as the game draws it.

    Returns:
        [4] float32 as in OBJECTS [pixels]; NaN for what can't be seen.

    Raises:
        ValueError: for an image of another shape.
    """
    if np.shape(image) != (210, COURT, 3):
        raise ValueError(
            f"find_objects: expected an image (210, {COURT}, 3), got {np.shape(image)}. "
            "Is this a frame of ALE/Pong-v5?"
        )
    red = image[34 : 34 + COURT, :, 0]
    ball = red == 236
    columns = np.flatnonzero(ball.any(0))
    x = columns.mean() if len(columns) else np.nan
    paddles = _middle(red[:, 16:20] == 213, 16), _middle(red[:, 140:144] == 92, 16)
    return np.array([*paddles, x, _middle(ball, 4)], np.float32)


def _middle(mask: np.ndarray, height: int) -> float:
    """Middle row of what is so high, even where an edge of the court cuts it off."""
    rows = np.flatnonzero(mask.any(1))
    if len(rows) == 0:
        return np.nan
    half = (height - 1) / 2
    return rows[-1] - half if rows[-1] < COURT - 1 else rows[0] + half


class PongObjects(gym.Wrapper):
    """Shows objects instead of pixels: [F, 5], OBJECTS and the action that led to the frame.

    NaN stands for what is not on the court, as the ball between two rallies.
    """

    def __init__(self, env: gym.Env) -> None:
        """Wrap ALE/Pong-v5."""
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (NUM_FRAMES, 5), np.float32)
        self.action_space = gym.spaces.Discrete(len(KEYS))
        self.frames: deque[np.ndarray] = deque(maxlen=NUM_FRAMES)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a game."""
        image, info = self.env.reset(seed=seed, options=options)
        nothing = np.array([np.nan] * 4 + [0], np.float32)
        self.frames.extend([nothing] * (NUM_FRAMES - 1) + [np.append(find_objects(image), 0)])
        return np.stack(self.frames, dtype=np.float32), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Press a key for four frames of the game."""
        image, reward, terminated, truncated, info = self.env.step(KEYS[action])
        found = find_objects(image)
        if reward:
            found[2:] = np.nan  # the ball is out, but still drawn for a moment
        elif np.isnan(found[3]):  # inside a wall it can't be seen: it flew on
            found[2:] = 2 * self.frames[-1][2:4] - self.frames[-2][2:4]
        self.frames.append(np.append(found, action))
        obs = np.stack(self.frames, dtype=np.float32)
        return obs, float(reward), terminated, truncated, info


def make_pong(num_envs: int, *, render_mode: str | None = None) -> SyncVectorEnv:
    """Make B games of ALE/Pong-v5 that wait, after an episode's end, until they are reset.

    Observations are [B, F, 5] float32, see `PongObjects`.

    Raises:
        ModuleNotFoundError: if ale-py is not installed.
    """
    check_counts("make_pong", num_envs=num_envs)
    try:
        import ale_py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "make_pong: expected the package ale-py, got none. Install it: pip install ale-py."
        ) from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # or each game greets
    gym.register_envs(ale_py)

    def make() -> gym.Env:
        game = gym.make("ALE/Pong-v5", render_mode=render_mode, disable_env_checker=True)
        return PongObjects(game)

    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


def can_dream(obs: Tensor) -> Tensor:
    """Where all objects are known: obs [..., F, 5] -> [...] bool."""
    return torch.isfinite(obs).flatten(-2).all(-1)


def paddle_inputs(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """What the paddles' moves depend on: the opponent's on the ball, mine on the actions.

    Args:
        obs: [..., F, 5].
        action: [...] int64.

    Returns:
        Inputs [..., 10] of the opponent's move and [..., 12] of mine.
    """
    place, speed = obs[..., -1, :4] - MIDDLE, obs[..., :4].diff(dim=-2)
    opponent = [place[..., [0, 2, 3]] / 40, (place[..., 3:] - place[..., :1]) / 10]
    opponent += [speed[..., [0, 2, 3]].flatten(-2) / 4]
    actions = (*obs[..., -2:, 4].long().unbind(-1), action)
    me = [place[..., 1:2] / 40, speed[..., 1] / 8, *(one_hot(a, len(KEYS)) for a in actions)]
    return torch.cat(opponent, -1), torch.cat(me, -1)


def ball_inputs(obs: Tensor, paddles: Tensor) -> tuple[Tensor, Tensor]:
    """What the ball's move depends on, mirrored so that it always flies to the right and down.

    Args:
        obs: [..., F, 5].
        paddles: [..., 2] where opponent and me will be at the end of the step.

    Returns:
        Inputs [..., 8], and the signs [..., 2] of the move's x and y in the court.
    """
    place = obs[..., -1, :4] - MIDDLE
    speed = obs[..., 2:4].diff(dim=-2)
    last = speed[..., -1, :]
    right = torch.where(last[..., 0] == 0, place[..., 2] < 0, last[..., 0] > 0)
    sign = torch.stack([right, last[..., 1] >= 0], -1) * 2.0 - 1
    ball = place[..., 2:] * sign
    ends = torch.stack([place[..., :2], paddles - MIDDLE], -2)  # [..., 2 times, 2 paddles]
    ahead = torch.where(right[..., None], ends[..., 1], ends[..., 0]) * sign[..., 1:]
    speed = (speed * sign[..., None, :]).flatten(-2)
    return torch.cat([ball / 20, (ahead - ball[..., 1:]) / 20, speed / 4], -1), sign


@dataclass(frozen=True, kw_only=True)
class PongModelConfig:
    """Settings of the model.

    Attributes:
        num_members: E, models that learn side by side.
        width: of the hidden layers.
        batch_size: rows a member sees in an update.
        learning_rate: at first; it falls to nearly nothing within each fit.
        weight_decay: of AdamW.
    """

    num_members: int = 4
    width: int = 64
    batch_size: int = 128
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        names = ("num_members", "width", "batch_size")
        check_counts("PongModelConfig", **{name: getattr(self, name) for name in names})
        check_range(self, "learning_rate", 0, math.inf, ends="()")
        check_range(self, "weight_decay", 0, math.inf)


def make_networks(config: PongModelConfig, generator: torch.Generator) -> nn.ModuleList:
    """Make a network for the move of each of the OBJECTS."""
    width = config.width
    return nn.ModuleList(
        EnsembleNetwork(config.num_members, (num, width, width, 2 * reach + 1), generator)
        for num, reach in zip(NUM_INPUTS, REACH, strict=True)
    )


@dataclass(frozen=True, eq=False)
class FittedPong(saving.Saved):
    """What a fit gives: a model of the game (see `dreams.GameModel`) that stays as it is.

    Attributes:
        config: with which it was fitted.
        networks: that know the move of each of the OBJECTS.
        history: the course of the loss [nats] of each of the OBJECTS in the fit.
    """

    kind = "pong model"

    config: PongModelConfig
    networks: nn.ModuleList
    history: dict[str, list[float]]

    @property
    def num_members(self) -> int:
        """E."""
        return self.config.num_members

    @property
    def observation_space(self) -> gym.Space:
        """[F, 5] float32."""
        return gym.spaces.Box(-np.inf, np.inf, (NUM_FRAMES, 5), np.float32)

    @property
    def action_space(self) -> gym.spaces.Discrete:
        """The KEYS."""
        return gym.spaces.Discrete(len(KEYS))

    @property
    def sticky(self) -> None:
        """Actions that stick are among what `step` draws: the last ones are observed."""
        return None

    @torch.inference_mode()
    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """Imagine a step, each move drawn from what the model holds possible.

        Args:
            obs: [B, F, 5], B a multiple of E: the first B / E rows are the first member's.
            action: [B] int64.
            generator: draws the moves.

        Returns:
            Next observation like obs, reward [B] float32, and [B] bool, whether a point was made.

        Raises:
            ValueError: for other observations, or without a generator.
        """
        if obs.shape[1:] != (NUM_FRAMES, 5) or len(obs) % self.config.num_members:
            raise ValueError(
                f"FittedPong.step: expected observations [B, {NUM_FRAMES}, 5] and B a multiple of "
                f"{self.config.num_members}, got {list(obs.shape)}. Take those of make_pong."
            )
        if generator is None:
            raise ValueError(
                "FittedPong.step: expected a generator that draws the moves, got None. Pass one: "
                "torch.Generator()."
            )
        draw = functools.partial(self._draw, generator)
        opponent, me = (draw(i, x) for i, x in enumerate(paddle_inputs(obs, action)))
        paddles = obs[:, -1, :2] + torch.stack([opponent, me], 1)
        inputs, sign = ball_inputs(obs, paddles)
        dx = draw(2, inputs)
        dy = draw(3, torch.cat([inputs, dx[:, None] / 4], 1))
        out = dx.abs() == REACH[2]
        reward = torch.where(out, -dx.sign() * sign[:, 0], 0.0)
        ball = obs[:, -1, 2:4] + torch.stack([dx, dy], 1) * sign
        frame = torch.cat([paddles, ball], 1).clamp(-20, COURT + 20)
        frame = torch.cat([frame, action[:, None]], 1)
        return Step(torch.cat([obs[:, 1:], frame[:, None]], 1), reward, out)

    def _draw(self, generator: torch.Generator, which: int, inputs: Tensor) -> Tensor:
        """Draw moves [B] of one object (the Gumbel-max trick)."""
        members = self.config.num_members
        logits = self.networks[which](inputs.view(members, -1, inputs.shape[1])).flatten(0, 1)
        noise = torch.empty_like(logits).exponential_(generator=generator).log_()
        return (logits - noise).argmax(1) - float(REACH[which])

    def can_start(self, obs: Tensor) -> Tensor:
        """A dream may start where all objects are known: obs [K, F, 5] -> [K] bool."""
        return can_dream(obs)

    def bonus(self, experience: Batch, curiosity: float) -> Callable[[Tensor], Tensor]:
        """There is none: objects that move by pixels are hardly ever twice in the same place.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"FittedPong: expected no curiosity, got {curiosity}. It counts where objects have "
            "been, and here they are everywhere: leave it out."
        )

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""
        settings = {"config": dataclasses.asdict(self.config), "history": self.history}
        return settings, network_arrays(self.networks)

    @classmethod
    def of_contents(
        cls,
        settings: dict[str, Any],
        arrays: dict[str, np.ndarray],
        generator: torch.Generator | None = None,
    ) -> "FittedPong":
        """Make it of what a file has kept; the generator draws weights that those replace."""
        config = PongModelConfig(**settings["config"])
        networks = make_networks(config, generator or torch.Generator())
        load_network(networks, arrays)
        return cls(config, networks.requires_grad_(False), settings["history"])


class PongModel:
    """An ensemble that learns by how many pixels each object moves: one class a pixel.

    Numbers as classes, since a ball that meets a paddle flies on in one of a few directions, and
    never in the mean of them. A ball that leaves the court moves by one more pixel than it can.
    The four moves are drawn one after another, each given those before: whether the ball is hit
    depends on where the paddle goes.

    Attributes:
        networks: as they were trained.
        fitted: the latest fit; None before the first.
    """

    def __init__(self, generator: torch.Generator, config: PongModelConfig | None = None) -> None:
        """Make a model to be fitted."""
        self.config, self.generator = config or PongModelConfig(), generator
        self.networks = make_networks(self.config, generator)
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), weight_decay=self.config.weight_decay, fused=True
        )
        self.fitted: FittedPong | None = None

    @property
    def num_members(self) -> int:
        """E."""
        return self.config.num_members

    def fit(self, buffer: ReplayBuffer, num_updates: int, *, progress: bool = False) -> FittedPong:
        """Train on all steps of one game; goes on from the last fit.

        Raises:
            ValueError: without updates or steps, or if the ball was never seen to fly.
        """
        check_counts("PongModel.fit", num_updates=num_updates, rows=len(buffer))
        inputs, classes = training_rows(buffer.batch())
        if not len(classes):
            raise ValueError(
                f"PongModel.fit: expected steps in which all objects are seen, got {len(buffer)} "
                "without. Play for longer."
            )
        shape = self.config.num_members, self.config.batch_size
        losses = []
        for update in tqdm(range(num_updates), desc="fit", disable=not progress):
            row = torch.randint(len(classes), shape, generator=self.generator)
            loss = torch.stack(
                [
                    cross_entropy(network(x[row]).flatten(0, 1), classes[row, i].flatten())
                    for i, (network, x) in enumerate(zip(self.networks, inputs, strict=True))
                ]
            )
            rate = falling_rate(update, num_updates) * self.config.learning_rate
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            (self.config.num_members * loss.sum()).backward()
            whole_step(self.optimizer)
            losses.append(loss.detach())
        networks = copy.deepcopy(self.networks).requires_grad_(False)
        self.fitted = FittedPong(self.config, networks, loss_history(OBJECTS, losses))
        return self.fitted


def training_rows(rows: Batch) -> tuple[list[Tensor], Tensor]:
    """What can be learned from of T steps.

    Returns:
        Inputs of the four networks, [K, ...] each, and classes [K, 4]; -100 is not to be learned.

    Raises:
        ValueError: for observations of another game.
    """
    if rows.obs.shape[1:] != (NUM_FRAMES, 5):
        raise ValueError(
            f"PongModel.fit: expected observations [T, {NUM_FRAMES}, 5], got "
            f"{list(rows.obs.shape)}. Take those of make_pong."
        )
    now, then, out = rows.obs[:, -1, :4], rows.next_obs[:, -1, :4], rows.reward != 0
    use = can_dream(rows.obs) & torch.isfinite(then[:, :2]).all(1)
    use &= torch.isfinite(then[:, 2]) | out
    obs, action, now, then, out = rows.obs[use], rows.action[use], now[use], then[use], out[use]
    ball, sign = ball_inputs(obs, then[:, :2])
    move = (then - now).round()
    move[:, 2:] *= sign
    reach = torch.tensor(REACH)
    move[:, 2] = move[:, 2].clamp(1 - reach[2], reach[2] - 1)
    move[out, 2] = -rows.reward[use][out] * reach[2] * sign[out, 0]  # my points are on the left
    classes = (move.clamp(-reach, reach) + reach).nan_to_num(-100).long()
    inputs = [*paddle_inputs(obs, action), ball]
    return [*inputs, torch.cat([ball, move[:, 2:3] / 4], 1)], classes


class ObjectQNetwork(nn.Module):
    """Values of the keys, as if the ball always flew downwards: up and down change places.

    Attributes:
        settings: that make another one like it.
    """

    def __init__(self, generator: torch.Generator, *, width: int = 128) -> None:
        """Make a network for obs [K, F, 5]."""
        super().__init__()
        self.settings = {"width": width}
        self.layers = EnsembleNetwork(1, (15, width, width, len(KEYS)), generator)

    def forward(self, obs: Tensor) -> Tensor:
        """Values [K, 3]; what can't be seen counts as in the middle."""
        obs = obs.nan_to_num(MIDDLE)
        place, speed = obs[:, -1, :4] - MIDDLE, obs[..., :4].diff(dim=1)
        sign = torch.where(speed[:, -1, 3:] < 0, -1.0, 1.0)  # [K, 1]
        above = (place[:, 3:] - place[:, :2]) / 20
        key = 2 * (obs[:, -1, 4:] - 1.5) * (obs[:, -1, 4:] > 0)  # up -1, down 1
        vertical = [place[:, [0, 1, 3]] / 80, above, speed[..., [0, 1, 3]].flatten(1) / 8, key]
        across = [place[:, 2:3] / 80, speed[..., 2] / 8]
        values = self.layers(torch.cat([torch.cat(vertical, 1) * sign, *across], 1))[0]
        nothing, against, along = values.unbind(1)
        down = sign[:, 0] > 0
        swapped = torch.where(down, against, along), torch.where(down, along, against)
        return torch.stack([nothing, *swapped], 1)


PONG_DREAMS = DreamConfig(
    num_random_frames=2_000, num_rounds=6, num_round_frames=3_000, num_model_updates=600,
    num_dream_updates=2_000, num_last_updates=8_000, num_dreams=128, dream_steps=120,
)  # fmt: skip


def make_player(generator: torch.Generator) -> tuple[PongModel, DQN]:
    """Make a model and an agent that know nothing, with the settings of the course."""
    config = DQNConfig(discount=0.99, epsilon=0.02)
    return PongModel(generator), DQN(ObjectQNetwork(generator), generator, config)


class Player(NamedTuple):
    """Who plays Pong, as a file keeps it.

    Attributes:
        model: that it dreamt in.
        agent: acts.
        command: that made them.
    """

    model: FittedPong
    agent: DQN
    command: str


def save_player(
    path: str | Path, model: FittedPong, agent: DQN, *, command: str = "", num_bits: int = 32
) -> None:
    """Write a model and an agent that plays to a file (see `saving`).

    Args:
        path: of the file.
        model: fitted.
        agent: of which only what acts is kept.
        command: that made them.
        num_bits: of a weight, 32 or 16; half of them make half the file, and what is loaded plays
            nearly the same, with 32 the very same.

    Raises:
        ValueError: if there is something else at this path.
    """
    if num_bits not in (16, 32):
        raise ValueError(f"save_player: expected num_bits 16 or 32, got {num_bits}. Pick one.")
    model_settings, model_arrays = model.contents()
    agent_settings, agent_arrays = agent.contents("save_player")
    arrays = {f"model/{name}": value for name, value in model_arrays.items()}
    arrays |= {f"agent/{name}": v for name, v in saving.under("target/", agent_arrays).items()}
    if num_bits == 16:
        arrays = {name: value.astype(np.float16) for name, value in arrays.items()}
    settings = {"command": command, "model": model_settings, "agent": agent_settings}
    saving.save("save_player", path, PLAYER, settings, arrays)


def load_player(path: str | Path, generator: torch.Generator) -> Player:
    """Read what `save_player` wrote.

    Args:
        path: of the file.
        generator: draws weights, which the file's then replace, and whatever the agent draws later.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, of something else, or of a newer version.
    """
    settings, arrays = saving.load("load_player", path, PLAYER)
    with saving.reading("load_player", path):
        arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
        model = FittedPong.of_contents(settings["model"], saving.under("model/", arrays), generator)
        acts = saving.under("agent/", arrays)
        both = {f"{part}/{k}": v for part in ("network", "target") for k, v in acts.items()}
        agent = DQN.of_contents(settings["agent"], both, ObjectQNetwork, generator)
    return Player(model, agent, settings["command"])
