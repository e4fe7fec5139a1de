"""What a notebook says, checked: claims against a bound, and headlines against a rival explanation.

Axes: S seeds, K starts of a seed.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from numpy.typing import ArrayLike

from mbrl_helpers.console import say

RULED_OUT, WINS, BESIDE = "ruled out", "wins", "stands beside it"
UNDECIDED, ILLUSTRATION = "undecided", "illustration"
VERDICTS = (RULED_OUT, WINS, BESIDE, UNDECIDED, ILLUSTRATION)
MIN_SEEDS = 5  # fewer illustrate, and decide nothing
MIME = "application/vnd.mbrl-control+json"

_claims: dict[str, bool] = {}


def forget_claims() -> None:
    """Begin anew, as a notebook does at its top."""
    _claims.clear()


def claim(
    text: str, value: float, *, at_least: float | None = None, at_most: float | None = None
) -> None:
    """Show what was measured and whether it is as the course says.

    Args:
        text: what was measured.
        value: the measurement.
        at_least: the claim holds from here on.
        at_most: the claim holds up to here.

    Raises:
        ValueError: if no bound is given.
    """
    if at_least is None and at_most is None:
        raise ValueError("claim: expected at_least or at_most, got neither. Say what should hold.")
    value = float(value)
    low, high = (
        -math.inf if at_least is None else at_least,
        math.inf if at_most is None else at_most,
    )
    held = math.isfinite(value) and low <= value <= high  # a division by 0 proves nothing
    bounds = " and ".join(
        f"{word} {bound:g}"
        for word, bound in (("at least", at_least), ("at most", at_most))
        if bound is not None
    )
    _claims[text] = held
    say(f"{'✓' if held else '✗ does not hold:'} {text}: {value:.4g} (claim: {bounds})")


def claims_summary() -> tuple[int, int]:
    """How many claims and controls held, and how many were made, since `start`."""
    return sum(_claims.values()), len(_claims)


def check_claims() -> None:
    """End a notebook: say how many claims held, controls among them.

    Raises:
        AssertionError: if one did not hold.
        RuntimeError: if none was made.
    """
    if not _claims:
        raise RuntimeError(
            "check_claims: expected claims, got none. Run the notebook from the top (Run All)."
        )
    failed = [text for text, held in _claims.items() if not held]
    if failed:
        raise AssertionError(
            f"{len(failed)} of {len(_claims)} claims did not hold: " + "; ".join(failed)
        )
    say(f"✓ all {len(_claims)} claims of this notebook hold")


@dataclass(frozen=True, kw_only=True)
class Control:
    """What came of a headline beside its rival; in a notebook it shows itself at a glance.

    Attributes:
        headline: what the text says.
        rival: what would explain it as well.
        seeds: of the runs.
        ours: mean of what was measured for the headline, in `unit`.
        theirs: the same for the rival.
        difference: their mean difference, above 0 in favour of the headline.
        interval: 95 % interval of the difference; None for an illustration.
        margin: the smallest difference that would matter.
        unit: of all these numbers.
        verdict: on the rival, as measured: one of `VERDICTS`.
        said: the verdict that the text speaks of.
    """

    headline: str
    rival: str
    seeds: tuple[int, ...]
    ours: float
    theirs: float
    difference: float
    interval: tuple[float, float] | None
    margin: float
    unit: str
    verdict: str
    said: str

    @property
    def held(self) -> bool:
        """Whether the text says what was measured."""
        return self.said == self.verdict

    def __repr__(self) -> str:
        """Headline, rival and verdict, numbers: a line each."""
        mark, verdict = "✓", f"rival {self.verdict}"
        if not self.held:
            mark = f"✗ does not hold, the text says {self.said!r}:"
        elif self.verdict == ILLUSTRATION:
            mark, verdict = "·", "illustration"
        count = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
        spread = "" if self.interval is None else " [{:+,.4g}, {:+,.4g}]".format(*self.interval)
        return (
            f"{mark} {verdict}\n"
            f"  headline: {self.headline}: {self.ours:,.4g} {self.unit}\n"
            f"  rival:    {self.rival}: {self.theirs:,.4g}\n"
            f"  in favour of the headline: {self.difference:+,.4g}{spread}, {count}; would matter "
            f"from {self.margin:,.4g} on"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """The lines for readers, the numbers for the table of all controls."""
        return {"text/plain": repr(self), MIME: asdict(self)}


def control(
    headline: str,
    *,
    rival: str,
    ours: ArrayLike,
    theirs: ArrayLike,
    seeds: Sequence[int],
    margin: float,
    unit: str,
    verdict: str,
    more_is_better: bool = True,
) -> None:
    """Put a headline beside its rival explanation, and check the verdict that the text speaks of.

    The verdict is the rival's. It is "ruled out" if the interval of the mean difference lies beyond
    the margin on the headline's side, and "wins" if beyond it on its own; it "stands beside it" if
    the interval lies within the margin, and is "undecided" otherwise. Fewer than five seeds decide
    nothing: theirs is an "illustration", whatever was measured, and is no claim.

    Args:
        headline: what the text says, as a sentence.
        rival: what would explain it as well, as a sentence.
        ours: [S] or [S, K], what was measured for the headline, a row for each seed.
        theirs: the same of the rival, from the same seeds and starts.
        seeds: [S] of the runs; the starts of one seed are one row, and not so many runs.
        margin: which difference would matter, in the unit of what was measured; choose it before
            you look.
        unit: of what was measured.
        verdict: that the text speaks of, one of `VERDICTS`.
        more_is_better: whether more of what was measured speaks for the headline.

    Raises:
        ValueError: for an unknown verdict, a margin below 0, no seeds or one twice, other than a
            row for each seed, and for numbers that are not finite.
    """
    _check_stated(verdict, margin)
    mine, rivals = _rows("ours", ours, seeds), _rows("theirs", theirs, seeds)
    if mine.shape != rivals.shape:
        raise ValueError(
            f"control: expected ours and theirs from the same starts, got {mine.shape} and "
            f"{rivals.shape} numbers. Pair them."
        )
    differences = (mine - rivals).mean(axis=1) * (1 if more_is_better else -1) + 0.0  # [S], no -0
    interval = bootstrap_interval(differences) if len(differences) >= MIN_SEEDS else None
    made = Control(
        headline=headline, rival=rival, seeds=tuple(int(seed) for seed in seeds),
        ours=float(mine.mean()), theirs=float(rivals.mean()),
        difference=float(differences.mean()), interval=interval, margin=float(margin), unit=unit,
        verdict=_verdict(interval, margin), said=verdict,
    )  # fmt: skip
    text = f"{headline} (rival: {rival})"
    _claims[text] = made.held
    if made.held and verdict == ILLUSTRATION:
        del _claims[text]  # it can't fail, and so it claims nothing
    if InteractiveShell.initialized():
        display(made)
    else:
        say(repr(made))


def _check_stated(verdict: str, margin: float) -> None:
    """Refuse what can't be stated beforehand."""
    if verdict not in VERDICTS:
        raise ValueError(
            f"control: expected verdict as one of {VERDICTS}, got {verdict!r}. Run it with "
            f"{UNDECIDED!r} first: the line says what was measured."
        )
    if not 0 <= margin < math.inf:
        raise ValueError(
            f"control: expected margin >= 0, got {margin}. Give the smallest difference that would "
            "matter; which side is better says more_is_better."
        )


def _rows(name: str, values: ArrayLike, seeds: Sequence[int]) -> np.ndarray:
    """Numbers [S, K] of S seeds, or a sentence on what is wrong with them."""
    if len(seeds) == 0 or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"control: expected seeds, each once, got {list(seeds)}. Give the seed of each run."
        )
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim not in (1, 2) or len(rows) != len(seeds) or rows.size == 0:
        raise ValueError(
            f"control: expected {name} as a row for each of {len(seeds)} seeds, got an array of "
            f"shape {rows.shape}. The starts of one seed are one row: [[480.0, 500.0]]."
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            f"control: expected finite numbers in {name}, got {values!r}. A run that failed needs "
            "a number, such as the worst there is, or the headline another measure."
        )
    return rows.reshape(len(rows), -1)


def _verdict(interval: tuple[float, float] | None, margin: float) -> str:
    if interval is None:
        return ILLUSTRATION
    low, high = interval
    if low > margin:
        return RULED_OUT
    if high < -margin:
        return WINS
    return BESIDE if -margin <= low and high <= margin else UNDECIDED


def bootstrap_interval(values: ArrayLike, *, num_draws: int = 10_000) -> tuple[float, float]:
    """95 % interval of the mean of S >= 2 values, by the expanded percentile bootstrap.

    The plain one is too narrow for few values: of five, it holds the true mean in 84 % of cases.

    Args:
        values: [S], in any order.
        num_draws: how often S of them are drawn with replacement, always with the same seed.

    Source: Hesterberg 2015, What teachers should know about the bootstrap, section 3.4.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))  # so that their order can't matter
    size = len(ordered)
    drawn = np.random.default_rng(0).integers(size, size=(num_draws, size))
    means = ordered[drawn].mean(axis=1)
    tail = NormalDist().cdf(-math.sqrt(size / (size - 1)) * student_quantile(size - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by its expansion around the normal distribution's.

    Source: Abramowitz and Stegun 1964, 26.7.5.
    """
    z = NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
