"""Small environments: healthy ones, in which nothing is to be found, and sick ones."""

from math import cos, pi, sin

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from mbrl_helpers import Task

PUSH, PUSH2 = (Box(-1, 1, (size,), np.float32) for size in (1, 2))


def world(name, num_obs, space, start, step, see=lambda s: s, *, limit=60, angles=()):
    """A task: start(rng) -> state; step(state, action, rng) -> state, reward, terminated."""

    class World(gym.Env):
        observation_space = Box(-np.inf, np.inf, (num_obs,), np.float32)
        action_space = space

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.state = start(self.np_random)
            return np.array(see(self.state), np.float32), {}

        def step(self, action):
            action = float(action[0]) if space.shape == (1,) else action
            self.state, reward, terminated = step(self.state, action, self.np_random)
            obs = np.array(see(self.state), np.float32)
            return obs, float(reward), bool(terminated), False, {}

    gym.register(f"{name}-v0", World, max_episode_steps=limit, disable_env_checker=True)
    names = tuple(f"o{i}" for i in range(num_obs))
    return Task(env_id=f"{name}-v0", obs_names=names, angles=angles)


def known(name, cls, obs_names, *, limit, angles=()):
    """A task of Gymnasium's classic control, with a shorter time limit."""
    gym.register(f"{name}-v0", f"gymnasium.envs.classic_control:{cls}", max_episode_steps=limit)
    return Task(env_id=f"{name}-v0", obs_names=obs_names, angles=angles)


def box(size, half):
    """Starts in a box around 0."""
    return lambda rng: rng.uniform(-half, half, size)


def pushed(s, a, rng):
    """A mass [x, v], pushed."""
    return (s[0] + 0.1 * s[1], s[1] + 0.3 * a), -(s[0] ** 2) - 0.1 * a**2, False


def valve(s, a, rng):
    """What flows through a valve, which is often wide open or shut; the level after it."""
    flow = float(np.clip(s[0] + a, 0, 1))
    return (flow, s[1] + 0.2 * (s[0] - 0.5 - 0.3 * s[1])), -(s[1] ** 2), False


HEALTHY = {
    "weak motor in noise": world("Weak", 2, PUSH, box(2, 2), lambda s, a, rng: (
        (s[0] + .1 * s[1], s[1] - .1 * s[0] + .05 * a + .02 * rng.normal()), -s[0] ** 2, False)),
    "mass": world("Mass", 2, PUSH, box(2, 2), pushed),
    "spring": world("Spring", 2, PUSH, box(2, 2), lambda s, a, rng: (
        (s[0] + .1 * s[1], s[1] + .1 * (a - 2 * s[0] - .3 * s[1])), -abs(s[0]), False)),
    "two wells": world("Wells", 2, PUSH, box(2, 2), lambda s, a, rng: (
        (s[0] + .05 * s[1], s[1] + .05 * (3 * a + s[0] - s[0] ** 3 - .2 * s[1])), -s[0] ** 2,
        False)),
    "oscillator": world("VanDerPol", 2, PUSH, box(2, 2), lambda s, a, rng: (
        (s[0] + .05 * s[1], s[1] + .05 * ((1 - s[0] ** 2) * s[1] - s[0] + a)), -s[1] ** 2, False)),
    "two tanks": world("Tanks", 2, Box(0, 1, (1,), np.float32), lambda rng: rng.uniform(.2, 2, 2),
        lambda s, a, rng: ((s[0] + .1 * (a - .4 * s[0] ** .5),
                            s[1] + .1 * (.4 * s[0] ** .5 - .3 * s[1] ** .5)),
                           -(s[1] - 1) ** 2, False)),
    "heater": world("Heater", 3, Discrete(3),
        lambda rng: (rng.uniform(10, 25), rng.uniform(-5, 10), rng.uniform(10, 25)),
        lambda s, a, rng: ((s[0] + .1 * (2 * a - .1 * (s[0] - s[1])), s[1],
                            s[2] + .1 * (s[0] - s[2])), -abs(s[2] - 20) - .1 * a, False)),
    "heading": world("Heading", 5, PUSH2,
        lambda rng: (*rng.uniform(-1, 1, 2), rng.uniform(-pi, pi), .5),
        lambda s, a, rng: ((s[0] + .1 * s[3] * cos(s[2]), s[1] + .1 * s[3] * sin(s[2]),
                            s[2] + .3 * a[0], s[3] + .1 * a[1]), -s[0] ** 2 - s[1] ** 2, False),
        lambda s: (s[0], s[1], cos(s[2]), sin(s[2]), s[3]), angles=((2, 3),)),
    "arm": world("Arm", 6, PUSH2, lambda rng: (*rng.uniform(-3, 3, 2), *rng.uniform(-1, 1, 2)),
        lambda s, a, rng: ((s[0] + .05 * s[2], s[1] + .05 * s[3],
                            s[2] + .05 * (4 * a[0] - 2 * sin(s[0]) - .2 * s[2]),
                            s[3] + .05 * (4 * a[1] - sin(s[1] - s[0]) - .2 * s[3])),
                           cos(s[0]) + cos(s[1]), False),
        lambda s: (cos(s[0]), sin(s[0]), cos(s[1]), sin(s[1]), s[2], s[3]),
        angles=((0, 1), (2, 3))),
    "quitting": world("Quitting", 1, Discrete(2), lambda rng: rng.uniform(-1, 1),
        lambda s, a, rng: (s * .95, 1.0 if a else .5, a == 1), lambda s: (s,), limit=20),
    "fence": world("Fence", 2, PUSH, box(2, 1), lambda s, a, rng: (
        (s[0] + .2 * s[1], s[1] + .3 * a), 1.0, abs(s[0]) > 1.5), limit=100),
    "braking": world("Braking", 2, PUSH, box(2, 1), lambda s, a, rng: (
        (s[0] + .1 * s[1], s[1] + .3 * a), -s[0] ** 2, a * s[1] < -.4)),
    "prey": world("Prey", 2, PUSH, lambda rng: rng.uniform(.5, 2, 2), lambda s, a, rng: (
        (s[0] + .05 * s[0] * (1 - .8 * s[1] + .3 * a), s[1] + .05 * s[1] * (.8 * s[0] - 1)),
        -abs(s[0] - 1), False)),
    "grid": world("Grid", 2, Discrete(5), lambda rng: rng.integers(0, 7, 2).astype(float),
        lambda s, a, rng: ((min(6, max(0, s[0] + (a == 1) - (a == 2))),
                            min(6, max(0, s[1] + (a == 3) - (a == 4)))),
                           -abs(s[0] - 3) - abs(s[1] - 3), False), limit=40),
    "reactor": world("Reactor", 2, Box(0, 2, (1,), np.float32), lambda rng: rng.uniform(.3, 1, 2),
        lambda s, a, rng: ((s[0] + .05 * (1 - s[0] - 2 * s[0] * s[1]),
                            s[1] + .05 * (a * s[0] - s[1])), -(s[0] - .5) ** 2, False)),
    "rotor": world("Rotor", 3, PUSH, lambda rng: (rng.uniform(-pi, pi), rng.uniform(-3, 3)),
        lambda s, a, rng: ((s[0] + .1 * s[1], s[1] + .1 * (5 * a - .3 * s[1])), cos(s[0]), False),
        lambda s: (cos(s[0]), sin(s[0]), s[1]), angles=((0, 1),)),
    "stock": world("Stock", 2, Discrete(4),
        lambda rng: (float(rng.integers(0, 8)), rng.uniform(.5, 2)),
        lambda s, a, rng: ((max(0, s[0] + a - s[1]), s[1]),
                           -.1 * s[0] - max(0, s[1] - s[0] - a), False), limit=40),
    "lift": world("Lift", 3, PUSH, lambda rng: (rng.uniform(0, 5), 0.0, rng.uniform(0, 5)),
        lambda s, a, rng: ((s[0] + .1 * s[1], s[1] + .2 * a - .05 * s[1], s[2]),
                           -abs(s[0] - s[2]), False)),
    "slow motor": world("Motor", 3, PUSH, box(3, 1), lambda s, a, rng: (
        (s[0] + .1 * s[1], s[1] + .3 * s[2], a), -s[0] ** 2, False)),
    "bouncing ball": world("Ball", 2, PUSH, lambda rng: (rng.uniform(0, 2), rng.uniform(-1, 1)),
        lambda s, a, rng: ((max(0, s[0] + .1 * s[1]),
                            -.8 * s[1] if s[0] + .1 * s[1] < 0 else s[1] - .2 + .2 * a),
                           s[0], False), limit=80),
    "valve": world("Valve", 2, PUSH, box(2, 1), valve),
    "cart and pole": known("ShortPole", "CartPoleEnv", tuple("xvas"), limit=200),
    "pendulum": known("ShortPendulum", "PendulumEnv", tuple("cst"), limit=100, angles=((0, 1),)),
    "acrobot": known("ShortAcrobot", "AcrobotEnv", tuple("cskntu"), limit=200,
                     angles=((0, 1), (2, 3))),
    "hill": known("ShortHill", "MountainCarEnv", tuple("xv"), limit=200),
    "car on a hill": known("ShortCar", "Continuous_MountainCarEnv", tuple("xv"), limit=200),
}  # fmt: skip

# What is wrong, and where it shows: (task, kind, column).
SICK = {
    "no speed": (world("NoSpeed", 1, PUSH, box(2, 2), pushed, lambda s: s[:1]), "hidden", "o0"),
    "no spin": (world("NoSpin", 2, PUSH, lambda rng: (rng.uniform(-pi, pi), rng.uniform(-3, 3)),
        lambda s, a, rng: ((s[0] + .1 * s[1], s[1] + .1 * (5 * a - 9 * sin(s[0]))), cos(s[0]),
                           False), lambda s: (cos(s[0]), sin(s[0])), angles=((0, 1),)),
        "hidden", "o0"),
    "late action": (world("Late1", 2, PUSH, lambda rng: (*rng.uniform(-2, 2, 2), 0.0),
        lambda s, a, rng: ((s[0] + .1 * s[1], s[1] + .3 * s[2], a), -s[0] ** 2, False),
        lambda s: s[:2]), "hidden", "o1"),
    "later action": (world("Late2", 2, PUSH, lambda rng: (*rng.uniform(-2, 2, 2), 0.0, 0.0),
        lambda s, a, rng: ((s[0] + .1 * s[1], s[1] + .3 * s[3], a, s[2]), -s[0] ** 2, False),
        lambda s: s[:2]), "hidden", "o1"),
    "gusts": (world("Gusts", 2, PUSH, box(2, 2), lambda s, a, rng: (
        (s[0] + .1 * s[1], s[1] + .3 * a + .3 * rng.normal()), -s[0] ** 2, False)), "noise", "o1"),
    "a lottery": (world("Lottery", 2, PUSH, box(2, 2), lambda s, a, rng: (
        (s[0] + .1 * s[1], s[1] + .3 * a), sin(3 * s[0]) + rng.normal(), False)),
        "noise", "reward"),
    "hidden price": (world("Price", 2, PUSH,
        lambda rng: (*rng.uniform(-2, 2, 2), rng.uniform(0, 3)),
        lambda s, a, rng: ((s[0] + .1 * s[1], s[1] + .3 * a, s[2]), s[2] * (-s[0] ** 2 - 1), False),
        lambda s: s[:2]), "episode", "reward"),
    "hidden goal": (world("Goal", 2, PUSH, box(3, 2), lambda s, a, rng: (
        (s[0] + .05 * s[1], .9 * s[1] + .3 * a, s[2]), -abs(s[0] - 2 * s[2]), False),
        lambda s: s[:2]), "episode", "reward"),
    "raw angle": (world("RawAngle", 2, PUSH, lambda rng: (rng.uniform(-pi, pi), rng.uniform(-6, 6)),
        lambda s, a, rng: (((s[0] + .1 * s[1] + pi) % (2 * pi) - pi,
                            s[1] + .1 * (5 * a - .1 * s[1])), cos(s[0]), False)), "wraps", "o0"),
    "compass": (world("Compass", 1, PUSH, lambda rng: rng.uniform(0, 360), lambda s, a, rng: (
        (s + 20 * a) % 360, -abs(s - 180), False), lambda s: (s,)), "wraps", "o0"),
    "no angle": (world("NoAngle", 2, PUSH, box(2, 2), pushed, angles=((0, 1),)), "angles", "o1"),
    "coarse scale": (world("Coarse", 2, PUSH, box(2, 2), pushed,
        lambda s: (round(s[0], 1), round(2 * s[1]) / 2)), "coarse", "o1"),
    "counted steps": (world("Counted", 2, PUSH, box(2, 2), pushed,
        lambda s: (np.floor(5 * s[0]), s[1])), "coarse", "o0"),
    "short ruler": (world("Ruler", 2, PUSH, box(2, 2), pushed,
        lambda s: (np.clip(s[0], -1, 1), s[1])), "clipped", "o0"),
    "low ceiling": (world("Ceiling", 2, PUSH, box(2, 2), pushed,
        lambda s: (min(s[0], 0.0), s[1])), "clipped", "o0"),
    "lottery of a valve": (world("Rained", 2, PUSH, box(2, 1), lambda s, a, rng: (
        valve(s, a, rng)[0], -s[1] ** 2 + 2 * rng.normal(), False)), "noise", "reward"),
    "limit as an end": (world("Limit", 2, PUSH, lambda rng: (*rng.uniform(-2, 2, 2), 0),
        lambda s, a, rng: (pushed(s, a, rng)[0] + (s[2] + 1,), -s[0] ** 2, s[2] >= 29),
        lambda s: s[:2]), "time", "end"),
    "idle action": (world("Idle", 2, PUSH, box(2, 2), lambda s, a, rng: (
        (s[0] + .1 * s[1], s[1] - .1 * s[0]), -s[0] ** 2, False)), "no effect", "action"),
    "idle, paid by distance": (world("IdleFar", 1, PUSH, box(1, 2), lambda s, a, rng: (
        .9 * s, -abs(s[0]), False)), "no effect", "action"),
    "idle in noise": (world("IdleNoise", 2, PUSH, box(2, 2), lambda s, a, rng: (
        (s[0] + .1 * s[1] + .02 * rng.normal(), s[1] - .1 * s[0]), -abs(s[1]), False)),
        "no effect", "action"),
    "idle choice": (world("IdleChoice", 1, Discrete(3), box(1, 2), lambda s, a, rng: (
        .95 * s + .02 * rng.normal(), -s[0] ** 2, False)), "no effect", "action"),
    "far away": (world("Far", 2, PUSH, box(2, 2), pushed, lambda s: (s[0] + 3e7, s[1])),
        "float32", "o0"),
}  # fmt: skip
