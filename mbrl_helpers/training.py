"""The closed loop (act, learn, plan, act again) and evaluation."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mbrl_helpers.agents import MPCAgent, NoisyAgent, RandomAgent
from mbrl_helpers.data import Agent, ReplayBuffer, Transitions, collect_episodes
from mbrl_helpers.dynamics import EnsembleModel
from mbrl_helpers.envs import Task, check_counts


def evaluate(task: Task, agent: Agent, *, num_episodes: int = 10, seed: int = 9000) -> np.ndarray:
    """Run whole episodes side by side, planning for all of them together.

    Args:
        task: what to act in.
        agent: who acts; nothing is learned.
        num_episodes: how many.
        seed: episode i starts from `reset(seed=seed + i)`.

    Returns:
        [num_episodes] undiscounted returns, of the environment's own rewards.
    """
    return collect_episodes(task.env_id, agent, num_episodes=num_episodes, seed=seed).returns()


@dataclass(frozen=True)
class LoopRecord:
    """One real episode of the closed loop.

    Attributes:
        episode: its number, from 0.
        num_steps: real environment steps of this loop so far, this episode included.
        episode_return: its return.
        random: whether it was played at random, before there was a model.
        seconds: of acting and fitting so far.
    """

    episode: int
    num_steps: int
    episode_return: float
    random: bool
    seconds: float


def closed_loop(
    task: Task,
    agent: MPCAgent | NoisyAgent,
    model: EnsembleModel,
    buffer: ReplayBuffer,
    *,
    num_episodes: int,
    num_random_episodes: int = 3,
    random_agent: Agent | None = None,
    seed: int = 0,
) -> Iterator[LoopRecord]:
    """Play an episode, fit the model to all experience, yield; and again.

    It is a generator: stop whenever you have seen enough. Buffer and model keep what was done.

    Args:
        task: what to act in.
        agent: plans with `model`.
        model: fitted after every episode from the last random one on.
        buffer: gets the episodes.
        num_episodes: how many, the random ones included.
        num_random_episodes: at least 1.
        random_agent: who plays these; white noise unless given.
        seed: episode i starts from `reset(seed=seed + i)`.

    Yields:
        A record after each episode, when the model has learned from it.

    Raises:
        ValueError: for no random episode, or an agent with another model.
    """
    check_counts("closed_loop", num_random_episodes=num_random_episodes)
    if agent.model is not model:
        raise ValueError(
            "closed_loop: expected an agent that plans with the model given, got one with another. "
            "It would never learn: make the agent with this model."
        )
    random_agent = random_agent or RandomAgent(task.action_space, model.generator)
    num_steps, seconds = 0, 0.0
    for episode in range(num_episodes):
        begin = time.perf_counter()
        random = episode < num_random_episodes
        played: Transitions = collect_episodes(
            task.env_id, random_agent if random else agent,
            num_episodes=1, seed=seed + episode, buffer=buffer,
        )  # fmt: skip
        if episode >= num_random_episodes - 1:
            model.fit(buffer.all())
        num_steps += len(played)  # the buffer may be full, or not have been empty
        seconds += time.perf_counter() - begin
        yield LoopRecord(episode, num_steps, float(played.reward.sum()), random, seconds)
