"""The build of notebook 05: trajectory sampling on a blank page."""

import numpy as np

from mbrl_helpers.exercises.builds import Build, Stage, Unfit, attempt, finite_array
from mbrl_helpers.exercises.frame import Wrong

NUM_FUTURES = 4000
WORDS = {"tsinf": "TS∞", "ts1": "TS1"}


def propagate(members, obs, plan, num_futures, how, rng):
    every = np.arange(num_futures)
    states = [np.repeat(obs[None], num_futures, axis=0)]
    follows = rng.integers(len(members), size=num_futures)
    for action in plan:
        if how == "ts1":
            follows = rng.integers(len(members), size=num_futures)
        said = [member(states[-1], action) for member in members]
        means, stds = (np.stack(part) for part in zip(*said, strict=True))  # [E, K, O]
        mean, std = means[follows, every], stds[follows, every]
        states.append(mean + std * rng.standard_normal(mean.shape))
    return np.stack(states, axis=1)


def starter(members, obs, plan, num_futures, how, rng):
    states = [...]  # all futures begin at obs
    follows = ...  # whom each future follows
    for action in plan:
        ...  # does anybody change whom it follows?
        said = [member(states[-1], action) for member in members]
        states.append(...)  # of each future, what its own member says, and its noise
    return np.stack(states, axis=1)


class Toy:
    """An ensemble whose futures can be computed: decay * state + drift + push, and a noise.

    Attributes:
        drifts: [E, O] of each member; their spread is what the members disagree about.
        stds: [E, O] of the noise that each member expects.
    """

    def __init__(self, num_members, num_obs, horizon, seed, noise=0.5):
        rng = np.random.default_rng(seed)
        self.decay = 0.97
        self.drifts = rng.uniform(-0.4, 0.8, (num_members, num_obs))
        self.stds = rng.uniform(0.5, 1.5, (num_members, num_obs)) * noise
        self.obs = rng.normal(size=num_obs)
        self.plan = rng.uniform(-1, 1, (horizon, num_obs)) * np.linspace(3, 0, horizon)[:, None]

    def members(self):
        """A function for each: (obs [K, O], action [O]) -> mean and std [K, O] of the next."""

        def member(drift, std):
            return lambda obs, action: (self.decay * obs + drift + action, 0 * obs + std)

        return [member(*of) for of in zip(self.drifts, self.stds, strict=True)]

    def answer(self, how, *, plan=None):
        """Mean and standard deviation [O] of the last states, by the law of total variance."""
        mean = np.repeat(self.obs[None], len(self.drifts), axis=0)  # of each member's futures
        variance = np.zeros_like(mean)
        for action in self.plan if plan is None else plan:
            mean = self.decay * mean + self.drifts + action
            variance = self.decay**2 * variance + self.stds**2
            if how != "tsinf":  # whoever comes next begins from where all of them have led
                between = mean.var(axis=0) if how == "ts1" else 0.0
                variance = np.repeat(variance.mean(axis=0)[None] + between, len(mean), axis=0)
                mean = np.repeat(mean.mean(axis=0)[None], len(mean), axis=0)
        return mean.mean(axis=0), np.sqrt(variance.mean(axis=0) + mean.var(axis=0))


def ask(answer, toy, how, num_futures=NUM_FUTURES, seed=0):
    """What a learner's function gives for a toy, checked."""
    obs, plan = toy.obs.copy(), toy.plan.copy()
    rng = np.random.default_rng(seed)
    found = attempt(answer, toy.members(), obs, plan, num_futures, how, rng)
    if not (np.array_equal(obs, toy.obs) and np.array_equal(plan, toy.plan)):
        raise Unfit("It changes the start or the plan that it is given: work on copies.")
    shape = (num_futures, len(plan) + 1, len(obs))
    return finite_array(found, shape, "What propagate returns, [K, H+1, O],")


def check_contract(answer, toy):
    """What breaks the contract, whatever the spread."""
    for num_futures in (1, 7):
        found = ask(answer, toy, "tsinf", num_futures)
        if not np.allclose(found[:, 0], toy.obs):
            raise Unfit("Every future begins at obs: states[:, 0] should be the start.")
    if not np.array_equal(found, ask(answer, toy, "tsinf", 7)):
        raise Unfit("The same rng, asked twice, gives other futures: draw everything from `rng`.")


def off(spread, truth):
    """Largest difference of a column in per cent."""
    return float(100 * np.abs(spread / truth - 1).max())


def diagnose(toy, how, found):
    """Which known fault spreads like this."""
    spread = found[:, -1].std(axis=0)
    other = "ts1" if how == "tsinf" else "tsinf"
    when = "once, for good" if how == "tsinf" else "anew at every step"
    growth = np.sqrt((toy.decay ** (2 * np.arange(len(toy.plan)))).sum())
    if any(off(spread, s) < 8 for s in (toy.answer("expectation")[1], *(growth * toy.stds))):
        return (
            "It spreads as the noise alone: all futures follow one member, or the members' mean. "
            "Each should draw its own."
        )
    if off(spread, toy.answer(other)[1]) < 8:
        return (
            f"It spreads as {WORDS[other]} does: under {WORDS[how]} each future draws a member "
            f"{when}."
        )
    wanted = toy.answer(how)[1].round(2)
    return (
        f"The futures spread {spread.round(2)} at the end, and should by {wanted}. Under "
        f"{WORDS[how]} each future follows its own member, drawn {when}, and adds that member's "
        "std times a standard normal number, fresh for each future, step and column."
    )


def diagnose_mean(toy, how, middle):
    """Which known fault ends there."""
    repeated = toy.answer(how, plan=np.repeat(toy.plan[:1], len(toy.plan), axis=0))[0]
    backwards = toy.answer(how, plan=toy.plan[::-1])[0]
    truth, spread = toy.answer(how)
    for likely, text in (
        (repeated, "It takes the plan's first action at every step."),
        (backwards, "It takes the plan from its end."),
    ):
        if np.abs(middle - likely).max() < 0.1 * spread.max():
            return text
    return (
        f"The futures spread rightly, around {middle.round(2)} instead of {truth.round(2)}. What a "
        "member says is the *next state*, not a change; it wants the action of that step."
    )


def judge(answer):
    """Ensembles whose futures have a known spread: many members and few, columns and one."""
    toys = {
        "seven members, 25 steps": Toy(7, 3, 25, 2),
        "three members, 40 steps": Toy(3, 1, 40, 1),
    }
    check_contract(answer, toys["seven members, 25 steps"])
    for name, toy in toys.items():
        for how in ("tsinf", "ts1"):
            found = ask(answer, toy, how)
            if len(np.unique(found[:, 1, 0].round(9))) <= len(toy.drifts):
                raise Unfit(
                    "After one step there are no more different futures than members: the noise is "
                    "missing, or the same for all. Each future adds std times a number of its own."
                )
            middle, spread = toy.answer(how)
            measured = off(found[:, -1].std(axis=0), spread)
            yield Stage(
                name=f"{WORDS[how]}, {name}: spread", measured=measured, unit="% off", at_most=10,
                fault=diagnose(toy, how, found) if measured > 10 else "",
            )  # fmt: skip
            away = float((np.abs(found[:, -1].mean(axis=0) - middle) / spread).max())
            yield Stage(
                name=f"{WORDS[how]}, {name}: mean", measured=away, unit="of the spread off",
                at_most=0.1, fault=diagnose_mean(toy, how, found[:, -1].mean(axis=0)),
            )  # fmt: skip


def variant(how_always=None, noise="each", whom="each", action="own", adds=False, start=True,
            own_rng=False, in_place=False, axes=(0, 1, 2)):  # fmt: skip
    """The reference with a fault."""

    def faulty(members, obs, plan, num_futures, how, rng):
        rng = np.random.default_rng() if own_rng else rng
        how, every = how_always or how, np.arange(num_futures)
        if in_place:
            plan *= 1.5
        states = [np.repeat(obs[None], num_futures, axis=0)]

        def draw():
            one = rng.integers(len(members), size=num_futures)
            return one if whom == "each" else np.full(num_futures, one[0])

        follows = draw()
        for t in range(len(plan)):
            follows = draw() if how == "ts1" else follows
            taken = plan[{"own": t, "first": 0, "backwards": -1 - t}[action]]
            said = [member(states[-1], taken) for member in members]
            means, stds = (np.stack(part) for part in zip(*said, strict=True))
            mean, std = means[follows, every], stds[follows, every]
            if whom == "mean":
                mean, std = means.mean(axis=0), np.sqrt((stds**2).mean(axis=0))
            draws = rng.standard_normal(mean.shape if noise != "shared" else mean.shape[1:])
            after = mean + {"none": 0, "variance": std}.get(noise, 1) * std * draws
            states.append(states[-1] + after if adds else after)
        return np.stack(states if start else states[1:], axis=1).transpose(axes)

    return faulty


BUILD = Build(
    reference=propagate,
    starter=starter,
    judge=judge,
    hints=(
        "A future is one possible world. Is it possible that a different member is right at every "
        "step? What would that do to the spread?",
        "Keep one number a future: whom it follows. Under TS∞ it is drawn once, before the loop; "
        "under TS1 again in every step. The next state is that member's mean plus its std times a "
        "standard normal number.",
        "Two members without noise say +1 and -1 a step. After 4 steps TS∞ has futures at 4 and "
        "-4: spread 4. Under TS1 the steps are coin tosses: spread 2, the root of 4.",
        "`means[follows, np.arange(num_futures)]`, plus the same of `stds` times "
        "`rng.standard_normal(mean.shape)`; `follows = rng.integers(len(members), "
        "size=num_futures)`",
    ),
    faulty=(
        Wrong(variant(how_always="ts1"), "It spreads as TS1 does"),
        Wrong(variant(how_always="tsinf"), "It spreads as TS∞ does"),
        Wrong(variant(noise="none"), "or the same for all"),
        Wrong(variant(noise="shared"), "or the same for all"),
        Wrong(variant(noise="variance"), "times a standard normal number, fresh for each"),
        Wrong(variant(whom="mean"), "It spreads as the noise alone"),
        Wrong(variant(whom="one"), "It spreads as the noise alone"),
        Wrong(variant(action="first"), "first action at every step"),
        Wrong(variant(action="backwards"), "takes the plan from its end"),
        Wrong(variant(adds=True), "times a standard normal number, fresh for each"),
        Wrong(variant(start=False), "array of shape [1, 26, 3]"),
        Wrong(variant(own_rng=True), "draw everything from `rng`"),
        Wrong(variant(in_place=True), "changes the start or the plan"),
        Wrong(variant(axes=(1, 0, 2)), "array of shape [1, 26, 3]"),
    ),
)
