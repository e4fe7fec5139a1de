"""Figures of the course: every function draws on an Axes, returns it, and never calls show()."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator
from torch import Tensor

# Okabe and Ito's colours: told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK = COLOURS


def use_style() -> None:
    """Set the course's figure style for this process."""
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "figure.figsize": (7, 3.6),
            "figure.dpi": 100,
            "legend.frameon": False,
            "image.cmap": "viridis",
        }
    )


def plot_loop(ax: plt.Axes | None = None) -> plt.Axes:
    """Draw the model-based loop: act, keep what happened, learn, plan from what is seen now."""
    ax = ax or plt.figure(figsize=(9, 2.9)).gca()
    boxes = {
        "environment": (0.0, 1.0, GREEN),
        "experience": (2.6, 1.0, ORANGE),
        "model": (5.2, 1.0, BLUE),
        "planner": (2.6, 0.0, PINK),
    }
    for name, (x, y, colour) in boxes.items():
        box = {"boxstyle": "round,pad=0.6", "facecolor": colour, "alpha": 0.25}
        ax.text(x, y, name, ha="center", va="center", fontsize=12, bbox=box)
    arrows = (
        ((0.75, 1.0), (1.9, 1.0), (1.3, 1.25, "center"), "what happened"),
        ((3.3, 1.0), (4.75, 1.0), (4.0, 1.25, "center"), "learn: what comes next?"),
        ((5.2, 0.8), (3.2, 0.1), (4.5, 0.3, "left"), "imagine: what if …?"),
        ((0.35, 0.8), (2.05, 0.2), (1.35, 0.62, "left"), "what it sees now"),
        ((2.0, 0.0), (-0.1, 0.8), (0.75, 0.2, "right"), "act: first action\nof the best plan"),
    )
    for start, end, (x, y, side), text in arrows:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "linewidth": 1.5})
        ax.text(x, y, text, ha=side, va="center", fontsize=10)
    ax.set(xlim=(-1.0, 6.2), ylim=(-0.3, 1.4))
    ax.axis("off")
    return ax


def plot_returns(
    returns: dict[str, np.ndarray],
    *,
    best: float | None = None,
    colours: Sequence[str] = COLOURS,
    ax: plt.Axes | None = None,
) -> plt.Axes:
    """Draw the return of every episode as a dot, and their mean as a bar, one row per agent.

    Args:
        returns: label to returns [episodes].
        best: the highest possible return, drawn as a line.
        colours: of the rows, in turn.
        ax: where to draw; a new figure unless given.
    """
    ax = ax or plt.figure(figsize=(7, 0.9 + 0.55 * len(returns))).gca()
    rng = np.random.default_rng(0)  # spreads the dots; says nothing
    for row, values in enumerate(returns.values()):
        colour = colours[row % len(colours)]
        ax.barh(row, np.mean(values), color=colour, alpha=0.35)
        jitter = rng.uniform(-0.2, 0.2, len(values))
        ax.plot(values, row + jitter, "o", color=colour, markersize=4)
    if best is not None:
        ax.axvline(best, color=BLACK, linestyle=":", linewidth=1)
    means = [(name, np.mean(values)) for name, values in returns.items()]
    labels = [f"{name}\nmean {mean:.{int(abs(mean) < 10)}f}" for name, mean in means]
    ax.set(yticks=range(len(returns)), yticklabels=labels, xlabel="return of an episode")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return ax


def plot_fan(
    imagined: Tensor | np.ndarray,
    *,
    real: np.ndarray | None = None,
    best: int | None = None,
    label: str = "",
    limit: float | None = None,
    ax: plt.Axes | None = None,
) -> plt.Axes:
    """Draw many imagined futures of one quantity as a fan, and the real one over them.

    Args:
        imagined: [N, T] a line each.
        real: [T] what happened.
        best: which line is the chosen plan.
        label: of the quantity, with its unit.
        limit: drawn at plus and minus this value.
        ax: where to draw; a new figure unless given.
    """
    ax = ax or plt.figure().gca()
    imagined = np.asarray(imagined)
    ax.plot(imagined.T, color=SKY, alpha=0.3, linewidth=0.8)
    ax.plot([], [], color=SKY, label=f"{len(imagined)} imagined futures")
    if best is not None:
        ax.plot(imagined[best], color=BLUE, linewidth=2, label="the plan chosen")
    if real is not None:
        ax.plot(real, "o", color=VERMILION, markersize=4, label="what then happened")
    for bound in (-limit, limit) if limit else ():
        ax.axhline(bound, color=BLACK, linestyle=":", linewidth=1)
    ax.set(xlabel="steps ahead", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    ax.legend(loc="upper left")
    return ax


def plot_sweep(
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    *,
    label: str,
    colour: str = BLUE,
    ax: plt.Axes | None = None,
) -> plt.Axes:
    """Draw a recorded sweep: one dot per seed, and a line through the medians.

    Args:
        x: setting.
        values: for each setting, a value per seed.
        label: for the legend.
        colour: of line and dots.
        ax: where to draw; a new figure unless given.
    """
    ax = ax or plt.figure().gca()
    ax.plot(x, [np.median(v) for v in values], color=colour, label=label)
    for setting, seeds in zip(x, values, strict=True):
        ax.plot([setting] * len(seeds), seeds, "o", color=colour, markersize=3, alpha=0.5)
    return ax
