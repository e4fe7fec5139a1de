"""What was done before networks: LQR, swinging up by energy, and Gaussian processes.

Data, starts and planners are those of cartpole.py and pendulum.py; regret is against 500 (CartPole)
or the best returns there are (Pendulum). The fits are the course's, but for the process's own.

- LQR: slopes at the top, then the linear-quadratic regulator for weights that were written down
  before anything was tried (see `WEIGHTS`). CartPole from one and from three random episodes, by
  least squares; Pendulum from one, by the learned model, for a line through all its rows is none.
  There the regulator plays alone.
- energy, then LQR: Pendulum's energy is pumped up by hand (mass, length and gravity are given),
  until the regulator's own region is reached.
- Gaussian process: scikit-learn's, one for each number that is predicted (mean only, as changes,
  kernel of squared distances with a length for each input), in place of the ensemble: the same
  loop and planner, evaluated after each of four episodes on five starts. Both know the angle: here
  it is one more input.
- ours: model and planner, for the same episodes on the same starts.

Seconds are of the processor, for fitting alone. The Gaussian process needs scikit-learn; without it
that method is left out, and said so.
"""

import importlib.util
import statistics
import time

import numpy as np
import torch
from _common import finish, parser, record, recorded, run_all
from pendulum import BEST as BEST_RETURNS
from pendulum import CORRELATION, EXPLORATION, MODEL, PLANNER
from torch import Tensor

from mbrl_helpers import (
    ICEM,
    EnsembleModel,
    Model,
    MPCAgent,
    NoisyAgent,
    RandomAgent,
    RandomShooting,
    ReplayBuffer,
    Step,
    Task,
    Transitions,
    closed_loop,
    collect_episodes,
    evaluate,
    get_task,
)
from mbrl_helpers.notebook import generator

CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")
NUM_STARTS = 5
RUNS = [(CARTPOLE, "LQR"), (CARTPOLE, "ours"), (PENDULUM, "LQR"), (PENDULUM, "energy, then LQR"),
        (PENDULUM, "Gaussian process"), (PENDULUM, "ours")]  # fmt: skip
FEW_SEEDS = 5  # of Pendulum; CartPole takes all that are asked for
# Of state and action in the regulator's sum: written down before anything was tried, as one does.
WEIGHTS = {
    "CartPole-v1": ([1.0, 0.1, 10.0, 0.1], 0.1),
    "Pendulum-v1": ([1.0, 0.1], 0.001),  # those of its reward
}
NEAR = 0.5  # rad from the top: from here on the regulator plays


def regulator(a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Gain K [A, S] of the action -K @ state, by iterating Riccati's equation."""
    p = q
    for _ in range(2_000):
        gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        p = q + a.T @ p @ (a - b @ gain)
    return gain


def slopes(model: Model, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """A [S, S] and B [S, 1] of a model at the top, by small differences either way.

    The state is Pendulum's angle and speed, or CartPole's observation; the action is the torque, or
    a force from -1 to 1, whose ends are CartPole's two actions.
    """
    size = len(WEIGHTS[task.env_id][0])

    def after(state: np.ndarray, action: float) -> np.ndarray:
        one_hot = [(1 - action) / 2, (1 + action) / 2]
        given = torch.tensor([one_hot if task is CARTPOLE else [action]], dtype=torch.float32)
        obs = torch.tensor(observed(state, task), dtype=torch.float32)[None]
        with torch.inference_mode():
            members = getattr(model, "num_members", 1)
            step = model.step(obs.expand(members, 1, -1), given.expand(members, 1, -1))
        return state_of(step.next_obs.double().mean(0).numpy(), task)[0]

    zero, wide = np.zeros(size), 0.05
    moved = [after(wide * e, 0.0) - after(-wide * e, 0.0) for e in np.eye(size)]
    return np.stack(moved, 1) / (2 * wide), (after(zero, 1.0) - after(zero, -1.0))[:, None] / 2


def line(data: Transitions) -> tuple[np.ndarray, np.ndarray]:
    """A [4, 4] and B [4, 1] of CartPole by least squares, for a force from -1 to 1."""
    x = np.hstack([data.obs, 2.0 * data.action[:, None] - 1])
    weights, *_ = np.linalg.lstsq(x, data.next_obs, rcond=None)
    return weights[:4].T, weights[4:].T


def observed(state: np.ndarray, task: Task) -> np.ndarray:
    """Observation of one state."""
    if task is CARTPOLE:
        return state
    return np.array([np.cos(state[0]), np.sin(state[0]), state[1]])


def state_of(obs: np.ndarray, task: Task) -> np.ndarray:
    """States [B, S] of observations [B, O]."""
    if task is CARTPOLE:
        return obs
    return np.stack([np.arctan2(obs[:, 1], obs[:, 0]), obs[:, 2]], 1)


class Regulator:
    """Plays -K @ state; in Pendulum, far from the top, what `far` says of the states."""

    def __init__(self, task: Task, gain: np.ndarray, far=None) -> None:
        self.task, self.gain, self.far = task, gain, far

    def act(self, obs: np.ndarray) -> np.ndarray:
        state = state_of(obs, self.task)
        action = -state @ self.gain.T
        if self.task is CARTPOLE:
            return (action[:, 0] > 0).astype(int)
        if self.far is not None:
            action = np.where(np.abs(state[:, :1]) < NEAR, action, self.far(state))
        return np.clip(action, -2, 2).astype(np.float32)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """It remembers nothing."""


def pump(state: np.ndarray) -> np.ndarray:
    """Torque [B, 1] that takes the energy [J] of a rod of 1 kg and 1 m to that at rest on top."""
    angle, speed = state.T
    energy = speed**2 / 6 + 5 * (np.cos(angle) - 1)
    return np.where(energy < 0, 2.0, -2.0)[:, None] * np.where(speed < 0, -1, 1)[:, None]


class GaussianProcess:
    """Independent processes for the turn, the change of speed, and the reward."""

    def fit(self, data: Transitions) -> "GaussianProcess":
        """Find the kernels' lengths again, from all rows."""
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        obs, after = data.obs.astype(float), data.next_obs.astype(float)
        angle = np.arctan2(obs[:, 1], obs[:, 0])
        x = np.hstack([obs, angle[:, None], data.action])
        turn = np.arctan2(after[:, 1], after[:, 0]) - angle
        turn = (turn + np.pi) % (2 * np.pi) - np.pi
        y = np.stack([turn, after[:, 2] - obs[:, 2], data.reward.astype(float)], 1)
        self.x_units, self.y_units = (x.mean(0), x.std(0)), (y.mean(0), y.std(0))
        x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
        self.processes = []
        for column in y.T:
            kernel = ConstantKernel(10.0, (1e-2, 1e4)) * RBF(2 * np.ones(x.shape[1]), (0.1, 50.0))
            kernel += WhiteKernel(1e-4, (1e-6, 1.0))
            search = GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=0)
            self.processes.append(search.fit(x, column))
        # What planning asks thousands of times is scikit-learn's mean, kept in double precision:
        # the weights are large and of both signs.
        kernels = [process.kernel_.k1 for process in self.processes]
        self.lengths = [torch.tensor(kernel.k2.length_scale) for kernel in kernels]
        self.rows = [torch.tensor(x) / lengths for lengths in self.lengths]
        self.weights = [
            torch.tensor(process.alpha_ * kernel.k1.constant_value)
            for process, kernel in zip(self.processes, kernels, strict=True)
        ]
        return self

    def step(self, obs: Tensor, action: Tensor) -> Step:
        """As every model: [..., O] and [..., A] to the next step."""
        mean, std = map(torch.tensor, self.x_units)
        angle = torch.atan2(obs[..., 1], obs[..., 0])
        x = (torch.cat([obs, angle[..., None], action], -1).double() - mean) / std
        flat = x.reshape(-1, x.shape[-1])
        out = [
            torch.exp(-0.5 * torch.cdist(flat / lengths, rows).square()) @ weights
            for lengths, rows, weights in zip(self.lengths, self.rows, self.weights, strict=True)
        ]
        mean, std = map(torch.tensor, self.y_units)
        predicted = torch.stack(out, -1) * std + mean
        turn, faster, reward = predicted.float().view(*x.shape[:-1], 3).unbind(-1)
        angle = angle + turn
        speed = obs[..., 2] + faster
        next_obs = torch.stack([angle.cos(), angle.sin(), speed], -1)
        return Step(next_obs, reward, torch.zeros_like(reward))


def loop(seed: int, method: str) -> list[dict]:
    """Pendulum, after each of four episodes."""
    rng, fitting = generator(seed), [0.0]
    model = GaussianProcess() if method != "ours" else EnsembleModel(PENDULUM, rng, MODEL)
    planner = ICEM(PENDULUM.action_space, rng, PLANNER)

    def learn(experience: Transitions) -> NoisyAgent:
        begin = time.process_time()
        fitted = model.fit(experience)
        fitting.append(time.process_time() - begin)
        agent = MPCAgent(PENDULUM, fitted, planner)
        return NoisyAgent(PENDULUM, agent, rng, std=EXPLORATION, correlation=CORRELATION)

    rows = []
    for episode in closed_loop(
        PENDULUM, RandomAgent(PENDULUM.action_space, rng, correlation=CORRELATION), learn,
        ReplayBuffer(), num_episodes=4, num_random_episodes=1, seed=1_000_000 + 1000 * seed,
    ):  # fmt: skip
        returns = evaluate(PENDULUM, episode.agent.agent, num_episodes=NUM_STARTS)
        rows.append(
            row(PENDULUM, method, seed, len(rows) + 1, episode.num_steps, fitting[-1], returns)
        )
    return rows


def row(task: Task, method: str, seed: int, episodes: int, steps: int, seconds: float, returns):
    """One evaluation."""
    best = BEST_RETURNS[: len(returns)] if task is PENDULUM else np.full(len(returns), 500.0)
    return {
        "task": task.env_id, "method": method, "seed": seed, "episodes": episodes, "steps": steps,
        "fit_seconds": round(seconds, 2), "mean_return": round(float(returns.mean()), 1),
        "regret": round(float((best - returns).mean()), 2),
    }  # fmt: skip


def from_random(seed: int, method: str, task: Task, num_episodes: int) -> dict:
    """A regulator, or a planner, on what was learned from random episodes."""
    rng, first = generator(seed), 1_000_000 + 1000 * seed
    agent = RandomAgent(task.action_space, rng, correlation=CORRELATION * (task is PENDULUM))
    data = collect_episodes(task, agent, num_episodes=num_episodes, seed=first)
    begin = time.process_time()
    if method == "ours":
        model = EnsembleModel(task, rng).fit(data)
        player = MPCAgent(task, model, RandomShooting(task.action_space, rng))
    else:
        weights, price = WEIGHTS[task.env_id]
        straight = task is CARTPOLE
        a, b = line(data) if straight else slopes(EnsembleModel(task, rng, MODEL).fit(data), task)
        gain = regulator(a, b, np.diag(weights), np.array([[price]]))
        player = Regulator(task, gain, pump if method.startswith("energy") else None)
    seconds = time.process_time() - begin
    returns = evaluate(task, player, num_episodes=10)
    return row(task, method, seed, num_episodes, len(data), seconds, returns)


def run(seed: int, method: str, env_id: str) -> list[dict]:
    """One run: rows of the recording."""
    if env_id == CARTPOLE.env_id:
        return [from_random(seed, method, CARTPOLE, num_episodes) for num_episodes in (1, 3)]
    if "LQR" in method:
        return [from_random(seed, method, PENDULUM, 1)]
    return loop(seed, method)


def main() -> None:
    arguments = parser(__doc__, range(20))
    methods = list(dict.fromkeys(method for _, method in RUNS))
    arguments.add_argument(
        "--methods", nargs="+", choices=methods, default=methods,
        help="only these; a recording keeps its rows of the others",
    )  # fmt: skip
    options = arguments.parse_args()
    asked = set(options.methods)
    if importlib.util.find_spec("sklearn") is None and "Gaussian process" in asked:
        print("the Gaussian process is left out: scikit-learn is not installed")
        asked -= {"Gaussian process"}
    rows = []
    for task, seeds in ((CARTPOLE, options.seeds), (PENDULUM, options.seeds[:FEW_SEEDS])):
        settings = [
            {"method": m, "env_id": task.env_id} for t, m in RUNS if t is task and m in asked
        ]
        if settings:
            rows += run_all(run, options, settings, seeds=seeds)
    results: dict[str, list[float]] = {}
    for one in rows:
        one.pop("env_id")
        key = "{task} {method} {episodes}".format(**one)
        results.setdefault(key, []).append(one["regret"])
    for key, regrets in results.items():
        median, worst = statistics.median(regrets), max(regrets)
        print(f"{key:40} regret: median {median:8.2f}, worst {worst:8.2f}, {len(regrets)} seeds")
    if options.record:
        header, old = recorded("classics")
        kept = [one for one in old if one["method"] not in asked]
        record("classics", kept + rows, earlier=header if kept else [])
    finish("classics", seeds=options.seeds, regret=results)


if __name__ == "__main__":
    main()
