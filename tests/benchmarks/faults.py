"""CartPole-v1: which fault of a short tutorial's agent does the harm? Sixteen agents.

All plan by random shooting, a hundred plans of ten steps, and differ in three things only: the
model, what is planned for, and which action of the best plan is executed. Models: the tutorial's
net of 1,000 random episodes, as it trains it (100 full batches) and in mini-batches (ten epochs);
least squares, and the course's ensemble, of three random episodes. Ten starts a seed.
"""

import numpy as np
import torch
from _common import finish, parser, record, run_all
from torch import nn

from mbrl_helpers import (
    EnsembleModel,
    MPCAgent,
    RandomAgent,
    RandomShooting,
    Step,
    Transitions,
    collect_episodes,
    evaluate,
    get_task,
)
from mbrl_helpers.envs import cartpole_margin
from mbrl_helpers.notebook import generator

TASK = get_task("CartPole-v1")
OBJECTIVES = {"learned reward": None, "margin": cartpole_margin}
EXECUTED = {"last": -1, "first": 0}
EPOCHS, BATCH_SIZE, FULL_BATCHES = 10, 64, 100


class TutorialNet(nn.Module):
    """Next state and reward of state and action, two layers of 128."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.next_state, self.reward = nn.Linear(128, 4), nn.Linear(128, 1)

    def forward(self, state, action):
        hidden = self.body(torch.cat([state, action], dim=-1))
        return self.next_state(hidden), self.reward(hidden)

    @torch.no_grad()
    def step(self, obs, action):
        next_state, reward = self(obs, action[..., 1:])
        return Step(next_state, reward[..., 0], torch.zeros_like(reward[..., 0]))


class LeastSquares:
    """The change of the state and the reward, linear in state and one-hot action: 30 numbers."""

    def __init__(self, data: Transitions):
        x = torch.cat([torch.tensor(data.obs), TASK.actions.encode(data.action)], -1)
        change = torch.tensor(data.next_obs - data.obs)
        y = torch.cat([change, torch.tensor(data.reward)[:, None]], -1)
        self.weights = torch.linalg.lstsq(x, y, driver="gelsd").solution

    def step(self, obs, action):
        change = torch.cat([obs, action], -1) @ self.weights
        return Step(obs + change[..., :4], change[..., 4], torch.zeros_like(obs[..., 0]))


def train(net: TutorialNet, data: Transitions, mini_batches: bool, seed: int) -> TutorialNet:
    """As the tutorial does, with all data in each update; or in mini-batches."""
    state, next_state = torch.tensor(data.obs), torch.tensor(data.next_obs)
    action, reward = torch.tensor(data.action).float()[:, None], torch.tensor(data.reward)[:, None]
    optimizer, rng = torch.optim.Adam(net.parameters(), lr=1e-3), generator(seed)
    batches = [slice(None)] * FULL_BATCHES
    if mini_batches:
        batches = [
            rows for _ in range(EPOCHS)
            for rows in torch.randperm(len(data), generator=rng).split(BATCH_SIZE)
        ]  # fmt: skip
    for rows in batches:
        predicted, earned = net(state[rows], action[rows])
        loss = nn.functional.mse_loss(predicted, next_state[rows])
        loss = loss + nn.functional.mse_loss(earned, reward[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


class Executes:
    """Executes one action of the best plan: 0 is the first, -1 the last."""

    def __init__(self, agent: MPCAgent, index: int):
        self.agent, self.index = agent, index

    def act(self, obs: np.ndarray) -> np.ndarray:
        return TASK.actions.decode(self.agent.plan(obs).actions[:, self.index])

    def reset(self, ended=None):
        self.agent.reset(ended)


def run(seed: int) -> list[dict]:
    """All sixteen of one seed: a row for each start."""
    first = 1_000_000 + 10_000 * seed
    beginner = RandomAgent(TASK.action_space, generator(seed))
    many = collect_episodes(TASK, beginner, num_episodes=1000, num_envs=50, seed=first)
    few = collect_episodes(TASK, beginner, num_episodes=3, seed=first + 2_000)
    models = {}
    for name, mini_batches in (("net, 100 full batches", False), ("net, mini-batches", True)):
        torch.manual_seed(seed)
        models[name] = train(TutorialNet(), many, mini_batches, seed)
    models["least squares"] = LeastSquares(few)
    models["ours"] = EnsembleModel(TASK, generator(seed)).fit(few)
    rows = []
    for model_name, model in models.items():
        for objective_name, objective in OBJECTIVES.items():
            for executed, index in EXECUTED.items():
                planner = RandomShooting(TASK.action_space, generator(seed))
                agent = Executes(MPCAgent(TASK, model, planner, objective=objective), index)
                returns = evaluate(TASK, agent, seed=first + 3_000)
                rows += [
                    {"seed": seed, "start": start, "model": model_name,
                     "objective": objective_name, "executed": executed, "return": float(value)}
                    for start, value in enumerate(returns)
                ]  # fmt: skip
    return rows


def main() -> None:
    options = parser(__doc__, range(10)).parse_args()
    rows = run_all(run, options)
    if options.record:
        record("faults", rows)
    means: dict[str, list[float]] = {}
    for name in dict.fromkeys((r["model"], r["objective"], r["executed"]) for r in rows):
        for seed in options.seeds:
            chosen = [
                r["return"]
                for r in rows
                if (r["seed"], r["model"], r["objective"], r["executed"]) == (seed, *name)
            ]
            means.setdefault(", ".join(name), []).append(round(float(np.mean(chosen)), 1))
    for name, values in means.items():
        print(f"{name:45} mean {np.mean(values):6.1f}  of seeds: {values}")
    finish("faults", seeds=options.seeds, mean_return=means)


if __name__ == "__main__":
    main()
