"""CartPole-v1: how well models predict, from 1,000 random transitions and from fewer and more.

The exam is an open loop of 50 steps on held-out random episodes: from a real start, with the real
actions, each prediction made from the one before. The error is the root mean square over the four
numbers of the state, in standard deviations of the training data, averaged over all stretches.

The course's model stands beside the copied tutorial's network, and beside one network to which the
repairs are made one after another, those of notebook 02.
"""

import math
import statistics
import time

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
    collect_episodes,
    get_task,
    rollout,
)
from mbrl_helpers.data import split_by_episode, windows
from mbrl_helpers.networks import (
    EnsembleNetwork,
    Normalizer,
    TrainingConfig,
    fit_ridge,
    squared_error,
    train_network,
    with_ones,
)
from mbrl_helpers.notebook import generator

TASK = get_task("CartPole-v1")
NUM_TRANSITIONS, HORIZON = 1000, 50
STEPS_AHEAD = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50)
NUM_UPDATES = 3200  # with any amount of data
AMOUNTS = (50, 100, 200, 500, 1000, 2000, 5000)
# The repairs in the order of notebook 02, each on top of those before it.
REPAIRS = {
    "copied": {"epochs": 100, "batch_size": None},
    "trained longer": {"batch_size": 32},
    "predicts changes": {"change": True},
    "normalised": {"normalise": True},
    "one-hot actions": {"one_hot": True},
    "linear part": {"linear": True},
}
REPAIRED = {"change": True, "normalise": True, "one_hot": True}
BY_AMOUNT = {
    "copied": REPAIRS["copied"],
    "linear alone": REPAIRED | {"linear": True, "epochs": 0},
    "network alone": REPAIRED,
    "linear and network": REPAIRED | {"linear": True},
}


class OneNetwork:
    """A single network, with the repairs that are asked for."""

    num_members = 1

    def __init__(self, data, seed, *, change=False, normalise=False, one_hot=False, linear=False,
                 epochs=100, batch_size=32):  # fmt: skip
        torch.manual_seed(seed)
        self.change, self.one_hot = change, one_hot
        obs, next_obs = torch.tensor(data.obs), torch.tensor(data.next_obs)
        inputs = self.inputs(obs, TASK.actions.encode(data.action))
        targets = next_obs - obs if change else next_obs
        nothing = torch.tensor([[-1.0], [1.0]])  # of mean 0 and deviation 1
        self.in_norm = Normalizer(inputs if normalise else nothing)
        self.out_norm = Normalizer(targets if normalise else nothing)
        x, y = self.in_norm.normalize(inputs), self.out_norm.normalize(targets)
        self.linear = fit_ridge(with_ones(x), y, 1e-4) * linear
        rest = y - with_ones(x) @ self.linear
        self.rest_norm = Normalizer(rest if linear else nothing)
        self.network = nn.Sequential(
            nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4)
        )
        if linear:
            nn.init.zeros_(self.network[-1].weight)
            nn.init.zeros_(self.network[-1].bias)
        self.train(x, self.rest_norm.normalize(rest), epochs, batch_size or len(x))

    def train(self, x, y, epochs, batch_size):
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch_size):
                loss = nn.functional.mse_loss(self.network(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def inputs(self, obs, action):
        return torch.cat([obs, action if self.one_hot else action[..., 1:]], dim=-1)

    def step(self, obs, action):
        """As of a `mbrl_helpers.Model`, but only the next observation."""
        x = self.in_norm.normalize(self.inputs(obs, action))
        ones = torch.ones_like(x[..., :1])
        y = torch.cat([x, ones], -1) @ self.linear + self.rest_norm.denormalize(self.network(x))
        out = self.out_norm.denormalize(y)
        return Step(obs + out if self.change else out, reward=None, terminated=None)


def random_episodes(seed, num_episodes):
    agent = RandomAgent(TASK.action_space, generator(seed))
    return collect_episodes(TASK, agent, num_episodes=num_episodes, num_envs=50, seed=seed)


def exam_of(data):
    """Stretches of 50 steps: states and encoded actions."""
    states, actions = windows(data, HORIZON)
    return torch.tensor(states), TASK.actions.encode(actions)


def errors(model, exam, scale):
    """Mean error [H+1] after k = 0 … H steps (see the top of this file)."""
    states, actions = exam
    imagined = rollout(model, states[:, 0], actions)
    return ((imagined - states) / scale).square().mean(-1).sqrt().mean((0, 1))


def run(seed):
    """All models of one seed: rows of the three recordings, and the measures."""
    pool = random_episodes(2_000_000 + 10_000 * seed, 400)
    held_out = random_episodes(2_005_000 + 10_000 * seed, 1000)
    planner = RandomShooting(TASK.action_space, generator(seed))
    expert = MPCAgent(TASK, TASK.true_dynamics, planner)
    balanced = collect_episodes(TASK, expert, num_episodes=5, seed=2_009_000 + 10_000 * seed)
    exams = {"held-out random episodes": exam_of(held_out), "balanced pole": exam_of(balanced)}
    data = pool[:NUM_TRANSITIONS]
    scale = torch.tensor(data.obs).std(0)

    begin = time.process_time()
    ours = EnsembleModel(TASK, generator(seed)).fit(data)
    fit_seconds = round(time.process_time() - begin, 2)
    models, settings = {}, {}
    for name, repair in REPAIRS.items():
        settings |= repair
        models[name] = OneNetwork(data, seed, **settings)
    models["the course's model"] = ours
    repairs = []
    for exam_name, exam in exams.items():
        for name, model in models.items():
            error = errors(model, exam, scale)
            row = {"seed": seed, "model": name, "exam": exam_name}
            repairs += [row | {"steps_ahead": k, "error": f"{error[k]:.3g}"} for k in STEPS_AHEAD]
    exam = exams["held-out random episodes"]
    by_amount = []
    for amount in AMOUNTS:
        for name, chosen in BY_AMOUNT.items():
            if "network" in name:
                chosen = chosen | {"epochs": round(NUM_UPDATES / math.ceil(amount / 32))}
            error = errors(OneNetwork(pool[:amount], seed, **chosen), exam, scale)
            row = {"seed": seed, "model": name, "transitions": amount}
            by_amount += [row | {"steps_ahead": k, "error": f"{error[k]:.3g}"} for k in (1, 10, 50)]
    measures = {
        "open_loop_error": round(float(errors(ours, exam, scale)[HORIZON]), 5),
        "open_loop_error_tutorial": round(float(errors(models["copied"], exam, scale)[HORIZON]), 3),
        "fit_seconds": fit_seconds,
    }
    return {
        "repairs": repairs, "amounts": by_amount,
        "splits": split_rows(pool[:300], held_out, seed), "measures": measures,
    }  # fmt: skip


def split_rows(data, held_out, seed):
    """How far a validation loss flatters a network: split by rows, and by episodes."""
    rng, rows = np.random.default_rng(seed), []
    order = rng.permutation(len(data))
    fifth = len(data) // 5
    splits = {
        "rows": (data[np.sort(order[fifth:])], data[np.sort(order[:fifth])]),
        "episodes": split_by_episode(data, 0.2, rng),
    }
    for name, (train, valid) in splits.items():
        model = OneNetwork(train, seed, **REPAIRED)
        row = {"seed": seed, "split": name}
        for part, rows_of_it in (("validation", valid), ("new", held_out)):
            obs, next_obs = torch.tensor(rows_of_it.obs), torch.tensor(rows_of_it.next_obs)
            with torch.no_grad():
                guess = model.step(obs, TASK.actions.encode(rows_of_it.action))
            loss = ((guess.next_obs - next_obs) / model.out_norm.std).square().mean()
            row[part] = f"{loss:.3g}"
        rows.append(row)
    return rows


def members_against_loop(batch_size, epochs, num_members=5, repeats=11):
    """Seconds of five members of 2x200 trained together, and of five networks one by one.

    Same optimiser (AdamW, fused in both), same epochs and batches, no validation; interleaved.
    """
    rng = generator(0)
    x, y = (torch.randn(NUM_TRANSITIONS, size, generator=rng) for size in (6, 5))
    num_updates = epochs * (len(x) // batch_size)
    config = TrainingConfig(batch_size=batch_size, max_updates=num_updates,
                            check_every=num_updates, learning_rate=1e-3)  # fmt: skip

    def together():
        network = EnsembleNetwork(num_members, (6, 200, 200, 5), rng)
        train_network(network, squared_error, (x, y), (x[:10], y[:10]), rng, config)

    def loop(fused):
        for _ in range(num_members):
            network = nn.Sequential(nn.Linear(6, 200), nn.SiLU(), nn.Linear(200, 200), nn.SiLU(),
                                    nn.Linear(200, 5))  # fmt: skip
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=fused)
            for _ in range(epochs):
                order = torch.randperm(len(x), generator=rng)[: len(x) // batch_size * batch_size]
                for rows in order.split(batch_size):
                    loss = (network(x[rows]) - y[rows]).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

    runs = {"together": together, "loop": lambda: loop(True), "loop, not fused": lambda: loop(None)}
    seconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"batch {batch_size:3}: " + ", ".join(f"{k} {v:.3f} s" for k, v in middle.items()))
    return round(middle["together"] / middle["loop"], 3)


def main() -> None:
    options = parser(__doc__, range(10)).parse_args()
    done = run_all(run, options)
    print("seed  ours at k=50  copied  ratio  fit [s]")
    for one in done:
        ours, copied, seconds = one["measures"].values()
        print(f"{one['seed']:4}  {ours:12.5f}  {copied:6.2f}  {copied / ours:5.0f}  {seconds:7.2f}")
    if options.record:
        for name in ("repairs", "amounts", "splits"):
            record(f"dynamics_{name}", [row for one in done for row in one[name]])
    ratios = {batch: members_against_loop(batch, epochs) for batch, epochs in ((32, 4), (256, 20))}
    results = {name: [one["measures"][name] for one in done] for name in done[0]["measures"]}
    finish("dynamics", seeds=options.seeds, **results, ratio_members_loop=ratios[32],
           ratio_members_loop_batch_256=ratios[256])  # fmt: skip


if __name__ == "__main__":
    main()
