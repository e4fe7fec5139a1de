"""Worlds in which nobody answers: UCT beside random shooting, on true and on learned models.

All planners have one objective and, nearly, as many steps that they ask the model for in a decision
(`calls`; a future that has ended asks for nothing). "UCT" shares 100 random futures on CartPole, 64
in Breakout, out to simulations, each of which adds a node and tries some of them from it; the most
visited action is played. Its futures begin further down, so that of whole plans from the root a
little fewer make as many steps. Of those "best plan" (random shooting) takes the best, "best mean"
the first action whose plans are best on average. What is lost on the true model is search error;
what the same planner loses on top of it on a learned one is model error.

CartPole-v1: the true equations, and the course's ensemble after 200 random steps; the fixed ten
starts. The objective is the course's, or, on the true equations, the bare reward: the ensemble has
seen too few falls in 200 steps to learn what a fall is. Breakout of MinAtar: a copy of the true
game, and the course's frame model after 10,000 random frames. Neither says when an action sticks,
as one in ten does. Games are cut after 200 frames.
"""

import functools
import time
from typing import Any

import numpy as np
import torch
from _common import finish, parser, record, recorded, run_all
from _uct import Thinker, Thinking, changed
from torch import Tensor
from torch.nn.functional import one_hot

from mbrl_helpers import (
    EnsembleModel,
    RandomAgent,
    ReplayBuffer,
    Transitions,
    collect_episodes,
    evaluate,
    get_task,
)
from mbrl_helpers.games.dqn import act_and_learn
from mbrl_helpers.games.frames import FittedFrames, FrameModel, make_games
from mbrl_helpers.interfaces import Model, num_members
from mbrl_helpers.notebook import generator

TASK = get_task("CartPole-v1")
PUSHES = torch.eye(2)  # one-hot actions
COLUMNS = ("seed", "world", "model", "objective", "horizon", "planner", "mean_return", "min_return",
           "max_return", "calls", "ms", "fit_seconds")  # fmt: skip
PLANNERS = ("UCT", "best mean", "best plan")
CARTPOLE = Thinking(horizon=10, num_futures=100, num_copies=5)
Played = tuple[np.ndarray, Thinker]  # returns [B], and who played
BREAKOUT = Thinking(horizon=16, num_futures=64, num_copies=4, discount=0.97, hold=0.8, survival=1.0)
RANDOM_STEPS, RANDOM_FRAMES, MODEL_UPDATES = 200, 10_000, 1_200
NUM_GAMES, NUM_FRAMES, EVALUATION = 5, 200, 9_000_000


class Equations:
    """CartPole's true or learned dynamics, as a search sees them: states [B, R, 4]."""

    num_actions = 2

    def __init__(self, model: Model, objective: str = "margin"):
        self.model, self.objective, self.num_copies = model, objective, num_members(model)

    def step(self, states: Tensor, actions: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copy r in network r; see `_uct.World`."""
        apart = self.num_copies > 1
        obs, encoded = states, PUSHES[actions]
        if apart:
            obs, encoded = obs.transpose(0, 1), encoded.transpose(0, 1)
        said = self.model.step(obs, encoded)
        reward = said.reward
        if self.objective == "margin":
            reward = TASK.objective(obs, encoded, said)
        parts = (said.next_obs, reward, said.terminated > 0.5)
        return tuple(part.transpose(0, 1) for part in parts) if apart else parts


class Bricks:
    """MinAtar's Breakout, many games at once: states [B, R, 35], whole numbers.

    They are the ball's column and row, its direction, the paddle's column, whether the last step
    struck a brick, and the three rows of bricks. Actions: stay, left, right; none of them sticks.
    """

    num_actions, num_copies = 3, 1
    right = torch.tensor([-1, 1, 1, -1])  # of each direction
    down = torch.tensor([-1, -1, 1, 1])

    @staticmethod
    def states(games: list) -> Tensor:
        """Copies [B, 35] of MinAtar's games."""
        return torch.tensor(np.array([
            [g.ball_x, g.ball_y, g.ball_dir, g.pos, g.strike, *g.brick_map[1:4].ravel()]
            for g in games
        ], dtype=int))  # fmt: skip

    def step(self, states: Tensor, actions: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All rows alike; see `_uct.World`."""
        x, y, way, paddle, struck = states[..., :5].unbind(-1)
        paddle = (paddle + (actions == 2).long() - (actions == 1).long()).clamp(0, 9)
        new_x, new_y = x + self.right[way], y + self.down[way]
        outside = (new_x < 0) | (new_x > 9)
        new_x, way = new_x.clamp(0, 9), torch.where(outside, way ^ 1, way)  # left for right
        ceiling = new_y < 0
        cell = 10 * (new_y - 1) + new_x
        bricks = states[..., 5:]
        there = bricks.gather(-1, cell.clamp(0, 29)[..., None])[..., 0] > 0
        brick = there & (cell >= 0) & (cell < 30) & ~ceiling
        hit = brick & (struck == 0)
        floor = new_y == 9
        under, beside = floor & (x == paddle), floor & (x != paddle) & (new_x == paddle)
        empty = floor & (bricks.sum(-1) == 0)
        bricks = torch.where(empty[..., None], 1, bricks)
        broken = one_hot(cell.clamp(0, 29), 30) * hit[..., None]
        way = torch.where(ceiling | hit | under, 3 - way, way)  # up for down
        way = torch.where(beside, (way + 2) % 4, way)
        new_y = torch.where(hit | under | beside, y, new_y.clamp(min=0))
        front = torch.stack([new_x, new_y, way, paddle, brick.long()], dim=-1)
        after = torch.cat([front, bricks - broken], dim=-1)
        return after, hit.float(), floor & ~under & ~beside


class Frames:
    """The learned model of the next frame: states [B, R, F, C, Y, X]."""

    num_copies = 1

    def __init__(self, model: FittedFrames):
        self.model, self.num_actions = model, model.num_actions

    def step(self, states: Tensor, actions: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Only what is alive is imagined; see `_uct.World`."""
        after, rewards = states.clone(), torch.zeros(alive.shape)
        ended = torch.zeros_like(alive)
        if alive.any():
            after[alive], rewards[alive], ended[alive] = self.model.step(
                states[alive], actions[alive]
            )
        return after, rewards, ended


def cartpole(model: Model, how: Thinking, objective: str, rng: torch.Generator) -> Played:
    """Ten starts."""
    thinker = Thinker(Equations(model, objective), how, rng)
    return evaluate(TASK, lambda obs: thinker.act(torch.as_tensor(obs))), thinker


def experience(seed: int, rng: torch.Generator) -> Transitions:
    """The first steps of random episodes."""
    agent = RandomAgent(TASK.action_space, rng)
    played = collect_episodes(TASK, agent, num_episodes=30, seed=1_000_000 + 1000 * seed)
    return played[np.arange(len(played)) < RANDOM_STEPS]


def breakout(model: FittedFrames | None, how: Thinking, rng: torch.Generator) -> Played:
    """A few games of MinAtar itself, searched in copies of them if there is no model."""
    games = make_games("Breakout", NUM_GAMES)
    thinker = Thinker(Bricks() if model is None else Frames(model), how, rng)
    obs = games.reset(seed=EVALUATION)[0].copy()
    returns, on = np.zeros(NUM_GAMES), np.arange(NUM_GAMES)
    for _ in range(NUM_FRAMES):
        states = torch.as_tensor(obs[on])
        if model is None:
            states = Bricks.states([games.envs[i].unwrapped.game.env for i in on])
        ended = np.zeros(len(on), dtype=bool)
        for k, action in enumerate(thinker.act(states)):
            obs[on[k]], reward, ended[k], *_ = games.envs[on[k]].step(action)
            returns[on[k]] += reward
        on = on[~ended]
        if not len(on):
            break
    games.close()
    return returns, thinker


def frame_model(seed: int, rng: torch.Generator) -> FittedFrames:
    """What random play teaches of the next frame; the second fit knows which actions stuck."""
    games = make_games("Breakout", 1)
    games.reset(seed=1_000_000 + 1000 * seed)
    model = FrameModel(games.single_observation_space.shape, 3, rng)
    buffer = ReplayBuffer(RANDOM_FRAMES)
    act_and_learn(RandomAgent(games.single_action_space, rng), games, buffer, RANDOM_FRAMES)
    model.fit(buffer, MODEL_UPDATES)
    return model.fit(buffer, MODEL_UPDATES)


@functools.cache
def fitted(world: str, model: str, seed: int) -> tuple[Any, torch.Tensor, float]:
    """A model or None, the state of the generator after its fit, and the seconds that it took."""
    rng, begin, found = generator(seed), time.process_time(), None
    if world == "CartPole":
        found = TASK.true_dynamics
        if model == "learned":
            found = EnsembleModel(TASK, rng).fit(experience(seed, rng))
    elif model == "learned":
        found = frame_model(seed, rng)
    return found, rng.get_state(), time.process_time() - begin


def run(seed: int, planner: str, world: str, model: str, objective: str, horizon: int) -> dict:
    """How one planner plays with one model."""
    found, state, fit_seconds = fitted(world, model, seed)
    rng, begin = torch.Generator(), time.process_time()
    rng.set_state(state)
    base, fewer = {
        ("CartPole", 10): (CARTPOLE, 70), ("CartPole", 20): (CARTPOLE, 80),
        ("Breakout", 16): (BREAKOUT, 64),
    }[world, horizon]  # fmt: skip
    how = changed(base, planner=planner, horizon=horizon)
    if planner != "UCT":
        how = changed(how, num_futures=fewer)
    if world == "CartPole":
        returns, thinker = cartpole(found, how, objective, rng)
    else:
        returns, thinker = breakout(found, how, rng)
    num = thinker.num_decisions
    return {
        "seed": seed, "world": world, "model": model, "objective": objective,
        "horizon": horizon, "planner": planner, "mean_return": round(float(returns.mean()), 2),
        "min_return": float(returns.min()), "max_return": float(returns.max()),
        "calls": round(thinker.num_calls / num),
        "ms": round(1e3 * (time.process_time() - begin) / num, 2),
        "fit_seconds": round(fit_seconds, 1),
    }  # fmt: skip


SETTINGS = [
    {"world": world, "model": model, "objective": objective, "horizon": horizon}
    for world, model, objective, horizon in (
        ("CartPole", "true", "margin", 10), ("CartPole", "learned", "margin", 10),
        ("CartPole", "learned", "margin", 20), ("CartPole", "true", "reward", 10),
        ("Breakout", "true", "reward", 16), ("Breakout", "learned", "reward", 16),
    )
]  # fmt: skip


def main() -> None:
    arguments = parser(__doc__, range(5))
    arguments.add_argument(
        "--planners", nargs="+", default=list(PLANNERS), choices=PLANNERS,
        help="only these; a recording keeps its rows of the others",
    )  # fmt: skip
    options = arguments.parse_args()
    settings = [setting | {"planner": name} for setting in SETTINGS for name in options.planners]
    rows = run_all(run, options, settings)
    rows = [{name: row[name] for name in COLUMNS} for row in rows]
    if options.record:
        header, old = recorded("uct_worlds")
        kept = [row for row in old if row["planner"] not in options.planners]
        record("uct_worlds", kept + rows, earlier=header if kept else [])
    table: dict[str, list[dict]] = {}
    for row in rows:
        name = "{world}, {model}, {objective}, {horizon} ahead, {planner}".format(**row)
        table.setdefault(name, []).append(row)
    for name, own in table.items():
        means = [row["mean_return"] for row in own]
        calls, ms = (np.mean([row[key] for row in own]) for key in ("calls", "ms"))
        print(f"{name:52} {np.mean(means):7.2f}  {calls:6.0f} calls  {ms:6.2f} ms  {means}")
    means = {name: [row["mean_return"] for row in own] for name, own in table.items()}
    finish("uct_worlds", seeds=options.seeds, mean_return=means)


if __name__ == "__main__":
    main()
