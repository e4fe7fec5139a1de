"""A world that changes, and a goal that does: what is left of what was learned.

An agent learns Pendulum-v1 from one random episode and two of its own, 600 steps. Then

1. the **world** changes: the pendulum falls faster (`fast`: 16 m/s^2 in place of 10), and the agent
   goes on learning for three episodes of 200 steps, from old and new rows alike (`keep`), from the
   new ones alone (`forget`), or with each new one six times (`weigh`); with structure (the angle,
   and a linear part) or with networks alone;
2. the **goal** changes: to stand tilted by 0.2 rad, without one new step: the same model, planned
   in with the new objective; a policy trained anew in that model; SAC on the old rows, rewarded
   anew; and SAC on as many new rows again.

What is lost is the mean of ten starts, `reset(seed=5000 + i)`, against the same planner with the
true equations of the new world, or for the new goal.
"""

import dataclasses
import statistics

import gymnasium as gym
import torch
from _common import finish, parser, record, run_all
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from pendulum import CORRELATION, EXPLORATION, MODEL, PLANNER, TASK

from mbrl_helpers import (
    ICEM,
    EnsembleModel,
    MPCAgent,
    NoisyAgent,
    Policy,
    RandomAgent,
    ReplayBuffer,
    Step,
    Task,
    collect_episodes,
    evaluate,
)
from mbrl_helpers.imagination import SAC, DynaConfig, dyna, improve
from mbrl_helpers.notebook import generator

OLD_EPISODES, NEW_EPISODES, TIMES = 3, 3, 6
STARTS = {"num_episodes": 10, "seed": 5000}
TILT, UPDATES = 0.2, 2_000  # rad; of SAC
KNOWS = {"structure": {}, "networks alone": {"angles": (), "linear_part": False}}
WORLDS = {"usual": {}, "fast": {"g": 16.0}, "tilted": {"tilt": TILT}}


class Changed(PendulumEnv):
    """Pendulum with a gravity and a goal of one's own."""

    def __init__(self, render_mode=None, g=10.0, tilt=0.0):
        super().__init__(render_mode, g)
        self.tilt = tilt

    def step(self, action):
        before = torch.tensor(self._get_obs())
        obs, _, *rest = super().step(action)
        used = torch.tensor(action, dtype=torch.float32)
        return obs, float(reward(before, used, self.tilt)), *rest


def reward(obs, action, tilt=0.0):
    """Pendulum's own, measured from a tilted goal."""
    angle = torch.atan2(obs[..., 1], obs[..., 0]) - tilt
    angle = torch.atan2(angle.sin(), angle.cos())
    return -(angle**2 + 0.1 * obs[..., 2] ** 2 + 0.001 * action[..., 0].clamp(-2, 2) ** 2)


def equations(g=10.0, tilt=0.0):
    """True dynamics of such a pendulum."""

    def step(obs, action):
        cos, sin, speed = obs.unbind(-1)
        torque = action[..., 0].clamp(-2, 2)
        speed = (speed + 0.05 * (1.5 * g * sin + 3 * torque)).clamp(-8, 8)
        angle = torch.atan2(sin, cos) + 0.05 * speed
        after = torch.stack([angle.cos(), angle.sin(), speed], -1)
        return Step(after, reward(obs, action, tilt), torch.zeros_like(speed))

    return step


def task_of(world: str) -> Task:
    """The task of a world, with its true equations; registered where that was not done yet."""
    name = f"{world.capitalize()}Pendulum-v0"
    if name not in gym.registry:
        gym.register(name, Changed, max_episode_steps=200, kwargs=WORLDS[world])
    return dataclasses.replace(TASK, env_id=name, true_step=equations(**WORLDS[world]))


def planning(task: Task, model, rng) -> MPCAgent:
    return MPCAgent(task, model, ICEM(task.action_space, rng, PLANNER))


def ceiling(task: Task, seed: int) -> float:
    """Mean return with the true equations."""
    agent = planning(task, task.true_dynamics, generator(seed))
    return float(evaluate(task, agent, **STARTS).mean())


def grow_up(seed: int, config, num_episodes: int = OLD_EPISODES):
    """Rows, the last fit, and the agent of the usual world."""
    task, rng, buffer = task_of("usual"), generator(seed), ReplayBuffer()
    model = EnsembleModel(task, rng, config)
    player = RandomAgent(task.action_space, rng, correlation=CORRELATION)
    for number in range(num_episodes):
        collect_episodes(task, player, num_episodes=1, seed=1000 * seed + number, buffer=buffer)
        fitted = model.fit(buffer.all())
        agent = planning(task, fitted, rng)
        player = NoisyAgent(task, agent, rng, std=EXPLORATION, correlation=CORRELATION)
    return buffer.all(), fitted, agent


def run(seed: int, part: str, knows: str) -> list[dict]:
    """Rows of the recording."""
    config = dataclasses.replace(MODEL, **KNOWS[knows])
    if part == "tilted":
        return new_goal(seed, config)
    task, (old, _, agent) = task_of(part), grow_up(seed, config)
    best = ceiling(task, seed)

    def row(way: str, steps: int, who: MPCAgent) -> dict:
        lost = best - float(evaluate(task, who, **STARTS).mean())
        return {"part": part, "knows": knows, "way": way, "seed": seed, "steps": steps,
                "lost": round(lost, 1)}  # fmt: skip

    rows = [row("before", 0, agent)]
    for way in ("keep", "forget", "weigh"):
        rng, new, who = generator(seed + 50), ReplayBuffer(), agent
        for number in range(NEW_EPISODES):
            player = NoisyAgent(task, who, rng, std=EXPLORATION, correlation=CORRELATION)
            start = 1000 * seed + 500 + number
            collect_episodes(task, player, num_episodes=1, seed=start, buffer=new)
            mixed = ReplayBuffer()
            if way != "forget":
                mixed.add(old)
            for _ in range(TIMES if way == "weigh" else 1):
                mixed.add(new.all())
            who = planning(task, EnsembleModel(task, rng, config).fit(mixed.all()), rng)
            rows.append(row(way, len(new), who))
    return rows


def new_goal(seed: int, config) -> list[dict]:
    """What is lost of the new goal, without a step of experience, and with as much again."""
    task, (old, fitted, _) = task_of("tilted"), grow_up(seed, config)
    more, *_ = grow_up(seed + 100, config, 2 * OLD_EPISODES)

    def wish(obs, action, step):
        return reward(obs, action, TILT)

    wanted = dataclasses.replace(task, objective=wish)
    best, rng = ceiling(task, seed), generator(seed)

    def in_the_model() -> Policy:
        policy = Policy(task, old.obs, rng)
        improve(policy, fitted, torch.tensor(old.obs), rng, objective=wish)
        return policy

    def on_rows(data) -> Policy:
        rewarded = reward(torch.tensor(data.obs), torch.tensor(data.action), TILT).numpy()
        policy = Policy(task, data.obs, rng)
        config = DynaConfig(num_updates=UPDATES, real_share=1.0)
        dyna(SAC(policy, rng), None, dataclasses.replace(data, reward=rewarded), config)
        return policy

    ways = {
        "planner, the same model": lambda: planning(wanted, fitted, rng),
        "policy, trained anew in the model": in_the_model,
        "SAC, the same rows": lambda: on_rows(old),
        "SAC, twice as many rows": lambda: on_rows(more),
    }
    rows = []
    for way, make in ways.items():
        lost = best - float(evaluate(task, make(), **STARTS).mean())
        steps = len(more) - len(old) if "twice" in way else 0
        rows.append({"part": "tilted", "knows": "structure", "way": way, "seed": seed,
                     "steps": steps, "lost": round(lost, 1)})  # fmt: skip
    return rows


def main() -> None:
    arguments = parser(__doc__, range(5))
    options = arguments.parse_args()
    settings = [
        {"part": "fast", "knows": "structure"},
        {"part": "tilted", "knows": "structure"},
        {"part": "fast", "knows": "networks alone"},
    ]
    rows = run_all(run, options, settings)
    if options.record:
        record("changed", rows)
    table: dict[tuple, list[float]] = {}
    for one in rows:
        key = one["part"], one["knows"], one["way"], one["steps"]
        table.setdefault(key, []).append(one["lost"])
    for key, lost in table.items():
        print(*key, f"median {statistics.median(lost):.1f}", lost)
    finish(
        "changed", seeds=options.seeds, lost={" ".join(map(str, k)): v for k, v in table.items()}
    )


if __name__ == "__main__":
    main()
