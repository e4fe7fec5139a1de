"""Experience: transitions, keeping, splitting and saving them.

Transitions are NumPy at the edge, where environments are, and torch inside (`Transitions.tensors`).

Axes: T transitions, B environments, K rows, O observation, A action; games observe more axes.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mbrl_helpers import saving
from mbrl_helpers.actions import Actions
from mbrl_helpers.checks import check_counts
from mbrl_helpers.interfaces import VectorStep

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

    def tensors(self, actions: Actions) -> "Batch":
        """The torch view, with encoded actions.

        Args:
            actions: of the environment.

        Raises:
            TypeError, ValueError: for actions of another environment.
        """
        return Batch(
            torch.tensor(self.obs), actions.encode(self.action), torch.tensor(self.reward),
            torch.tensor(self.next_obs), torch.tensor(self.terminated).float(),
            torch.zeros(len(self), dtype=torch.bool),
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write a compressed .npz file without pickle; refuse to overwrite one that is not ours.

        Raises:
            ValueError: if there is something else at this path.
        """
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        saving.save("Transitions.save", path, "transitions", {}, arrays)


def load_transitions(path: str | Path) -> Transitions:
    """Read what `Transitions.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, not a file of transitions, or of a newer version.
    """
    _, arrays = saving.load("load_transitions", path, "transitions")
    with saving.reading("load_transitions", path):
        return Transitions(**arrays)


@dataclass(frozen=True, eq=False)
class Batch:
    """The torch view of transitions, real or imagined.

    Attributes:
        obs: [K, O].
        action: [K, A] encoded; of a game [K], as the environment takes it.
        reward: [K].
        next_obs: [K, O].
        terminated: [K] 1 where nothing follows; 0 where an episode or a rollout was merely cut.
        imagined: [K] bool.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    imagined: Tensor

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, rows: Tensor | slice) -> "Batch":
        """Pick rows by a slice, a mask or indices."""
        return Batch(*(part[rows] for part in vars(self).values()))

    def draw(self, num_rows: int, generator: torch.Generator) -> "Batch":
        """Draw rows uniformly, with replacement."""
        return self[torch.randint(len(self), (num_rows,), generator=generator)]


def join(batches: list[Batch]) -> Batch:
    """Put batches one after another."""
    return Batch(*map(torch.cat, zip(*(vars(b).values() for b in batches), strict=True)))


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


COLUMNS = VectorStep._fields
DTYPES = {"reward": np.float32, "terminated": np.bool_, "truncated": np.bool_, "episode": np.int64}


class ReplayBuffer:
    """The last steps of B environments side by side: a ring, in which the oldest are overwritten.

    Whole episodes come in by `add`, and the steps of a game, as they happen, by `add_step`. What
    is observed keeps the dtype of the first step.

    Attributes:
        capacity: steps of each environment.
        num_envs: B.
        num_added: steps of each that have come in so far.
        columns: by name, [T, B, ...] tensors, of which step number i is in row i % capacity.
    """

    def __init__(self, capacity: int = 1_000_000, num_envs: int = 1) -> None:
        """Make an empty buffer for at most `capacity` steps of B environments."""
        check_counts("ReplayBuffer", capacity=capacity, num_envs=num_envs)
        self.capacity, self.num_envs, self.num_added = capacity, num_envs, 0
        self.columns: dict[str, Tensor] = {}
        self._episode = np.arange(num_envs)  # [B] the number of the episode that each is in
        self._oldest = 0  # the first step that is still there
        self._torn: int | None = None  # the episode whose beginning has been overwritten

    def __len__(self) -> int:
        """How many steps of each environment it holds."""
        return min(self.num_added - self._oldest, self.capacity)

    def add(self, transitions: Transitions) -> None:
        """Append whole episodes of one environment, which get the next free numbers.

        Raises:
            ValueError: if they are of another environment than those in the buffer.
        """
        self._one_environment("ReplayBuffer.add")
        for number in transitions.episodes:
            part = transitions[transitions.episode == number]
            columns = {name: getattr(part, name)[:, None] for name in COLUMNS}
            columns["episode"] = np.full((len(part), 1), self._episode[0])
            rows = self._fitting("ReplayBuffer.add", columns)
            self._begin(np.array([True]))
            self._append(rows)

    def add_step(self, step: VectorStep) -> None:
        """Append one step of all environments.

        Raises:
            ValueError: for other shapes than before, or numbers that would not stay what they are.
        """
        columns = step._asdict() | {"episode": self._episode}
        rows = {name: np.asarray(value)[None] for name, value in columns.items()}
        fitting = self._fitting("ReplayBuffer.add_step", rows)
        self._begin(np.asarray(step.ended))  # first: an interrupt never lets two episodes be one
        self._append(fitting)

    def cut(self) -> None:
        """Say that what follows is not what came of the last step."""
        if len(self):
            row = (self.num_added - 1) % self.capacity
            terminated, truncated = (self.columns[n][row] for n in ("terminated", "truncated"))
            self._begin((~(terminated | truncated)).numpy())
            truncated[:] = True

    def all(self) -> Transitions:
        """Everything in it, of one environment; no episode without its beginning.

        Raises:
            RuntimeError: if there is nothing in it.
        """
        self._one_environment("ReplayBuffer.all")
        if not len(self):
            raise RuntimeError(
                "ReplayBuffer.all: expected at least one episode, got an empty buffer. Call add "
                "first."
            )
        rows = self._rows()
        whole = rows[self.columns["episode"][rows, 0] != (-1 if self._torn is None else self._torn)]
        rows = whole if len(whole) else rows  # of an only episode that is too long, its end
        return Transitions(*(self.columns[name][rows, 0].numpy() for name in COLUMNS))

    def batch(self) -> Batch:
        """The torch view of a game's steps, in the order of time; actions as it takes them."""
        self._one_environment("ReplayBuffer.batch")
        if not len(self):
            raise RuntimeError(
                "ReplayBuffer.batch: expected at least one step, got an empty buffer. Add some "
                "first."
            )
        rows = self._rows()
        names = ("obs", "action", "reward", "next_obs", "terminated")
        columns = {name: self.columns[name][rows, 0] for name in names}
        return Batch(**columns, imagined=torch.zeros(len(rows), dtype=torch.bool))

    def _rows(self) -> Tensor:
        return torch.arange(self.num_added - len(self), self.num_added) % self.capacity

    def _one_environment(self, where: str) -> None:
        if self.num_envs != 1:
            raise RuntimeError(
                f"{where}: expected a buffer of one environment, got one of {self.num_envs}. Make "
                "it with num_envs=1."
            )

    def _begin(self, fresh: np.ndarray) -> None:
        """Number anew the episodes of the environments where fresh [B] is True."""
        count = int(fresh.sum())
        self._episode = self._episode.copy()
        self._episode[fresh] = self._episode.max() + 1 + np.arange(count)

    def _fitting(self, where: str, columns: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """Rows [T, B, ...] of each column as they are kept, if that changes none of them."""
        tensors = {name: torch.as_tensor(_kept(name, v)) for name, v in columns.items()}
        num = len(tensors["obs"])
        if not self.columns:
            if any(v.shape[:2] != (num, self.num_envs) for v in tensors.values()):
                raise ValueError(
                    f"{where}: expected a row for each of {self.num_envs} environments, got "
                    f"{ {name: list(v.shape[1:]) for name, v in tensors.items()} }. Make the "
                    "buffer with their number as num_envs."
                )
            self.columns = {name: v[:0].clone() for name, v in tensors.items()}
        for name, value in tensors.items():
            kept = self.columns[name]
            fits = torch.promote_types(value.dtype, kept.dtype) == kept.dtype
            if value.shape[1:] != kept.shape[1:] or not fits:
                raise ValueError(
                    f"{where}: expected {name} {list(kept.shape[1:])} that fits {kept.dtype}, got "
                    f"{list(value.shape[1:])} {value.dtype}. Keep environments apart: make a "
                    "buffer for each."
                )
        return {name: value.to(self.columns[name].dtype) for name, value in tensors.items()}

    def _append(self, tensors: dict[str, Tensor]) -> None:
        """Write rows [T, B, ...] of each column behind the last ones.

        What an interrupt leaves half written does not count, nor do the rows that it is written
        over: they are given up first, and the new ones are counted last.
        """
        num = len(tensors["obs"])
        self._make_room(num)
        rows = torch.arange(self.num_added, self.num_added + num)[-self.capacity :]
        if self.num_added + num > self.capacity:
            self._torn = self._last_overwritten(num, tensors["episode"])
        too_many = self.num_added + num - self.capacity
        self._oldest = max(self._oldest, min(too_many, self.num_added))
        for name, value in tensors.items():
            self.columns[name][rows % self.capacity] = value[-self.capacity :]
        self.num_added += num

    def _last_overwritten(self, num: int, new: Tensor) -> int:
        """The episode of the last row that goes when `num` are added (of one environment)."""
        last = self.num_added + num - self.capacity - 1
        if last >= self.num_added:
            return int(new[last - self.num_added, 0])
        return int(self.columns["episode"][last % self.capacity, 0])

    def _make_room(self, num: int) -> None:
        """Grow by doubling: most buffers stay far below their capacity."""
        wanted = self.num_added + num
        for name, kept in self.columns.items():
            if len(kept) < min(wanted, self.capacity):
                size = min(self.capacity, max(2 * len(kept), wanted, 256))
                larger = kept.new_zeros(size, *kept.shape[1:])
                larger[: len(kept)] = kept
                self.columns[name] = larger


def _kept(name: str, values: np.ndarray) -> np.ndarray:
    """Values as they are kept: what is learned from has 32 bits."""
    if name in DTYPES:
        return values.astype(DTYPES[name])
    if name == "action":
        return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


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
            f"({len(transitions)} transitions). Collect another episode; in closed_loop, raise "
            "num_random_episodes."
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
            f"{len(transitions)} transitions for {num_folds} folds. Collect another episode; in "
            "closed_loop, raise num_random_episodes."
        )
    if len(transitions.episodes) < num_folds:
        return np.arange(len(transitions)) * num_folds // len(transitions)
    _, first, which = np.unique(transitions.episode, return_index=True, return_inverse=True)
    return first.argsort().argsort()[which] % num_folds  # episodes in the order of their first rows


class Folds:
    """Deals experience to folds fit by fit: an episode stays for ever where it was first put.

    Otherwise a network that goes on from an earlier fit is judged by what it was trained on.
    """

    def __init__(self, num_folds: int) -> None:
        """Make folds without episodes."""
        self.num_folds, self._dealt = num_folds, 0
        self._of: dict[int, np.ndarray] = {}  # by an episode's number, the folds of its rows

    def deal(self, transitions: Transitions) -> np.ndarray:
        """Number of each row's fold [T]; of episodes that are new, see `validation_folds`.

        Raises:
            ValueError: for too few rows, or where none is left of a fold.
        """
        folds = validation_folds(transitions, self.num_folds)
        first = not self._of
        for number in map(int, transitions.episodes):
            rows = transitions.episode == number
            if len(self._of.get(number, ())) != rows.sum():
                whole = np.full(rows.sum(), self._dealt % self.num_folds)
                self._of[number] = folds[rows] if first else whole
                self._dealt += 1
            folds[rows] = self._of[number]
        if len(np.unique(folds)) < self.num_folds:
            raise ValueError(
                f"Folds.deal: expected episodes of each of {self.num_folds} folds, got those of "
                f"{np.unique(folds).tolist()}. Keep more episodes in the buffer, or go on without "
                "warm_start."
            )
        return folds


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
