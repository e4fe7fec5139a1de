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
    no map            the ensemble predicts road under the wheels and reward, without a map
    five ahead        plans of five decisions, in place of eight
    latent            a latent world model, trained for 150 s of the processor, and planned in
and one from as many frames of its own:
    random data only  all of them wandering

Where nothing is timed, the three frames of a decision that nobody looks at are not drawn, which
changes no image that is seen and halves the time.
"""

import dataclasses
import sys
import time
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from _common import finish, parser, record, recorded, run_all
from gymnasium.envs.box2d.car_racing import CarRacing

from mbrl_helpers import rollout_returns
from mbrl_helpers.agents import CorrelatedNoise
from mbrl_helpers.cars.driving import (
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
from mbrl_helpers.cars.vision import ENV_ID, HOLD, PixelCar
from mbrl_helpers.training import play_and_learn

NUM_WANDERING, WANDERING_FRAMES, NUM_ROUNDS, DRIVES_A_ROUND = 5, 400, 3, 2
FIRST_TRACK = 9000
LATENT_SECONDS = 150


def generator(seed):
    return torch.Generator().manual_seed(seed)


class Undrawn(CarRacing):
    """The environment without drawing the frames of a decision that nobody looks at."""

    count, image = 0, None

    def reset(self, **how):
        self.count, self.image = -1, None
        return super().reset(**how)

    def step(self, action):
        self.count += 1
        return super().step(action)

    def _render(self, mode):
        if self.image is None or self.count % HOLD == 0:
            self.image = super()._render(mode)
        return self.image


def undrawn():
    return PixelCar(gym.wrappers.TimeLimit(Undrawn(), gym.spec(ENV_ID).max_episode_steps))


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


class NoMap(CarModel):
    """The ensemble learns road under the wheels and reward, too."""

    def fit(self, drives):
        motion = self.motion.fit(mirrored([one.transitions for one in drives]))
        return FittedCar(motion, torch.zeros(3))


class NoMapDriver(Driver):
    """Plans with what the ensemble itself predicts: road under the wheels, and reward."""

    @torch.inference_mode()
    def plan(self, view):
        start = torch.tensor(view.state)[None]
        plan, self.state = self.planner.plan(
            lambda actions: rollout_returns(self.model.motion, start, actions),
            self.planner.start(1) if self.state is None else self.state,
        )
        return plan


def five_ahead(model, generator):
    search = dataclasses.replace(SEARCH, horizon=5)
    return Driver(model, generator, DriverConfig(planner=search))


def single(generator):
    model = CarModel(generator)
    return CarModel(generator, dataclasses.replace(model.motion.config, num_members=1))


VARIANTS = {
    "one network": (single, Driver),
    "no slip": (NoSlip, Driver),
    "no map": (NoMap, NoMapDriver),
    "five ahead": (CarModel, five_ahead),
    "random data only": (CarModel, Driver),
    "latent": (LatentModel, LatentDriver),
}


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
    drive(undrawn(), Wanderer(generator(seed)), seed=seed, max_frames=400,
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
        results.append(drive(undrawn(), watch, seed=FIRST_TRACK + i))
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
        drives = wander(undrawn(), rng, 1_000_000 + 1000 * seed, num)
    if variant == "latent":
        while time.process_time() - begin < LATENT_SECONDS:
            fitted = model.fit(drives, num_updates=50)
    else:
        fitted = model.fit(drives)
    seconds = time.process_time() - begin
    return judged(variant, seed, make_driver(fitted, rng), tracks, drives, seconds)


def run(seed, tracks, ablation_tracks):
    """The rows of all variants, the full agent's first."""
    rows, drives = full(seed, tracks)
    for variant in VARIANTS if ablation_tracks else ():
        rows += ablated(variant, seed, ablation_tracks, drives)
    return rows


def main() -> None:
    arguments = parser(__doc__, range(3))
    arguments.add_argument("--tracks", type=int, default=20)
    arguments.add_argument("--ablation-tracks", type=int, default=5, help="0 for no ablations")
    options = arguments.parse_args()
    chosen = {"tracks": options.tracks, "ablation_tracks": options.ablation_tracks}
    rows = run_all(partial(run, **chosen), options)
    if options.record:
        header, old = recorded("car_racing")
        kept = {(row["variant"], int(row["seed"]), int(row["track"])): row for row in old + rows}
        record("car_racing", list(kept.values()), earlier=header if len(kept) > len(rows) else [])
    results = [
        [row for row in rows if (row["seed"], row["variant"]) == (seed, "full")]
        for seed in options.seeds
    ]
    finish(
        "car_racing", seeds=options.seeds, tracks=options.tracks,
        returns=[[row["return"] for row in part] for part in results],
        **{k: [part[0][k] for part in results] for k in ("real_frames", "seconds", "decision_ms")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
