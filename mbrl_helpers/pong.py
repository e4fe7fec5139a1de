"""Atari's Pong from pixels: objects found in the image, a learned model of them, dreams of rallies.

Learned is how paddles and ball move, when a point is made, and how to play. Given, by hand, are
where the objects are in an image (by their colours), that the ball meets only the paddle it flies
to, and that its court is symmetric, left and right, up and down: the opponent's shots show what
ours would do.

Axes: B environments or rows, F frames of an observation, E members, K rows of a member.
"""

import functools
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from mbrl_helpers.atari import DreamConfig
from mbrl_helpers.dqn import DQN, DQNConfig, Replay
from mbrl_helpers.envs import check_counts
from mbrl_helpers.networks import EnsembleNetwork

OBJECTS = ("opponent y", "my y", "ball x", "ball y")  # [pixels], of centres, y downwards
KEYS = (0, 2, 3)  # Atari's keys for nothing, up, down; the others do the same
NUM_FRAMES = 3  # F: two of them show a speed, three a change of it
COURT, MIDDLE = 160, 79.5  # [pixels] the court's sides, and where its middle is along each
# An object moves at most so many pixels in a step. One more for the ball: it left the court there.
REACH = (16, 26, 17, 16)


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

    def reset(self, **options):
        """Begin a game."""
        image, info = self.env.reset(**options)
        nothing = np.array([np.nan] * 4 + [0], np.float32)
        self.frames.extend([nothing] * (NUM_FRAMES - 1) + [np.append(find_objects(image), 0)])
        return np.stack(self.frames, dtype=np.float32), info

    def step(self, action: int):
        """Press a key for four frames of the game."""
        image, reward, *rest = self.env.step(KEYS[action])
        found = find_objects(image)
        if reward:
            found[2:] = np.nan  # the ball is out, but still drawn for a moment
        elif np.isnan(found[3]):  # inside a wall it can't be seen: it flew on
            found[2:] = 2 * self.frames[-1][2:4] - self.frames[-2][2:4]
        self.frames.append(np.append(found, action))
        return np.stack(self.frames, dtype=np.float32), reward, *rest


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
    """

    num_members: int = 4
    width: int = 64
    batch_size: int = 128
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        names = ("num_members", "width", "batch_size")
        check_counts("PongModelConfig", **{name: getattr(self, name) for name in names})


class PongModel(nn.Module):
    """An ensemble that learns by how many pixels each object moves: one class a pixel.

    Numbers as classes, since a ball that meets a paddle flies on in one of a few directions, and
    never in the mean of them. A ball that leaves the court moves by one more pixel than it can.
    The four moves are drawn one after another, each given those before: whether the ball is hit
    depends on where the paddle goes.
    """

    def __init__(self, generator: torch.Generator, config: PongModelConfig | None = None) -> None:
        """Make a model that has seen nothing."""
        super().__init__()
        self.config, self.generator = config or PongModelConfig(), generator
        members, width = self.config.num_members, self.config.width
        self.networks = nn.ModuleList(
            EnsembleNetwork(members, (num_inputs, width, width, 2 * reach + 1), generator)
            for num_inputs, reach in zip((10, 12, 8, 9), REACH, strict=True)
        )
        self.optimizer = torch.optim.AdamW(self.parameters(), weight_decay=1e-4, fused=True)
        self.is_fitted = False

    def fit(self, replay: Replay, num_updates: int) -> dict[str, float]:
        """Train on all rows of a replay of one game; goes on from the last fit.

        Returns:
            Mean losses [nats] over the last updates, by OBJECTS.
        """
        inputs, classes = self.rows(replay)
        shape = self.config.num_members, self.config.batch_size
        losses = []
        for update in range(num_updates):
            row = torch.randint(len(classes), shape, generator=self.generator)
            loss = torch.stack(
                [
                    cross_entropy(network(x[row]).flatten(0, 1), classes[row, i].flatten())
                    for i, (network, x) in enumerate(zip(self.networks, inputs, strict=True))
                ]
            )
            share = min(1.0, 1.5 * (1 - update / num_updates) + 0.02)
            self.optimizer.param_groups[0]["lr"] = share * self.config.learning_rate
            self.optimizer.zero_grad(set_to_none=True)
            (self.config.num_members * loss.sum()).backward()
            self.optimizer.step()
            losses.append(loss.detach())
        self.is_fitted = True
        return dict(zip(OBJECTS, torch.stack(losses[-50:]).mean(0).tolist(), strict=True))

    @staticmethod
    def rows(replay: Replay) -> tuple[list[Tensor], Tensor]:
        """Inputs of the four networks, [T, ...] each, and classes [T, 4], of what can be used."""
        obs, action, next_obs, reward = (
            getattr(replay, name)[: len(replay), 0]
            for name in ("obs", "action", "next_obs", "reward")
        )
        now, then, out = obs[:, -1, :4], next_obs[:, -1, :4], reward != 0
        use = can_dream(obs) & torch.isfinite(then[:, :2]).all(1)
        use &= torch.isfinite(then[:, 2]) | out
        obs, action, now, then, out = obs[use], action[use], now[use], then[use], out[use]
        ball, sign = ball_inputs(obs, then[:, :2])
        move = (then - now).round()
        move[:, 2:] *= sign
        reach = torch.tensor(REACH)
        move[:, 2] = move[:, 2].clamp(1 - reach[2], reach[2] - 1)
        move[out, 2] = -reward[use][out] * reach[2] * sign[out, 0]  # my points are on the left
        classes = (move.clamp(-reach, reach) + reach).nan_to_num(-100).long()  # -100: not learned
        inputs = [*paddle_inputs(obs, action), ball]
        return [*inputs, torch.cat([ball, move[:, 2:3] / 4], 1)], classes

    @torch.inference_mode()
    def step(
        self, obs: Tensor, action: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Imagine a step, each move drawn from what the model holds possible.

        Args:
            obs: [B, F, 5], B a multiple of E: the first B / E rows are the first member's.
            action: [B] int64.
            generator: draws the moves.

        Returns:
            Next observation like obs, reward [B] float32, and [B] bool, whether a point was made.

        Raises:
            RuntimeError: before it has learned anything.
            ValueError: for other observations.
        """
        self.check_fitted()
        if obs.shape[1:] != (NUM_FRAMES, 5) or len(obs) % self.config.num_members:
            raise ValueError(
                f"PongModel: expected observations [B, {NUM_FRAMES}, 5] and B a multiple of "
                f"{self.config.num_members}, got {list(obs.shape)}. Take those of make_pong."
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
        return torch.cat([obs[:, 1:], frame[:, None]], 1), reward, out

    def _draw(self, generator: torch.Generator, which: int, inputs: Tensor) -> Tensor:
        """Draw moves [B] of one object (the Gumbel-max trick)."""
        members = self.config.num_members
        logits = self.networks[which](inputs.view(members, -1, inputs.shape[1])).flatten(0, 1)
        noise = torch.empty_like(logits).exponential_(generator=generator).log_()
        return (logits - noise).argmax(1) - float(REACH[which])

    def check_fitted(self) -> None:
        """Refuse to imagine before anything was learned."""
        if not self.is_fitted:
            raise RuntimeError(
                "PongModel: expected a fitted model, got one that has seen nothing. "
                "Call fit(replay, num_updates) first."
            )


class ImaginedRallies(VectorEnv):
    """B rallies that happen in a model, with the face of Gymnasium's vector environments.

    A rally ends with a point. Each is imagined by one member from beginning to end.
    """

    def __init__(self, model: PongModel, replay: Replay, num_envs: int,
                 generator: torch.Generator, *, max_steps: int = 120) -> None:  # fmt: skip
        """Dream from observations of real experience.

        Args:
            model: fitted.
            replay: where the dreams start: experience of one game.
            num_envs: B, a multiple of the model's members.
            generator: draws starts and moves.
            max_steps: a dream is cut here.
        """
        model.check_fitted()
        self.model, self.generator = model, generator
        self.num_envs, self.max_steps = num_envs, max_steps
        obs = replay.obs[: len(replay), 0]
        self.starts = obs[can_dream(obs)]
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (NUM_FRAMES, 5), np.float32)
        self.single_action_space = gym.spaces.Discrete(len(KEYS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.obs = torch.zeros(num_envs, NUM_FRAMES, 5)
        self.age = torch.zeros(num_envs, dtype=torch.long)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin anew at random moments of the experience, all dreams or those of "reset_mask"."""
        if seed is not None:
            self.generator.manual_seed(seed)
        everyone = torch.ones(self.num_envs, dtype=torch.bool)
        mask = torch.as_tensor((options or {}).get("reset_mask", everyone))
        row = torch.randint(len(self.starts), mask.shape, generator=self.generator)
        # After a common start the dreams have ages of their own, so that not all are cut at once.
        age = torch.randint(self.max_steps, mask.shape, generator=self.generator) * mask.all()
        self.obs = torch.where(mask[:, None, None], self.starts[row], self.obs)
        self.age = torch.where(mask, age, self.age)
        return self.obs.numpy(), {}

    def step(self, actions: np.ndarray):
        """Imagine one step of each dream."""
        self.obs, reward, out = self.model.step(self.obs, torch.as_tensor(actions), self.generator)
        self.age += 1
        truncated = (self.age >= self.max_steps) & ~out
        return self.obs.numpy(), reward.numpy(), out.numpy(), truncated.numpy(), {}


class ObjectQNetwork(nn.Module):
    """Values of the keys, as if the ball always flew downwards: up and down change places."""

    def __init__(self, generator: torch.Generator, *, width: int = 128) -> None:
        """Make a network for obs [K, F, 5]."""
        super().__init__()
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


LESSONS = DreamConfig(
    num_random_frames=2_000, num_rounds=6, num_round_frames=3_000, num_model_updates=600,
    num_dream_updates=2_000, num_last_updates=8_000, num_dreams=128, dream_steps=120,
)  # fmt: skip


def make_player(generator: torch.Generator) -> tuple[PongModel, DQN]:
    """Make a model and an agent that know nothing, with the settings of the course."""
    config = DQNConfig(discount=0.99, epsilon=0.02)
    return PongModel(generator), DQN(ObjectQNetwork(generator), generator, config)


def save_player(path: Path, model: PongModel, agent: DQN, *, command: str) -> None:
    """Write weights, as numbers of 16 bits, and the command that made them."""
    weights = nn.ModuleList([model, agent.target]).state_dict()
    arrays = {name: value.numpy().astype(np.float16) for name, value in weights.items()}
    np.savez_compressed(path, command=np.array(command), **arrays)


def load_player(path: Path, generator: torch.Generator) -> tuple[PongModel, DQN, str]:
    """Read what `save_player` wrote: the model, the agent, and the command that made them."""
    model, agent = make_player(generator)
    both = nn.ModuleList([model, agent.target])
    with np.load(path, allow_pickle=False) as arrays:
        both.load_state_dict({name: torch.as_tensor(arrays[name]) for name in both.state_dict()})
        command = str(arrays["command"])
    agent.network.load_state_dict(agent.target.state_dict())
    model.is_fitted = True
    return model, agent, command
