"""Pendulum-v1: how well models know how sure they are, and what it costs to train them.

1. Calibration. Pendulum with noise: after each step of the true dynamics a Gaussian of standard
   deviation NOISE_STD (0.2 rad/s) is added to the angular velocity, and the angle moves by as much
   times the 50 ms of a step. The limit of 8 rad/s holds before the noise is added, so the noise of
   the velocity is the same everywhere, and so is that of the angle. A model that predicts cosine
   and sine apart has to learn noise that depends on the angle, down to almost none where one of
   them is stationary; how large it is there is known exactly, too. Each model learns from 2,000
   transitions (10 episodes of a random policy) and is asked about 20 held-out episodes: how often
   the truth is inside the central interval of a nominal level, and how large it believes the noise
   to be, over how large it is (root mean squares over the held-out rows). Each number is of the
   noisy column for which it is furthest from where it should be. The reward has no noise, and is
   not judged.
2. Strange states. A model learns from 2,000 transitions of a random policy in Pendulum-v1 itself.
   Episodes that come up to a cosine of 0.95, at any speed, are dropped whole, from the held-out
   ones, too. (Some start there; some whirl over the top both ways, and slow upright states then lie
   in the midst of the data: a model is rightly sure of them.) The area under the ROC curve says how
   well the members' disagreement tells upright states (cosine above 0.95, slower than 1 rad/s)
   from held-out rows, for networks without linear part and clamp, and with both, the default.
3. Training (with --peers): seconds to train five Gaussian members of 3x200 on 1,000 transitions,
   ours over mbrl-lib's, interleaved; same batches, epochs, activation and Adam, no validation. In
   batches of 32, those of its PETS notebook; in large ones both do little but multiply matrices.
"""

import math
import statistics
import time

import torch
from _common import finish, parser, run_all
from _peers import mbrl_lib_training

from mbrl_helpers import (
    DynamicsConfig,
    EnsembleModel,
    RandomAgent,
    Transitions,
    collect_episodes,
    get_task,
)
from mbrl_helpers.data import concatenate
from mbrl_helpers.networks import Normalizer, TrainingConfig, train_network
from mbrl_helpers.probabilistic import GaussianNetwork, gaussian_nll
from mbrl_helpers.uncertainty import (
    Predictive,
    auroc,
    coverage,
    disagreement,
    negative_log_likelihood,
    predictive,
)

TASK = get_task("Pendulum-v1")
NOISE_STD, STEP_SECONDS, LENGTH = 0.2, 0.05, 200  # rad/s, s, steps of an episode
NUM_TRAINING, NUM_HELD_OUT = 10, 20  # episodes
LEVELS = (0.5, 0.8, 0.95)
METHODS = {
    "ensemble": {"gaussian": True},
    "single": {"gaussian": True, "num_members": 1},
    "dropout": {"method": "dropout", "num_members": 20},
    "last layer": {"method": "last_layer", "num_members": 20},
}
# What the networks predict, and the noisy columns of it.
TURN, APART = "change of the angle", "cosine and sine apart"
VIEWS = {TURN: ({"angles": TASK.angles}, [0, 2]), APART: ({"angles": ()}, [0, 1, 2])}
# Smaller and less noisy steps of training: see where the noise is almost none.
CALM = {"batch_size": 256, "learning_rate": 2e-3, "patience": 8}
NETWORK_ALONE = {"linear_part": False, "clamp": False}
UPRIGHT_COS, UPRIGHT_SPEED = 0.95, 1.0


def generator(seed):
    return torch.Generator().manual_seed(seed)


def fitted(data, seed, **settings):
    config = DynamicsConfig(**settings)
    return EnsembleModel(TASK, generator(seed), config).fit(data)


def tensors(data):
    return torch.tensor(data.obs), TASK.actions.encode(data.action)


# --- calibration ---------------------------------------------------------------------------------


def turned(obs, angle, speed):
    """Observations [K, 3] with the pendulum turned by an angle [K] and faster by a speed [K]."""
    cos, sin, old_speed = obs.unbind(-1)
    return torch.stack(
        [
            cos * angle.cos() - sin * angle.sin(),
            sin * angle.cos() + cos * angle.sin(),
            old_speed + speed,
        ],
        dim=-1,
    )


def noisy_episodes(num_episodes, seed):
    """Episodes of a random policy in the noisy pendulum, from Gymnasium's starts."""
    rng = generator(seed)
    start = torch.rand(num_episodes, 2, generator=rng) * 2 - 1
    zero = torch.zeros(num_episodes)
    obs = turned(torch.tensor([[1.0, 0.0, 0.0]]), math.pi * start[:, 0], start[:, 1])
    columns = []
    for _ in range(LENGTH):
        action = TASK.actions.uniform((num_episodes,), rng)
        step = TASK.true_step(obs, action)
        noise = NOISE_STD * torch.randn(num_episodes, generator=rng)
        next_obs = turned(step.next_obs, STEP_SECONDS * noise, noise)
        columns.append((obs, action, step.reward, next_obs, zero.bool(), zero.bool()))
        obs = next_obs
    # Rows of an episode one after another.
    parts = [torch.stack(column, 1).flatten(0, 1).numpy() for column in zip(*columns, strict=True)]
    parts[-1].reshape(num_episodes, LENGTH)[:, -1] = True
    episode = torch.arange(num_episodes).repeat_interleave(LENGTH)
    return Transitions(*parts, episode.numpy())


def true_noise_std(data, view):
    """Standard deviation [T, 3] of each column's noise, exactly."""
    cos, sin, _ = TASK.true_step(*tensors(data)).next_obs.double().unbind(-1)
    speed, turn = torch.full_like(cos, NOISE_STD), STEP_SECONDS * NOISE_STD
    if view == TURN:
        return torch.stack([turn + 0 * speed, 0 * speed, speed], dim=-1).float()
    # Of cos(a + turn e) and sin(a + turn e) for a standard normal e.
    twice = math.exp(-2 * turn**2) * (cos**2 - sin**2)
    variance = [0.5 * (1 + twice) - math.exp(-(turn**2)) * cos**2,
                0.5 * (1 - twice) - math.exp(-(turn**2)) * sin**2]  # fmt: skip
    return torch.stack([v.clamp(min=0).sqrt() for v in variance] + [speed], dim=-1).float()


def rms(values):
    return values.square().mean(0).sqrt()


def furthest(values, wanted):
    """The one of several numbers that is furthest from where it should be."""
    return float(values[(values - wanted).abs().argmax()])


def calibration(model, test, view):
    """Measures of one model on held-out episodes."""
    columns = VIEWS[view][1]
    target, noise = model.targets(test)[:, columns], rms(true_noise_std(test, view)[:, columns])
    guess = predictive(model, *tensors(test))
    guess = Predictive(*(part[:, columns] for part in guess))
    measures = {
        f"coverage_{100 * level:.0f}": furthest(coverage(guess, target, level), level)
        for level in LEVELS
    }
    return measures | {
        "aleatoric_ratio": furthest(rms(guess.aleatoric) / noise, 1),
        "rmse_over_noise": furthest(rms(guess.mean - target) / noise, 1),
        "nll": float(negative_log_likelihood(guess, target).mean()),
        "milliseconds": milliseconds(model, test[:1000]),
    }


def milliseconds(model, data, repeats=20):
    """Median time of predicting these rows with all members."""
    obs, action = tensors(data)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        predictive(model, obs, action)
        seconds.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(seconds)


# --- strange states ------------------------------------------------------------------------------


def episodes_away_from_upright(num_episodes, seed):
    """The first random episodes of Pendulum-v1 that never come up."""
    agent = RandomAgent(TASK.action_space, generator(seed))
    data = collect_episodes(TASK, agent, num_episodes=4 * num_episodes, seed=seed)
    parts = [data[data.episode == number] for number in data.episodes]
    kept = [p for p in parts if max(p.obs[:, 0].max(), p.next_obs[:, 0].max()) <= UPRIGHT_COS]
    assert len(kept) >= num_episodes, "too few episodes stay below"
    return concatenate(kept[:num_episodes])


def upright_states(num, seed):
    """Observations [num, 3] evenly over upright angles and speeds, and random actions."""
    rng = generator(seed)
    share = torch.rand(num, 2, generator=rng) * 2 - 1
    angle, speed = math.acos(UPRIGHT_COS) * share[:, 0], UPRIGHT_SPEED * share[:, 1]
    obs = turned(torch.tensor([[1.0, 0.0, 0.0]]), angle, speed)
    return obs, TASK.actions.uniform((num,), rng)


def strangeness(model, held_out, seed):
    inside, outside = tensors(held_out), upright_states(len(held_out), seed)
    return auroc(disagreement(model, *inside), disagreement(model, *outside))


# --- training ------------------------------------------------------------------------------------


def our_training(x, y, *, batch_size, num_epochs, num_members=5, hidden_sizes=(200, 200, 200)):
    """Seconds of nothing but training, as `mbrl_lib_training`."""
    num_updates = num_epochs * math.ceil(len(x) / batch_size)  # its last batch is a small one
    config = TrainingConfig(batch_size=batch_size, max_updates=num_updates, patience=10**9,
                            check_every=num_updates, learning_rate=1e-3,
                            weight_decay=0.0)  # AdamW without decay is Adam  # fmt: skip
    sizes = (x.shape[1], *hidden_sizes, y.shape[1])

    def train():
        rng = generator(0)
        data = Normalizer(x).normalize(x), Normalizer(y).normalize(y)
        few = tuple(part[:10] for part in data)  # looked at before and after, as it must be
        train_network(
            GaussianNetwork(num_members, sizes, rng), gaussian_nll, data, few, rng, config
        )

    return train


def compare_training(batch_size, num_epochs, repeats=7):
    """Our seconds over mbrl-lib's; None without it."""
    data = noisy_episodes(1000 // LENGTH, 3_900_000)
    (obs, action), change = tensors(data), torch.tensor(data.next_obs - data.obs)
    target = torch.cat([change, torch.tensor(data.reward)[:, None]], 1)
    how = {"batch_size": batch_size, "num_epochs": num_epochs}
    runs = {
        "ours": our_training(torch.cat([obs, action], 1), target, **how),
        "mbrl-lib": mbrl_lib_training(data, **how),
    }
    if runs["mbrl-lib"] is None:
        return None
    seconds = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"training, batches of {batch_size}, {num_epochs} epochs: "
          + ", ".join(f"{name} {value:.2f} s" for name, value in middle.items()))  # fmt: skip
    return round(middle["ours"] / middle["mbrl-lib"], 3)


# --- all of it -----------------------------------------------------------------------------------


def run(seed):
    """Measures of each method, by view and method."""
    noisy, noisy_test = (
        noisy_episodes(num, 3_000_000 + 10_000 * seed + i)
        for i, num in enumerate((NUM_TRAINING, NUM_HELD_OUT))
    )
    away, away_test = (
        episodes_away_from_upright(num, 3_002_000 + 10_000 * seed + 1000 * i)
        for i, num in enumerate((NUM_TRAINING, NUM_HELD_OUT))
    )
    measures = {TURN: {}, APART: {}}
    for view, (angles, _) in VIEWS.items():
        calm = {} if view == TURN else {"ensemble, calm": METHODS["ensemble"] | CALM}
        for name, settings in (METHODS | calm).items():
            begin = time.process_time()
            model = fitted(noisy, seed, **settings | angles)
            seconds = time.process_time() - begin
            found = calibration(model, noisy_test, view) | {"fit_seconds": seconds}
            measures[view][name] = found
    for name, settings in METHODS.items():
        for key, more in (("auroc", NETWORK_ALONE), ("auroc_default", {})):
            model = fitted(away, seed, **settings | VIEWS[TURN][0] | more)
            measures[TURN][name][key] = strangeness(model, away_test, 3_009_000 + seed)
    return measures


def print_table(measures, seeds):
    columns = list(measures[seeds[0]][TURN]["ensemble"])
    print(f"{'':38}" + "".join(f"{name.replace('coverage_', 'in '):>16}" for name in columns))
    for view in VIEWS:
        for name, found in measures[seeds[0]][view].items():
            means = [
                statistics.mean(measures[seed][view][name][c] for seed in seeds)
                if c in found else math.nan for c in columns
            ]  # fmt: skip
            print(f"{view + ', ' + name:38}" + "".join(f"{mean:16.3f}" for mean in means))


def rounded(values):
    return [round(value, 3) for value in values]


def main() -> None:
    arguments = parser(__doc__, range(5), jobs=1)
    arguments.add_argument("--peers", action="store_true", help="beside mbrl-lib, if installed")
    options = arguments.parse_args()
    ratios = {
        batch: compare_training(batch, epochs) if options.peers else None
        for batch, epochs in ((32, 5), (256, 25))
    }
    measures = {one["seed"]: one for one in run_all(run, options)}
    print_table(measures, options.seeds)
    by_key = {
        view: {
            name: {key: rounded(measures[seed][view][name][key] for seed in options.seeds)
                   for key in measures[options.seeds[0]][view][name]}
            for name in measures[options.seeds[0]][view]
        }
        for view in VIEWS
    }  # fmt: skip
    ensemble = by_key[TURN].pop("ensemble")
    finish("uncertainty", seeds=options.seeds, **ensemble, ratio_training=ratios[32],
           ratio_training_batch_256=ratios[256], others=by_key)  # fmt: skip


if __name__ == "__main__":
    main()
