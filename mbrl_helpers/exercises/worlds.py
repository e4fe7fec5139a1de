"""The equations of CartPole and Pendulum in NumPy, for builds, which use nothing of the package."""

import numpy as np

ANGLE, EDGE = 12 * 2 * np.pi / 360, 2.4  # CartPole's limits: rad, m


def cartpole(obs: np.ndarray, action: np.ndarray, newtons: float = 10.0) -> np.ndarray:
    """Next states [N, 4] from states [N, 4] and actions [N], 0 or 1: equal to Gymnasium's."""
    _, speed, angle, turn = obs.T
    force = np.where(np.asarray(action) == 1, newtons, -newtons)
    sin, cos = np.sin(angle), np.cos(angle)
    push = (force + 0.05 * turn**2 * sin) / 1.1
    faster = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    change = np.stack([speed, push - 0.05 * faster * cos / 1.1, turn, faster], axis=1)
    return obs + 0.02 * change


def fallen(obs: np.ndarray) -> np.ndarray:
    """Whether an episode of CartPole is over [N] in states [N, 4]."""
    return (np.abs(obs[:, 0]) > EDGE) | (np.abs(obs[:, 2]) > ANGLE)


def pendulum_returns(state: np.ndarray, torques: np.ndarray) -> np.ndarray:
    """Returns [N] of Pendulum under torques [N, H] from an angle and a speed [2]."""
    angle, speed = (np.full(len(torques), value) for value in state)
    total = np.zeros(len(torques))
    for torque in np.clip(torques, -2, 2).T:
        lean = (angle + np.pi) % (2 * np.pi) - np.pi
        total -= lean**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = np.clip(speed + 0.05 * (15 * np.sin(angle) + 3 * torque), -8, 8)
        angle = angle + 0.05 * speed
    return total
