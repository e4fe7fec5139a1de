"""How well models predict: what repairs are worth, and how many rows and how much training.

The exam is an open loop of 50 steps on unseen stretches: from a real start, with the real actions,
each prediction made from the one before. The error is the root mean square over the numbers of the
observation, in standard deviations of the training data, averaged over all stretches.

- repairs: CartPole-v1, 1,000 random transitions; the copied tutorial's network, the repairs of
  notebook 02 made to it one after another, and the course's model;
- training: the same repairs with fewer and with many more updates, at a constant and at a falling
  learning rate;
- amounts: a line, a line with products, a network, and line and network, from 30 to 10,000 rows,
  with the updates at which the networks stop improving; on CartPole's random episodes, on the same
  cart and pole let go at any angle, and on Pendulum-v1;
- stopping: 300 transitions with noise of 0.2 spreads on the changes: training to the end at a
  constant and at a falling rate, early stopping, and a line; the loss on new rows without noise;
- splits: how far a validation loss is from the loss on new episodes: split by rows, by episodes,
  and by episodes in turns.
"""

import math
import statistics
import time
from functools import partial

import numpy as np
import torch
from _common import finish, parser, record, run_all
from torch import nn

from mbrl_helpers import (
    EnsembleModel,
    MPCAgent,
    RandomAgent,
    RandomShooting,
    collect_episodes,
    get_task,
    rollout,
)
from mbrl_helpers.data import split_by_episode, validation_folds, windows
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

CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")
NUM_TRANSITIONS, HORIZON = 1000, 50
STEPS_AHEAD = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50)
# The repairs in the order of notebook 02, each on top of those before it.
REPAIRS = {
    "copied": {"updates": 100, "batch_size": None, "decay": False},
    "trained longer": {"updates": 3_200, "batch_size": 32, "decay": True},
    "predicts changes": {"change": True},
    "normalised": {"normalise": True},
    "one-hot actions": {"one_hot": True},
    "linear part": {"linear": True},
}
REPAIRED = {"change": True, "normalise": True, "one_hot": True}
TRAINING = [(3_200, False), (3_200, True), (12_800, True), (51_200, True)]  # updates, falling rate
AMOUNTS = (30, 100, 300, 1_000, 3_000, 10_000)
BY_AMOUNT = {
    "linear alone": REPAIRED | {"linear": True, "updates": 0},
    "linear with products": REPAIRED | {"linear": True, "products": True, "updates": 0},
    "network alone": REPAIRED | {"updates": 12_800},
    "linear and network": REPAIRED | {"linear": True, "updates": 12_800},
}
NOISE, LOOKS, EPOCHS, PATIENCE, STOP_DRAWS = 0.2, 120, 3, 8, 3
NUM_DRAWS, SPLIT_ROWS, SPLIT_UPDATES = 10, 300, 800  # of a seed; of which a fifth is held out
FEW_SEEDS = (
    5  # of what takes long: training, and amounts on the two systems that are not near a line
)


class OneModel:
    """A linear part, a network, or both: with the repairs that are asked for."""

    def __init__(self, task, rows, seed, *, change=False, normalise=False, one_hot=False,
                 linear=False, products=False, updates=3_200, batch_size=32,
                 decay=True):  # fmt: skip
        torch.manual_seed(seed)
        obs, action, next_obs = rows
        self.task, self.change, self.products = task, change, products
        self.one_hot = one_hot or not task.actions.is_discrete
        inputs = self.inputs(obs, action)
        targets = next_obs - obs if change else next_obs
        self.in_norm, self.out_norm = norm(inputs, normalise), norm(targets, normalise)
        x, y = self.in_norm.normalize(inputs), self.out_norm.normalize(targets)
        features = self.features(x)
        self.linear = fit_ridge(features, y, 1e-4) * linear
        rest = y - features @ self.linear
        self.rest_norm = norm(rest, linear)
        self.network = new_network(x.shape[1], y.shape[1])
        if linear:
            nn.init.zeros_(self.network[-1].weight)
            nn.init.zeros_(self.network[-1].bias)
        train(self.network, x, self.rest_norm.normalize(rest) if updates else rest, updates,
              batch_size or len(x), decay)  # fmt: skip
        self.trained = updates > 0

    def inputs(self, obs, action):
        """Encoded actions; of two, as a number."""
        return torch.cat([obs, action if self.one_hot else action[..., 1:]], dim=-1)

    def features(self, x):
        """What the linear part weighs: the inputs and a constant, and their products if asked."""
        if self.products:
            i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
            x = torch.cat([x, x[..., i] * x[..., j]], dim=-1)
        return with_ones(x)

    @torch.inference_mode()
    def step(self, obs, action):
        """Next observations [..., O] of observations and encoded actions."""
        x = self.in_norm.normalize(self.inputs(obs, action))
        y = self.features(x) @ self.linear
        if self.trained:
            y = y + self.rest_norm.denormalize(self.network(x))
        out = self.out_norm.denormalize(y)
        return obs + out if self.change else out


def norm(x, wanted):
    """Mean and deviation of the columns of x [T, D]; 0 and 1 if not wanted."""
    return Normalizer(x if wanted else torch.tensor([[-1.0], [1.0]]))


def new_network(num_inputs, num_outputs):
    """The copied tutorial's size: two layers of 128."""
    return nn.Sequential(nn.Linear(num_inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                         nn.Linear(128, num_outputs))  # fmt: skip


def train(network, x, y, num_updates, batch_size, decay=True, optimizer=None):
    """Train in place; with `decay` the learning rate falls to 0 along a cosine."""
    optimizer = optimizer or torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(num_updates, 1))
    batches = iter(())
    for _ in range(num_updates):
        rows = next(batches, None)
        if rows is None:
            batches = iter(torch.randperm(len(x)).split(batch_size))
            rows = next(batches)
        loss = nn.functional.mse_loss(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if decay:
            schedule.step()


def rows_of(task, data):
    """Observations, encoded actions and next observations of transitions."""
    return torch.tensor(data.obs), task.actions.encode(data.action), torch.tensor(data.next_obs)


def random_episodes(seed, num_episodes):
    agent = RandomAgent(CARTPOLE.action_space, generator(seed))
    return collect_episodes(CARTPOLE, agent, num_episodes=num_episodes, num_envs=50, seed=seed)


def exam_of(data):
    """Stretches of 50 steps: states and encoded actions."""
    states, actions = windows(data, HORIZON)
    return torch.tensor(states), CARTPOLE.actions.encode(actions)


def let_go(task, starts, seed):
    """Stretches of 50 steps by the true equations, under random actions; none of them ends."""
    states = [starts]
    actions = task.actions.uniform((len(starts), HORIZON), generator(seed))
    for t in range(HORIZON):
        states.append(task.true_step(states[-1], actions[:, t]).next_obs)
    return torch.stack(states, 1), actions


def any_angle(seed, num):
    """Cart and pole [num, 4], let go at any angle."""
    spread = torch.tensor([0.5, 0.5, np.pi, 1.0])
    return spread * (2 * torch.rand(num, 4, generator=generator(seed)) - 1)


def hanging_or_not(seed, num):
    """Starts of Pendulum-v1 [num, 3]."""
    angle, speed = (2 * torch.rand(2, num, generator=generator(seed)) - 1) * torch.tensor(
        [[np.pi], [1.0]]
    )
    return torch.stack([angle.cos(), angle.sin(), speed], -1)


def open_loop_error(step, exam, scale):
    """Mean error [H+1] after k = 0 … H steps (see the top of this file)."""
    states, actions = exam
    imagined = [states[:, 0]]
    for t in range(actions.shape[1]):
        imagined.append(step(imagined[-1], actions[:, t]))
    return relative_error(torch.stack(imagined, 1), states, scale)


def relative_error(imagined, states, scale):
    """Mean error [H+1] of imagined states [..., K, H+1, O]."""
    return ((imagined - states) / scale).square().mean(-1).sqrt().flatten(0, -2).mean(0)


def entries(error, at, **named):
    return [named | {"steps_ahead": k, "error": f"{error[k]:.3g}"} for k in at]


def run(seed, parts):
    """What is asked for of one seed: rows of the recordings by name, and the measures."""
    pool = random_episodes(2_000_000 + 10_000 * seed, 600)
    held_out = random_episodes(2_005_000 + 10_000 * seed, 1000)
    return {part: PARTS[part](seed, pool, held_out) for part in parts}


def by_repair(seed, pool, held_out):
    """All repairs and the course's model, on random episodes and where a pole is balanced."""
    planner = RandomShooting(CARTPOLE.action_space, generator(seed))
    expert = MPCAgent(CARTPOLE, CARTPOLE.true_dynamics, planner)
    balanced = collect_episodes(CARTPOLE, expert, num_episodes=5, seed=2_009_000 + 10_000 * seed)
    exams = {"held-out random episodes": exam_of(held_out), "balanced pole": exam_of(balanced)}
    data = pool[:NUM_TRANSITIONS]
    rows, scale = rows_of(CARTPOLE, data), torch.tensor(data.obs).std(0)
    begin = time.process_time()
    ours = EnsembleModel(CARTPOLE, generator(seed)).fit(data)
    fit_seconds = round(time.process_time() - begin, 2)
    models, settings, found = {}, {}, []
    for name, repair in REPAIRS.items():
        settings |= repair
        models[name] = OneModel(CARTPOLE, rows, seed, **settings)
    for exam_name, exam in exams.items():
        errors = {n: open_loop_error(model.step, exam, scale) for n, model in models.items()}
        imagined = rollout(ours, exam[0][:, 0], exam[1])
        errors["the course's model"] = relative_error(imagined, exam[0], scale)
        for name, error in errors.items():
            found += entries(error, STEPS_AHEAD, seed=seed, model=name, exam=exam_name)
        if exam_name.startswith("held-out"):
            measures = {
                "open_loop_error": round(float(errors["the course's model"][HORIZON]), 5),
                "open_loop_error_tutorial": round(float(errors["copied"][HORIZON]), 3),
                "fit_seconds": fit_seconds,
            }
    return {"rows": found, "measures": measures}


def by_training(seed, pool, held_out):
    """The repairs with less and more training."""
    if seed >= FEW_SEEDS:
        return {"rows": []}
    data, exam, settings, found = pool[:NUM_TRANSITIONS], exam_of(held_out), {}, []
    rows, scale = rows_of(CARTPOLE, data), torch.tensor(data.obs).std(0)
    for name, repair in REPAIRS.items():
        settings |= repair
        if name in ("copied", "one-hot actions"):  # it is what it is; it changes nothing
            continue
        for updates, decay in TRAINING:
            chosen = settings | {"updates": updates, "decay": decay}
            error = open_loop_error(OneModel(CARTPOLE, rows, seed, **chosen).step, exam, scale)
            rate = "falls" if decay else "constant"
            found += entries(error, (1, 10, 50), seed=seed, model=name, updates=updates, rate=rate)
    return {"rows": found}


def by_amount(seed, pool, held_out):
    """Lines and networks by the number of rows, on three systems."""
    if seed >= FEW_SEEDS:
        return {"rows": []}
    systems = {"near upright": (CARTPOLE, rows_of(CARTPOLE, pool), exam_of(held_out))}
    for name, task, starts in (
        ("any angle", CARTPOLE, any_angle), ("pendulum", PENDULUM, hanging_or_not)
    ):  # fmt: skip
        states, actions = let_go(task, starts(3_000_000 + seed, 200), seed)
        order = torch.randperm(200 * HORIZON, generator=generator(seed))  # few are of all
        rows = (states[:, :-1], actions, states[:, 1:])
        rows = tuple(part.flatten(0, 1)[order] for part in rows)
        exam = let_go(task, starts(4_000_000 + seed, 500), 5_000_000 + seed)
        systems[name] = (task, rows, exam)
    found = []
    for system, (task, rows, exam) in systems.items():
        scale = rows[0][: max(AMOUNTS)].std(0)
        for amount in AMOUNTS:
            for name, settings in BY_AMOUNT.items():
                model = OneModel(task, tuple(part[:amount] for part in rows), seed, **settings)
                error = open_loop_error(model.step, exam, scale)
                found += entries(error, (1, 10, 50), seed=seed, system=system, model=name,
                                 transitions=amount)  # fmt: skip
    return {"rows": found}


def by_stopping(seed, pool, held_out):
    """Noisy changes: where training ends, where early stopping does, and a line."""
    rng, dice, found = np.random.default_rng(seed), generator(seed), []
    whole = OneModel(
        CARTPOLE, rows_of(CARTPOLE, pool[:NUM_TRANSITIONS]), seed, **REPAIRED, updates=0
    )

    def standard(data, noise):
        obs, action, next_obs = rows_of(CARTPOLE, data)
        y = whole.out_norm.normalize(next_obs - obs)
        x = whole.in_norm.normalize(whole.inputs(obs, action))
        return x, y + noise * torch.randn(y.shape, generator=dice)

    truth = standard(held_out[:5000], 0.0)
    for draw in range(STOP_DRAWS):
        parts = split_by_episode(pool[draw * SPLIT_ROWS : (draw + 1) * SPLIT_ROWS], 0.2, rng)
        training, validation = (standard(part, NOISE) for part in parts)
        torch.manual_seed(1000 * seed + draw)
        net, falling, looks = new_network(6, 4), new_network(6, 4), []
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        updates = EPOCHS * math.ceil(len(training[0]) / 32)  # from look to look
        for _ in range(LOOKS):
            train(net, *training, updates, 32, decay=False, optimizer=optimizer)
            looks.append((loss(net, validation), loss(net, truth)))
        train(falling, *training, LOOKS * updates, 32)
        weights = fit_ridge(with_ones(training[0]), training[1], 1e-4)
        ends = {
            "to the end": looks[-1][1],
            "early stopping": looks[kept_look([v for v, _ in looks])][1],
            "falling rate": loss(falling, truth),
            "line": loss(lambda x, w=weights: with_ones(x) @ w, truth),
        }
        found += [
            {"seed": seed, "draw": draw, "training": name, "error": f"{value:.3g}"}
            for name, value in ends.items()
        ]
    return {"rows": found}


def kept_look(losses):
    """Index of the best look before patience ran out."""
    best = 0
    for i, value in enumerate(losses):
        if value < losses[best]:
            best = i
        elif i - best == PATIENCE:
            break
    return best


def loss(predict, rows):
    """Mean squared error on inputs and targets."""
    with torch.inference_mode():
        return float(nn.functional.mse_loss(predict(rows[0]), rows[1]))


def by_split(seed, pool, held_out):
    """Validation loss beside the loss on new episodes, for three ways to hold out."""
    rng, found = np.random.default_rng(seed), []
    unseen = rows_of(CARTPOLE, held_out)
    for draw in range(NUM_DRAWS):
        few = pool[draw * SPLIT_ROWS : (draw + 1) * SPLIT_ROWS]
        order, fifth, folds = rng.permutation(len(few)), len(few) // 5, validation_folds(few, 5)
        splits = {
            "by rows": [(few[np.sort(order[fifth:])], few[np.sort(order[:fifth])])],
            "by episodes": [split_by_episode(few, 0.2, rng)],
            "in turns": [(few[folds != part], few[folds == part]) for part in range(5)],
        }
        for name, pairs in splits.items():
            losses = np.array([losses_of(*pair, unseen, seed) for pair in pairs])
            validation, new = losses[:, :2].T.mean(1) if name != "in turns" else in_turns(losses)
            found.append({"seed": seed, "draw": draw, "split": name,
                          "validation": f"{validation:.3g}", "new": f"{new:.3g}"})  # fmt: skip
    return {"rows": found}


def in_turns(losses):
    """Of five networks [5, 3]: the loss over all rows, each judged by who has not seen it."""
    validation, new, num_rows = losses.T
    return (validation * num_rows).sum() / num_rows.sum(), new.mean()


def losses_of(train_data, valid_data, unseen, seed):
    """Loss on rows held out and on new episodes, in squared spreads, and how many were held out."""
    settings = REPAIRED | {"updates": SPLIT_UPDATES}
    model = OneModel(CARTPOLE, rows_of(CARTPOLE, train_data), seed, **settings)
    spread, found = model.out_norm.std, []
    for obs, action, next_obs in (rows_of(CARTPOLE, valid_data), unseen):
        error = (model.step(obs, action) - next_obs) / spread
        found.append(float(error.square().mean()))
    return (*found, len(valid_data))


PARTS = {
    "repairs": by_repair,
    "training": by_training,
    "amounts": by_amount,
    "stopping": by_stopping,
    "splits": by_split,
}


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
    arguments = parser(__doc__, range(10))
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = arguments.parse_args()
    done = run_all(partial(run, parts=tuple(options.parts)), options)
    for part in options.parts:
        if options.record:
            record(f"dynamics_{part}", [row for one in done for row in one[part]["rows"]])
    results = {}
    if "repairs" in options.parts:
        measures = [one["repairs"]["measures"] for one in done]
        results = {name: [one[name] for one in measures] for name in measures[0]}
        ratios = {n: members_against_loop(n, epochs) for n, epochs in ((32, 4), (256, 20))}
        results |= {"ratio_members_loop": ratios[32], "ratio_members_loop_batch_256": ratios[256]}
    finish("dynamics", seeds=options.seeds, **results)


if __name__ == "__main__":
    main()
