"""What every notebook shows: seeds, claims, sources, recordings, figures, films and filmstrips."""

import asyncio
import base64
import io
import os
import re

import gymnasium as gym
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from run_notebooks import execute, normalise
from traitlets.config import Config

from mbrl_helpers import envs, notebook
from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.envs import get_task
from mbrl_helpers.evidence import forget_claims
from mbrl_helpers.notebook import (
    check_claims,
    claim,
    claims_summary,
    film,
    filmstrip,
    generator,
    read_recorded,
    record_frames,
    show,
    show_source,
    start,
)


@pytest.fixture(autouse=True)
def fresh_notebook(monkeypatch):
    """No claims yet; the style of the figures ends with the test."""
    monkeypatch.delenv("MBRL_SEED", raising=False)
    with matplotlib.rc_context():
        start()
        yield
    forget_claims()


# --- start and seeds -----------------------------------------------------------------------------


def test_start_sets_up(monkeypatch, capsys):
    torch.set_num_threads(2)
    claim("left over", 1, at_least=0)
    monkeypatch.setenv("MBRL_SEED", "3")
    monkeypatch.setenv("SDL_AUDIODRIVER", "to be restored")
    monkeypatch.delenv("SDL_AUDIODRIVER")
    start()
    assert torch.get_num_threads() == 1
    assert os.environ["SDL_AUDIODRIVER"] == "dummy"
    assert claims_summary() == (0, 0)
    assert "MBRL_SEED=3" in capsys.readouterr().out
    assert matplotlib.rcParams["axes.grid"] is True


def test_mbrl_seed_shifts_every_seed_far_enough(monkeypatch):
    assert start() == 0
    starts = []
    for text in ("0", "1", "2", "20"):
        monkeypatch.setenv("MBRL_SEED", text)
        starts.append(start())
    assert starts[0] == 0
    assert min(np.diff(starts)) >= 50_000  # seeds of one notebook do not reach into the next
    draws = {torch.rand(1, generator=generator(seed)).item() for seed in starts}
    assert len(draws) == 4


@pytest.mark.parametrize("text", ["", "-1", "1.5", "one", " 1", "1e3", "²"])
def test_bad_mbrl_seed(monkeypatch, text):
    monkeypatch.setenv("MBRL_SEED", text)
    with pytest.raises(ValueError, match=r"MBRL_SEED to be a whole number >= 0, got .*Set it to 0"):
        start()
    assert os.environ["MBRL_SEED"] == text


def test_generators_are_their_own():
    first, second = generator(5), generator(5)
    state = torch.random.get_rng_state()
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))
    assert torch.equal(state, torch.random.get_rng_state())


# --- claims --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bounds", "held"),
    [
        (475, {"at_least": 475}, True),
        (474.9, {"at_least": 475}, False),
        (3, {"at_most": 3}, True),
        (3.1, {"at_most": 3}, False),
        (2, {"at_least": 1, "at_most": 3}, True),
        (0, {"at_least": 1, "at_most": 3}, False),
        (4, {"at_least": 1, "at_most": 3}, False),
        (0, {"at_least": 0}, True),
        (float("nan"), {"at_least": 0}, False),
        (float("inf"), {"at_least": 0}, False),
        (float("nan"), {"at_most": 0}, False),
        (np.float32(2), {"at_least": 1}, True),
        (torch.tensor(2.0), {"at_most": 1}, False),
        (np.bool_(True), {"at_least": 1}, True),
    ],
)
def test_claim_shows_what_was_measured_and_whether_it_holds(capsys, value, bounds, held):
    claim("mean return", value, **bounds)
    said = capsys.readouterr().out
    assert said.startswith("✓" if held else "✗ does not hold")
    assert "mean return: " in said
    assert all(f"{name.replace('_', ' ')} {bound}" in said for name, bound in bounds.items())
    assert claims_summary() == (int(held), 1)
    if held:
        check_claims()
        assert "all 1 claims" in capsys.readouterr().out
    else:
        with pytest.raises(AssertionError, match="1 of 1 claims did not hold: mean return"):
            check_claims()


def test_a_cell_that_is_run_again_replaces_its_claim():
    claim("return", 1, at_least=2)
    claim("other", 1, at_least=1)
    assert claims_summary() == (1, 2)
    claim("return", 3, at_least=2)
    assert claims_summary() == (2, 2)
    claim("return", 1, at_least=2)
    with pytest.raises(AssertionError, match="1 of 2 claims did not hold: return"):
        check_claims()


def test_claim_needs_a_bound():
    with pytest.raises(ValueError, match="expected at_least or at_most, got neither"):
        claim("mean return", 5)
    assert claims_summary() == (0, 0)


def test_a_notebook_without_claims_fails():
    with pytest.raises(RuntimeError, match="expected claims, got none"):
        check_claims()


# --- sources and recordings ----------------------------------------------------------------------


@pytest.mark.parametrize("thing", [envs.cartpole_step, envs.Step, envs])
def test_show_source(thing):
    shown = show_source(thing)
    assert thing.__doc__.splitlines()[0] in shown.data
    assert "highlight" in shown._repr_html_()  # coloured, as Python


def test_recordings_are_tables(monkeypatch, tmp_path):
    monkeypatch.setattr(notebook, "RECORDED", tmp_path)
    text = "# python x.py\n# one core\nseed,agent,steps\n0,ours,44\n1,ours,\n"
    (tmp_path / "sweep.csv").write_text(text)
    rows = read_recorded("sweep")
    assert rows == [
        {"seed": 0, "agent": "ours", "steps": 44},
        {"seed": 1, "agent": "ours", "steps": ""},
    ]
    with pytest.raises(FileNotFoundError, match=r"one of \['sweep'\], got 'swoop'"):
        read_recorded("swoop")


# --- films ---------------------------------------------------------------------------------------


class Recorder(RandomAgent):
    """Counts its actions."""

    count = 0

    def act(self, obs):
        self.count += 1
        return super().act(obs)


@pytest.mark.parametrize(
    ("env_id", "max_steps", "num_steps"),
    [("CartPole-v1", 5, 5), ("CartPole-v1", 10_000, None), ("Pendulum-v1", 3, 3)],
)
def test_recorded_frames_are_one_more_than_steps(env_id, max_steps, num_steps):
    agent = Recorder(get_task(env_id).action_space, generator(0))
    frames, total = record_frames(env_id, agent, seed=1, max_steps=max_steps)
    assert agent.count == (num_steps or total)  # CartPole pays 1 a step
    assert frames.shape[0] == agent.count + 1
    assert frames.dtype == np.uint8
    assert frames.shape[-1] == 3
    assert frames.base is None or frames.base.nbytes == frames.nbytes  # half size, in memory too
    assert any((frame != frames[0]).any() for frame in frames)
    again = record_frames(
        get_task(env_id), Recorder(agent.actions.space, generator(0)), seed=1, max_steps=max_steps
    )
    np.testing.assert_array_equal(again[0], frames)
    assert again[1] == total


def pushes_right(obs):
    return np.ones(len(obs), np.int64)


def test_a_film_shows_the_episode_to_its_end_and_no_other():
    frames, total = record_frames("CartPole-v1", pushes_right, seed=3)
    with gym.make("CartPole-v1", render_mode="rgb_array") as env:
        env.reset(seed=3)
        seen, ended = [env.render()], False
        while not ended:
            *_, ended, _, _ = env.step(1)
            seen.append(env.render())
    assert total == len(frames) - 1 == len(seen) - 1
    for frame, full in zip(frames, seen, strict=True):
        np.testing.assert_array_equal(frame, Image.fromarray(full).reduce(2))


@pytest.mark.parametrize("max_steps", [0, 2.5])
def test_record_frames_refuses_no_steps(max_steps):
    with pytest.raises((TypeError, ValueError), match=r"record_frames: expected .*max_steps"):
        record_frames("CartPole-v1", pushes_right, seed=3, max_steps=max_steps)


def frames(num, height=40, width=60):
    """Frame t is a picture of brightness t."""
    return np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None],
                           (num, height, width, 3)).copy()  # fmt: skip


def gif_of(html):
    (data,) = re.findall(r'src="data:image/gif;base64,([\w+/=]+)"', html.data)
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(("lengths", "every"), [((10,), 1), ((10,), 3), ((4, 11), 2), ((7, 3), 5)])
def test_film_is_an_animated_gif(lengths, every):
    films = {f"agent {i}": frames(n, 40, 60 + 10 * i) for i, n in enumerate(lengths)}
    shown = film(films, alt="two poles", every=every, fps=20)
    assert 'alt="two poles"' in shown.data
    gif = gif_of(shown)
    assert gif.format == "GIF"
    assert gif.n_frames == len(range(0, max(lengths) - 1, every)) + 1  # always with the last one
    assert gif.info["loop"] == 0  # for ever
    assert gif.info["duration"] == 50
    assert gif.size == (sum(f.shape[2] for f in films.values()), 40)


def test_film_that_ends_earlier_stays_on_its_last_frame():
    gif = gif_of(film({"short": frames(4), "long": frames(9)}, alt="", every=2))
    shades = []  # of the left and the right film, away from labels and frames
    for index in range(gif.n_frames):
        gif.seek(index)
        pixels = np.asarray(gif.convert("RGB"))
        shades.append((int(pixels[-5, 5, 0]), int(pixels[-5, -5, 0])))
    assert shades == [(0, 0), (2, 2), (3, 4), (3, 6), (3, 8)]


def test_alt_text_may_hold_any_character():
    html = film({"one": frames(3)}, alt='a "pole" < 12° & a cart').data
    assert 'alt="a &quot;pole&quot; &lt; 12° &amp; a cart"' in html


def test_filmstrip_shows_first_to_last_of_each_film():
    axes = filmstrip({"short": frames(3), "long": frames(21)}, num_frames=5)
    assert len(axes) == 10
    assert [ax.get_title() for ax in axes[:5]] == [f"step {t}" for t in (0, 0, 1, 1, 2)]
    assert [ax.get_title() for ax in axes[5:]] == [f"step {t}" for t in (0, 5, 10, 15, 20)]
    assert [ax.images[0].get_array()[0, 0, 0] for ax in axes[5:]] == [0, 5, 10, 15, 20]
    assert [ax.get_ylabel() for ax in (axes[0], axes[5])] == ["short", "long"]


# --- figures with a description ------------------------------------------------------------------

ALT = "A line that rises: the more it has seen, the better it plays."


@pytest.fixture
def shell():
    """An IPython in this process: without it, display() only prints."""
    plt.close("all")
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()
    plt.close("all")


def drawn(num_axes=1):
    """A figure and its axes."""
    figure, axes = plt.subplots(1, num_axes, squeeze=False, figsize=(6, 2), layout="constrained")
    for ax in axes[0]:
        ax.plot([0, 1])
        ax.set(title="Return of an episode")
    return figure, axes


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(
    "pick",
    [
        lambda figure, axes: figure,
        lambda figure, axes: axes[0, 1],
        lambda figure, axes: axes,
        lambda figure, axes: axes.ravel().tolist(),
    ],
    ids=["figure", "one axes", "array of axes", "list of axes"],
)
def test_show_gives_the_picture_its_description(pick):
    with capture_output() as shown:
        assert show(pick(*drawn(2)), alt="  " + ALT.replace(": ", ":\n    ")) is None
    assert shown.stdout == ""
    (output,) = shown.outputs
    assert output.metadata == {"image/png": {"alt": ALT}}
    assert output.data["text/plain"] == "<Figure size 600x200 with 2 Axes>"
    picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
    np.testing.assert_allclose(picture.size, (600, 200), atol=25)  # by figure.dpi, margins cut off
    assert plt.get_fignums() == []


def test_show_takes_what_plotting_and_filmstrip_return(shell):
    with capture_output() as shown:
        show(filmstrip({"one": frames(3)}, num_frames=2), alt="A picture that becomes brighter.")
        show(notebook.plotting.plot_returns({"a": np.ones(3)}), alt="All three episodes alike.")
    assert [o.metadata["image/png"]["alt"][:5] for o in shown.outputs] == ["A pic", "All t"]


def test_rows_of_returns_have_the_colours_that_are_given():
    returns = {"a": np.ones(2), "b": np.zeros(2), "c": np.ones(2)}
    for given, expected in ({}, notebook.plotting.COLOURS[:3]), (
        {"colours": ("grey", "red")}, ("grey", "red", "grey"),
    ):  # fmt: skip
        ax = notebook.plotting.plot_returns(returns, **given)
        assert [line.get_color() for line in ax.lines] == list(expected)
        plt.close(ax.figure)


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(
    "alt",
    ["", "   ", "A short one.", "x" + " " * 20, "--- ... --- ... ---", None, 3,
     "Return of an episode", "  return of an Episode.", "Evaluation: return of an episode"],
)  # fmt: skip
def test_show_refuses_what_describes_nothing(alt):
    figure, _ = drawn()
    figure.suptitle("Evaluation")
    says = r"show: expected alt to say what is seen, .* got .*\. Describe the figure as to a friend"
    with capture_output() as shown, pytest.raises(ValueError, match=says):
        show(figure, alt=alt)
    assert shown.outputs == []


@pytest.mark.usefixtures("shell")
def test_show_refuses_what_is_no_figure():
    axes, others = drawn()[1], drawn()[1]
    line = axes[0, 0].lines[0]
    for thing in (None, "figure", 3, plt, [], line, [axes[0, 0], None], [axes, others], ALT):
        says = rf"show: expected a Matplotlib figure or its axes, got {type(thing).__name__}\. Pass"
        with pytest.raises(TypeError, match=says):
            show(thing, alt=ALT)
    with pytest.raises(ValueError, match=r"show: expected a figure with axes, got an empty one"):
        show(plt.figure(), alt=ALT)


SETUP = """%matplotlib inline
import matplotlib.pyplot as plt
from ipywidgets import IntSlider, interact
from mbrl_helpers import notebook
notebook.start()

def draw(k=1):
    figure, ax = plt.subplots()
    ax.plot([0, k])
    return figure, ax

def slide(k):
    notebook.show(draw(k)[0], alt=ALT)
"""


def test_a_notebook_keeps_the_description_and_shows_the_figure_once(tmp_path):
    sources = [
        f"{SETUP}\nALT = {ALT!r}",
        "draw()\nplt.show()",
        "figure, ax = draw()\nnotebook.show(figure, alt=ALT)",
        "figure, ax = draw()\nnotebook.show(ax, alt=ALT)\nax;",
        "first, second = draw()[0], draw()[0]\nnotebook.show(first, alt=ALT)",
        "interact(slide, k=IntSlider(1, 0, 3));",
    ]
    nb = new_notebook(cells=[new_code_cell(source) for source in sources])
    row, state = asyncio.run(execute(nb, tmp_path, seed=0, timeout=60))
    assert row["error"] == ""
    normalise(nb, state)
    (plain,), (described,), (by_axes,), two, (slid,) = (cell.outputs for cell in nb.cells[1:])
    assert plain.metadata == {}
    for output in (described, by_axes, two[0], slid):
        assert output.output_type == "display_data"
        assert output.data == plain.data  # looks as it does without a description
        assert output.metadata == {"image/png": {"alt": ALT}}
    assert [output.metadata for output in two[1:]] == [{}]  # another open figure is not lost
