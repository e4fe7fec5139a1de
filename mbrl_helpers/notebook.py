"""What every notebook shows: set-up and seeds, evidence, sources, films and filmstrips."""

import base64
import csv
import html
import inspect
import io
import itertools
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from IPython.core.pylabtools import print_figure
from IPython.display import HTML, Code, display
from PIL import Image, ImageDraw, ImageFont

import mbrl_helpers
from mbrl_helpers import plotting
from mbrl_helpers.checks import check_counts
from mbrl_helpers.console import say
from mbrl_helpers.envs import Task, make_envs
from mbrl_helpers.evidence import (  # noqa: F401 - notebooks say notebook.claim
    check_claims,
    claim,
    claims_summary,
    control,
    forget_claims,
)
from mbrl_helpers.interaction import Interaction
from mbrl_helpers.interfaces import ActFunction, Agent

RECORDED = Path(__file__).parent / "recorded"
SHORTEST_ALT = 15  # characters: in fewer nobody describes a figure


def start() -> int:
    """Set up a notebook: one torch thread, the course's figure style, no sound, no claims yet.

    Returns:
        The seed from which all others of the notebook are counted: 100,000 times the environment
        variable MBRL_SEED, which is 0 unless set.
    """
    text = os.environ.get("MBRL_SEED", "0")
    if not text.isdecimal():
        raise ValueError(
            f"start: expected MBRL_SEED to be a whole number >= 0, got {text!r}. Set it to 0, or "
            "remove it from the environment."
        )
    torch.set_num_threads(1)  # on networks this small a second thread costs more than it brings
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # or pygame complains where it finds no sound
    plotting.use_style()
    forget_claims()
    say(
        f"mbrl_helpers {mbrl_helpers.__version__} · torch {torch.__version__} · "
        f"gymnasium {gym.__version__} · numpy {np.__version__} · MBRL_SEED={text}"
    )
    return 100_000 * int(text)


def generator(seed: int) -> torch.Generator:
    """Make a source of random numbers of its own."""
    return torch.Generator().manual_seed(seed)


def show_source(thing: ModuleType | type | Callable[..., Any]) -> Code:
    """Show the source of a function, class or module of the package."""
    return Code(inspect.getsource(thing), language="python")


def read_recorded(name: str) -> list[dict[str, str | float]]:
    """Read a table that a benchmark recorded, one dict per row, numbers as floats.

    Raises:
        FileNotFoundError: if there is none of that name.
    """
    path = RECORDED / f"{name}.csv"
    if not path.exists():
        known = sorted(file.stem for file in RECORDED.glob("*.csv"))
        raise FileNotFoundError(f"read_recorded: expected one of {known}, got {name!r}. Pick one.")
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(lines)]


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def show(picture: object, *, alt: str) -> None:
    """Show a figure with its description; then close it, so that it does not appear again.

    The description goes into the output's metadata, where pages made of the notebook look for it.

    Args:
        picture: a Matplotlib figure, or its axes: one, or a list or array of them.
        alt: what is seen, and what follows from it, for those who can't see it.

    Raises:
        TypeError: if it is neither figure nor axes, or has axes of several figures.
        ValueError: if the figure is empty, or if `alt` says no more than a title does.
    """
    figure = _figure_of(picture)
    png = print_figure(figure, base64=True)  # as it looks without us: dpi, tight margins
    if png is None:
        raise ValueError("show: expected a figure with axes, got an empty one. Draw in it first.")
    display(
        {"image/png": png, "text/plain": repr(figure)},
        metadata={"image/png": {"alt": _checked_alt(alt, figure)}},
        raw=True,
    )
    plt.close(figure)


def _figure_of(picture: object) -> plt.Figure:
    parts = np.ravel(np.asarray(picture, dtype=object)).tolist()
    owners = {part.figure if isinstance(part, plt.Axes | plt.Figure) else None for part in parts}
    figure = owners.pop() if len(owners) == 1 else None
    if not isinstance(figure, plt.Figure):
        raise TypeError(
            f"show: expected a Matplotlib figure or its axes, got {type(picture).__name__}. Pass "
            "what plt.subplots or a function of plotting returned."
        )
    return figure


def _checked_alt(alt: str, figure: plt.Figure) -> str:
    """The description, on one line; it must have a word that no title has."""
    titles = [ax.get_title(where) for ax in figure.axes for where in ("left", "center", "right")]
    said = " ".join(alt.split()) if isinstance(alt, str) else ""
    if len(said) < SHORTEST_ALT or _words(said) <= _words(figure.get_suptitle(), *titles):
        raise ValueError(
            f"show: expected alt to say what is seen, in {SHORTEST_ALT} characters or more and "
            f"beyond the title, got {alt!r}. Describe the figure as to a friend on the "
            "phone, and say what follows from it."
        )
    return said


def _words(*texts: str) -> set[str]:
    return set(re.findall(r"\w+", " ".join(texts).casefold()))


def record_frames(
    task: Task | str, agent: Agent | ActFunction, *, seed: int, max_steps: int = 10_000
) -> tuple[np.ndarray, float]:
    """Film one episode.

    Args:
        task: what to act in, or Gymnasium's name of it.
        agent: acts, an agent or a bare function of obs [1, O].
        seed: the episode starts from `reset(seed=seed)`.
        max_steps: stop after so many steps at the latest.

    Returns:
        Frames [T, height, width, 3] uint8, at half the size, and the return.
    """
    check_counts("record_frames", max_steps=max_steps)
    envs = make_envs(task, 1, render_mode="rgb_array", where="record_frames")
    try:
        interaction = Interaction(envs, agent, seed=seed, where="record_frames")
        frames, total = [_picture(envs)], 0.0
        for step in itertools.islice(interaction, max_steps):
            frames.append(_picture(envs))  # before a restart, which would show another episode
            total += float(step.reward[0])
            if step.ended[0]:
                break
    finally:
        envs.close()
    return np.stack(frames), total


def _picture(envs: VectorEnv) -> np.ndarray:
    """What the first of some environments shows now, at half the size."""
    frames = envs.render()
    assert isinstance(frames, tuple)  # one picture of each environment
    return _half_size(np.asarray(frames[0]))


def _half_size(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).reduce(2))


def film(
    films: dict[str, np.ndarray], *, alt: str, every: int = 3, fps: float = 25, last: str = "over"
) -> HTML:
    """Show films side by side; one that ends earlier stays on its last frame.

    Args:
        films: label to frames [T, height, width, 3] of the same height.
        alt: what it shows, for those who can't see it.
        every: keep each so many-th frame.
        fps: frames shown a second.
        last: what is written on last frames.
    """
    length = max(len(frames) for frames in films.values())
    shown = [
        Image.fromarray(np.hstack([_labelled(f, name, t, last) for name, f in films.items()]))
        for t in [*range(0, length - 1, every), length - 1]  # the end is always shown
    ]
    file = io.BytesIO()
    shown[0].save(file, "GIF", save_all=True, append_images=shown[1:], duration=1000 / fps, loop=0)
    data = base64.b64encode(file.getvalue()).decode()
    return HTML(f'<img alt="{html.escape(alt)}" src="data:image/gif;base64,{data}">')


def _labelled(frames: np.ndarray, name: str, t: int, last: str) -> np.ndarray:
    """Frame t with its label and step number; the last one, marked, once the film is over."""
    over = t >= len(frames)
    image = Image.fromarray(frames[min(t, len(frames) - 1)])
    text = f"{name}: step {min(t, len(frames) - 1)}" + (f" - {last}" if over else "")
    colour = (200, 60, 0) if over else (40, 40, 40)
    draw = ImageDraw.Draw(image)
    draw.text((8, 6), text, fill=colour, font=ImageFont.load_default(size=14))
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=(200, 200, 200))
    return np.asarray(image)


def filmstrip(films: dict[str, np.ndarray], *, num_frames: int = 6) -> Sequence[plt.Axes]:
    """Draw a row of frames of each film, evenly spaced from its first to its last.

    Args:
        films: label to frames [T, height, width, 3].
        num_frames: how many frames a row.

    Returns:
        The axes, row by row.
    """
    figure, axes = plt.subplots(
        len(films), num_frames, figsize=(1.6 * num_frames, 1.35 * len(films)), squeeze=False
    )
    for row, (name, frames) in zip(axes, films.items(), strict=True):
        for ax, t in zip(row, np.linspace(0, len(frames) - 1, num_frames).astype(int), strict=True):
            ax.imshow(frames[t])
            ax.set_title(f"step {t}", fontsize=9)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(True)
        row[0].set_ylabel(textwrap.fill(name, 14), fontsize=9)
    figure.tight_layout()
    return axes.ravel().tolist()
