"""Is the course installed as it should be? `make check`, or `python -m mbrl_helpers.check`.

A line for each thing that is tried, with the cure for what is wrong; within seconds, and whatever a
learner has done to the notebooks. `made_for` compares a notebook's version with the package's.
"""

import re
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

COURSE = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "gymnasium", "numpy", "matplotlib", "jupyterlab")
AGAIN = (
    "Install the course again, in its folder: make clean lab. Without make, activate .venv and "
    "type: python -m pip install -c constraints.txt -e ."
)
FIRST = COURSE / "notebooks" / "00_start_here.ipynb"
SET_UP = "from mbrl_helpers import notebook\n\nSEED = notebook.start()"


class Wrong(Exception):
    """What is wrong, and its cure."""

    def __init__(self, what: str, cure: str = AGAIN) -> None:
        super().__init__(f"{what}\n      {cure}")


def made_for(version: str) -> None:
    """Say so if a notebook was made for another version of the course than the package is of."""
    from mbrl_helpers import __version__
    from mbrl_helpers.console import say

    if version == __version__:
        return
    if "google.colab" in sys.modules:
        cure = "Take Runtime → Disconnect and delete runtime, then Runtime → Run all."
    elif _parts(version) > _parts(__version__):
        cure = "Update the course (make update, then make lab), and restart the kernel."
    else:
        cure = (
            "Take the newer notebook from the course's folder (make update carries your answers "
            "over); if you have just updated, reload the notebook and restart the kernel."
        )
    say(
        f"This notebook is of version {version} of the course, the package of {__version__} "
        f"(in {Path(__file__).parent}). {cure}"
    )


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def python() -> str:
    """The interpreter."""
    return f"Python {sys.version.split()[0]} in {sys.prefix}"


def packages() -> str:
    """What the course needs, in versions that are new enough."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in metadata.requires("mbrl_helpers") or ()]
    except metadata.PackageNotFoundError as error:
        raise Wrong("The course's package, mbrl_helpers, is not installed here.") from error
    for need in needed:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError as error:
            raise Wrong(f"{need.name} is missing.") from error
        if not need.specifier.contains(found, prereleases=True):
            raise Wrong(f"{need.name} {found} does not do: the course needs {need.specifier}.")
    return ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)


def package() -> str:
    """The package itself: that of this folder, installed in its present version."""
    import mbrl_helpers

    found = Path(mbrl_helpers.__file__).resolve().parent
    if found != Path(__file__).resolve().parent:
        raise Wrong(f"Python finds mbrl_helpers in another place: {found}.")
    if metadata.version("mbrl_helpers") != mbrl_helpers.__version__:
        raise Wrong(
            f"mbrl_helpers is of version {mbrl_helpers.__version__}, installed was "
            f"{metadata.version('mbrl_helpers')}."
        )
    return f"mbrl_helpers {mbrl_helpers.__version__} in {found}"


def fit() -> str:
    """A model learns, and a planner plans with it."""
    import torch

    import mbrl_helpers as kit

    torch.set_num_threads(1)
    task, rng = kit.get_task("CartPole-v1"), torch.Generator().manual_seed(0)
    beginner = kit.RandomAgent(task.action_space, rng)
    data = kit.collect_episodes(task, beginner, num_episodes=3, seed=0)
    config = kit.DynamicsConfig(num_members=2)
    model = kit.EnsembleModel(task, rng, config=config).fit(data)
    planner = kit.RandomShooting(task.action_space, rng)
    kit.MPCAgent(task, model, planner).act(torch.zeros(1, 4).numpy())
    return f"a model of {len(data)} steps, and one plan"


def film() -> str:
    """An episode is drawn off screen."""
    import os

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("MPLBACKEND", "agg")
    import torch

    from mbrl_helpers import notebook
    from mbrl_helpers.agents import RandomAgent
    from mbrl_helpers.envs import get_task

    task = get_task("CartPole-v1")
    agent = RandomAgent(task.action_space, torch.Generator().manual_seed(0))
    frames, _ = notebook.record_frames(task, agent, seed=0, max_steps=3)
    notebook.film({"random": frames}, alt="Three steps of CartPole, at random.")
    return f"a film of {len(frames)} pictures"


def first_cells() -> str:
    """A kernel of this Python starts, and the first cells of the first notebook run in it."""
    from nbclient.exceptions import CellExecutionError

    other = "another Python: "
    where = f"import sys\nassert sys.prefix == {sys.prefix!r}, {other!r} + sys.prefix"
    cells = _set_up_cells()
    try:
        _run([where, *(cells or [SET_UP])])
    except CellExecutionError as error:
        if error.evalue.startswith(other):
            raise Wrong(
                f"Jupyter's kernel python3 is of {error.evalue}.",
                "Remove it: python -m jupyter kernelspec remove python3",
            ) from error
        _run([where, SET_UP])  # is it the installation, or what the learner has changed?
        return f"a kernel starts (but your first cells of {FIRST.name} end in {error.ename})"
    return f"a kernel starts, and {f'the first cells of {FIRST.name}' if cells else 'a set-up'} run"


def _set_up_cells() -> list[str]:
    """Code of the first notebook, as far as its set-up; none if it is not there, or in pieces."""
    import nbformat

    try:
        cells = nbformat.read(FIRST, as_version=4).cells
    except Exception:  # no JSON, no notebook, no file
        return []
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    last = next((i for i, source in enumerate(code) if "notebook.start(" in source), -1)
    return code[: last + 1]


def _run(sources: list[str]) -> None:
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    quiet = ["--log-level=ERROR"]
    nb = new_notebook(cells=[new_code_cell(source) for source in sources])
    NotebookClient(nb, timeout=120, kernel_name="python3", extra_arguments=quiet).execute()


ITEMS: tuple[Callable[[], str], ...] = (python, packages, package, fit, film, first_cells)


def main() -> int:
    """Try everything; 0 if all is well."""
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    start, wrong = time.time(), 0
    for item in ITEMS:
        try:
            print(f"ok    {item()}", flush=True)
        except Wrong as error:
            print(f"WRONG {error}", flush=True)
            wrong += 1
        except Exception as error:  # whatever it is, it gets a line, and the rest is tried
            said = " ".join(str(error).split())[:300]
            print(
                f"WRONG {item.__name__}: {type(error).__name__}: {said}\n      {AGAIN}", flush=True
            )
            wrong += 1
    if wrong:
        print(f"{wrong} of {len(ITEMS)} are wrong: begin with the first.")
    else:
        print(f"All is well ({time.time() - start:.0f} s). Open the course with: make lab")
    return int(wrong > 0)


if __name__ == "__main__":
    # As a script it is found beside rooms with such names as `data`: nobody else should find them.
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
    sys.exit(main())
