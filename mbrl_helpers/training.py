"""The closed loop (play, learn, play again with what was learned) and evaluation."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from tqdm.auto import tqdm

from mbrl_helpers.checks import check_counts
from mbrl_helpers.data import ReplayBuffer, Transitions
from mbrl_helpers.envs import Task
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.interfaces import ActFunction, Agent

Played = TypeVar("Played")
Player = TypeVar("Player")


def evaluate(
    task: Task | str,
    agent: Agent | ActFunction,
    *,
    num_episodes: int = 10,
    seed: int = 9000,
    progress: bool = False,
) -> np.ndarray:
    """Run whole episodes side by side, planning for all of them together.

    Args:
        task: what to act in, or Gymnasium's name of it.
        agent: who acts, an agent or a bare function of obs [B, O]; nothing is learned.
        num_episodes: how many.
        seed: episode i starts from `reset(seed=seed + i)`.
        progress: whether to show a progress bar.

    Returns:
        [num_episodes] undiscounted returns, of the environment's own rewards.
    """
    played = collect_episodes(
        task, agent, num_episodes=num_episodes, seed=seed, progress=progress, where="evaluate"
    )
    return played.returns()


@dataclass(frozen=True)
class Round(Generic[Played, Player]):
    """One round of playing and learning.

    Attributes:
        number: from 0.
        played: what was played.
        agent: who plays next.
        seconds: of playing and learning so far.
    """

    number: int
    played: Played
    agent: Player
    seconds: float


def play_and_learn(
    play: Callable[[Player, int], Played],
    learn: Callable[[Played], Player],
    agent: Player,
    *,
    num_rounds: int,
    progress: bool = False,
) -> Iterator[Round[Played, Player]]:
    """Play, learn from what was played, and play again with what was learned.

    It is a generator: stop whenever you have seen enough.

    Args:
        play: `(agent, number of the round) -> experience`.
        learn: `experience -> agent`, who plays the next round.
        agent: plays the first round.
        num_rounds: how many.
        progress: whether to show a progress bar.

    Yields:
        A record after each round.
    """
    check_counts("play_and_learn", num_rounds=num_rounds)
    seconds = 0.0
    for number in tqdm(range(num_rounds), desc="rounds", disable=not progress):
        begin = time.perf_counter()
        played = play(agent, number)
        agent = learn(played)
        seconds += time.perf_counter() - begin
        yield Round(number, played, agent, seconds)


@dataclass(frozen=True)
class LoopRecord:
    """One real episode of the closed loop.

    Attributes:
        episode: its number, from 0.
        num_steps: real environment steps of this loop so far, this episode included.
        episode_return: its return.
        random: whether it was played before anything was learned.
        seconds: of acting and learning so far.
        agent: who plays the next episode.
    """

    episode: int
    num_steps: int
    episode_return: float
    random: bool
    seconds: float
    agent: Agent


def closed_loop(
    task: Task,
    agent: Agent,
    learn: Callable[[Transitions], Agent],
    buffer: ReplayBuffer,
    *,
    num_episodes: int,
    num_random_episodes: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[LoopRecord]:
    """Play an episode, learn from all experience, yield; and again, with what was learned.

    It is a generator: stop whenever you have seen enough. The buffer keeps what was played.

    Args:
        task: what to act in.
        agent: plays the first episodes, before anything is learned; a `RandomAgent`, say.
        learn: `experience -> agent`: fits a model or improves a policy, and gives back who plays
            the next episode. It is called after every episode from the last random one on.
        buffer: gets the episodes.
        num_episodes: how many, the random ones included.
        num_random_episodes: that `agent` plays; at least 1.
        seed: episode i starts from `reset(seed=seed + i)`.
        progress: whether to show a progress bar.

    Yields:
        A record after each episode, when it has been learned from.

    Raises:
        TypeError: if learn does not return an agent.
    """
    check_counts("closed_loop", num_episodes=num_episodes, num_random_episodes=num_random_episodes)
    num_played, num_steps = 0, 0

    def play(player: Agent, number: int) -> Transitions:
        return collect_episodes(
            task, player, num_episodes=1, seed=seed + number, buffer=buffer, where="closed_loop"
        )

    def learn_in_time(played: Transitions) -> Agent:
        if num_played + 1 < num_random_episodes:
            return agent
        player = learn(buffer.all())
        if not (hasattr(player, "act") or callable(player)):
            raise TypeError(
                "closed_loop: expected learn to return the agent that plays next, got "
                f"{type(player).__name__}. End it with `return MPCAgent(...)`, say."
            )
        return player

    for record in play_and_learn(
        play, learn_in_time, agent, num_rounds=num_episodes, progress=progress
    ):
        num_played += 1
        num_steps += len(record.played)  # the buffer may be full, or not have been empty
        yield LoopRecord(
            record.number, num_steps, float(record.played.reward.sum()),
            record.number < num_random_episodes, record.seconds, record.agent,
        )  # fmt: skip
