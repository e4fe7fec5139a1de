"""A small deep Q-network that learns in any vector environment: the game, or a dream of it.

Axes: T time steps, B environments, K batch, N steps of a target, A actions; of an observation F
frames, C planes, Y and X cells.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from mbrl_helpers.envs import check_counts, check_setting


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
    """

    discount: float = 0.97
    num_steps: int = 5
    batch_size: int = 256
    epsilon: float = 0.05
    target_rate: float = 0.01
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_counts("DQNConfig", num_steps=self.num_steps, batch_size=self.batch_size)
        for name in ("discount", "epsilon", "learning_rate"):
            check_setting(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        # The slow copy acts: one that never moves would never play any better.
        check_setting(self, "target_rate", 0 < self.target_rate <= 1, "in (0, 1]")


class Replay:
    """The last steps of B environments, one row of B a step; a full one forgets the oldest.

    Attributes:
        obs, next_obs: [T, B, ...] bool; at an end next_obs is the last one of the old episode.
        action: [T, B] int64.
        reward: [T, B] float32.
        terminated, truncated: [T, B] bool.
    """

    def __init__(self, capacity: int, num_envs: int, obs_shape: tuple[int, ...],
                 dtype: torch.dtype = torch.bool) -> None:  # fmt: skip
        """Keep `capacity` steps of B = num_envs environments."""
        check_counts("Replay", capacity=capacity, num_envs=num_envs)
        shape = capacity, num_envs
        self.obs = torch.zeros(*shape, *obs_shape, dtype=dtype)
        self.next_obs = torch.zeros_like(self.obs)
        self.action = torch.zeros(shape, dtype=torch.long)
        self.reward = torch.zeros(shape)
        self.terminated = torch.zeros(shape, dtype=torch.bool)
        self.truncated = torch.zeros_like(self.terminated)
        self.num_added = 0

    def __len__(self) -> int:
        """How many steps it holds."""
        return min(self.num_added, len(self.action))

    def add(self, obs, action, reward, next_obs, terminated, truncated) -> None:
        """Append one step of all environments, each part [B, ...]."""
        row = self.num_added % len(self.action)
        for name, value in (
            ("obs", obs), ("action", action), ("reward", reward), ("next_obs", next_obs),
            ("terminated", terminated), ("truncated", truncated),
        ):  # fmt: skip
            kept, value = getattr(self, name), torch.as_tensor(value)
            lossy = value.is_floating_point() and not kept.is_floating_point()
            if value.shape != kept.shape[1:] or lossy:
                raise ValueError(
                    f"Replay.add: expected {name} {list(kept.shape[1:])} that fits {kept.dtype}, "
                    f"got {list(value.shape)} {value.dtype}. Make the replay for these "
                    "environments, with the dtype of their observations."
                )
            kept[row] = value
        self.num_added += 1

    def cut(self) -> None:
        """Say that what follows is not what came of the last step."""
        if len(self):
            self.truncated[(self.num_added - 1) % len(self.action)] = True

    def sample(self, config: DQNConfig, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw K stretches of N steps.

        Returns:
            Observation and action [K] that each begins with, the rewards of its steps added up
            [K], the last observation, and the factor of its value [K] (see `n_step`).

        Raises:
            RuntimeError: if it holds fewer than N steps.
        """
        size, num = len(self.action), config.num_steps
        if len(self) < num:
            raise RuntimeError(
                f"Replay.sample: expected at least {num} steps, got {len(self)}. Add some first."
            )
        count = (config.batch_size,)
        row = torch.randint(len(self) - num + 1, count, generator=generator)
        env = torch.randint(self.action.shape[1], count, generator=generator)
        row = row + self.num_added - len(self)  # from the oldest on
        rows = (row + torch.arange(num)[:, None]) % size  # [N, K]
        terminated = self.terminated[rows, env]
        ended = terminated | self.truncated[rows, env]
        returns, factor, last = n_step(
            self.reward[rows, env], terminated, ended, discount=config.discount
        )
        end = rows.gather(0, last[None])[0]
        return (self.obs[rows[0], env], self.action[rows[0], env], returns,
                self.next_obs[end, env], factor)  # fmt: skip


def n_step(reward: Tensor, terminated: Tensor, ended: Tensor, *, discount: float):
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
    """Values of the actions from a few frames of planes: one convolution, one hidden layer."""

    def __init__(
        self, obs_shape: tuple[int, ...], num_actions: int, generator: torch.Generator
    ) -> None:
        """Make a network for obs [K, F, C, Y, X]."""
        super().__init__()
        frames, planes, height, breadth = obs_shape
        self.look = nn.Conv2d(frames * planes, 16, 3)
        self.think = nn.Linear(16 * (height - 2) * (breadth - 2), 128)
        self.value = nn.Linear(128, 1)
        self.advantage = nn.Linear(128, num_actions)
        for p in (self.look, self.think, self.value, self.advantage):
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
    """Learns the value of each action from stretches of experience.

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
    def act(self, obs: np.ndarray, *, epsilon: float = 0.0) -> np.ndarray:
        """Choose actions [B] for obs [B, ...], each at random with probability epsilon."""
        value = self.target(torch.as_tensor(obs))
        action = value.argmax(1)
        if epsilon:
            random = torch.rand(len(action), generator=self.generator) < epsilon
            other = torch.randint(value.shape[1], action.shape, generator=self.generator)
            action = torch.where(random, other, action)
        return action.numpy()

    def learn(self, replay: Replay, share: float = 1.0) -> float:
        """Make one update with this share of the learning rate; returns the loss."""
        obs, action, returns, last_obs, factor = replay.sample(self.config, self.generator)
        with torch.no_grad():
            target = returns + factor * self.target(last_obs).amax(1)
        value = self.network(obs).gather(1, action[:, None])[:, 0]
        loss = nn.functional.smooth_l1_loss(value, target)
        self.optimizer.param_groups[0]["lr"] = share * self.config.learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimizer.step()
        with torch.no_grad():
            mine, new = list(self.target.parameters()), list(self.network.parameters())
            torch._foreach_lerp_(mine, new, self.config.target_rate)
        return loss.item()


def practise(
    agent: DQN,
    envs: VectorEnv,
    replay: Replay,
    num_steps: int,
    *,
    num_updates: int = 1,
    final_rate: float = 1.0,
    act: Callable[[np.ndarray], np.ndarray] | None = None,
) -> float:
    """Act in environments, game or dream, keep what happens, and learn from it.

    Args:
        agent: learns.
        envs: B environments that wait, after an episode's end, until they are reset.
        replay: keeps the experience, for B environments.
        num_steps: of all environments.
        num_updates: after each step; 0 only collects.
        final_rate: share of the learning rate that is left at the end; it falls in a line.
        act: how to act; as the agent does, with its epsilon, unless given.

    Returns:
        The mean reward of a step.
    """
    check_counts("practise", num_steps=num_steps)
    if num_updates and len(replay.action) < agent.config.num_steps:
        raise ValueError(
            f"practise: expected a replay of at least {agent.config.num_steps} steps, which a "
            f"target adds up, got a capacity of {len(replay.action)}. Nothing would be learned: "
            "make it larger."
        )
    act = act or (lambda obs: agent.act(obs, epsilon=agent.config.epsilon))
    replay.cut()
    obs, _ = envs.reset()
    total = 0.0
    for step in range(num_steps):
        action = act(obs)
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        replay.add(obs, action, reward, next_obs, terminated, truncated)
        total += float(reward.mean())
        obs, ended = next_obs, terminated | truncated
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
        share = 1 - (1 - final_rate) * step / num_steps
        if len(replay) >= agent.config.num_steps:
            for _ in range(num_updates):
                agent.learn(replay, share)
    return total / num_steps


def play(act: Callable[[np.ndarray], np.ndarray], envs: VectorEnv, *, seed: int) -> np.ndarray:
    """Play one episode in each of B environments; returns their returns [B]."""
    obs, _ = envs.reset(seed=seed)
    returns, over = np.zeros(envs.num_envs), np.zeros(envs.num_envs, bool)
    while not over.all():
        obs, reward, terminated, truncated, _ = envs.step(act(obs))
        returns += np.where(over, 0.0, reward)
        ended = terminated | truncated
        over |= ended
        if ended.any() and not over.all():
            obs, _ = envs.reset(options={"reset_mask": ended})
    return returns
