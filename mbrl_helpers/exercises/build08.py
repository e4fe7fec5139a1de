"""The build of notebook 08: a driver by hand, on the map that the agent makes of each image."""

import math

import numpy as np

from mbrl_helpers.exercises.builds import Build, Stage, Unfit, attempt, finite_array
from mbrl_helpers.exercises.frame import Wrong

TRACKS = (800, 801)
DECISIONS = 250
LOW, HIGH = np.array([-1.0, -0.8]), np.array([1.0, 1.0])  # steering and pedal, as in CarRacing
# The made-up car: px a radian of its front wheels, px between its axles, px a decision that full
# gas and full brake change; from this sideways pull on, px a decision times rad, it slides.
PX_A_RAD, AXLES, GAS, BRAKE, GRIP = 24.0, 6.3, 0.6, 1.6, 2.2


def rule(way, speed, turn):
    ahead = right = heading = 0.0
    path = []
    for _ in range(14):  # along the way, 4 px at a time
        heading += way(ahead, right, heading)
        ahead, right = ahead + 4 * np.cos(heading), right + 4 * np.sin(heading)
        path.append((ahead, right, heading))
    ahead, right, _ = path[2 + min(int(speed / 4), 11)]
    steering = np.arctan2(right, ahead) - 2 * turn
    bend = max(abs(heading) for _, _, heading in path)
    pedal = 0.5 * (10 / (1 + 0.8 * bend) - speed)
    return np.clip(steering, -1, 1), np.clip(pedal, -0.8, 1)


def starter(way, speed, turn):
    ahead = right = heading = 0.0
    path = []
    for _ in range(14):
        heading += ...  # into the way to go
        ahead, right = ...  # 4 px on
        path.append((ahead, right, heading))
    steering = ...  # towards a place on the path, the farther the faster; against the turn
    pedal = ...  # how fast does the sharpest bend in view allow, and how fast is it?
    return steering, pedal


class Loop:
    """A made-up road, a wavy circle, and a car on it that slides where it turns too fast."""

    width = 7.0  # px from the middle to the edge

    def __init__(self, waves, depth, backwards):
        angle = np.linspace(0, 2 * np.pi, 1500, endpoint=False) * (-1 if backwards else 1)
        radius = 95 + depth * np.cos(waves * angle)
        self.middle = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
        ahead = np.roll(self.middle, -1, 0) - self.middle
        self.heading = np.arctan2(ahead[:, 1], ahead[:, 0])
        self.place, self.direction = self.middle[0].copy(), float(self.heading[0])
        self.speed = self.turn = self.wheels = self.gas = 0.0
        self.begun, self.done, self.off = 0, 0, []

    def nearest(self, place):
        """Index of the nearest point of the middle, and px to the right of it."""
        away = place - self.middle
        index = int((away**2).sum(1).argmin())
        cos, sin = math.cos(self.heading[index]), math.sin(self.heading[index])
        return index, float(away[index] @ np.array([-sin, cos]))

    def way(self, ahead, right, heading):
        """Angle from a heading, at a place seen from the car, to the way to go."""
        cos, sin = math.cos(self.direction), math.sin(self.direction)
        place = self.place + np.array([ahead * cos - right * sin, ahead * sin + right * cos])
        index, beside = self.nearest(place)
        wanted = self.heading[index] - math.atan2(beside, 12)  # back to the middle
        return (wanted - self.direction - heading + math.pi) % (2 * math.pi) - math.pi

    def step(self, steering, pedal):
        """One decision."""
        self.wheels += float(np.clip(9.6 * steering - self.wheels, -5.8, 5.8))
        self.gas = min(max(pedal, 0), self.gas + 0.4)
        push = GAS * self.gas + BRAKE * min(pedal, 0)
        self.speed = min(max(self.speed + push, 0), 25)
        wanted = self.speed * math.tan(self.wheels / PX_A_RAD) / AXLES
        most = GRIP / max(self.speed, 1e-6)
        self.turn = min(max(wanted, -most), most)
        self.direction += self.turn
        self.place += self.speed * np.array([math.cos(self.direction), math.sin(self.direction)])
        index, beside = self.nearest(self.place)
        gone = (index - self.begun + 750) % 1500 - 750
        self.begun, self.done = index, self.done + gone
        self.off.append(abs(beside) > self.width)

    @property
    def laps(self):
        """Driven, on the road."""
        return self.done / 1500 * (1 - float(np.mean(self.off)))


def asked(answer, way, speed, turn):
    """What an answer does: steering and pedal."""
    value = finite_array(
        attempt(answer, way, float(speed), float(turn)),
        (2,),
        "What rule returns, steering and pedal,",
    )
    if (value < LOW - 1e-6).any() or (value > HIGH + 1e-6).any():
        raise Unfit(
            f"Steering goes from -1 to 1 and the pedal from -0.8 to 1; yours are {value[0]:.3g} "
            f"and {value[1]:.3g}. Cut them yourself: what should happen beyond is yours to say."
        )
    return value


def driven(answer, waves, depth, backwards):
    """A made-up road after all decisions, and [T, 4] speed, angle to go, steering and pedal."""
    road, log = Loop(waves, depth, backwards), []
    for _ in range(DECISIONS):
        steering, pedal = asked(answer, road.way, road.speed, road.turn)
        log.append((road.speed, road.way(8.0, 0.0, 0.0), steering, pedal))
        road.step(steering, pedal)
    return road, np.array(log)


def diagnose(road, log):
    """Which known fault drives like this."""
    speed, angle, steering, pedal = log.T
    off = np.array(road.off)
    if speed.max() < 1:
        return "The car hardly moves. The pedal above 0 is gas."
    if np.ptp(steering) == 0:
        return "It always steers the same. Ask way() where to."
    if steering @ angle < 0:
        return "It steers away from the way to go. Right is positive, in angles and in steering."
    if np.ptp(pedal[20:]) == 0 and off.any():
        return (
            "Its pedal is always the same, and it leaves the road. How fast is too fast depends on "
            "the bend, and you may look ahead."
        )
    if off.mean() > 0.1 and np.abs(np.diff(steering)).mean() > 0.3:
        return (
            "It swings from side to side. The wheels need a moment to follow, and so does the car. "
            "Steer less, aim farther ahead, and steer against the turn that it has."
        )
    if off.mean() > 0.1:
        return (
            f"It leaves the road, at {speed[off].mean():.1f} px a decision. Is it slow enough when "
            "the bend begins? Follow way() a few steps ahead, and see how much it turns."
        )
    return (
        f"It stays on the road, but is slow: {speed.mean():.1f} px a decision. Where it is "
        "straight there is nothing to wait for."
    )


class OnTheTrack:
    """Lets an answer drive the real car: it has `act(view)` and `reset()`, as `drive` asks for."""

    def __init__(self, answer):
        self.answer = answer

    def reset(self, ended=None):
        """There is nothing to forget."""

    def act(self, view):
        """Steering and pedal [2]."""
        import torch

        def way(ahead, right, heading):
            return float(view.road.way(torch.tensor([ahead, right, heading]).float())[1])

        return asked(self.answer, way, view.state[0], view.state[2]).astype(np.float32)


def judge(answer):
    """Three made-up roads, then two real tracks."""
    for name, road in (
        ("a made-up circle", (1, 0, False)),
        ("one with three waves", (3, 14, False)),
        ("one with five waves, the other way round", (5, 5, True)),
    ):
        end, log = driven(answer, *road)
        fault = diagnose(end, log)
        yield Stage(name=name, measured=end.laps, unit="laps", at_least=1.5, fault=fault)
    from mbrl_helpers.cars.driving import drive
    from mbrl_helpers.cars.vision import PixelCar

    driver = OnTheTrack(answer)
    returns = [drive(PixelCar(), driver, seed=track).episode_return for track in TRACKS]
    yield Stage(
        name="CarRacing, two tracks", measured=float(np.mean(returns)), unit="mean return",
        at_least=500, fault="On the made-up roads it drives well. The real car slides more, and "
        "its bends come sooner: drive with more care.",
    )  # fmt: skip


def variant(how):
    """The reference with a fault."""

    def faulty(way, speed, turn):
        ahead = right = heading = 0.0
        path = []
        for _ in range(14):
            heading += way(ahead, right, heading)
            ahead, right = ahead + 4 * np.cos(heading), right + 4 * np.sin(heading)
            path.append((ahead, right, heading))
        ahead, right, _ = path[2 + min(int(speed / 4), 11)]
        aim = np.arctan2(right, ahead)
        bend = 0.0 if how == "no bends" else max(abs(heading) for _, _, heading in path)
        fastest = {"slow": 3, "no bends": 18}.get(how, 10)
        steering = {
            "away": -aim, "never": 0.0, "swings": 12 * way(0.0, 0.0, 0.0) + 6 * turn,
        }.get(how, aim - 2 * turn)  # fmt: skip
        pedal = 0.5 * (fastest / (1 + 0.8 * bend) - speed)
        pedal = {"gas": 0.7, "parked": -0.5}.get(how, pedal)
        if how == "uncut":
            return 10 * steering, pedal
        return min(max(steering, -1), 1), min(max(pedal, -0.8), 1)

    return faulty


def only_steering(way, speed, turn):
    return way(0.0, 0.0, 0.0)


BUILD = Build(
    reference=rule,
    starter=starter,
    judge=judge,
    hints=(
        "Where will the car be when the wheels have followed? And what of the road ahead says how "
        "fast you may be when you get there?",
        "Follow way() with your finger: 14 times 4 px. Steer towards a point of that path, farther "
        "away the faster you are. The largest heading on it tells the bend: the sharper, the "
        "slower.",
        "From 0, 0, 0 with way() = 0.1: heading 0.1, then ahead 4 cos 0.1 = 3.98, right "
        "4 sin 0.1 = 0.40. A bend of 0.5 rad: a speed of 10 / (1 + 0.8 · 0.5) = 7.1 px a decision.",
        "`steering = np.arctan2(right, ahead) - 2 * turn`, and `pedal = 0.5 * (10 / (1 + 0.8 * "
        "bend) - speed)`, both cut to their range",
    ),
    faulty=(
        Wrong(variant("parked"), "hardly moves"),
        Wrong(variant("never"), "always steers the same"),
        Wrong(variant("away"), "steers away from the way to go"),
        Wrong(variant("gas"), "Its pedal is always the same"),
        Wrong(variant("swings"), "swings from side to side"),
        Wrong(variant("no bends"), "slow enough when the bend begins"),
        Wrong(variant("slow"), "stays on the road, but is slow"),
        Wrong(variant("uncut"), "Cut them yourself"),
        Wrong(only_steering, "should be an array of shape [2]"),
    ),
)
