"""Pendulum-v1: the best returns there are from the fixed starts, by dynamic programming.

The state has two numbers and the action one, so that backward induction over an episode can visit
them all: a grid of angles and speeds, bilinear interpolation, the true equations. In each step the
policy takes the action whose reward and value of the next state are highest. No planner with a
horizon beat it; regret everywhere in the course is measured against it.
"""

import math

import numpy as np
import torch
from _common import finish, parser, record
from torch import Tensor

from mbrl_helpers.envs import get_task, pendulum_step
from mbrl_helpers.training import evaluate

NUM_STARTS = 20  # reset(seed=9000 + i)
EPISODE = 200  # steps
NUM_TRIED = 201  # actions, when it acts


class DynamicProgramming:
    """Acts by backward induction on a grid; knows how many steps are left."""

    def __init__(
        self, num_angles: int, num_speeds: int, num_actions: int = 21, torque: float = 2.0
    ) -> None:
        self.num_angles, self.num_speeds = num_angles, num_speeds
        self.actions = torch.linspace(-torque, torque, NUM_TRIED)
        angle = torch.arange(num_angles) * 2 * math.pi / num_angles - math.pi
        angle, speed = torch.meshgrid(angle, torch.linspace(-8, 8, num_speeds), indexing="ij")
        obs = torch.stack([angle.cos(), angle.sin(), speed], -1)
        step = self.step(obs, torch.linspace(-torque, torque, num_actions))
        corners = self.corners(step.next_obs)
        self.values = [torch.zeros(num_angles, num_speeds)]  # by steps left
        for _ in range(EPISODE):
            value = self.values[-1].flatten()
            future = sum(weight * value[index] for index, weight in corners)
            self.values.append((step.reward + future).amax(-1))

    @staticmethod
    def step(obs: Tensor, actions: Tensor):
        """The true step from obs [..., 3] for each of the actions [U]: parts [..., U, ...]."""
        shape = (*obs.shape[:-1], len(actions))
        return pendulum_step(
            obs[..., None, :].expand(*shape, 3), actions[:, None].expand(*shape, 1)
        )

    def corners(self, obs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Flat index and weight of each of the four grid points around obs."""
        x = (torch.atan2(obs[..., 1], obs[..., 0]) + math.pi) / (2 * math.pi) * self.num_angles
        y = (obs[..., 2] + 8) / 16 * (self.num_speeds - 1)
        i, j = x.floor().long(), y.floor().clamp(max=self.num_speeds - 2).long()
        right, up = x - i, y - j
        return [
            (((i + a) % self.num_angles) * self.num_speeds + j + b,
             (right if a else 1 - right) * (up if b else 1 - up))
            for a in (0, 1) for b in (0, 1)
        ]  # fmt: skip

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Best of the actions [B, 1] for obs [B, 3]."""
        self.left -= 1
        step = self.step(torch.tensor(obs), self.actions)
        value = self.values[self.left].flatten()
        future = sum(weight * value[index] for index, weight in self.corners(step.next_obs))
        return self.actions[(step.reward + future).argmax(-1)][:, None].numpy()

    def reset(self, ended: np.ndarray | None = None) -> None:
        """A new episode for all."""
        if ended is None:
            self.left = EPISODE


def main() -> None:
    options = parser(__doc__, range(1)).parse_args()
    task, means = get_task("Pendulum-v1"), []
    for scale in (1, 2, 3):  # the answer should no longer depend on the grid
        agent = DynamicProgramming(240 * scale, 160 * scale + 1)
        returns = evaluate(task, agent, num_episodes=NUM_STARTS)
        means.append(round(float(returns.mean()), 2))
        print(f"{240 * scale} angles: mean {means[-1]}, of the first ten {returns[:10].mean():.2f}")
    if options.record:
        record("pendulum_optimum", [{"start": 9000 + i, "best_return": round(float(r), 2)}
                                    for i, r in enumerate(returns)])  # fmt: skip
    finish("pendulum_optimum", seeds=options.seeds, mean_return=means,
           first_ten=round(float(returns[:10].mean()), 2))  # fmt: skip


if __name__ == "__main__":
    main()
