"""The build of notebook 04: the cross-entropy method on a blank page."""

import numpy as np

from mbrl_helpers.exercises.builds import Build, Stage, Unfit, attempt, finite_array
from mbrl_helpers.exercises.frame import Wrong
from mbrl_helpers.exercises.worlds import pendulum_returns

SIZE, CALLS = 12, 2000  # of the hills
HORIZON, PLAN_CALLS = 60, 5000  # of the plan for the pendulum
LOW, HIGH = -2.0, 2.0
NEAR, SWUNG = 0.35, -425.0
WIDE = 0.25  # a spread with which no search is over


def cem(score, mean, std, low, high, num_calls, rng):
    num_iterations = 10
    population = num_calls // num_iterations
    num_elites = max(2, population // 10)
    best, best_return = None, -np.inf
    for _ in range(num_iterations):
        candidates = mean + std * rng.standard_normal((population, len(mean)))
        candidates = np.clip(candidates, low, high)
        returns = np.asarray(score(candidates))
        returns = np.where(np.isnan(returns), -np.inf, returns)  # what failed never wins
        order = np.argsort(returns)[::-1]
        if returns[order[0]] > best_return:
            best, best_return = candidates[order[0]], returns[order[0]]
        elites = candidates[order[:num_elites]]
        mean, std = elites.mean(axis=0), elites.std(axis=0)
    return best


def starter(score, mean, std, low, high, num_calls, rng):
    num_iterations = ...
    population = ...  # all iterations together may score num_calls candidates
    best, best_return = None, -np.inf
    for _ in range(num_iterations):
        candidates = ...  # [population, D], drawn around mean, within the bounds
        returns = score(candidates)  # [population]; NaN: this candidate failed
        ...  # remember the best candidate so far
        ...  # mean and std of the elites are those of the next iteration
    return best


class Watched:
    """A score that counts its calls, keeps to the contract, and remembers what it was asked."""

    def __init__(self, function, size, num_calls):
        self.function, self.size, self.num_calls = function, size, num_calls
        self.asked, self.got, self.count = [], [], 0

    def __call__(self, candidates):
        """Returns [n] of candidates [n, D]."""
        candidates = np.array(candidates, dtype=float)
        if candidates.ndim != 2 or candidates.shape[1] != self.size:
            raise Unfit(
                f"score expects candidates [n, {self.size}], a row for each; it was given shape "
                f"{list(candidates.shape)}."
            )
        if not np.isfinite(candidates).all():
            raise Unfit(
                "score was given candidates with NaN or infinite numbers. Where do they come from? "
                "The mean of no elites is NaN, and so is everything that is drawn around it."
            )
        beyond = np.abs(candidates).max(initial=0)
        if beyond > HIGH + 1e-6:
            raise Unfit(
                f"score was given a candidate with {beyond:.3g} in it, beyond the bounds "
                f"{LOW:g} … {HIGH:g}. Clip *before* scoring: what is scored should be what is done."
            )
        self.count += len(candidates)
        if self.count > self.num_calls:
            raise Unfit(
                f"It has scored more than num_calls = {self.num_calls} candidates: all iterations "
                "*together* may score so many. Divide them among the iterations."
            )
        self.asked.append(candidates)
        self.got.append(self.function(candidates))
        return self.got[-1].copy()

    def parts(self):
        """The first and the last tenth of what was asked, and its returns."""
        asked, got = np.concatenate(self.asked), np.concatenate(self.got)
        tenth = max(len(asked) // 10, 1)
        return asked[:tenth], asked[-tenth:], got[:tenth], got[-tenth:]


def search(answer, function, size, num_calls, start, spread, seed):
    """One run of an answer: what it found, and the watched score."""
    score = Watched(function, size, num_calls)
    given = np.full(size, start), np.full(size, spread), np.full(size, LOW), np.full(size, HIGH)
    handed = tuple(a.copy() for a in given)
    found = attempt(answer, score, *handed, num_calls, np.random.default_rng(1000 + seed))
    if any(not np.array_equal(*pair) for pair in zip(handed, given, strict=True)):
        raise Unfit(
            "It changes mean, std, low or high, which belong to whoever called it: make something "
            "new, `mean = ...` instead of `mean[:] = ...`, or work on copies."
        )
    found = finite_array(found, (size,), "What is returned")
    if np.abs(found).max() > HIGH + 1e-6:
        raise Unfit("What is returned is beyond the bounds. Clip *before* you score.")
    if not score.count:
        raise Unfit("It never calls score: how does it know what is good?")
    return found, score


def hill(seed, inside=True, fails=False):
    """A smooth hill of many dimensions, steeper in some of them than in others; and its top."""
    rng = np.random.default_rng(seed)
    top = rng.uniform(-1.6, 1.6, SIZE) if inside else rng.uniform(-2.6, 2.6, SIZE)
    weight = 10 ** rng.uniform(-0.7, 0.7, SIZE)

    def function(x):
        value = -(weight * (x - top) ** 2).sum(axis=1) - 50
        failed = np.abs(np.sin(1e4 * x[:, 0])) < 0.3  # scattered over the whole hill
        return np.where(failed, np.nan, value) if fails else value

    return function, np.clip(top, LOW, HIGH)


def diagnose(function, found, score):
    """Which known fault moves over a hill like this one."""
    first, last, before, after = score.parts()
    spread, narrowed = first.std(axis=0), last.std(axis=0)
    wide = np.maximum(spread, 1e-9)
    moved = np.abs(last.mean(axis=0) - first.mean(axis=0)) / wide
    if np.isnan(after).mean() > 0.9 or np.isnan(function(found[None])[0]):
        return (
            "A candidate that failed has won: NaN counts as the largest number for argmax, sort "
            "and topk. Put -inf in its place before you compare."
        )
    stays = (narrowed / wide).min() > 0.7 and moved.max() < 0.7
    if len(score.asked) == 1 or stays:
        return (
            "The last candidates are drawn where the first were: nothing is learned from the "
            "scores. Refit mean and std to the elites, and draw the next candidates from them."
        )
    if np.nanmean(after) < np.nanmean(before) - 1:
        return "It goes downhill, from candidate to candidate. Returns are maximised."
    if np.nanmax(np.concatenate(score.got)) > function(found[None])[0] + 1:
        return (
            "Better candidates than the one that is returned were scored on the way. Remember the "
            "best of all iterations."
        )
    if (np.ptp(last.mean(axis=0)) < 0.1 and np.ptp(found) > 0.5) or np.ptp(
        last.mean(axis=0)
    ) < 0.02:
        return (
            "All numbers of a candidate have got the same mean. The elites are axis 0: each of the "
            "D numbers has a mean and a spread of its own."
        )
    spreads = [np.median(asked.std(axis=0)) for asked in score.asked if len(asked) > 1]
    return closes_in(np.median(narrowed / wide), spreads)


def closes_in(share, spreads):
    """How a search narrowed that was on its way to the top, from one scoring to the next."""
    spread = spreads[-1] if spreads else 0.0
    if share <= 0.9 and spread > WIDE and spread > 0.85 * np.median(spreads[len(spreads) // 2 :]):
        return (
            f"The mean moves and the search narrows, but only to a spread of {spread:.2g}, and no "
            "further: something keeps it wide. A constant added to std, or a lower bound for it?"
        )
    if share > 0.7:
        return (
            "The mean moves, but the spread stays about as wide as at first: it never looks "
            "closely. Refit std, too; if you do, something keeps it wide: a constant added to it?"
        )
    if spread < 0.01:
        return (
            "The search has closed in, but not on the top: the spread collapsed on the way. More "
            "elites, or a lower bound for std, keep it open for longer."
        )
    return (
        "It is on its way to the top, and comes not near enough: the last candidates are spread by "
        f"{spread:.2g}. Fewer elites, or more iterations with fewer candidates each, "
        "close in sooner."
    )


def judge(answer):
    """Hills with a known top, out of bounds, with failures; then a plan for the pendulum."""
    stages = (
        ("a hill, its top inside the bounds", (11, 12, 13), {}),
        ("tops beyond the bounds", (21, 22), {"inside": False}),
        ("one call in five fails", (31, 32), {"fails": True}),
    )
    for name, seeds, how in stages:
        worst, fault, missed = 0.0, "", 0.0
        for seed in seeds:
            function, top = hill(seed, **how)
            found, score = search(answer, function, SIZE, CALLS, 0.0, 1.0, seed)
            missed = max(missed, np.nanmax(np.concatenate(score.got)) - function(found[None])[0])
            distance = float(np.sqrt(((found - top) ** 2).mean()))
            if distance >= worst:
                worst, fault = distance, diagnose(function, found, score)
        if worst <= NEAR and missed > 1e-6:
            raise Unfit(
                "What is returned is near the top, but not the best candidate: one that was "
                f"scored on the way has a return higher by {missed:.2g}. Keep the best of all "
                "iterations, by its own return. (A mean is no candidate until it is scored.)"
            )
        yield Stage(name=name, measured=worst, unit="from the top", at_most=NEAR, fault=fault)
    yield plan_for_pendulum(answer)


def plan_for_pendulum(answer):
    """A single decision, 60 torques long, for a pendulum that hangs."""
    returns = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        state = np.array([np.pi + rng.uniform(-0.3, 0.3), rng.uniform(-0.5, 0.5)])
        plan, _ = search(
            answer, lambda x, s=state: pendulum_returns(s, x), HORIZON, PLAN_CALLS, 0.0, 1.5, seed
        )
        returns.append(pendulum_returns(state, plan[None])[0])
    return Stage(
        name="Pendulum's true equations, 60 torques at once", measured=float(np.mean(returns)),
        unit="return", at_least=SWUNG,
        fault="It climbs hills, but with 60 numbers at once it gets no further than random plans. "
        "Are there enough iterations? And is the spread kept open until the end?",
    )  # fmt: skip


def variant(sign=1, move=True, narrow=True, share=0.1, axis=0, clip=True, times=1, nan=-np.inf,
            first=False, one=False, add=0.0, last=False, place=False):  # fmt: skip
    """The reference with a fault."""

    def faulty(score, mean, std, low, high, num_calls, rng):
        population = times * num_calls // 10
        best, best_return = None, -np.inf
        for _ in range(10):
            candidates = mean + std * rng.standard_normal((population, len(mean)))
            candidates = np.clip(candidates, low, high) if clip else candidates
            returns = np.asarray(score(candidates))
            returns = sign * np.where(np.isnan(returns), nan, returns)
            order = np.argsort(returns)[::-1]
            if best is None or not (first or returns[order[0]] <= best_return):
                best, best_return = candidates[order[0]], returns[order[0]]
            elites = candidates[order[: max(2, int(share * population))]]
            if move:
                mean = elites.mean(axis=0) if axis == 0 else np.full(len(mean), elites.mean())
            if narrow:
                std = elites.std(axis=0) + add
            if place:
                low[:] = -2
                high -= 0.01
            if one:
                break
        return candidates[0] if last else best

    return faulty


BUILD = Build(
    reference=cem,
    starter=starter,
    judge=judge,
    hints=(
        "When a hundred random candidates have been scored, where would you draw the next hundred?",
        "A loop: draw candidates from a normal distribution, clip them, score them, keep the best "
        "tenth (the elites), and take their mean and std for the next round. Divide the calls "
        "among ten rounds, and remember the best candidate of all.",
        "mean 0, std 1; of five candidates -1.2, 0.3, 0.9, 1.4, -0.2 the third and the fourth "
        "score best. The next mean is (0.9 + 1.4) / 2 = 1.15, the next std 0.25.",
        "`elites = candidates[np.argsort(returns)[-num_elites:]]`, then "
        "`mean, std = elites.mean(axis=0), elites.std(axis=0)`; before it "
        "`returns = np.where(np.isnan(returns), -np.inf, returns)`",
    ),
    faulty=(
        Wrong(variant(sign=-1), "goes downhill"),
        Wrong(variant(move=False, narrow=False), "nothing is learned from the scores"),
        Wrong(variant(one=True), "nothing is learned from the scores"),
        Wrong(variant(narrow=False), "the spread stays about as wide as at first"),
        Wrong(variant(add=0.3), "something keeps it wide"),
        Wrong(variant(add=1.0), "a constant added to it?"),
        Wrong(variant(last=True), "not the best candidate"),
        Wrong(variant(place=True), "It changes mean, std, low or high"),
        Wrong(variant(share=0.0), "the spread collapsed"),
        Wrong(variant(axis=1), "All numbers of a candidate have got the same mean"),
        Wrong(variant(clip=False), "Clip *before* scoring"),
        Wrong(variant(times=10), "more than num_calls"),
        Wrong(variant(nan=np.inf), "A candidate that failed has won"),
        Wrong(variant(nan=0.0), "A candidate that failed has won"),
        Wrong(variant(first=True), "Better candidates than the one that is returned"),
    ),
)
