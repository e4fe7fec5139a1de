"""CartPole without its limit of 500 steps: who still stands after 2,500 and 10,000?

Ten starts a seed, others for each seed, played side by side in the true equations until the pole
falls, the cart leaves the rail, or `limit` is reached. The learned models of a seed have seen five
random episodes: "networks" is the course's ensemble, "line" a least-squares fit of 24 numbers. All
plan by random shooting. What they are told is the objective:

- reward: the environment's own, 1 a step
- margin: far from both limits, as `cartpole_margin`
- pole: the same without the cart
- speeds: the same with both velocities
- value: the environment's reward, and what the last imagined state is worth
- lean: the pole leans towards where the cart shall stand, the more the farther it will be off in a
  second (goal: where it shall stand)

Model "none" is a rule of one line that pushes the pole to that lean.
"""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from _common import finish, parser, recorded, write

from mbrl_helpers import (
    EnsembleModel,
    MPCAgent,
    RandomAgent,
    RandomShooting,
    RandomShootingConfig,
    Step,
    Transitions,
    collect_episodes,
    futures,
    get_task,
)
from mbrl_helpers.envs import CARTPOLE_LIMITS, cartpole_step
from mbrl_helpers.interfaces import Agent, Model, Objective, TerminalValue
from mbrl_helpers.notebook import generator

futures.ROWS_AT_ONCE = 10_000  # two hundred starts of a cheap model: few, large batches
TASK = get_task("CartPole-v1")
RAIL, ANGLE = CARTPOLE_LIMITS
SPEED = 3.0  # m/s or rad/s: as "speeds" and "value" measure velocities
NUM_STARTS = 10
UNLEARNED = ("true", "none")
MODELS = ("true", "line", "networks")
HORIZONS, POPULATIONS = (1, 2, 3, 5, 7, 10, 15, 30), (2, 3, 5, 10, 20, 100)
SWEEP_SEEDS = 5  # of the sweeps; the others have all seeds that are asked for
COLUMNS = ("model", "objective", "goal", "horizon", "population", "limit")


class Line:
    """Change of the observation = observation and one-hot action times a matrix of 6 x 4."""

    def __init__(self, data: Transitions) -> None:
        inputs = torch.cat([torch.tensor(data.obs), TASK.actions.encode(data.action)], dim=-1)
        change = torch.tensor(data.next_obs - data.obs)
        self.weights = torch.linalg.lstsq(inputs.double(), change.double()).solution.float()

    def step(self, obs: torch.Tensor, action: torch.Tensor) -> Step:
        """One step; nobody has taught it when an episode ends."""
        next_obs = obs + torch.cat([obs, action], dim=-1) @ self.weights
        return Step(next_obs, torch.ones(obs.shape[:-1]), torch.zeros(obs.shape[:-1]))


@functools.cache
def experience(seed: int) -> tuple[Transitions, torch.Generator]:
    """Five random episodes, and the generator that drew them."""
    rng = generator(seed)
    agent = RandomAgent(TASK.action_space, rng)
    data = collect_episodes(TASK, agent, num_episodes=5, seed=1_000_000 + 1000 * seed)
    return data, rng


@functools.cache
def learned(kind: str, seed: int) -> Model:
    """A model of a seed's experience."""
    data, rng = experience(seed)
    return Line(data) if kind == "line" else EnsembleModel(TASK, rng).fit(data)


def wanted_angle(obs: torch.Tensor, goal: float) -> torch.Tensor:
    """How far the pole [...] should lean: 0.05 rad back for each metre that it is off in 1 s."""
    return -0.05 * (obs[..., 0] + 1.0 * obs[..., 1] - goal)


class Rule:
    """No model and no plan: push to where the pole leans too far, or will with its speed."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions [B] for obs [B, 4]."""
        too_far = obs[:, 2] - wanted_angle(torch.tensor(obs), 0.0).numpy()
        return (too_far + 0.2 * obs[:, 3] > 0).astype(np.int64)


def objectives(goal: float) -> dict[str, tuple[Objective | None, TerminalValue | None]]:
    """Objective and terminal value by their names."""

    def shares(obs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, x_speed, angle, angle_speed = obs.unbind(-1)
        return (x - goal) / RAIL, x_speed / SPEED, angle / ANGLE, angle_speed / SPEED

    def less(*columns: int) -> Objective:
        def reward(obs: torch.Tensor, action: torch.Tensor, step: Step) -> torch.Tensor:
            parts = shares(step.next_obs)
            return step.reward * (1 - 0.3 * sum(parts[i] ** 2 for i in columns))

        return reward

    def value(obs: torch.Tensor) -> torch.Tensor:
        return 20 * torch.exp(-sum(part**2 for part in shares(obs)))

    def lean(obs: torch.Tensor, action: torch.Tensor, step: Step) -> torch.Tensor:
        wanted = wanted_angle(step.next_obs, goal)
        return step.reward * torch.exp(-(((step.next_obs[..., 2] - wanted) / ANGLE) ** 2))

    return {
        "reward": (None, None), "margin": (less(0, 2), None), "pole": (less(2), None),
        "speeds": (less(0, 1, 2, 3), None), "value": (None, value), "lean": (lean, None),
    }  # fmt: skip


def starts(seed: int) -> torch.Tensor:
    """States [10, 4] as Gymnasium draws them."""
    draw = torch.rand(NUM_STARTS, 4, generator=generator(50_000 + seed), dtype=torch.float64)
    return 0.1 * draw - 0.05


def play(agent: Agent, state: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps [B] until each episode ends or the limit, and the cart's position then."""
    num, cart = torch.full((len(state),), limit), state[:, 0].clone()
    up = torch.arange(len(state))  # which of them `state` holds: those that have not ended
    for t in range(1, limit + 1):
        action = TASK.actions.encode(agent.act(state.float().numpy()))
        state, _, terminated = cartpole_step(state, action.double())
        ended = terminated > 0.5
        num[up[ended]], cart[up] = t, state[:, 0]
        state, up = state[~ended], up[~ended]
        if not len(up):
            break
    return num, cart


def settings() -> Iterator[tuple]:
    """What to run; see `COLUMNS`. Those on which the verdicts rest come first."""
    for objective in ("margin", "value", "lean"):
        yield "true", objective, 1.0, 10, 20, 1_000
    yield "none", "lean", 0.0, 0, 0, 10_000
    for model in MODELS:
        yield model, "lean", 0.0, 1, 20, 10_000
        yield model, "margin", 0.0, 10, 20, 10_000
    for objective in ("speeds", "value", "lean", "pole"):
        yield "true", objective, 0.0, 10, 20, 10_000
    for model in ("line", "networks"):
        yield model, "lean", 0.0, 10, 20, 10_000
    for horizon in HORIZONS:
        for objective in ("reward", "margin", "value", "lean"):
            yield "true", objective, 0.0, horizon, 20, 2_500
    for population in POPULATIONS:
        for objective in ("margin", "lean"):
            yield "true", objective, 0.0, 10, population, 2_500


def run(setting: tuple, seeds: list[int]) -> list[dict]:
    """A row for each seed; all of them side by side where nothing is learned."""
    kind, objective, goal, horizon, population, limit = setting
    start = torch.cat([starts(seed) for seed in seeds])
    if kind == "none":
        return rows_of(setting, seeds, *play(Rule(), start, limit))
    model = TASK.true_dynamics if kind == "true" else learned(kind, seeds[0])
    config = RandomShootingConfig(horizon=horizon, population_size=population)
    planner = RandomShooting(TASK.action_space, generator(seeds[0]), config)
    reward, value = objectives(goal)[objective]
    agent = MPCAgent(TASK, model, planner, objective=reward, terminal_value=value)
    return rows_of(setting, seeds, *play(agent, start, limit))


def rows_of(setting: tuple, seeds: list[int], num: torch.Tensor, cart: torch.Tensor) -> list[dict]:
    """What is recorded of the episodes of each seed."""
    kind, limit = setting[0], setting[-1]
    named, rows = dict(zip(COLUMNS, setting, strict=True)), []
    for seed, steps, x in zip(seeds, num.split(NUM_STARTS), cart.split(NUM_STARTS), strict=True):
        measured = {
            "real_steps": 0 if kind in UNLEARNED else len(experience(seed)[0]),
            "mean_steps": round(float(steps.double().mean()), 1),
            "least_steps": int(steps.min()),
            "num_standing": int((steps == limit).sum()),
            "mean_x": round(float(x.mean()), 3),
        }
        rows.append(named | {"seed": seed} | measured)
    return rows


def main() -> None:
    options = parser(__doc__, range(20)).parse_args()
    earlier, rows = recorded("limits") if options.record else ([], [])
    for setting in dict.fromkeys(settings()):
        kind, limit = setting[0], setting[-1]
        seeds = options.seeds[:SWEEP_SEEDS] if limit == 2_500 else options.seeds
        done = {int(r["seed"]) for r in rows if tuple(r[c] for c in COLUMNS) == texts(setting)}
        left = [seed for seed in seeds if seed not in done]
        for group in [left] if kind in UNLEARNED and left else [[seed] for seed in left]:
            rows += [{k: str(v) for k, v in row.items()} for row in run(setting, group)]
            print(*rows[-1].values(), flush=True)
            if options.record:
                write("limits", rows, earlier=earlier)  # an interrupted run goes on from here
    longest = [r for r in rows if r["limit"] == "10000"]
    finish("limits", seeds=options.seeds, standing_of_10={
        f"{r['model']} {r['objective']} H={r['horizon']} seed {r['seed']}": int(r["num_standing"])
        for r in longest
    })  # fmt: skip


def texts(setting: tuple) -> tuple[str, ...]:
    """A setting as a recording has it."""
    return tuple(str(part) for part in setting)


if __name__ == "__main__":
    main()
