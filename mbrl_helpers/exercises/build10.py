"""The build of notebook 10: a filter and an open-loop predictor on a blank page."""

import numpy as np

from mbrl_helpers.exercises.builds import Build, Stage, Unfit, attempt, finite_array
from mbrl_helpers.exercises.frame import Wrong

NUM_EPISODES, STEPS = 200, 40


def foresee(system, looks, seen, actions, ahead):
    A, B, C = system["A"], system["B"], system["C"]
    mean, cov = system["mean"], system["cov"]
    for t in range(len(looks)):
        if t > 0:
            mean = A @ mean + B * actions[t - 1]
            cov = A @ cov @ A.T + system["Q"]
        if seen[t]:
            gain = cov @ C / (C @ cov @ C + system["r"])
            mean = mean + gain * (looks[t] - C @ mean)
            cov = cov - np.outer(gain, C @ cov)
    expected = [C @ mean]
    for k in range(ahead):
        mean = A @ mean + B * actions[len(looks) - 1 + k]
        expected.append(C @ mean)
    return np.array(expected)


def starter(system, looks, seen, actions, ahead):
    mean, cov = system["mean"], system["cov"]  # what is believed before the first look
    for t in range(len(looks)):
        look = looks[t] if seen[t] else None
        ...  # 1. predict, unless this is the first step: the mean moves, the covariance grows
        ...  # 2. correct, if something was seen: by how much does the look count?
    expected = [...]  # what is expected now
    for _ in range(ahead):
        ...  # 3. predict on, eyes shut, with the actions to come
    return np.array(expected)


def swing(damping=0.1, push=0.5, noise=0.3, drift=0.02):
    """A hanging pendulum, small angles: position and velocity, of which the first is seen."""
    return {
        "A": np.array([[1.0, 0.2], [-0.6, 1.0 - damping]]), "B": np.array([0.0, push]),
        "C": np.array([1.0, 0.0]), "Q": drift * np.diag([0.1, 1.0]), "r": noise**2,
        "mean": np.zeros(2), "cov": np.diag([1.0, 4.0]),
    }  # fmt: skip


def train():
    """Three numbers, of which a sum is seen."""
    return {
        "A": np.array([[0.9, 0.3, 0.0], [-0.3, 0.9, 0.2], [0.0, 0.0, 0.95]]),
        "B": np.array([0.1, 0.0, 0.6]), "C": np.array([1.0, 0.0, 0.5]),
        "Q": 0.03 * np.eye(3), "r": 0.16, "mean": np.array([1.0, 0.0, -1.0]), "cov": np.eye(3),
    }  # fmt: skip


def episodes(system, blank, ahead, seed):
    """Looks, whether seen, actions; and the truth now and later [N, ahead + 1]."""
    rng = np.random.default_rng(seed)
    size, total = len(system["mean"]), STEPS + ahead
    state = rng.multivariate_normal(system["mean"], system["cov"], NUM_EPISODES)
    actions = np.repeat(rng.normal(size=(NUM_EPISODES, total // 5 + 1)), 5, axis=1)[:, :total]
    truth = [state @ system["C"]]
    for t in range(total):
        drift = rng.multivariate_normal(np.zeros(size), system["Q"], NUM_EPISODES)
        state = state @ system["A"].T + actions[:, t, None] * system["B"] + drift
        truth.append(state @ system["C"])
    truth = np.stack(truth, 1)
    looks = truth[:, : STEPS + 1] + system["r"] ** 0.5 * rng.normal(size=(NUM_EPISODES, STEPS + 1))
    seen = rng.random(looks.shape) >= blank
    return looks * seen, seen, actions, truth[:, STEPS:]


def ask(answer, system, looks, seen, actions, ahead):
    """What an answer expects of all episodes [N, ahead + 1]; what it is given must stay."""
    found = []
    for each in zip(looks, seen, actions, strict=True):
        given = {name: np.array(value) for name, value in system.items()}
        copies = [part.copy() for part in each]
        value = attempt(answer, given, *copies, ahead)
        found.append(finite_array(value, (ahead + 1,), "What it returns"))
        if any(not np.array_equal(given[n], system[n]) for n in system) or any(
            not np.array_equal(a, b) for a, b in zip(copies, each, strict=True)
        ):
            raise Unfit("It changes what it is given: work on copies.")
    return np.stack(found)


def ratio(found, best, truth, column):
    """Root mean square error, in units of the Kalman filter's."""
    own, least = (((guess - truth)[:, column] ** 2).mean() ** 0.5 for guess in (found, best))
    return float(own / least)


STAGES = (  # name, system, blank, ahead, which column is judged
    ("every look, 3 steps on", swing(), 0.0, 3, 3),
    ("half of the looks blank, now", swing(noise=0.1), 0.5, 0, 0),
    ("half of the looks blank, 10 steps on", swing(), 0.5, 10, 10),
    ("three hidden numbers, 5 steps on", train(), 0.5, 5, 5),
)


def judge(answer):
    """Error of what is expected, beside the Kalman filter's on the same episodes."""
    for number, (name, system, blank, ahead, column) in enumerate(STAGES):
        looks, seen, actions, truth = episodes(system, blank, ahead, 1000 + number)
        found = ask(answer, system, looks, seen, actions, ahead)
        best = ask(foresee, system, looks, seen, actions, ahead)
        measured = ratio(found, best, truth, column)
        yield Stage(
            name=name, measured=measured, unit="times the Kalman filter's error", at_most=1.02,
            fault="" if measured <= 1.02 else diagnose(found, system, looks, seen, actions, ahead),
        )  # fmt: skip


def diagnose(found, system, looks, seen, actions, ahead):
    """Which known fault expects the same."""
    for fault, text in FAULTS:
        likely = np.stack([
            fault(system, *each, ahead) for each in zip(looks, seen, actions, strict=True)
        ])  # fmt: skip
        if np.allclose(found, likely, rtol=1e-6, atol=1e-8):
            return text
    return (
        "It is worse than it need be, in a way that is none of the usual ones. Print mean and "
        "covariance for one episode: the covariance must grow where nothing is seen, and shrink "
        "with each look."
    )


def variant(shift=0, drift=True, blind=True, first=True, fixed=None, noise=True, on=True, act=True):
    """The reference with a fault."""

    def faulty(system, looks, seen, actions, ahead):
        A, B, C = system["A"], system["B"], system["C"]
        mean, cov = system["mean"], system["cov"]
        for t in range(len(looks)):
            if t > 0 or not first:
                pushed = actions[min(max(t - 1 + shift, 0), len(actions) - 1)] * act
                mean = A @ mean + B * pushed
                cov = A @ cov @ A.T + drift * system["Q"]
            if seen[t] or not blind:
                gain = cov @ C / (C @ cov @ C + system["r"] * noise + 1e-12)
                gain = gain if fixed is None else fixed * C
                mean = mean + gain * (looks[t] - C @ mean)
                cov = cov - np.outer(gain, C @ cov)
        expected = [C @ mean]
        for k in range(ahead):
            if on:
                later = len(looks) - 1 + k + shift
                mean = A @ mean + B * actions[min(later, len(actions) - 1)] * act
            expected.append(C @ mean)
        return np.array(expected)

    return faulty


def last_look(system, looks, seen, actions, ahead):
    known = looks[seen]
    return np.full(ahead + 1, known[-1] if len(known) else 0.0)


FAULTS = (
    (last_look, "It says what it saw last. A look is noisy, and the world moves on after it."),
    (variant(fixed=0.0), "It never corrects: no look changes what it believes."),
    (variant(fixed=1.0), "It believes each look entirely, and corrects only what is seen: the "
     "velocity learns nothing. Let the covariance say how much a look counts, and for what."),
    (variant(noise=False), "It takes looks for exact: `r`, the variance of their noise, belongs "
     "under the gain."),
    (variant(shift=1), "The actions are shifted by one: what is seen at step t came of "
     "`actions[t - 1]`."),
    (variant(blind=False), "It looks at what was not seen: where `seen` is False, the 0 in `looks` "
     "is no look at all."),
    (variant(first=False), "It predicts before the first look: that look is of the first step, "
     "and nothing was done yet."),
    (variant(drift=False), "It grows too sure: without `Q` the covariance shrinks for ever, and "
     "new looks count for nothing."),
    (variant(on=False), "With its eyes shut it stands still: go on predicting with the actions "
     "to come."),
    (variant(act=False), "It forgets what was done: the actions push, too."),
)  # fmt: skip

BUILD = Build(
    reference=foresee,
    starter=starter,
    judge=judge,
    hints=(
        "You believe that something is at 2, give or take 1, and see it at 4, give or take 1. "
        "Where is it? And if you had been sure?",
        "Two numbers go along: a mean and a covariance. Predict: both go through A, the "
        "covariance grows by Q. Correct, where something was seen: gain = cov C / (C cov C + r), "
        "the mean moves by the gain times the surprise, the covariance shrinks. Then predict on.",
        "One number, A = 1, Q = 0, cov = 1, r = 1: the gain is 1 / (1 + 1) = 0.5. Mean 2, look 4: "
        "2 + 0.5 * 2 = 3, and the covariance is 1 - 0.5 * 1 = 0.5.",
        "`mean = A @ mean + B * actions[t - 1]`, `cov = A @ cov @ A.T + Q`; "
        "`gain = cov @ C / (C @ cov @ C + r)`, `mean = mean + gain * (looks[t] - C @ mean)`, "
        "`cov = cov - np.outer(gain, C @ cov)`",
    ),
    faulty=(
        Wrong(last_look, "what it saw last"),
        Wrong(variant(fixed=0.0), "It never corrects"),
        Wrong(variant(fixed=1.0), "It believes each look entirely"),
        Wrong(variant(noise=False), "It takes looks for exact"),
        Wrong(variant(shift=1), "The actions are shifted by one"),
        Wrong(variant(blind=False), "It looks at what was not seen"),
        Wrong(variant(drift=False), "It grows too sure"),
        Wrong(variant(on=False), "With its eyes shut it stands still"),
        Wrong(variant(act=False), "It forgets what was done"),
        Wrong(lambda system, looks, seen, actions, ahead: looks[-1], "an array of shape"),
    ),
)
