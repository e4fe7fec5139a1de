"""A toy game with known rules, and play of it."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.games.frames import CELLS
from mbrl_helpers.interfaces import VectorStep

NUM_FRAMES = 2
SHAPE = (NUM_FRAMES, 2, CELLS, CELLS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Catch(gym.Env):
    """A ball falls and rises in its column. Be near below it at the bottom, or it is over.

    Plane 0 is the player, in the last row; plane 1 the ball. Actions: stay, left, right.
    """

    observation_space = gym.spaces.Box(0, 1, (2, CELLS, CELLS), bool)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, sticky=0.0):
        self.sticky, self.last_action = sticky, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.player, self.column = self.np_random.integers((0, 2), (CELLS, CELLS - 2))
        self.height, self.down = 3, 1
        return self.obs(), {}

    def obs(self):
        planes = np.zeros((2, CELLS, CELLS), bool)
        planes[0, -1, self.player] = planes[1, self.height, self.column] = True
        return planes

    def step(self, action):
        if self.np_random.random() < self.sticky:
            action = self.last_action
        self.last_action = int(action)
        caught = over = False
        if self.down > 0 and self.height == CELLS - 2:
            caught = bool(abs(self.player - self.column) <= 1)
            over, self.down = not caught, -1
        elif self.down < 0 and self.height == 0:
            self.down = 1
        self.player = int(np.clip(self.player + (0, -1, 1)[self.last_action], 0, CELLS - 1))
        self.height += self.down
        return self.obs(), float(caught), over, False, {"executed": self.last_action}


class SlowCatch(Catch):
    """The player moves in every third step at most: a clock counts that is not in the picture."""

    def reset(self, *, seed=None, options=None):
        self.wait = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        before, self.wait = self.player, max(0, self.wait - 1)
        found = super().step(0 if self.wait else action)
        if self.player != before:
            self.wait = 3
        return self.obs(), *found[1:]


def catches(num_envs, sticky=0.0, max_steps=60, *, game=None, num_frames=NUM_FRAMES):
    def make():
        env = gym.wrappers.TimeLimit(game() if game else Catch(sticky), max_steps)
        return gym.wrappers.FrameStackObservation(env, num_frames)

    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


def played(envs, num_steps, seed=0):
    """Random experience of one game, and which actions it really executed."""
    rng, buffer = np.random.default_rng(seed), ReplayBuffer(num_steps)
    obs, _ = envs.reset(seed=seed)
    executed, none = [], np.zeros(1, int)
    for _ in range(num_steps):
        # Half of the time towards the ball, or it would hardly ever be caught.
        ball, me = obs[0, -1, 1].any(0).argmax(), obs[0, -1, 0].any(0).argmax()
        action = rng.integers(3, size=1)
        if rng.random() < 0.5:
            action[:] = 0 if ball == me else 1 if ball < me else 2
        next_obs, reward, terminated, truncated, info = envs.step(action)
        buffer.add_step(VectorStep(obs, action, reward, next_obs, terminated, truncated, none))
        executed.append(int(info["executed"][0]))
        ended, obs = terminated | truncated, next_obs
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
    return buffer, torch.tensor(executed)
