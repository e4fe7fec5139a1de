"""Actions: made once from a Gymnasium space, so that nothing else asks whether it is discrete.

Models and planners see encoded actions: one-hot for a Discrete space, the vector itself for a Box.
So both are points of one space, of which a mean can be taken: the mean of one-hot actions holds
the probabilities of the choices.

Axes: ... any leading axes, B environments, N candidates, H horizon, A encoded action.
"""

from abc import ABC, abstractmethod

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor


class Actions(ABC):
    """The actions of an environment, as models and planners see them.

    Attributes:
        space: Gymnasium's.
        size: A, the length of an encoded action.
        is_discrete: whether an action is one of a few choices.
        middle: [A] the encoded action in the middle of all.
        half_range: [A] how far encoded actions reach from there; of choices 0.
        noise_size: how many random numbers `around` makes an action of.
    """

    space: gym.spaces.Discrete | gym.spaces.Box
    size: int
    is_discrete: bool
    middle: Tensor
    half_range: Tensor
    noise_size: int

    @staticmethod
    def of(space: gym.Space, where: str = "Actions.of") -> "Actions":
        """Make them of an action space, Discrete or Box of shape (A,).

        Args:
            space: of one environment.
            where: in whose name another kind is refused.

        Raises:
            TypeError: for another kind of action space.
        """
        if isinstance(space, gym.spaces.Discrete):
            return DiscreteActions(space)
        if (
            isinstance(space, gym.spaces.Box)
            and len(space.shape) == 1
            and space.shape[0] > 0
            and np.issubdtype(space.dtype, np.floating)
        ):
            return ContinuousActions(space)
        raise TypeError(
            f"{where}: expected a Discrete or a Box space of shape (A,) of floats, got {space}. "
            "Wrap the environment so that its actions are one of these: see "
            "gymnasium.wrappers.TransformAction."
        )

    @staticmethod
    def bounded(where: str, space: gym.Space) -> "Actions":
        """Make them of a space in which one can act and plan, in the name of what was called.

        Raises:
            TypeError: for another kind of action space than Discrete or Box of shape (A,).
            ValueError: without finite bounds.
        """
        actions = Actions.of(space, where)
        actions.check_bounded(where)
        return actions

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Actions) and self.space == other.space

    def __hash__(self) -> int:
        return hash((type(self), self.size))

    @abstractmethod
    def encode(self, actions: np.ndarray) -> Tensor:
        """Turn actions of the environment into what models and planners see.

        Args:
            actions: [...] integers for a Discrete space, [..., A] numbers for a Box.

        Returns:
            [..., A] float32: one-hot, or the actions as they are.

        Raises:
            TypeError: for other than numbers, and for fractions where the space is Discrete.
            ValueError: for integers that are no choices of the space, or the wrong shape.
        """

    @abstractmethod
    def playable(self, where: str, actions: np.ndarray, num_envs: int) -> np.ndarray:
        """Actions as B environments execute them, and as they are recorded: a new array.

        Whole numbers may come as floats, and numbers outside the bounds are clipped to them.

        Args:
            where: in whose name others are refused.
            actions: [B] choices, or [B, A] numbers.
            num_envs: B.

        Raises:
            TypeError: for other than numbers.
            ValueError: for another shape, what is no choice of the space, NaN and infinity.
        """

    @abstractmethod
    def decode(self, encoded: Tensor) -> np.ndarray:
        """Turn encoded actions [..., A] back into what the environment takes."""

    @abstractmethod
    def uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw encoded actions [*shape, A] uniformly, such as candidates of shape (B, N, H)."""

    @abstractmethod
    def from_noise(self, noise: Tensor) -> Tensor:
        """Encoded actions [..., A] of standard normal noise [..., A], each as likely as another."""

    @abstractmethod
    def around(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Encoded actions [..., A] around a mean, of standard normal noise [..., noise_size]."""

    @abstractmethod
    def opened(self, mean: Tensor, share: float) -> Tensor:
        """A mean [..., A] to draw around; of choices this share becomes uniform."""

    @abstractmethod
    def likeliest(self, mean: Tensor) -> Tensor:
        """The encoded action [..., A] that a mean stands for."""

    @abstractmethod
    def clip(self, encoded: Tensor) -> Tensor:
        """Encoded actions [..., A] brought within the bounds."""

    @abstractmethod
    def check_bounded(self, where: str) -> None:
        """Refuse a space without finite bounds, where actions are to be drawn from it.

        Raises:
            ValueError: in the name of what the user called.
        """


class DiscreteActions(Actions):
    """Choices, encoded as one-hot."""

    is_discrete = True
    noise_size = 1

    def __init__(self, space: gym.spaces.Discrete) -> None:
        self.space, self.size = space, int(space.n)
        self.first = int(space.start)
        self._choices = frozenset(range(self.first, self.first + self.size))
        self.middle = torch.full((self.size,), 1 / self.size)
        self.half_range = torch.zeros(self.size)

    def encode(self, actions: np.ndarray) -> Tensor:
        """One-hot [..., A] of integers [...]."""
        actions = np.asarray(actions)
        if actions.dtype.kind not in "iu":
            raise TypeError(
                f"Actions.encode: expected integers for {self.space}, got an array of "
                f"{actions.dtype}. Is this data of another environment?"
            )
        index = torch.as_tensor(actions.astype(np.int64) - self.first)
        if index.numel() and not (index.min() >= 0 and index.max() < self.size):
            raise ValueError(
                f"Actions.encode: expected actions of {self.space}, got values from "
                f"{actions.min()} to {actions.max()}. Is this data of another environment?"
            )
        return torch.nn.functional.one_hot(index, self.size).float()

    def playable(self, where: str, actions: np.ndarray, num_envs: int) -> np.ndarray:
        """Choices [B]; 1.0 is 1."""
        if actions.shape != (num_envs,):
            cure = "action[:, 0], say" if actions.ndim == 2 else "one for each"
            raise _not_one_each(where, actions, (num_envs,), cure)
        legal = f"whole numbers from {min(self._choices)} to {max(self._choices)}"
        if actions.dtype.kind not in "iuf":
            raise TypeError(
                f"{where}: expected actions as {legal}, got an array of {actions.dtype}. "
                "Convert them: action.astype(int)."
            )
        strange = set(actions.tolist()) - self._choices  # 1.0 is 1, and NaN is none of them
        if strange:
            raise ValueError(
                f"{where}: expected actions as {legal}, the choices of {self.space}, got "
                f"{strange.pop()}. Return one of these."
            )
        return actions.astype(self.space.dtype)

    def decode(self, encoded: Tensor) -> np.ndarray:
        """Integers [...] of one-hot [..., A]."""
        return encoded.argmax(-1).numpy() + self.first

    def uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw one-hot actions [*shape, A]."""
        return torch.eye(self.size)[torch.randint(self.size, shape, generator=generator)]

    def from_noise(self, noise: Tensor) -> Tensor:
        """One-hot of the largest number."""
        return self.likeliest(noise)

    def around(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Choices with the probabilities `mean`: the rank of the noise among all numbers picks."""
        bins = mean.cumsum(-1)[..., :-1]
        index = (torch.special.ndtr(noise) > bins).sum(-1)
        return torch.nn.functional.one_hot(index, self.size).float()

    def opened(self, mean: Tensor, share: float) -> Tensor:
        """Mix the probabilities with uniform ones."""
        return (1 - share) * mean + share * self.middle

    def likeliest(self, mean: Tensor) -> Tensor:
        """One-hot of the most probable choice."""
        return torch.nn.functional.one_hot(mean.argmax(-1), self.size).float()

    def clip(self, encoded: Tensor) -> Tensor:
        """Choices have no bounds to leave."""
        return encoded

    def check_bounded(self, where: str) -> None:
        """Choices can always be drawn."""


class ContinuousActions(Actions):
    """Numbers within bounds, encoded as they are."""

    is_discrete = False

    def __init__(self, space: gym.spaces.Box) -> None:
        self.space, self.size = space, int(space.shape[0])
        self.noise_size = self.size
        self._low, self._high = space.low, space.high
        self.low = torch.as_tensor(space.low).float()
        self.high = torch.as_tensor(space.high).float()
        self.middle, self.half_range = (self.low + self.high) / 2, (self.high - self.low) / 2

    def encode(self, actions: np.ndarray) -> Tensor:
        """The numbers [..., A] as float32."""
        actions = np.asarray(actions)
        if actions.dtype.kind not in "iuf":
            raise TypeError(
                f"Actions.encode: expected numbers for {self.space}, got an array of "
                f"{actions.dtype}. Is this data of another environment?"
            )
        encoded = torch.as_tensor(actions.astype(np.float32))
        if encoded.ndim == 0 or encoded.shape[-1] != self.size:
            raise ValueError(
                f"Actions.encode: expected actions of shape [..., {self.size}], got "
                f"{tuple(encoded.shape)}. Give one row of A numbers an action."
            )
        return encoded

    def playable(self, where: str, actions: np.ndarray, num_envs: int) -> np.ndarray:
        """The numbers [B, A] in the space's dtype, within the bounds."""
        if actions.shape != (num_envs, self.size):
            cure = "action[:, None], say" if actions.ndim == 1 else "a row for each"
            raise _not_one_each(where, actions, (num_envs, self.size), cure)
        if actions.dtype.kind not in "iuf":
            raise TypeError(
                f"{where}: expected actions as numbers for {self.space}, got an array of "
                f"{actions.dtype}. Convert them: action.astype(np.float32)."
            )
        finite = np.isfinite(actions)
        if not finite.all():
            raise ValueError(
                f"{where}: expected finite actions for {self.space}, got "
                f"{actions[~finite][0]}. Look at what produced it."
            )
        played = np.minimum(np.maximum(actions, self._low), self._high)
        if played.dtype == self.space.dtype == np.float32:
            return played
        # Rounded to the 32 bits that are kept; of a bound with more, the bound.
        played = played.astype(np.float32).astype(self.space.dtype)
        return np.minimum(np.maximum(played, self._low), self._high)

    def decode(self, encoded: Tensor) -> np.ndarray:
        """The numbers [..., A] in the space's dtype."""
        return encoded.numpy().astype(self.space.dtype)

    def uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw actions [*shape, A] within the bounds."""
        self.check_bounded("Actions.uniform")
        random = torch.rand(*shape, self.size, generator=generator)
        return self.low + (self.high - self.low) * random

    def from_noise(self, noise: Tensor) -> Tensor:
        """Between the bounds, at the rank of the noise among all numbers."""
        return self.low + (self.high - self.low) * torch.special.ndtr(noise)

    def around(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Mean plus noise, within the bounds."""
        return self.clip(mean + std * noise)

    def opened(self, mean: Tensor, share: float) -> Tensor:
        """A mean as it is: its standard deviation opens it."""
        return mean

    def likeliest(self, mean: Tensor) -> Tensor:
        """The mean; clipped, for the mean of equal numbers may differ from them by a bit."""
        return self.clip(mean)

    def clip(self, encoded: Tensor) -> Tensor:
        """The nearest action [..., A] within the bounds."""
        return torch.minimum(torch.maximum(encoded, self.low), self.high)

    def unit(self, encoded: Tensor) -> Tensor:
        """In units of half the range [..., A]: from -1 to 1 within the bounds."""
        return (encoded - self.middle) / self.half_range.masked_fill(self.half_range == 0, 1.0)

    def check_bounded(self, where: str) -> None:
        """Refuse a space without finite bounds, or in which there is nothing to choose."""
        width = self.high - self.low
        if not width.isfinite().all() or not (width > 0).any():
            raise ValueError(
                f"{where}: expected an action space with finite bounds, got {self.space}. Give the "
                "bounds that you want to search, a low below a high: Task(..., space="
                f"gymnasium.spaces.Box(-1, 1, {self.space.shape})), or wrap the environment in "
                "gymnasium.wrappers.TransformAction."
            )


def _not_one_each(
    where: str, actions: np.ndarray, wanted: tuple[int, ...], cure: str
) -> ValueError:
    """What is said of other than an action for each environment."""
    return ValueError(
        f"{where}: expected {wanted[0]} actions, one for each row of obs, got an array of shape "
        f"{actions.shape}. act takes observations [B, O] and returns actions [B] or [B, A], here "
        f"of shape {wanted}: {cure}."
    )
