"""Glimpses: looks that show some of the observation, and now and then nothing at all."""

from typing import Any

import gymnasium as gym
import numpy as np

from mbrl_helpers.envs import Task


class Glimpses(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Show some columns of the observation, some of the time.

    The observation becomes [len(columns) + 1]: these columns, with noise, and then 1; or zeros,
    where there was no look. Noise and blanks come of the environment's own seed.

    Args:
        env: with a flat Box observation.
        columns: which are shown.
        blank: probability that a look is blanked.
        noise: standard deviation of what is added to a look.

    Raises:
        TypeError: for another observation.
        ValueError: for columns that are not there, a probability outside [0, 1), or a negative
            deviation.

    Source: taught in notebook 10.
    """

    def __init__(
        self, env: gym.Env, columns: tuple[int, ...], *, blank: float = 0.0, noise: float = 0.0
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, columns=columns, blank=blank, noise=noise)
        gym.Wrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise TypeError(
                f"Glimpses: expected a flat Box observation, got {space}. Flatten it first, for "
                "example with gymnasium.wrappers.FlattenObservation."
            )
        if not columns or not set(columns) <= set(range(space.shape[0])):
            raise ValueError(
                f"Glimpses: expected columns among the {space.shape[0]} of the observation, got "
                f"{columns}. Count from 0."
            )
        if not 0 <= blank < 1 or not 0 <= noise < float("inf"):
            raise ValueError(
                f"Glimpses: expected blank in [0, 1) and noise >= 0, got {blank} and {noise}. "
                "Leave them out for none."
            )
        self._columns, self._blank, self._noise = list(columns), blank, noise
        reach = 5 * noise
        low = np.minimum(np.append(space.low[self._columns] - reach, 0), 0)
        high = np.maximum(np.append(space.high[self._columns] + reach, 1), 0)
        self.observation_space = gym.spaces.Box(
            low.astype(np.float32), high.astype(np.float32), dtype=np.float32
        )

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._eye = np.random.default_rng(self.unwrapped.np_random.integers(1 << 30))
        return self._glimpse(obs), info

    def step(self, action: Any) -> tuple:
        """Act, and see what is shown."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._glimpse(obs), reward, terminated, truncated, info

    def _glimpse(self, obs: np.ndarray) -> np.ndarray:
        seen = float(self._eye.random() >= self._blank)
        noise = np.clip(self._eye.normal(size=len(self._columns)), -5, 5)  # within the space
        look = obs[self._columns] + self._noise * noise
        return np.append(look * seen, seen).astype(np.float32)


def pendulum_glimpses(*, blank: float = 0.0, noise: float = 0.0) -> Task:
    """Pendulum-v1 without its velocity: a task whose third column says whether there was a look.

    Args:
        blank: see `Glimpses`.
        noise: see `Glimpses`.
    """
    env_id = f"Glimpses/Pendulum-blank{blank:g}-noise{noise:g}-v1".replace(".", "_")
    if env_id not in gym.registry:
        gym.register(env_id, _make, max_episode_steps=200, kwargs={"blank": blank, "noise": noise})
    names = ("cosine of the angle", "sine of the angle", "seen")
    return Task(env_id=env_id, obs_names=names, angles=((0, 1),))


def _make(*, blank: float = 0.0, noise: float = 0.0, **more: Any) -> gym.Env:
    return Glimpses(gym.make("Pendulum-v1", **more).unwrapped, (0, 1), blank=blank, noise=noise)
