"""Experience: transitions, collecting them, keeping, splitting and saving them.

Axes: T transitions, B environments, O observation, A action.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import gymnasium as gym
import numpy as np
from tqdm.auto import tqdm

from mbrl_helpers.envs import check_counts, make_envs

FORMAT = "mbrl_helpers transitions 1"
# The dtypes that a field may have, and its number of axes for each.
LAYOUT = {
    "obs": {"float32": 2},
    "action": {"int64": 1, "float32": 2},
    "reward": {"float32": 1},
    "next_obs": {"float32": 2},
    "terminated": {"bool": 1},
    "truncated": {"bool": 1},
    "episode": {"int64": 1},
}


@dataclass(frozen=True, eq=False)
class Transitions:
    """T transitions, the rows of an episode in order of time.

    Attributes:
        obs: [T, O] float32 observation before the step.
        action: [T] int64 for discrete actions, [T, A] float32 for continuous ones.
        reward: [T] float32.
        next_obs: [T, O] float32 observation after it: at an end, the last one of the old episode.
        terminated: [T] bool, the state after the step is terminal: nothing follows.
        truncated: [T] bool, the episode was cut here (a time limit): more would have followed.
        episode: [T] int64, which episode the row belongs to.

    Raises:
        TypeError: for other than arrays of these dtypes.
        ValueError: if shapes disagree, it is empty, or a number is not finite.
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    episode: np.ndarray

    def __post_init__(self) -> None:
        for name, layout in LAYOUT.items():
            values = getattr(self, name)
            dtype = values.dtype.name if isinstance(values, np.ndarray) else type(values).__name__
            if dtype not in layout:
                wanted = " or ".join(layout)
                raise TypeError(
                    f"Transitions: expected {name} as a NumPy array of {wanted}, got {dtype}. "
                    f"Convert it: np.asarray({name}, dtype=np.{wanted.split()[0]})."
                )
            if values.ndim != layout[dtype] or values.shape[:1] != self.obs.shape[:1]:
                raise ValueError(
                    f"Transitions: expected {name} with {layout[dtype]} axes and as many rows as "
                    f"obs, got {values.shape} and {self.obs.shape}. Give one row a transition."
                )
        if self.obs.shape != self.next_obs.shape or self.obs.size == 0:
            raise ValueError(
                "Transitions: expected obs and next_obs of the same shape [T, O] with T >= 1, got "
                f"{self.obs.shape} and {self.next_obs.shape}. Collect some experience first."
            )
        self.check_finite()

    def check_finite(self) -> None:
        """Refuse numbers that are not finite; arrays may have been changed since they came in."""
        for name in LAYOUT:
            values = getattr(self, name)
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                row, *column = bad[0].tolist()
                raise ValueError(
                    f"Transitions: expected finite numbers, got {values[tuple(bad[0])]} in {name}, "
                    f"row {row}{f', column {column[0]}' if column else ''} ({len(bad)} such "
                    "values). Remove these rows, or mend what produced them."
                )

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: np.ndarray | slice) -> "Transitions":
        """Pick rows by a slice, a mask or indices."""
        return Transitions(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def episodes(self) -> np.ndarray:
        """Numbers of the episodes, in order of first appearance."""
        values, first = np.unique(self.episode, return_index=True)
        return values[np.argsort(first)]

    def returns(self) -> np.ndarray:
        """Sum of rewards of each episode, in the order of `episodes`."""
        return np.array([self.reward[self.episode == i].sum() for i in self.episodes])

    def save(self, path: str | Path) -> None:
        """Write a compressed .npz file without pickle; refuse to overwrite one that is not ours.

        Raises:
            ValueError: if there is something else at this path.
        """
        path = Path(path)
        if path.exists():
            try:
                load_transitions(path)
            except ValueError as error:
                raise ValueError(
                    "Transitions.save: expected a new path or an older file of transitions, got "
                    f"{path}, which is something else. Choose another name, or remove it."
                ) from error
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        partial = path.with_name(path.name + ".part")
        with partial.open("wb") as file:
            np.savez_compressed(file, format=np.array(FORMAT), **arrays)
        partial.replace(path)  # in one step, so that an interrupt leaves the old file whole


def load_transitions(path: str | Path) -> Transitions:
    """Read what `Transitions.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, or not a file of transitions.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"load_transitions: expected a file of transitions, got none at {path}. Check the "
            "path, or collect and save the data first."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile) or str(file["format"]) != FORMAT:
                raise ValueError("another format")
            return Transitions(*(file[field.name] for field in fields(Transitions)))
    except Exception as error:  # zipfile and NumPy raise all kinds of things on foreign bytes
        # NumPy's own words end in advice to load it all the same.
        why = "it contains pickled objects" if "pickle" in str(error) else error
        raise ValueError(
            f"load_transitions: expected a file written by Transitions.save, got {path} ({why}). "
            "It is cut off or from somewhere else: collect and save the data again."
        ) from error


def concatenate(parts: list[Transitions]) -> Transitions:
    """Join parts in order; episodes keep their numbers, so these must not clash.

    Raises:
        ValueError: if there are no parts, they are of different environments, or numbers clash.
    """
    _check_alike("concatenate", parts)
    numbers = np.concatenate([part.episodes for part in parts])
    if len(np.unique(numbers)) < len(numbers):
        raise ValueError(
            f"concatenate: expected different episode numbers, got {numbers.tolist()}. "
            "Add the parts to a ReplayBuffer, which numbers them anew."
        )
    return Transitions(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Transitions))
    )


def _check_alike(where: str, parts: list[Transitions]) -> None:
    kinds = {(p.obs.shape[1], p.action.dtype.name, *p.action.shape[1:]) for p in parts}
    if len(kinds) != 1:
        raise ValueError(
            f"{where}: expected transitions of one environment, got observation and action sizes "
            f"{sorted(kinds)}. Keep environments apart."
        )


class ReplayBuffer:
    """Experience so far, whole episodes; when it is full the oldest go first."""

    def __init__(self, capacity: int = 1_000_000) -> None:
        """Make an empty buffer for at most `capacity` transitions."""
        check_counts("ReplayBuffer", capacity=capacity)
        self.capacity = capacity
        self._parts: list[Transitions] = []
        self._joined: Transitions | None = None  # all parts in one, until another is added
        self._next_episode = 0

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def add(self, transitions: Transitions) -> None:
        """Append transitions; their episodes get the next free numbers.

        Raises:
            ValueError: if they are of another environment than those in the buffer.
        """
        _check_alike("ReplayBuffer.add", [*self._parts[:1], transitions])
        for number in transitions.episodes:
            part = transitions[transitions.episode == number]
            renumbered = np.full(len(part), self._next_episode, dtype=np.int64)
            self._parts.append(replace(part, episode=renumbered))
            self._next_episode += 1
        while len(self) > self.capacity and len(self._parts) > 1:
            self._parts.pop(0)
        self._joined = None

    def all(self) -> Transitions:
        """Everything in the buffer."""
        if not self._parts:
            raise RuntimeError(
                "ReplayBuffer: expected at least one episode, got an empty buffer. Call add first."
            )
        if self._joined is None:
            self._joined = concatenate(self._parts)
        return self._joined

    def sample(self, batch_size: int, rng: np.random.Generator) -> Transitions:
        """Draw `batch_size` transitions uniformly, with replacement."""
        data = self.all()
        return data[rng.integers(len(data), size=batch_size)]


def split_by_episode(
    transitions: Transitions, fraction: float, rng: np.random.Generator
) -> tuple[Transitions, Transitions]:
    """Split off whole episodes for validation; rows of one episode are too alike to be split.

    Args:
        transitions: of at least two episodes.
        fraction: share of the episodes for validation, 0 < fraction < 1; at least one.
        rng: picks them.

    Returns:
        Training and validation transitions.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"split_by_episode: expected 0 < fraction < 1, got {fraction}. Try 0.2.")
    episodes = transitions.episodes
    if len(episodes) < 2:
        raise ValueError(
            f"split_by_episode: expected at least 2 episodes, got {len(episodes)} "
            f"({len(transitions)} transitions). Collect another episode."
        )
    num_validation = min(max(1, round(fraction * len(episodes))), len(episodes) - 1)
    chosen = rng.permutation(episodes)[:num_validation]
    mask = np.isin(transitions.episode, chosen)
    return transitions[~mask], transitions[mask]


def validation_folds(transitions: Transitions, num_folds: int) -> np.ndarray:
    """Deal the rows out to folds: whole episodes in turn, so that old and new ones are in each.

    Where there are fewer episodes than folds, a fold is a stretch of consecutive rows.

    Args:
        transitions: at least one row for each fold.
        num_folds: at least 2.

    Returns:
        [T] number of each row's fold. Appending further episodes changes no row's fold, once there
        are as many episodes as folds.
    """
    check_counts("validation_folds", num_folds=num_folds)
    if len(transitions) < num_folds or num_folds < 2:
        raise ValueError(
            f"validation_folds: expected at least 2 folds and a transition for each, got "
            f"{len(transitions)} transitions for {num_folds} folds. Collect another episode."
        )
    if len(transitions.episodes) < num_folds:
        return np.arange(len(transitions)) * num_folds // len(transitions)
    _, first, which = np.unique(transitions.episode, return_index=True, return_inverse=True)
    return first.argsort().argsort()[which] % num_folds  # episodes in the order of their first rows


def windows(transitions: Transitions, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut episodes into stretches of `length` steps, to compare long predictions with the truth.

    Args:
        transitions: whole episodes, the rows of each in order.
        length: H. Stretches don't overlap; what is left of an episode is not used.

    Returns:
        States [K, H+1, O] and actions [K, H] or [K, H, A].

    Raises:
        ValueError: if no episode is so long.
    """
    check_counts("windows", length=length)
    states, actions = [], []
    for number in transitions.episodes:
        rows = np.flatnonzero(transitions.episode == number)
        for start in range(0, len(rows) - length + 1, length):
            stretch = rows[start : start + length]
            obs, next_obs = transitions.obs[stretch], transitions.next_obs[stretch]
            if not np.array_equal(obs[1:], next_obs[:-1]):
                raise ValueError(
                    "windows: expected the rows of each episode in order, got gaps between them in "
                    f"episode {number}. Give whole episodes, not a sample of rows."
                )
            states.append(np.concatenate([obs, next_obs[-1:]]))
            actions.append(transitions.action[stretch])
    if not states:
        longest = np.unique(transitions.episode, return_counts=True)[1].max()
        raise ValueError(
            f"windows: expected an episode of at least {length} steps, got none longer than "
            f"{longest}. Collect more, or choose a smaller length."
        )
    return np.stack(states), np.stack(actions)


class Agent(Protocol):
    """Anything that picks actions."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions of B environments, as they take them, for obs [B, O]."""
        ...

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the past of all environments, or of those where ended [B] is True."""
        ...


def run_episodes(
    env_id: str, agent: Agent, *, num_episodes: int, seed: int, num_envs: int | None = None
) -> Iterator[Transitions]:
    """Run episodes side by side and yield each as it ends.

    Episode i starts from `reset(seed=seed + i)` and has the number i, whatever `num_envs` is.
    Those that are yielded are the first ones *started*: the first ones to end would be the short
    ones. No environment resets itself, so no row crosses two episodes.

    Args:
        env_id: Gymnasium's name of the environment.
        agent: picks the actions.
        num_episodes: how many.
        seed: of the first episode.
        num_envs: B, how many run side by side; all of them unless given.

    Yields:
        The transitions of one episode.
    """
    num_envs = num_episodes if num_envs is None else num_envs
    check_counts("run_episodes", num_episodes=num_episodes, num_envs=num_envs)
    num_envs = min(num_envs, num_episodes)
    envs = make_envs(env_id, num_envs)
    try:
        number = np.arange(num_envs)  # [B] the episode that each environment is in
        obs, _ = envs.reset(seed=[seed + i for i in range(num_envs)])
        agent.reset()
        rows: list[list[tuple]] = [[] for _ in range(num_envs)]
        started = num_envs
        while (number >= 0).any():
            action = np.array(agent.act(obs))  # a copy: an agent may fill one array again and again
            if len(action) != num_envs:
                raise ValueError(
                    f"run_episodes: expected {num_envs} actions, one for each row of obs, got "
                    f"{len(action)}. act takes observations [B, O] and returns actions [B] or "
                    "[B, A]."
                )
            next_obs, reward, terminated, truncated, _ = envs.step(action)
            ended = terminated | truncated
            for b in np.flatnonzero(number >= 0):
                rows[b].append((obs[b], action[b], reward[b], next_obs[b],
                                terminated[b], truncated[b], number[b]))  # fmt: skip
                if ended[b]:
                    yield _pack(rows[b], envs.single_action_space)
                    rows[b], number[b] = [], started if started < num_episodes else -1
                    started += 1
            obs = next_obs
            if ended.any():
                # An environment with nothing left to do goes on unseen: it must not be in the way.
                seeds = [seed + int(i) if i >= 0 else None for i in number]
                obs, _ = envs.reset(seed=seeds, options={"reset_mask": ended})
                agent.reset(ended)
    finally:
        envs.close()


def _pack(rows: list[tuple], action_space: gym.Space) -> Transitions:
    discrete = isinstance(action_space, gym.spaces.Discrete)
    kinds = (np.float32, np.int64 if discrete else np.float32, np.float32, np.float32,
             np.bool_, np.bool_, np.int64)  # fmt: skip
    columns = zip(*rows, strict=True)
    return Transitions(*(np.array(c, dtype=k) for c, k in zip(columns, kinds, strict=True)))


def collect_episodes(
    env_id: str,
    agent: Agent,
    *,
    num_episodes: int,
    seed: int,
    num_envs: int | None = None,
    buffer: ReplayBuffer | None = None,
    progress: bool = False,
) -> Transitions:
    """Collect whole episodes, in the order of their numbers (arguments: see `run_episodes`).

    Args:
        env_id: Gymnasium's name of the environment.
        agent: picks the actions.
        num_episodes: how many.
        seed: episode i starts from `reset(seed=seed + i)`.
        num_envs: how many run side by side.
        buffer: each episode is added to it as it ends, so that an interrupt loses nothing.
        progress: whether to show a progress bar.
    """
    episodes = run_episodes(env_id, agent, num_episodes=num_episodes, seed=seed, num_envs=num_envs)
    parts = []
    for part in tqdm(episodes, total=num_episodes, desc="episodes", disable=not progress):
        parts.append(part)
        if buffer is not None:
            buffer.add(part)
    return concatenate(sorted(parts, key=lambda part: part.episode[0]))
