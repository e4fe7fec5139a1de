"""A small deep Q-network that learns in any vector environment: the game, or a dream of it.

Axes: T time steps, B environments, K batch, N steps of a target, A actions; of an observation F
frames, C planes, Y and X cells.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from tqdm.auto import tqdm

from mbrl_helpers import saving
from mbrl_helpers.actions import Actions
from mbrl_helpers.checks import check_counts, check_range
from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.imagination import whole_step
from mbrl_helpers.interaction import Interaction
from mbrl_helpers.interfaces import ActFunction, Agent
from mbrl_helpers.networks import load_network, network_arrays

KIND = "deep Q-network"  # of file
MAX_STEPS = 100_000  # of a game that is only played; the longest of Atari's has 27,000


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Settings of the agent and of its training.

    Attributes:
        discount: of the reward of each later step.
        num_steps: N, rewards that a target adds up before it asks the network.
        batch_size: K, rows of one update.
        epsilon: share of random actions while it learns.
        target_rate: share of the way that the target network moves in an update.
        learning_rate: of Adam.
        max_gradient: a longer gradient is shortened to this length.
    """

    discount: float = 0.97
    num_steps: int = 5
    batch_size: int = 256
    epsilon: float = 0.05
    target_rate: float = 0.01
    learning_rate: float = 1e-3
    max_gradient: float = 10.0

    def __post_init__(self) -> None:
        check_counts("DQNConfig", num_steps=self.num_steps, batch_size=self.batch_size)
        check_range(self, "discount", 0, 1)
        check_range(self, "epsilon", 0, 1)
        # The slow copy acts: one that never moves would never play any better.
        check_range(self, "target_rate", 0, 1, ends="(]")
        check_range(self, "learning_rate", 0, 1, ends="(]")
        check_range(self, "max_gradient", 0, math.inf, ends="()")


class Stretches(NamedTuple):
    """K stretches of N steps, as an update needs them.

    Attributes:
        obs: [K, ...] with which each begins.
        action: [K] int64, the first.
        returns: [K] rewards of its steps, discounted and added up.
        last_obs: [K, ...] what follows its last step.
        factor: [K] of the value of that, 0 after a termination.
    """

    obs: Tensor
    action: Tensor
    returns: Tensor
    last_obs: Tensor
    factor: Tensor


def sample_stretches(
    buffer: ReplayBuffer, config: DQNConfig, generator: torch.Generator
) -> Stretches:
    """Draw K stretches of N steps, each equally likely.

    Raises:
        RuntimeError: if the buffer holds fewer than N steps.
    """
    num, size, columns = config.num_steps, buffer.capacity, buffer.columns
    if len(buffer) < num:
        raise RuntimeError(
            f"sample_stretches: expected a buffer of at least {num} steps, got {len(buffer)}. "
            "Add some first."
        )
    count = (config.batch_size,)
    row = torch.randint(len(buffer) - num + 1, count, generator=generator)
    env = torch.randint(buffer.num_envs, count, generator=generator)
    row = row + buffer.num_added - len(buffer)  # from the oldest on
    rows = (row + torch.arange(num)[:, None]) % size  # [N, K]
    terminated = columns["terminated"][rows, env]
    ended = terminated | columns["truncated"][rows, env]
    returns, factor, last = n_step(
        columns["reward"][rows, env], terminated, ended, discount=config.discount
    )
    end = rows.gather(0, last[None])[0]
    return Stretches(
        columns["obs"][rows[0], env], columns["action"][rows[0], env], returns,
        columns["next_obs"][end, env], factor,
    )  # fmt: skip


def n_step(
    reward: Tensor, terminated: Tensor, ended: Tensor, *, discount: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Add up the rewards of N steps, or of fewer where the episode ends.

    Args:
        reward: [N, K].
        terminated: [N, K] bool, nothing follows this step.
        ended: [N, K] bool, terminated or cut: what stands below is of another episode.
        discount: of each later step.

    Returns:
        Discounted rewards [K]; the factor of the value of what follows [K], 0 after a termination;
        and which step was the last [K].

    Source: Sutton and Barto 2018, section 7.1. Taught in notebook 09.
    """
    alive = torch.cat([torch.ones(1, reward.shape[1]), (~ended[:-1]).float().cumprod(0)])
    power = discount ** torch.arange(len(reward))[:, None]
    length = alive.sum(0)
    last = length.long() - 1
    over = terminated.gather(0, last[None])[0]
    return (alive * power * reward).sum(0), discount**length * ~over, last


class PlaneQNetwork(nn.Module):
    """Values of the actions from a few frames of planes: one convolution, one hidden layer.

    Attributes:
        settings: that make another one like it.
    """

    def __init__(
        self, obs_shape: tuple[int, ...], num_actions: int, generator: torch.Generator
    ) -> None:
        """Make a network for obs [K, F, C, Y, X]."""
        super().__init__()
        self.settings = {"obs_shape": list(obs_shape), "num_actions": num_actions}
        frames, planes, height, breadth = obs_shape
        self.look = nn.Conv2d(frames * planes, 16, 3)
        self.think = nn.Linear(16 * (height - 2) * (breadth - 2), 128)
        self.value = nn.Linear(128, 1)
        self.advantage = nn.Linear(128, num_actions)
        for p in (self.look, self.think, self.value, self.advantage):
            assert p.bias is not None
            fan_in = p.weight[0].numel()
            nn.init.uniform_(p.weight, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
            nn.init.uniform_(p.bias, -(fan_in**-0.5), fan_in**-0.5, generator=generator)

    def forward(self, obs: Tensor) -> Tensor:
        """Values [K, A]."""
        hidden = self.look(obs.float().flatten(1, 2)).relu().flatten(1)
        hidden = self.think(hidden).relu()
        advantage = self.advantage(hidden)
        return self.value(hidden) + advantage - advantage.mean(1, keepdim=True)


class DQN:
    """Learns the value of each action from stretches of experience, and takes the best.

    Attributes:
        network: is trained.
        target: a copy that follows it slowly; it gives the targets, and acts.

    Source: Mnih et al. 2015; dueling heads, Wang et al. 2016. Taught in notebook 09.
    """

    def __init__(
        self, network: nn.Module, generator: torch.Generator, config: DQNConfig | None = None
    ) -> None:
        """Learn with a network that maps observations [K, ...] to values [K, A]."""
        self.config = config or DQNConfig()
        self.network, self.generator = network, generator
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(network.parameters(), eps=1e-5, fused=True)

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Choose actions [B] for obs [B, ...]."""
        return self.target(torch.as_tensor(obs)).argmax(1).numpy()

    def reset(self, ended: np.ndarray | None = None) -> None:
        """It remembers nothing of an episode."""

    def learn(self, buffer: ReplayBuffer, share: float = 1.0) -> float:
        """Make one update with this share of the learning rate; returns the loss."""
        drawn = sample_stretches(buffer, self.config, self.generator)
        target = self._targets(drawn)
        value = self.network(drawn.obs).gather(1, drawn.action[:, None])[:, 0]
        loss = nn.functional.smooth_l1_loss(value, target)
        self.optimizer.param_groups[0]["lr"] = share * self.config.learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_gradient)
        whole_step(self.optimizer)
        self._follow()
        return loss.item()

    @torch.no_grad()  # not `with`: an interrupt at its end would leave gradients off
    def _targets(self, drawn: Stretches) -> Tensor:
        """What the network is to say [K]."""
        return drawn.returns + drawn.factor * self.target(drawn.last_obs).amax(1)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the slow copy."""
        mine: list[Tensor] = list(self.target.parameters())
        new: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(mine, new, self.config.target_rate)

    def save(self, path: str | Path) -> None:
        """Write both networks and the settings to a file (see `saving`).

        What it has learned is kept, not the momentum of learning.

        Raises:
            TypeError: for a network without `settings`, as nobody could make another one like it.
            ValueError: if there is something else at this path.
        """
        settings, arrays = self.contents("DQN.save")
        saving.save("DQN.save", path, KIND, settings, arrays)

    def contents(self, where: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""
        made_by = getattr(self.network, "settings", None)
        if not isinstance(made_by, dict):
            raise TypeError(
                f"{where}: expected a network with settings, that make another one like it, got "
                f"{type(self.network).__name__}. Give it an attribute settings: the arguments of "
                "its constructor."
            )
        settings = {
            "config": dataclasses.asdict(self.config), "network": made_by,
            "made_by": type(self.network).__name__,
        }  # fmt: skip
        parts = {"network": self.network, "target": self.target}
        return settings, {
            f"{part}/{name}": value
            for part, network in parts.items()
            for name, value in network_arrays(network).items()
        }

    @classmethod
    def load(
        cls, path: str | Path, make: Callable[..., nn.Module], generator: torch.Generator
    ) -> "DQN":
        """Read what `save` wrote.

        Args:
            path: of the file.
            make: makes the network from its settings and a generator: `PlaneQNetwork`, say.
            generator: draws weights, which the file's then replace, and whatever is drawn later.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is cut off, of something else, or of another network.
        """
        settings, arrays = saving.load("DQN.load", path, KIND)
        with saving.reading("DQN.load", path):
            return cls.of_contents(settings, arrays, make, generator)

    @classmethod
    def of_contents(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray],
        make: Callable[..., nn.Module], generator: torch.Generator,
    ) -> "DQN":  # fmt: skip
        """Make it of what a file has kept."""
        if settings["made_by"] != getattr(make, "__name__", ""):
            raise ValueError(f"its network is made by {settings['made_by']}, not by {make}")
        network = make(**settings["network"], generator=generator)
        agent = cls(network, generator, DQNConfig(**settings["config"]))
        load_network(agent.network, saving.under("network/", arrays))
        load_network(agent.target, saving.under("target/", arrays))
        return agent


class EpsilonGreedy:
    """Does what an agent does, and now and then anything at all: exploration."""

    def __init__(
        self, agent: Agent | ActFunction, space: gym.Space, generator: torch.Generator, *,
        epsilon: float,
    ) -> None:  # fmt: skip
        """Explore around an agent.

        Args:
            agent: whose actions are taken; an agent, or a bare function of obs [B, ...].
            space: of the actions of one environment, Discrete.
            generator: draws when to explore, and how.
            epsilon: share of random actions.

        Raises:
            TypeError: for other actions.
        """
        Actions.bounded("EpsilonGreedy", space)
        if not isinstance(space, gym.spaces.Discrete):
            raise TypeError(
                f"EpsilonGreedy: expected discrete actions, got {space}. Explore with noise: "
                "agents.NoisyAgent."
            )
        self.agent, self.generator, self.epsilon = agent, generator, epsilon
        check_range(self, "epsilon", 0, 1)
        self.num_actions, self.first = int(space.n), int(space.start)
        self._act: ActFunction = agent.act if hasattr(agent, "act") else agent

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Choose actions [B] for obs [B, ...]."""
        action = self._act(obs)
        if not self.epsilon:
            return action
        random = torch.rand(len(action), generator=self.generator) < self.epsilon
        other = torch.randint(self.num_actions, action.shape, generator=self.generator)
        return np.where(random.numpy(), self.first + other.numpy(), action)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Tell the agent."""
        if hasattr(self.agent, "reset"):
            self.agent.reset(ended)


def act_and_learn(
    player: Agent | ActFunction,
    envs: VectorEnv,
    buffer: ReplayBuffer,
    num_steps: int,
    *,
    learner: DQN | None = None,
    num_updates: int = 1,
    final_rate: float = 1.0,
    progress: bool = False,
) -> float:
    """Act in environments, game or dream, keep what happens, and learn from it.

    Args:
        player: acts; an agent, or a bare function of obs [B, ...].
        envs: B environments that wait, after an episode's end, until they are reset.
        buffer: keeps the experience, of B environments.
        num_steps: of all environments.
        learner: learns, and need not be who acts; without one experience is only collected.
        num_updates: after each step.
        final_rate: share of the learning rate that is left at the end; it falls in a line.
        progress: whether to show a progress bar.

    Returns:
        The mean reward of a step.

    Raises:
        ValueError: for a buffer that could never hold what the learner draws.
    """
    check_counts("act_and_learn", num_steps=num_steps, num_updates=num_updates)
    if not 0 <= final_rate <= 1:
        raise ValueError(
            f"act_and_learn: expected final_rate in [0, 1], got {final_rate}. Leave it out for a "
            "learning rate that stays."
        )
    if learner is not None:
        check_capacity("act_and_learn", buffer.capacity, learner.config)
    buffer.cut()
    interaction, total = Interaction(envs, player, where="act_and_learn"), 0.0
    for number in tqdm(range(num_steps), desc="steps", disable=not progress):
        step = interaction.step()
        buffer.add_step(step)
        interaction.restart()
        total += float(step.reward.mean())
        if learner is not None and len(buffer) >= learner.config.num_steps:
            share = 1 - (1 - final_rate) * number / num_steps
            for _ in range(num_updates):
                learner.learn(buffer, share)
    return total / num_steps


def check_capacity(where: str, capacity: int, config: DQNConfig) -> None:
    """Refuse a buffer of fewer steps than a target adds up: nothing would ever be learned.

    Raises:
        ValueError: in the name of what the user called.
    """
    if capacity < config.num_steps:
        raise ValueError(
            f"{where}: expected a buffer of at least {config.num_steps} steps, which a target adds "
            f"up, got a capacity of {capacity}. Make it larger, or num_steps smaller."
        )


def play(
    agent: Agent | ActFunction, envs: VectorEnv, *, seed: int, progress: bool = False
) -> np.ndarray:
    """Play one episode in each of B environments; returns their returns [B].

    Args:
        agent: acts; an agent, or a bare function of obs [B, ...].
        envs: B environments that wait, after an episode's end, until they are reset.
        seed: environment b starts from `reset(seed=seed + b)`.
        progress: whether to show a progress bar.

    Raises:
        RuntimeError: if an episode does not end within `MAX_STEPS` steps.
    """
    num = envs.num_envs
    interaction = Interaction(envs, agent, seed=seed, num_episodes=num, where="play")
    returns, over = np.zeros(num), np.zeros(num, bool)
    for _ in tqdm(range(MAX_STEPS), desc="steps", total=math.inf, disable=not progress):
        step = interaction.step()
        returns += np.where(over, 0.0, step.reward)
        over |= step.ended
        if over.all():
            return returns
        interaction.restart()
    raise RuntimeError(
        f"play: expected an end of every episode, got {int((~over).sum())} that have gone on for "
        f"{MAX_STEPS:,} steps. Give the environments a time limit: max_episode_steps=... where "
        "they are made."
    )
