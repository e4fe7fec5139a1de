"""The loop that steps environments: collecting, evaluating, playing and filming are its uses.

Axes: B environments, T transitions, O observation, A action; games observe more axes.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from tqdm.auto import tqdm

from mbrl_helpers.checks import check_counts
from mbrl_helpers.data import ReplayBuffer, Transitions, concatenate
from mbrl_helpers.envs import Task, make_envs
from mbrl_helpers.interfaces import ActFunction, Agent, VectorStep


class Interaction:
    """An agent in B environments, step by step: the loop behind collecting, playing and filming.

    Episode i starts from `reset(seed=seed + i)`, whichever environment it is in; without a seed,
    and after the last episode that is wanted, the environments go on with random numbers of their
    own. No environment resets itself, so that no step crosses two episodes. What the agent and the
    environments are handed, or hand over, is copied: they may alter it, and steps stay as they are.
    """

    def __init__(
        self,
        envs: VectorEnv,
        agent: Agent | ActFunction,
        *,
        seed: int | None = None,
        num_episodes: int | None = None,
    ) -> None:
        """Reset everything.

        Args:
            envs: B environments that wait, after an episode's end, until they are reset.
            agent: picks the actions; an agent, or a bare function of obs [B, ...].
            seed: of the first episode.
            num_episodes: how many are wanted; without end unless given.

        Raises:
            ValueError: for environments that reset themselves.
            TypeError: for what can't act.
        """
        if envs.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
            raise ValueError(
                "Interaction: expected environments that wait until they are reset, got "
                f"autoreset_mode {envs.metadata.get('autoreset_mode')}. Make them with make_envs, "
                "or with autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED."
            )
        self.envs, self.seed, self.num_episodes = envs, seed, num_episodes
        self._act: ActFunction = agent.act if hasattr(agent, "act") else agent
        if not callable(self._act):
            raise TypeError(
                "Interaction: expected an agent with a method `act`, or a function of obs, got "
                f"{type(agent).__name__}. Pass the agent itself."
            )
        self._forget: Callable[..., None] = getattr(agent, "reset", _forget_nothing)
        self._episode = np.arange(envs.num_envs)  # [B] the episode that each environment is in
        self._ended = np.zeros(envs.num_envs, bool)
        self.obs = np.array(envs.reset(seed=self._seeds())[0])
        self._forget()

    def __iter__(self) -> Iterator[VectorStep]:
        """Step for ever."""
        while True:
            self.restart()  # first: a loop may have been left, and another begun, at an end
            yield self.step()

    def step(self) -> VectorStep:
        """Act once in every environment.

        Raises:
            ValueError: if the agent does not give an action for each.
        """
        action = np.array(self._act(self.obs.copy()))
        if action.shape[:1] != (self.envs.num_envs,):
            raise ValueError(
                f"Interaction.step: expected {self.envs.num_envs} actions, one for each row of "
                f"obs, got an array of shape {action.shape}. act takes observations [B, O] and "
                "returns actions [B] or [B, A]."
            )
        # Copies, too: an environment may fill one array again and again.
        next_obs, reward, terminated, truncated = map(np.array, self.envs.step(action.copy())[:4])
        step = VectorStep(self.obs, action, reward, next_obs, terminated, truncated, self._episode)
        self.obs, self._ended = step.next_obs, step.ended
        return step

    def restart(self) -> None:
        """Begin a new episode where one has ended."""
        if not self._ended.any():
            return
        ended, self._ended = self._ended, np.zeros_like(self._ended)
        self._episode = self._episode.copy()
        self._episode[ended] = self._episode.max() + 1 + np.arange(ended.sum())
        options = {"reset_mask": ended.copy()}
        self.obs = np.array(self.envs.reset(seed=self._seeds(), options=options)[0])
        self._forget(ended)

    def _seeds(self) -> Any:  # a list for B environments, whatever VectorEnv declares
        if self.seed is None:
            return None
        wanted = math.inf if self.num_episodes is None else self.num_episodes
        return [self.seed + int(i) if i < wanted else None for i in self._episode]


def _forget_nothing(ended: np.ndarray | None = None) -> None:
    """What a bare function does at an episode's end."""


def run_episodes(
    task: Task | str,
    agent: Agent | ActFunction,
    *,
    num_episodes: int,
    seed: int,
    num_envs: int | None = None,
) -> Iterator[Transitions]:
    """Run episodes side by side and yield each as it ends.

    Episode i starts from `reset(seed=seed + i)` and has the number i, whatever `num_envs` is.
    Those that are yielded are the first ones *started*: the first ones to end would be the short
    ones.

    Args:
        task: the task, or Gymnasium's name of the environment.
        agent: picks the actions; an agent, or a bare function of obs [B, O].
        num_episodes: how many.
        seed: of the first episode.
        num_envs: B, how many run side by side; all of them unless given.

    Yields:
        The transitions of one episode.
    """
    num_envs = num_episodes if num_envs is None else num_envs
    check_counts("run_episodes", num_episodes=num_episodes, num_envs=num_envs)
    envs = make_envs(task, min(num_envs, num_episodes))
    try:
        interaction, left = (
            Interaction(envs, agent, seed=seed, num_episodes=num_episodes),
            num_episodes,
        )
        rows: list[list[tuple[Any, ...]]] = [[] for _ in range(envs.num_envs)]
        while left:
            step = interaction.step()
            for b in np.flatnonzero(step.episode < num_episodes):
                rows[b].append(tuple(part[b] for part in step))
                if step.ended[b]:
                    yield _pack(rows[b], envs.single_action_space)
                    rows[b], left = [], left - 1
            interaction.restart()  # an environment with nothing left to do goes on unseen
    finally:
        envs.close()


def _pack(rows: list[tuple[Any, ...]], action_space: gym.Space) -> Transitions:
    discrete = isinstance(action_space, gym.spaces.Discrete)
    kinds = (np.float32, np.int64 if discrete else np.float32, np.float32, np.float32,
             np.bool_, np.bool_, np.int64)  # fmt: skip
    columns = zip(*rows, strict=True)
    return Transitions(*(np.array(c, dtype=k) for c, k in zip(columns, kinds, strict=True)))


def collect_episodes(
    task: Task | str,
    agent: Agent | ActFunction,
    *,
    num_episodes: int,
    seed: int,
    num_envs: int | None = None,
    buffer: ReplayBuffer | None = None,
    progress: bool = False,
) -> Transitions:
    """Collect whole episodes, in the order of their numbers (arguments: see `run_episodes`).

    Args:
        task: the task, or Gymnasium's name of the environment.
        agent: picks the actions; an agent, or a bare function of obs [B, O].
        num_episodes: how many.
        seed: episode i starts from `reset(seed=seed + i)`.
        num_envs: how many run side by side.
        buffer: each episode is added to it as it ends, so that an interrupt loses nothing.
        progress: whether to show a progress bar.
    """
    episodes = run_episodes(task, agent, num_episodes=num_episodes, seed=seed, num_envs=num_envs)
    parts = []
    for part in tqdm(episodes, total=num_episodes, desc="episodes", disable=not progress):
        parts.append(part)
        if buffer is not None:
            buffer.add(part)
    return concatenate(sorted(parts, key=lambda part: part.episode[0]))
