"""Dreams: any learned model of a game as an environment, and learning to play in it.

Axes: B environments or dreams, K rows; of an observation F frames, and more that each game has.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Protocol, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.checks import check_counts, check_range, check_setting
from mbrl_helpers.data import Batch, ReplayBuffer
from mbrl_helpers.games.dqn import DQN, EpsilonGreedy, act_and_learn, check_capacity
from mbrl_helpers.interfaces import Agent, Step
from mbrl_helpers.training import play_and_learn

LOSS_WINDOW = 50  # updates that a loss in the history is the mean of


class GameModel(Protocol):
    """What dreams need of a fitted model of a game."""

    @property
    def num_members(self) -> int:
        """E: the first B / E dreams are the first member's, and so on."""
        ...

    @property
    def observation_space(self) -> gym.Space:
        """Of one game."""
        ...

    @property
    def action_space(self) -> gym.spaces.Discrete:
        """Of one game."""
        ...

    @property
    def sticky(self) -> float | None:
        """How often the game repeats its last action; None: that, too, is left to `step`."""
        ...

    @property
    def history(self) -> dict[str, list[float]]:
        """Losses of the fit by name, see `loss_history`."""
        ...

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """Imagine a step of B dreams.

        Args:
            obs: [B, F, ...].
            action: [B] int64, as it is executed.
            generator: draws what is left to chance.

        Returns:
            Next observation like obs, reward [B] float32 and terminated [B] bool.
        """
        ...

    def can_start(self, obs: Tensor) -> Tensor:
        """Which observations [K, F, ...] a dream may start from: [K] bool."""
        ...

    def bonus(self, experience: Batch, curiosity: float) -> Callable[[Tensor], Tensor]:
        """What is earned by seeing what was rarely seen: a function obs [B, F, ...] -> [B]."""
        ...


Fitted = TypeVar("Fitted", bound=GameModel)
FittedHere = TypeVar("FittedHere", bound=GameModel, covariant=True)


class GameLearner(Protocol[FittedHere]):
    """What `learn_in_dreams` needs of a model that is still to learn."""

    @property
    def num_members(self) -> int:
        """E, of what it fits."""
        ...

    def fit(self, buffer: ReplayBuffer, num_updates: int, *, progress: bool = False) -> FittedHere:
        """Train on all steps of one game; goes on from the last fit."""
        ...


def loss_history(names: Sequence[str], losses: list[Tensor]) -> dict[str, list[float]]:
    """The course of a training: means of each loss over `LOSS_WINDOW` updates.

    Args:
        names: of the losses.
        losses: of each update [len(names)].

    Returns:
        The means by name; the last one is of the last updates, the first of what is left over.
    """
    ends = range(len(losses) % LOSS_WINDOW or LOSS_WINDOW, len(losses) + 1, LOSS_WINDOW)
    means = [torch.stack(losses[max(end - LOSS_WINDOW, 0) : end]).mean(0).tolist() for end in ends]
    return {
        name: list(column) for name, column in zip(names, zip(*means, strict=True), strict=True)
    }


class ImaginedEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """B dreams of a game, with the face of Gymnasium's vector environments.

    A dream starts at a random moment of the experience. Like the game, it sometimes repeats the
    last action instead of the one that was chosen. Who plays in it cannot tell it from the game.
    """

    def __init__(
        self,
        model: GameModel,
        experience: ReplayBuffer,
        num_envs: int,
        generator: torch.Generator,
        *,
        max_steps: int = 60,
        curiosity: float = 0.0,
    ) -> None:
        """Dream from observations of real experience.

        Args:
            model: fitted.
            experience: where the dreams start: steps of one game, as they are now.
            num_envs: B, a multiple of the model's members.
            generator: draws starts, sticky actions, and what the model leaves to chance.
            max_steps: a dream is cut here.
            curiosity: what an object earns for being where it never was in the experience; where
                it was n times, this over the root of n + 1.

        Raises:
            ValueError: for numbers out of range, experience of another game, or none to start from.

        Source of the bonus: Strehl and Littman 2008. Taught in notebook 09.
        """
        check_counts("ImaginedEnv", num_envs=num_envs, max_steps=max_steps, rows=len(experience))
        check_members("ImaginedEnv", model.num_members, num_envs=num_envs)
        self.curiosity = curiosity
        check_range(self, "curiosity", 0, math.inf)
        self.model, self.generator = model, generator
        self.num_envs, self.max_steps = num_envs, max_steps
        self.single_observation_space = model.observation_space
        self.single_action_space: gym.Space = model.action_space
        self.observation_space = batch_space(model.observation_space, num_envs)
        self.action_space = batch_space(model.action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        rows = experience.batch()
        shape = model.observation_space.shape
        assert shape is not None
        if rows.obs.shape[1:] != shape:
            raise ValueError(
                f"ImaginedEnv: expected experience of observations {list(shape)}, got "
                f"{list(rows.obs.shape[1:])}. Is it of another game?"
            )
        start = model.can_start(rows.obs).nonzero()[:, 0]
        if not len(start):
            raise ValueError(
                "ImaginedEnv: expected an observation from which a dream can start, got none in "
                f"{len(rows)} steps. Play for longer."
            )
        self.starts, self.before = rows.obs[start], rows.action[(start - 1).clamp(min=0)]
        self.bonus = model.bonus(rows, curiosity) if curiosity else None
        self.obs = self.starts.new_zeros(num_envs, *shape)
        self.last_action = torch.zeros(num_envs, dtype=torch.long)
        self.age = torch.zeros(num_envs, dtype=torch.long)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin anew at random moments of the experience.

        Args:
            seed: from here on all dreams together draw from a generator of their own; of a list
                [B] the first number counts that is of a dream which begins. Without any they go on
                with the generator that they have.
            options: of "reset_mask" [B] only the dreams that are True begin anew.

        Returns:
            Observations [B, F, ...], and an empty dict.
        """
        mask = torch.ones(self.num_envs, dtype=torch.bool)
        if options and "reset_mask" in options:
            mask = torch.as_tensor(options["reset_mask"])
        seeds = [seed] * self.num_envs if seed is None or isinstance(seed, int) else list(seed)
        given = [s for s, begins in zip(seeds, mask, strict=True) if begins and s is not None]
        if given:  # never the seed of a generator that others draw from, too
            self.generator = torch.Generator().manual_seed(given[0])
        row = torch.randint(len(self.starts), mask.shape, generator=self.generator)
        # After a common start the dreams have ages of their own, so that not all are cut at once.
        age = torch.randint(self.max_steps, mask.shape, generator=self.generator) * mask.all()
        each = mask.view(-1, *[1] * (self.obs.ndim - 1))
        self.obs = torch.where(each, self.starts[row], self.obs)
        self.last_action = torch.where(mask, self.before[row], self.last_action)
        self.age = torch.where(mask, age, self.age)
        return self.obs.numpy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagine one step of each dream."""
        chosen = torch.as_tensor(actions)
        if self.model.sticky is not None:
            repeat = torch.rand(self.num_envs, generator=self.generator) < self.model.sticky
            chosen = torch.where(repeat, self.last_action, chosen)
        self.last_action = chosen
        self.obs, reward, terminated = self.model.step(self.obs, chosen, self.generator)
        if self.bonus is not None:
            reward = reward + self.bonus(self.obs)
        self.age += 1
        truncated = (self.age >= self.max_steps) & ~terminated
        return self.obs.numpy(), reward.numpy(), terminated.numpy(), truncated.numpy(), {}


def check_members(where: str, num_members: int, **counts: int) -> None:
    """Refuse a number of dreams that can't be dealt out to the members of a model.

    Raises:
        ValueError: in the name of what the user called.
    """
    for name, value in counts.items():
        if value % num_members:
            raise ValueError(
                f"{where}: expected {name} as a multiple of the model's {num_members} members, got "
                f"{value}. Each dream is imagined by one of them: round it."
            )


@dataclass(frozen=True, kw_only=True)
class DreamConfig:
    """Settings of learning to play in dreams; updates and frames, never seconds.

    Attributes:
        num_random_frames: real frames that are played at random, first of all.
        num_rounds: how often the agent plays, the model learns, and the agent learns in its dreams.
        num_round_frames: real frames of each round.
        num_model_updates: of the model in a fit.
        num_first_fits: fits after the random frames. A model that asks which actions stuck (see
            `frames.FrameModel.fit`) can do so from its second fit on.
        last_fit_factor: so many times longer is the last fit.
        num_dream_updates: of the agent in a round.
        num_last_updates: of the agent in the end, while the learning rate falls.
        final_rate: share of the learning rate that is left then.
        num_dreams: B, dreams at once.
        dream_steps: length of a dream.
        num_kept: imagined steps that the agent learns from, those of all dreams together.
        curiosity: see `ImaginedEnv`.
    """

    num_random_frames: int = 2_000
    num_rounds: int = 8
    num_round_frames: int = 1_000
    num_model_updates: int = 600
    num_first_fits: int = 2
    last_fit_factor: int = 4
    num_dream_updates: int = 600
    num_last_updates: int = 6_000
    final_rate: float = 0.05
    num_dreams: int = 64
    dream_steps: int = 60
    num_kept: int = 60_000
    curiosity: float = 0.0

    def __post_init__(self) -> None:
        others = ("final_rate", "curiosity")
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in others}
        check_counts("DreamConfig", **counts)
        check_range(self, "final_rate", 0, 1)
        check_range(self, "curiosity", 0, math.inf)
        fits = self.num_kept >= self.num_dreams
        check_setting(
            self, "num_kept", fits, f"as at least {self.num_dreams}, a step of each dream"
        )


@dataclass(frozen=True)
class DreamRound(Generic[Fitted]):
    """One round of `learn_in_dreams`.

    Attributes:
        index: 0 after the random frames.
        num_frames: real frames so far.
        real_reward: mean reward of a real frame of this round.
        dream_reward: mean reward of an imagined frame of this round.
        losses: of the model in the end.
        model: as it was fitted in this round.
        seconds: of playing and learning so far.
    """

    index: int
    num_frames: int
    real_reward: float
    dream_reward: float
    losses: dict[str, float]
    model: Fitted
    seconds: float


def learn_in_dreams(
    games: VectorEnv,
    model: GameLearner[Fitted],
    agent: DQN,
    buffer: ReplayBuffer,
    config: DreamConfig | None = None,
    *,
    progress: bool = False,
) -> Iterator[DreamRound[Fitted]]:
    """Play, learn the game, learn to play it in dreams, and play again.

    Args:
        games: one game (B = 1).
        model: learns the game from all frames so far.
        agent: learns from dreams alone.
        buffer: for one game; keeps the real experience.
        config: settings.
        progress: whether to show progress bars, of the rounds, and of fits and playing within.

    Yields:
        A record after each round.

    Source: Kaiser et al. 2020 (SimPLe), algorithm 1. Taught in notebook 09.
    """
    config, rng, space = config or DreamConfig(), agent.generator, games.single_action_space
    num = config.num_dreams
    check_members("learn_in_dreams", model.num_members, num_dreams=num)
    check_capacity("learn_in_dreams", config.num_kept // num, agent.config)
    dreamt = ReplayBuffer(config.num_kept // num, num)
    explorer = EpsilonGreedy(agent, space, rng, epsilon=agent.config.epsilon)
    play_on = functools.partial(act_and_learn, progress=progress)
    learned: list[tuple[Fitted, float]] = []  # model, and mean reward of its dreams, by round

    def play(player: Agent, index: int) -> float:
        num_frames = config.num_round_frames if index else config.num_random_frames
        return play_on(player, games, buffer, num_frames)

    def learn(real_reward: float) -> Agent:
        last = len(learned) == config.num_rounds
        for _ in range(1 if learned else config.num_first_fits):
            factor = config.last_fit_factor if last else 1
            fitted = model.fit(buffer, config.num_model_updates * factor, progress=progress)
        dreams = ImaginedEnv(fitted, buffer, num, rng, max_steps=config.dream_steps,
                             curiosity=config.curiosity)  # fmt: skip
        reward = play_on(explorer, dreams, dreamt, config.num_dream_updates, learner=agent)
        if last:
            reward = play_on(explorer, dreams, dreamt, config.num_last_updates, learner=agent,
                             final_rate=config.final_rate)  # fmt: skip
        learned.append((fitted, reward))
        return explorer

    at_random: Agent = RandomAgent(space, rng)
    rounds = config.num_rounds + 1
    for done in play_and_learn(play, learn, at_random, num_rounds=rounds, progress=progress):
        fitted, dream_reward = learned[done.number]
        losses = {name: values[-1] for name, values in fitted.history.items()}
        yield DreamRound(done.number, buffer.num_added, done.played, dream_reward, losses, fitted,
                         done.seconds)  # fmt: skip
