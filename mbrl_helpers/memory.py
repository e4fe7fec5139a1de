"""What an observation remembers: the steps before it, where one look does not show the state."""

from typing import Any

import gymnasium as gym
import numpy as np

from mbrl_helpers.actions import Actions
from mbrl_helpers.checks import check_counts


class RememberSteps(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Put the last steps into the observation, looks *and* actions.

    The observation becomes [num_steps (O + A) + O]: of each of the last steps what was seen and
    which action followed, oldest first, and then what is seen now. Actions are encoded as models
    see them: one-hot if discrete. After a reset the past is the first look, again and again, with
    action 0 (of discrete actions: none).

    Gymnasium's FrameStackObservation stacks looks alone; a delay hides in the actions.

    Args:
        env: with a flat Box observation and a Discrete or one-dimensional Box action.
        num_steps: how many steps are remembered.

    Raises:
        TypeError: for other spaces, and for other than a whole number of steps.
        ValueError: for less than one step.

    Source: taught in notebook 12.
    """

    def __init__(self, env: gym.Env, num_steps: int) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, num_steps=num_steps)
        gym.Wrapper.__init__(self, env)
        check_counts("RememberSteps", num_steps=num_steps)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise TypeError(
                f"RememberSteps: expected a flat Box observation, got {space}. Flatten it first, "
                "for example with gymnasium.wrappers.FlattenObservation."
            )
        self._actions = Actions.of(env.action_space, "RememberSteps")
        self._num_steps = num_steps
        size, box = self._actions.size, env.action_space
        done = (np.zeros(size), np.ones(size))  # one-hot
        if isinstance(box, gym.spaces.Box):
            done = (np.minimum(box.low, 0), np.maximum(box.high, 0))  # 0 before the first
        low, high = (
            np.concatenate([*[seen, chosen] * num_steps, seen]).astype(np.float32)
            for seen, chosen in zip((space.low, space.high), done, strict=True)
        )
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Begin an episode, with a past in which nothing was done."""
        obs, info = self.env.reset(seed=seed, options=options)
        step = np.concatenate([obs, np.zeros(self._actions.size)])
        self._past, self._now = [step] * self._num_steps, obs
        return self._remembered(), info

    def step(self, action: Any) -> tuple:
        """Act, and remember what was seen before and what was done."""
        done = self._actions.encode(np.asarray(action)[None]).numpy()[0]
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._past = [*self._past[1:], np.concatenate([self._now, done])]
        self._now = obs
        return self._remembered(), reward, terminated, truncated, info

    def _remembered(self) -> np.ndarray:
        return np.concatenate([*self._past, self._now]).astype(np.float32)
