"""CarRacing-v3 from pixels: returns on tracks never driven before, and what each part is worth.

Each seed wanders for five short drives of 400 frames, then three times fits its model and makes two
drives of an episode each, the first four with exploration noise: at most 8,000 real frames. A last
fit, and the agent drives the tracks `reset(seed=9000 + i)`, from which nothing is learned or tuned.
Seconds are of the processor: collecting, fitting and driving the training rounds; what a decision
costs is seeing an image and planning, four frames.

Then, on the first --ablation-tracks of these tracks, what each part is worth. These variants learn
from the very drives of the full agent, with the same seed:
    one network       no ensemble
    no slip           the model neither sees nor predicts how the car moves sideways
    five ahead        plans of five decisions, in place of eight
    clamped, all frames  as *clamped* below, from all frames
    latent            a latent world model, trained for 150 s of the processor, and planned in
one from as many frames of its own:
    random data only  all of them wandering
and rivals of what is learned, on the same map with the same search and price of progress, all from
the seed's five wandering drives alone, 2,000 frames:
    first fit         the ensemble
    linear            ridge regression on state and action
    quadratic         the same with all their products
    clamped           the same, asked about nothing beyond the range of each input in the data
    blind             the ensemble predicts road under the wheels and reward, without a map: of what
                      is ahead of the car it is told nothing
and one that learns nothing, of which one seed is enough:
    by hand           a rule of fifteen lines on the same map, without model or search; its settings
                      are the best of six tried on the tracks 700 to 702
"""

import dataclasses
import math
import sys
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from _common import finish, parser, record, recorded, run_all
from torch.nn.functional import pad

from mbrl_helpers import rollout_returns
from mbrl_helpers.agents import CorrelatedNoise
from mbrl_helpers.cars.driving import (
    GAS,
    SEARCH,
    CarModel,
    CarOnRoad,
    Driver,
    DriverConfig,
    Eye,
    FittedCar,
    Wanderer,
    drive,
    mirrored,
)
from mbrl_helpers.cars.latent import LatentDriver, LatentModel
from mbrl_helpers.cars.vision import PixelCar, moved
from mbrl_helpers.networks import Normalizer, fit_ridge, with_ones
from mbrl_helpers.training import play_and_learn

NUM_WANDERING, WANDERING_FRAMES, NUM_ROUNDS, DRIVES_A_ROUND = 5, 400, 3, 2
FIRST_TRACK = 9000
LATENT_SECONDS = 150


def generator(seed):
    return torch.Generator().manual_seed(seed)


# --- variants ------------------------------------------------------------------------------------


def without_slip(state):
    state = np.array(state)
    state[..., 1] = 0
    return state


class NoSlip(CarModel):
    """Sideways motion is taken for 0, in what is learned from and in what is imagined."""

    def fit(self, drives):
        blind = []
        for one in drives:
            log = one.transitions
            log = dataclasses.replace(
                log, obs=without_slip(log.obs), next_obs=without_slip(log.next_obs)
            )
            blind.append(dataclasses.replace(one, transitions=log))
        car = super().fit(blind)
        return FittedNoSlip(car.motion, car.reward_line)


class FittedNoSlip(FittedCar):
    def on(self, road):
        return NoSlipOnRoad(self, road)


class NoSlipOnRoad(CarOnRoad):
    def start(self, state):
        return super().start(without_slip(state))


class Blind(CarModel):
    """The ensemble learns road under the wheels and reward, too."""

    def fit(self, drives):
        motion = self.motion.fit(mirrored([one.transitions for one in drives]))
        return FittedCar(motion, torch.zeros(3))


class BlindDriver(Driver):
    """Plans with what the ensemble itself predicts: road under the wheels, and reward."""

    @torch.inference_mode()
    def plan(self, view):
        start = torch.tensor(view.state)[None]
        plan, self.state = self.planner.plan(
            lambda actions: rollout_returns(self.model.motion, start, actions),
            self.planner.start(1) if self.state is None else self.state,
        )
        return plan


class Regression(CarModel):
    """A line, or a line with products, in the ensemble's place."""

    quadratic, clamped = False, False

    def fit(self, drives):
        both = mirrored([one.transitions for one in drives])
        rows = torch.tensor(both.obs), torch.tensor(both.action), torch.tensor(both.next_obs)
        ridge = Ridge(*rows, quadratic=self.quadratic, clamped=self.clamped)
        return FittedCar(ridge, self.reward_line(drives))

    def reward_line(self, drives):
        """The line that `CarModel` fits."""
        features = torch.tensor(np.concatenate([one.features for one in drives]))
        reward = torch.tensor(np.concatenate([one.transitions.reward for one in drives]))
        return fit_ridge(with_ones(features), reward[:, None], 1e-6)[:, 0]


class Quadratic(Regression):
    quadratic = True


class Clamped(Quadratic):
    clamped = True


class Moments(NamedTuple):
    mean: torch.Tensor  # [..., S+1] changes of the state, and a reward that nobody asks for


class Ridge:
    """Changes of the state, by ridge regression on state and action.

    If clamped, it is asked about nothing beyond the range that each input had in the data.
    """

    num_members = 1

    def __init__(self, state, action, next_state, *, quadratic, clamped):
        x = torch.cat([state, action], -1)
        self.quadratic, self.clamped, self.inputs = quadratic, clamped, Normalizer(x)
        self.low, self.high = x.amin(0), x.amax(0)
        change = next_state - state
        change[:, GAS:] = 0  # as in CarModel: memory and map know better
        self.weights = fit_ridge(self.features(x), change, 1e-4)

    def features(self, x):
        x = self.inputs.normalize(x.clamp(self.low, self.high) if self.clamped else x)
        if self.quadratic:
            i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
            x = torch.cat([x, x[..., i] * x[..., j]], -1)
        return with_ones(x)

    def predict(self, state, action):
        change = self.features(torch.cat([state, action], -1)) @ self.weights
        return Moments(pad(change, (0, 1)))


class ByHand:
    """Aims along the way, and goes slower where it bends: no model, no search, nothing learned."""

    fastest, caution, gain, damping = 10.0, 0.8, 1.0, 2.0

    def reset(self, ended=None):
        """There is nothing to forget."""

    @torch.inference_mode()
    def act(self, view):
        pose, path = torch.zeros(3), []
        for _ in range(14):  # along the way to go, 4 px at a time
            angle = view.road.way(pose)[1]
            pose = moved(pose, torch.stack([4 * angle.cos(), 4 * angle.sin(), angle]))
            path.append(pose)
        speed, turn = float(view.state[0]), float(view.state[2])
        ahead, right, _ = path[2 + int(speed / 4)]
        steering = self.gain * math.atan2(right, ahead) - self.damping * turn
        bend = max(abs(float(heading)) for _, _, heading in path)
        pedal = 0.5 * (self.fastest / (1 + self.caution * bend) - speed)
        return np.clip([steering, pedal], [-1, -0.8], 1).astype(np.float32)


def five_ahead(model, generator):
    search = dataclasses.replace(SEARCH, horizon=5)
    return Driver(model, generator, DriverConfig(planner=search))


def single(generator):
    model = CarModel(generator)
    return CarModel(generator, dataclasses.replace(model.motion.config, num_members=1))


VARIANTS = {
    "one network": (single, Driver),
    "no slip": (NoSlip, Driver),
    "blind": (Blind, BlindDriver),
    "five ahead": (CarModel, five_ahead),
    "random data only": (CarModel, Driver),
    "latent": (LatentModel, LatentDriver),
    "first fit": (CarModel, Driver),
    "linear": (Regression, Driver),
    "quadratic": (Quadratic, Driver),
    "clamped": (Clamped, Driver),
    "clamped, all frames": (Clamped, Driver),
}
FULL, RULE = "full", "by hand"
# From the wandering drives alone.
FIRST = ("first fit", "linear", "quadratic", "clamped", "blind")


# --- training and judging ------------------------------------------------------------------------


def wander(env, rng, base, num):
    wanderer = Wanderer(rng)
    return [drive(env, wanderer, seed=base + i, max_frames=WANDERING_FRAMES) for i in range(num)]


def train(env, seed):
    """Drive, fit, drive: the model and all drives."""
    rng, base = generator(seed), 1_000_000 + 1000 * seed
    drives = wander(env, rng, base, NUM_WANDERING)
    model, noise = CarModel(rng), CorrelatedNoise(2, rng, 0.7)

    def play(driver, number):
        exploring = noise if number < NUM_ROUNDS - 1 else None
        tracks = range(base + 100 + 10 * number, base + 100 + 10 * number + DRIVES_A_ROUND)
        return [drive(env, driver, seed=track, noise=exploring) for track in tracks]

    def learn(played):
        drives.extend(played)
        driver.model = model.fit(drives)
        return driver

    driver = Driver(model.fit(drives), rng)
    *_, last = play_and_learn(play, learn, driver, num_rounds=NUM_ROUNDS)
    return last.agent.model, drives


class Timed:
    """A driver, and the seconds that its decisions take."""

    def __init__(self, driver):
        self.driver, self.reset, self.seconds = driver, driver.reset, []

    def act(self, view):
        begin = time.process_time()
        action = self.driver.act(view)
        self.seconds.append(time.process_time() - begin)
        return action


def seeing_ms(seed):
    """Milliseconds of the processor that it takes to make a view of an image."""
    frames = []
    drive(PixelCar(), Wanderer(generator(seed)), seed=seed, max_frames=400,
          watch=lambda view: frames.append(view.frame))  # fmt: skip
    eye, begin = Eye(), time.process_time()
    for frame in frames:
        eye.see(frame)
    return 1000 * (time.process_time() - begin) / len(frames)


def judged(variant, seed, driver, tracks, drives, seconds):
    """Rows of the CSV, one for each track."""
    watch = Timed(driver)
    results = []
    for i in range(tracks):
        results.append(drive(PixelCar(), watch, seed=FIRST_TRACK + i))
        print(f"  {variant}, track {i}: {results[-1].episode_return:.0f}", file=sys.stderr)
    ms = 1000 * float(np.mean(watch.seconds))
    if variant != "latent":
        ms += seeing_ms(seed)
    rows = [
        {
            "variant": variant, "seed": seed, "track": FIRST_TRACK + i,
            "return": round(result.episode_return, 1), "frames": result.num_frames,
            "real_frames": sum(d.num_frames for d in drives), "seconds": round(seconds, 1),
            "decision_ms": round(ms, 2),
        }
        for i, result in enumerate(results)
    ]  # fmt: skip
    values = [row["return"] for row in rows]
    print(
        f"seed {seed} {variant:17} mean {np.mean(values):6.1f} min {min(values):6.1f}  "
        f"frames {rows[0]['real_frames']} seconds {seconds:.1f} ms {ms:.1f}  {values}",
        flush=True,
    )
    return rows


def full(seed, tracks):
    """The rows of the full agent, and what it learned from."""
    begin = time.process_time()
    model, drives = train(PixelCar(), seed)
    seconds = time.process_time() - begin
    return judged("full", seed, Driver(model, generator(seed)), tracks, drives, seconds), drives


def ablated(variant, seed, tracks, drives):
    """The rows of another variant."""
    rng, begin = generator(seed), time.process_time()
    make_model, make_driver = VARIANTS[variant]
    model = make_model(rng)
    if variant == "random data only":
        num = -(-sum(d.num_frames for d in drives) // WANDERING_FRAMES)
        drives = wander(PixelCar(), rng, 1_000_000 + 1000 * seed, num)
    elif variant in FIRST:
        drives = drives[:NUM_WANDERING]
    if variant == "latent":
        while time.process_time() - begin < LATENT_SECONDS:
            fitted = model.fit(drives, num_updates=50)
    else:
        fitted = model.fit(drives)
    seconds = time.process_time() - begin
    return judged(variant, seed, make_driver(fitted, rng), tracks, drives, seconds)


def run(seed, variants, tracks, ablation_tracks):
    """The rows of these variants, the full agent's first if it is among them."""
    rows, drives = [], []
    if set(variants) <= set(FIRST):
        drives = wander(PixelCar(), generator(seed), 1_000_000 + 1000 * seed, NUM_WANDERING)
    elif variants != [RULE]:
        rows, drives = full(seed, tracks)
    for variant in variants:
        if variant == RULE:
            rows += judged(RULE, seed, ByHand(), tracks, [], 0.0)
        elif ablation_tracks and variant != FULL:
            rows += ablated(variant, seed, ablation_tracks, drives)
    return [row for row in rows if row["variant"] in variants]


def main() -> None:
    arguments = parser(__doc__, range(3))
    arguments.add_argument("--tracks", type=int, default=20)
    arguments.add_argument("--ablation-tracks", type=int, default=5, help="0 for no ablations")
    arguments.add_argument(
        "--variants", nargs="+", choices=[FULL, *VARIANTS, RULE], default=[FULL, *VARIANTS],
        help="only these; a recording keeps its other rows",
    )  # fmt: skip
    options = arguments.parse_args()
    names = ("variants", "tracks", "ablation_tracks")
    rows = run_all(partial(run, **{name: getattr(options, name) for name in names}), options)
    if options.record:
        header, old = recorded("car_racing")
        kept = {(row["variant"], int(row["seed"]), int(row["track"])): row for row in old + rows}
        record("car_racing", list(kept.values()), earlier=header if len(kept) > len(rows) else [])
    returns: dict[str, list] = {name: [[] for _ in options.seeds] for name in options.variants}
    for row in rows:
        returns[row["variant"]][options.seeds.index(row["seed"])].append(row["return"])
    first = [next(row for row in rows if row["seed"] == seed) for seed in options.seeds]
    finish(
        "car_racing", seeds=options.seeds, tracks=options.tracks, returns=returns,
        **{k: [row[k] for row in first] for k in ("real_frames", "seconds", "decision_ms")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
