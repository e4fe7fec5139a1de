"""The loop that steps environments: collecting, evaluating, playing and filming are its uses.

Axes: B environments, T transitions, O observation, A action; games observe more axes.
"""

import math
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from tqdm.auto import tqdm

from mbrl_helpers.actions import Actions
from mbrl_helpers.checks import all_finite, check_counts
from mbrl_helpers.data import ReplayBuffer, Transitions, concatenate
from mbrl_helpers.envs import Task, has_time_limit, make_envs
from mbrl_helpers.interfaces import ActFunction, Agent, VectorStep

MAX_STEPS = 10_000  # of an episode that no time limit cuts
_warned: set[str] = set()  # environments without a time limit of which the user was told


class Interaction:
    """An agent in B environments, step by step: the loop behind collecting, playing and filming.

    Episode i starts from `reset(seed=seed + i)`, whichever environment it is in; without a seed,
    and after the last episode that is wanted, the environments go on with random numbers of their
    own. No environment resets itself, so that no step crosses two episodes. What the agent and the
    environments are handed, or hand over, is copied: they may alter it, and steps stay as they are.

    Actions are recorded as they are executed: of a Box, what lies outside the bounds is clipped to
    them before the environment sees it (as Gymnasium's `ClipAction` does). For a Discrete space a
    whole number may come as a float. Other actions are refused (see `Actions.playable`).

    A step that an interrupt or an error breaks off does not count, nor does what its episodes would
    have become: the next step begins new ones.
    """

    def __init__(
        self,
        envs: VectorEnv,
        agent: Agent | ActFunction,
        *,
        seed: int | None = None,
        num_episodes: int | None = None,
        where: str | None = None,
    ) -> None:
        """Reset everything.

        Args:
            envs: B environments that wait, after an episode's end, until they are reset.
            agent: picks the actions; an agent, or a bare function of obs [B, ...].
            seed: of the first episode.
            num_episodes: how many are wanted; without end unless given.
            where: in whose name errors are told; its own unless given.

        Raises:
            ValueError: for environments that reset themselves.
            TypeError: for what can't act, and for actions that are neither discrete nor a vector.
        """
        here, self._where = where or "Interaction", where or "Interaction.step"
        if envs.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
            raise ValueError(
                f"{here}: expected environments that wait until they are reset, got "
                f"autoreset_mode {envs.metadata.get('autoreset_mode')}. Make them with make_envs, "
                "or with autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED."
            )
        self.envs, self.seed, self.num_episodes = envs, seed, num_episodes
        self._act: ActFunction = agent.act if hasattr(agent, "act") else agent
        if not callable(self._act):
            raise TypeError(
                f"{here}: expected an agent with a method `act`, or a function of obs, got "
                f"{type(agent).__name__}. Pass the agent itself."
            )
        self.actions = Actions.of(envs.single_action_space, here)
        self._forget: Callable[..., None] = getattr(agent, "reset", _forget_nothing)
        self._episode = np.arange(envs.num_envs)  # [B] the episode that each environment is in
        self._ended = np.zeros(envs.num_envs, bool)
        self._broken = False  # whether a step or a restart was broken off
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
            TypeError: for actions that are no numbers.
            ValueError: if the agent does not give an action of the space for each; or for rewards
                that are not a finite number for each.
        """
        if self._broken:  # nobody knows how far the environments have got
            self._ended[:] = True
            self.restart()
        given = np.asarray(self._act(self.obs.copy()))
        action = self.actions.playable(self._where, given, self.envs.num_envs)
        self._broken = True
        # Copies, too: an environment may fill one array again and again.
        next_obs, reward, terminated, truncated = map(np.array, self.envs.step(action.copy())[:4])
        step = VectorStep(self.obs, action, reward, next_obs, terminated, truncated, self._episode)
        if reward.shape != self._ended.shape or not all_finite(reward):
            raise ValueError(
                f"{self._where}: expected a finite reward from each of {self.envs.num_envs} "
                f"environments, got {reward}. Look at what their step returns."
            )
        self.obs, self._ended = step.next_obs, step.ended
        self._broken = False
        return step

    def restart(self) -> None:
        """Begin a new episode where one has ended."""
        if not self._ended.any():
            return
        ended, self._broken = self._ended, True
        self._episode = self._episode.copy()
        self._episode[ended] = self._episode.max() + 1 + np.arange(ended.sum())
        options = {"reset_mask": ended.copy()}
        self.obs = np.array(self.envs.reset(seed=self._seeds(), options=options)[0])
        self._forget(ended.copy())
        self._ended, self._broken = np.zeros_like(ended), False

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

    Raises:
        RuntimeError: if an environment without a time limit does not end within `MAX_STEPS` steps;
            of one without a limit a warning is given at once.
        ValueError, TypeError: for an environment or an agent that does not act as Gymnasium says.
    """
    return _episodes("run_episodes", task, agent, num_episodes, seed, num_envs, progress=False)


def _episodes(
    where: str, task: Task | str, agent: Agent | ActFunction, num_episodes: int, seed: int,
    num_envs: int | None, *, progress: bool,
) -> Generator[Transitions]:  # fmt: skip
    """See `run_episodes`; for all that run episodes, in the name of what was called."""
    num_envs = num_episodes if num_envs is None else num_envs
    check_counts(where, num_episodes=num_episodes, num_envs=num_envs)
    env_id = task if isinstance(task, str) else task.env_id
    with (
        closing(make_envs(task, min(num_envs, num_episodes), where=where)) as envs,
        tqdm(total=num_episodes, desc="episodes", disable=not progress, miniters=0) as bar,
    ):
        envs.copy = False  # for the interaction copies what it is handed
        limited = has_time_limit(envs)
        if not limited:
            _warn_of_no_limit(where, env_id)
        interaction = Interaction(envs, agent, seed=seed, num_episodes=num_episodes, where=where)
        played: list[list[VectorStep]] = [[] for _ in range(envs.num_envs)]  # of each episode
        left = num_episodes
        while left:
            _check_observed(where, env_id, interaction.obs)
            step = interaction.step()
            bar.update(0)  # shows the time that has passed
            ended = step.ended.tolist()
            for b in np.flatnonzero(step.episode < num_episodes).tolist():
                played[b].append(step)
                if ended[b]:
                    _check_observed(where, env_id, step.next_obs)  # which nobody acts on
                    bar.update()
                    yield _pack(played[b], b, interaction.actions.is_discrete)
                    played[b], left = [], left - 1
                elif not limited and len(played[b]) >= MAX_STEPS:
                    raise RuntimeError(
                        f"{where}: expected an end of every episode, got one of {env_id} that has "
                        f"gone on for {MAX_STEPS:,} steps. {_LIMIT}"
                    )
            interaction.restart()  # an environment with nothing left to do goes on unseen


_LIMIT = (
    "Give it a time limit: gymnasium.register(..., max_episode_steps=200), or wrap it in "
    "gymnasium.wrappers.TimeLimit(env, 200)."
)


def _warn_of_no_limit(where: str, env_id: str) -> None:
    """Tell once what happens if an episode does not end by itself."""
    if env_id in _warned:
        return
    _warned.add(env_id)
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("mbrl_helpers"):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"{where}: {env_id} has no time limit. An episode that does not end by itself is broken "
        f"off after {MAX_STEPS:,} steps, with an error. {_LIMIT}",
        stacklevel=level,
    )


def _check_observed(where: str, env_id: str, obs: np.ndarray) -> None:
    """Refuse NaN and infinity where they come from, before anybody acts on them."""
    if not all_finite(obs):
        row, column = np.argwhere(~np.isfinite(obs))[0].tolist()
        raise ValueError(
            f"{where}: expected finite observations from {env_id}, got {obs[row, column]} in "
            f"column {column}. Look at what its reset and step return."
        )


def _pack(steps: list[VectorStep], which: int, is_discrete: bool) -> Transitions:
    """The transitions of one of the environments."""
    kinds = (np.float32, np.int64 if is_discrete else np.float32, np.float32, np.float32,
             np.bool_, np.bool_, np.int64)  # fmt: skip
    columns = zip(zip(*steps, strict=True), kinds, strict=True)
    return Transitions(*(np.array([part[which] for part in c], kind) for c, kind in columns))


def collect_episodes(
    task: Task | str,
    agent: Agent | ActFunction,
    *,
    num_episodes: int,
    seed: int,
    num_envs: int | None = None,
    buffer: ReplayBuffer | None = None,
    progress: bool = False,
    where: str = "collect_episodes",
) -> Transitions:
    """Collect whole episodes, in the order of their numbers (arguments: see `run_episodes`).

    Args:
        task: the task, or Gymnasium's name of the environment.
        agent: picks the actions; an agent, or a bare function of obs [B, O].
        num_episodes: how many.
        seed: episode i starts from `reset(seed=seed + i)`.
        num_envs: how many run side by side, each a new environment: with 1, what `reset` forgets to
            reset shows.
        buffer: each episode is added to it as it ends, so that an interrupt loses nothing.
        progress: whether to show a progress bar.
        where: in whose name errors are told.
    """
    episodes = _episodes(where, task, agent, num_episodes, seed, num_envs, progress=progress)
    parts = []
    with closing(episodes):  # an interrupt, too, closes the environments at once
        for part in episodes:
            parts.append(part)
            if buffer is not None:
                buffer.add(part)
    return concatenate(sorted(parts, key=lambda part: part.episode[0]))
