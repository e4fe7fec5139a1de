"""Playing an Atari-like game in a dream of it: a next-frame model, and the model as environment.

The games are MinAtar's: a frame is C planes of 10 x 10 cells that are on or off (ball, paddle,
bricks). An observation is the last few frames, for one of them does not show all that matters.

Axes: B environments or rows, F frames of an observation, C planes, Y and X cells, A actions.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from mbrl_helpers.dqn import DQN, Replay, practise
from mbrl_helpers.envs import check_counts, check_setting

GAMES = ("Asterix", "Breakout", "Freeway", "SpaceInvaders")
CELLS = 10  # along each side
END_LOGIT = -1.0  # a dream ends already where the model gives an end one chance in four


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
        planes = env.observation_space.shape[-1]
        space = gym.spaces.Box(0, 1, (planes, CELLS, CELLS), bool)
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
        self.to(memory_format=torch.channels_last)

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
        for name in ("learning_rate", "weight_decay"):
            check_setting(self, name, 0 <= getattr(self, name) < math.inf, "in [0, inf)")


class FrameModel:
    """Learns what the next frame will be, whether there is a reward, and whether it is the end."""

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        num_actions: int,
        generator: torch.Generator,
        config: FrameModelConfig | None = None,
    ) -> None:
        """Make a model of observations [F, C, Y, X] and A actions that has seen nothing."""
        self.config, self.generator = config or FrameModelConfig(), generator
        self.network = FrameNetwork(obs_shape, num_actions, generator, width=self.config.width)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), weight_decay=self.config.weight_decay, fused=True
        )
        self.single: Tensor | None = None  # [C] bool, planes that have one cell on in every frame
        self.sticky: float | None = None  # how often the game repeats an action, as far as seen

    def fit(self, replay: Replay, num_updates: int) -> dict[str, float]:
        """Train on all rows of a replay of one game; goes on from the last fit.

        Returns:
            Mean losses over the last updates: "frame", "reward", "terminated".
        """
        check_counts("FrameModel.fit", num_updates=num_updates, rows=len(replay))
        rows = {
            name: getattr(replay, name)[: len(replay), 0]
            for name in ("obs", "action", "reward", "next_obs", "terminated")
        }
        self._check(rows["obs"])
        self.single = (rows["obs"][:, -1].sum((-2, -1)) == 1).all(0)
        weight = row_weights(rows)
        if self.sticky is not None:
            chosen = rows["action"]
            rows["action"] = self.executed(rows)
            matters = chosen != rows["action"].roll(1)
            if matters.any():  # no action can have stuck where all are alike
                self.sticky = float((rows["action"] != chosen)[matters].float().mean())
        else:
            self.sticky = 0.0
        losses, size = [], (50, self.config.batch_size)
        for update in range(num_updates):
            share = min(1.0, 1.5 * (1 - update / num_updates) + 0.02)
            self.optimizer.param_groups[0]["lr"] = share * self.config.learning_rate
            if update % size[0] == 0:  # many draws at once are cheaper
                draws = torch.multinomial(weight, size[0] * size[1], True, generator=self.generator)
                draws = draws.view(size)
            row = {name: values[draws[update % size[0]]] for name, values in rows.items()}
            parts = self.losses(row)
            self.optimizer.zero_grad(set_to_none=True)
            (parts[0] + 3 * parts[1] + 3 * parts[2]).mean().backward()
            self.optimizer.step()
            losses.append(parts.detach().mean(1))
        means = torch.stack(losses[-50:]).mean(0).tolist()
        return dict(zip(("frame", "reward", "terminated"), means, strict=True))

    def losses(self, row: dict[str, Tensor]) -> Tensor:
        """Nats [3, B] that next frame, reward and end of each row cost."""
        said = self.network(row["obs"], row["action"])
        loss = functools.partial(binary_cross_entropy_with_logits, reduction="none")
        frame = loss(said.frame, row["next_obs"][:, -1].float()).sum((1, 2, 3))
        reward = loss(said.reward, (row["reward"] > 0).float())
        return torch.stack([frame, reward, loss(said.terminated, row["terminated"].float())])

    def check_fitted(self) -> None:
        """Refuse to imagine before anything was learned."""
        if self.single is None:
            raise RuntimeError(
                "FrameModel: expected a fitted model, got one that has seen nothing. "
                "Call fit(replay, num_updates) first."
            )

    def _check(self, obs: Tensor) -> None:
        wanted = self.network.obs_shape
        if tuple(obs.shape[1:]) != wanted:
            raise ValueError(
                f"FrameModel: expected observations [B, {', '.join(map(str, wanted))}], got "
                f"{list(obs.shape)}. Make the model for this game's observations."
            )

    @torch.inference_mode()
    def executed(self, rows: dict[str, Tensor]) -> Tensor:
        """Which action the game executed in each row [T]: the chosen one, or the last one again.

        A sticky game does not say. But the frames do: whichever explains them better, if clearly.
        """

        def cost(action: Tensor) -> Tensor:
            tried = rows | {"action": action}
            parts = [
                self.losses({name: values[i : i + 500] for name, values in tried.items()})
                for i in range(0, len(action), 500)
            ]
            return torch.cat(parts, 1).sum(0)

        chosen = executed = rows["action"]
        margin = cost(chosen) - 2.0
        for _ in range(2):  # once more, for an action that sticks twice
            last = executed.roll(1)
            executed = torch.where(cost(last) < margin, last, chosen)
        return executed

    @torch.inference_mode()
    def step(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Imagine the most likely step.

        Args:
            obs: [B, F, C, Y, X] bool.
            action: [B] int64.

        Returns:
            Next observation like obs, reward [B] float32 and terminated [B] bool.
        """
        self.check_fitted()
        self._check(obs)
        said = self.network(obs, action)
        frame = said.frame > 0
        for plane in self.single.nonzero()[:, 0].tolist():
            cells = said.frame[:, plane].flatten(1)
            one = one_hot(cells.argmax(1), cells.shape[1]).bool()
            frame[:, plane] = one.view(-1, CELLS, CELLS)
        next_obs = torch.cat([obs[:, 1:], frame[:, None]], 1)
        return next_obs, (said.reward > 0).float(), said.terminated > END_LOGIT


@dataclass(frozen=True)
class LookAhead:
    """Tries every sequence of a few actions in the model, and asks the agent what follows them.

    Attributes:
        model: fitted.
        agent: knows the value of what lies beyond.
        depth: how many actions it thinks ahead.
    """

    model: FrameModel
    agent: DQN
    depth: int = 3

    def __post_init__(self) -> None:
        check_counts("LookAhead", depth=self.depth)

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Choose actions [B] for obs [B, F, C, Y, X].

        Source: expectimax; whatever is chosen, the game may repeat the action before it.
        """
        num, sticky = self.model.network.num_actions, self.model.sticky
        obs, steps = torch.as_tensor(obs), []
        for _ in range(self.depth):
            action = torch.arange(num).repeat(len(obs))
            obs, reward, terminated = self.model.step(obs.repeat_interleave(num, 0), action)
            steps.append((reward, self.agent.config.discount * ~terminated))
        value = self.agent.target(obs).amax(1)
        for reward, factor in steps[:0:-1]:
            after = (reward + factor * value).view(-1, num)  # of each action, if it is executed
            before = torch.arange(num).repeat(len(after) // num)[:, None]
            value = (1 - sticky) * after.amax(1) + sticky * after.gather(1, before)[:, 0]
        # What sticks now sticks whatever is chosen: it can't change the order.
        reward, factor = steps[0]
        return (reward + factor * value).view(-1, num).argmax(1).numpy()


def row_weights(rows: dict[str, Tensor]) -> Tensor:
    """How often to draw each row: rarer for inputs that come often, more often for events.

    By *input* only, never by loss: what a sticky action made of an input has a large loss, and
    would be drawn far more often than it happens.
    """
    bits = np.packbits(rows["obs"].flatten(1).numpy(), axis=1)
    inputs = np.column_stack([bits, rows["action"].numpy().astype(np.uint8)])
    _, which, count = np.unique(inputs, axis=0, return_inverse=True, return_counts=True)
    weight = torch.as_tensor(count[which.ravel()] ** -0.5)
    return weight * (1 + 3 * (rows["reward"] > 0) + 2 * rows["terminated"])


class ImaginedGames(VectorEnv):
    """B games that happen in a model, with the face of Gymnasium's vector environments.

    Like the game, it sometimes repeats the last action instead of the one that was chosen.
    """

    def __init__(
        self,
        model: FrameModel,
        replay: Replay,
        num_envs: int,
        generator: torch.Generator,
        *,
        max_steps: int = 60,
        curiosity: float = 0.0,
    ) -> None:
        """Dream from observations of real experience.

        Args:
            model: fitted.
            replay: where the dreams start: experience of one game.
            num_envs: B.
            generator: draws starts and sticky actions.
            max_steps: a dream is cut here.
            curiosity: what an object earns for being where it never was in the experience; where
                it was n times, this over the root of n + 1. Objects are the planes of which one
                cell is on in every frame.

        Source of the bonus: Strehl and Littman 2008. Taught in notebook 09.
        """
        model.check_fitted()
        self.model, self.replay, self.generator = model, replay, generator
        self.num_envs, self.max_steps, self.curiosity = num_envs, max_steps, curiosity
        check_setting(self, "curiosity", 0 <= curiosity < math.inf, "in [0, inf)")
        shape = tuple(replay.obs.shape[2:])
        times = replay.next_obs[: len(replay), 0, -1].sum(0)  # [C, Y, X]
        self.bonus = curiosity * model.single[:, None, None] * (1 + times).rsqrt()
        self.single_observation_space = gym.spaces.Box(0, 1, shape, bool)
        self.single_action_space = gym.spaces.Discrete(model.network.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.obs = torch.zeros(num_envs, *shape, dtype=torch.bool)
        self.last_action = torch.zeros(num_envs, dtype=torch.long)
        self.age = torch.zeros(num_envs, dtype=torch.long)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin anew at random moments of the experience, all dreams or those of "reset_mask"."""
        if seed is not None:
            self.generator.manual_seed(seed)
        everyone = torch.ones(self.num_envs, dtype=torch.bool)
        mask = torch.as_tensor((options or {}).get("reset_mask", everyone))
        row = torch.randint(len(self.replay), mask.shape, generator=self.generator)
        before = self.replay.action[(row - 1).clamp(min=0), 0]
        # After a common start the dreams have ages of their own, so that not all are cut at once.
        age = torch.randint(self.max_steps, mask.shape, generator=self.generator) * mask.all()
        self.obs = torch.where(mask[:, None, None, None, None], self.replay.obs[row, 0], self.obs)
        self.last_action = torch.where(mask, before, self.last_action)
        self.age = torch.where(mask, age, self.age)
        return self.obs.numpy(), {}

    def step(self, actions: np.ndarray):
        """Imagine one step of each dream."""
        chosen = torch.as_tensor(actions)
        repeat = torch.rand(self.num_envs, generator=self.generator) < self.model.sticky
        self.last_action = torch.where(repeat, self.last_action, chosen)
        self.obs, reward, terminated = self.model.step(self.obs, self.last_action)
        if self.curiosity:
            reward = reward + (self.bonus * self.obs[:, -1]).sum((1, 2, 3))
        self.age += 1
        truncated = (self.age >= self.max_steps) & ~terminated
        return self.obs.numpy(), reward.numpy(), terminated.numpy(), truncated.numpy(), {}


@dataclass(frozen=True, kw_only=True)
class DreamConfig:
    """Settings of learning to play in dreams; updates and frames, never seconds.

    Attributes:
        num_random_frames: real frames that are played at random, first of all.
        num_rounds: how often the agent plays, the model learns, and the agent learns in its dreams.
        num_round_frames: real frames of each round.
        num_model_updates: of the model in a round; twice as many in the first one, four times in
            the last.
        num_dream_updates: of the agent in a round.
        num_last_updates: of the agent in the end, while the learning rate falls to a twentieth.
        num_dreams: B, dreams at once.
        dream_steps: length of a dream.
    """

    num_random_frames: int = 2_000
    num_rounds: int = 8
    num_round_frames: int = 1_000
    num_model_updates: int = 600
    num_dream_updates: int = 600
    num_last_updates: int = 6_000
    num_dreams: int = 64
    dream_steps: int = 60

    def __post_init__(self) -> None:
        check_counts("DreamConfig", **vars(self))


class Round(NamedTuple):
    """One round of `learn_in_dreams`.

    Attributes:
        index: 0 after the random frames.
        num_frames: real frames so far.
        real_reward: mean reward of a real frame of this round.
        dream_reward: mean reward of an imagined frame of this round.
        losses: of the model, see `FrameModel.fit`.
    """

    index: int
    num_frames: int
    real_reward: float
    dream_reward: float
    losses: dict[str, float]


def learn_in_dreams(
    games: VectorEnv, model: FrameModel, agent: DQN, replay: Replay,
    config: DreamConfig | None = None, *, imagine: Callable[..., VectorEnv] = ImaginedGames,
) -> Iterator[Round]:  # fmt: skip
    """Play, learn the game, learn to play it in dreams, and play again.

    Args:
        games: one game (B = 1).
        model: learns the game from all frames so far.
        agent: learns from dreams alone.
        replay: for one game; keeps the real experience.
        config: settings.
        imagine: makes the dreams, `(model, replay, num_envs, generator, max_steps=...)`.

    Yields:
        A record after each round.

    Source: Kaiser et al. 2020 (SimPLe), algorithm 1. Taught in notebook 09.
    """
    config, rng = config or DreamConfig(), agent.generator
    num = config.num_dreams
    dreamt = Replay(60_000 // num, num, replay.obs.shape[2:], replay.obs.dtype)

    def at_random(obs: np.ndarray) -> np.ndarray:
        return torch.randint(int(games.single_action_space.n), (len(obs),), generator=rng).numpy()

    for index in range(config.num_rounds + 1):
        last = index == config.num_rounds
        frames = config.num_round_frames if index else config.num_random_frames
        real = practise(agent, games, replay, frames, num_updates=0,
                        act=None if index else at_random)  # fmt: skip
        for _ in range(1 if index else 2):  # which actions stuck is asked from the second fit on
            losses = model.fit(replay, config.num_model_updates * (4 if last else 1))
        dreams = imagine(model, replay, num, rng, max_steps=config.dream_steps)
        seen = practise(agent, dreams, dreamt, config.num_dream_updates)
        if last:
            seen = practise(agent, dreams, dreamt, config.num_last_updates,
                            final_rate=0.05)  # fmt: skip
        yield Round(index, replay.num_added, real, seen, losses)
