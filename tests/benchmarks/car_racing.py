"""CarRacing-v3 from pixels: returns on tracks never driven before, and what each part is worth.

Each seed wanders for five short drives of 400 frames, then three times fits its model and makes two
drives of an episode each, the first four with exploration noise: at most 8,000 real frames. A last
fit, and the agent drives the tracks `reset(seed=9000 + i)`, from which nothing is learned or tuned.
Seconds are of the processor: collecting, fitting and driving the training rounds; what a decision
costs is seeing an image and planning, four frames.

With --ablations, further variants, each trained and judged in the same way:
    one network       no ensemble
    no slip           the model neither sees nor predicts how the car moves sideways
    random data only  as many frames, all of them wandering
    no map            the ensemble predicts road under the wheels and reward, without a map
    latent            a latent world model, trained on the very frames of the full agent, for at
                      most 300 s of the processor, and planned in

Where nothing is timed, the three frames of a decision that nobody looks at are not drawn, which
changes no image that is seen and halves the time.
"""

import argparse
import dataclasses
import time

import gymnasium as gym
import numpy as np
import torch
from _common import finish, parser, write
from gymnasium.envs.box2d.car_racing import CarRacing

from mbrl_helpers.agents import CorrelatedNoise, rollout_returns
from mbrl_helpers.car_latent import LatentDriver, LatentModel
from mbrl_helpers.car_racing import (
    CarModel,
    CarOnRoad,
    Driver,
    Eye,
    Wanderer,
    drive,
)
from mbrl_helpers.car_vision import ENV_ID, HOLD, PixelCar
from mbrl_helpers.dynamics import DynamicsConfig

NUM_WANDERING, WANDERING_FRAMES, NUM_ROUNDS, DRIVES_A_ROUND = 5, 400, 3, 2
FIRST_TRACK = 9000
LATENT_SECONDS = 300


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
        return super().fit(blind)

    def on(self, road):
        return NoSlipOnRoad(self, road)


class NoSlipOnRoad(CarOnRoad):
    def start(self, state):
        return super().start(without_slip(state))


class NoMapDriver(Driver):
    """Plans with what the ensemble itself predicts: road under the wheels, and reward."""

    @torch.inference_mode()
    def plan(self, view):
        start = torch.tensor(view.state)[None]
        return self.planner.plan(
            lambda actions: rollout_returns(self.model.motion, start, actions), num_envs=1
        )


VARIANTS = {
    "full": (CarModel, Driver, {}),
    "one network": (CarModel, Driver, {"config": DynamicsConfig(num_members=1)}),
    "no slip": (NoSlip, Driver, {}),
    "random data only": (CarModel, Driver, {}),
    "no map": (CarModel, NoMapDriver, {}),
}


# --- training and judging ------------------------------------------------------------------------


def train(env, seed, variant):
    """Drive, fit, drive: the model and all drives."""
    model_kind, driver_kind, how = VARIANTS[variant]
    rng, base = generator(seed), 1_000_000 + 1000 * seed
    model, wanderer = model_kind(rng, **how), Wanderer(rng)
    driver, noise = driver_kind(model, rng), CorrelatedNoise(2, rng, 0.7)
    num = NUM_WANDERING
    if variant == "random data only":
        num += NUM_ROUNDS * DRIVES_A_ROUND * 1000 // WANDERING_FRAMES
    drives = [drive(env, wanderer, seed=base + i, max_frames=WANDERING_FRAMES) for i in range(num)]
    for i in range(NUM_ROUNDS if variant != "random data only" else 0):
        model.fit(drives)
        exploring = noise if i < NUM_ROUNDS - 1 else None
        seeds = range(base + 100 + 10 * i, base + 100 + 10 * i + DRIVES_A_ROUND)
        drives += [drive(env, driver, seed=s, noise=exploring) for s in seeds]
    return model.fit(drives), drives


class Timed:
    """A driver, and the seconds that its decisions take."""

    def __init__(self, driver):
        self.driver, self.reset, self.seconds = driver, driver.reset, []

    def act(self, view):
        begin = time.process_time()
        action = self.driver.act(view)
        self.seconds.append(time.process_time() - begin)
        return action


def judge(env, driver, tracks):
    return [drive(env, driver, seed=FIRST_TRACK + i) for i in range(tracks)]


def row(variant, seed, tracks, drives, frames, seconds, decision_ms=float("nan")):
    """Rows of the CSV: one for each track."""
    return [
        {
            "variant": variant, "seed": seed, "track": FIRST_TRACK + i,
            "return": round(d.episode_return, 1), "frames": d.num_frames,
            "real_frames": frames, "seconds": round(seconds, 1),
            "decision_ms": round(decision_ms, 2),
        }
        for i, d in zip(range(tracks), drives, strict=True)
    ]  # fmt: skip


def seeing_ms(seed):
    """Milliseconds of the processor that it takes to make a view of an image."""
    frames = []
    drive(undrawn(), Wanderer(generator(seed)), seed=seed, max_frames=400,
          watch=lambda view: frames.append(view.frame))  # fmt: skip
    eye, begin = Eye(), time.process_time()
    for frame in frames:
        eye.see(frame)
    return 1000 * (time.process_time() - begin) / len(frames)


def run(seed, variant, tracks, drives_of_full=None):
    """Train and judge one variant with one seed: rows, and the drives that it learned from."""
    timed, begin = variant == "full", time.process_time()
    if variant == "latent":
        model = LatentModel(generator(seed))
        while time.process_time() - begin < LATENT_SECONDS:
            model.fit(drives_of_full, num_updates=50)
        drives, driver = drives_of_full, LatentDriver(model, generator(seed))
    else:
        env = PixelCar() if timed else undrawn()
        model, drives = train(env, seed, variant)
        driver = VARIANTS[variant][1](model, generator(seed))
    seconds = time.process_time() - begin
    watch = Timed(driver)
    judged = judge(undrawn(), watch, tracks)
    ms = 1000 * float(np.mean(watch.seconds)) + (seeing_ms(seed) if timed else 0.0)
    frames = sum(d.num_frames for d in drives)
    return row(variant, seed, tracks, judged, frames, seconds, ms), drives


def main() -> None:
    arguments: argparse.ArgumentParser = parser(__doc__, range(3))
    arguments.add_argument("--tracks", type=int, default=20)
    arguments.add_argument("--ablations", type=int, metavar="TRACKS", default=0,
                           help="judge the further variants, on so many tracks")  # fmt: skip
    options = arguments.parse_args()
    rows, full = [], []
    for seed in options.seeds:
        result, drives = run(seed, "full", options.tracks)
        variants = [*list(VARIANTS)[1:], "latent"] if options.ablations else []
        results = [result]
        for variant in variants:
            results.append(run(seed, variant, options.ablations, drives)[0])
        for part in results:
            values = [r["return"] for r in part]
            print(
                f"seed {seed} {part[0]['variant']:17} mean {np.mean(values):6.1f} "
                f"min {min(values):6.1f}  frames {part[0]['real_frames']} "
                f"seconds {part[0]['seconds']} ms {part[0]['decision_ms']}",
                flush=True,
            )
            rows += part
        full.append(result)
        if options.record:
            write("car_racing", rows)  # an interrupt leaves what has been done
    finish(
        "car_racing", seeds=options.seeds, tracks=options.tracks,
        returns=[[r["return"] for r in result] for result in full],
        real_frames=[result[0]["real_frames"] for result in full],
        seconds=[result[0]["seconds"] for result in full],
        decision_ms=[result[0]["decision_ms"] for result in full],
    )  # fmt: skip


if __name__ == "__main__":
    main()
