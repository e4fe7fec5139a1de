"""Colab, as far as it can be had here: its versions, its IPython, and the notebooks' install cells.

The packages of the environment are installed once and kept in pytest's cache; torch and what else
need not be of Colab's version is linked from this Python. A kernel of it then installs the course
from a local copy, which stands in for GitHub.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import rehome
from course import notebooks
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = notebooks()
REPO = "ada/planning-course"
# What Colab had in August 2026, where it differs from constraints.txt.
COLAB = {
    "gymnasium": "1.3.*",
    "numpy": "2.1.*",
    "matplotlib": "3.10.*",
    "ipython": "7.34.*",
    "ipywidgets": "7.7.*",
    "ipykernel": "6.17.*",
    "pygame": "2.6.*",  # the original, not pygame-ce
}
OF_OLD = ["backcall", "decorator", "ipython-genutils", "nest-asyncio", "pickleshare"]  # they need
SHARED = ["torch", "tqdm", "pillow", "pip", "setuptools"]
SHARED += ["joblib", "cloudpickle", "threadpoolctl", "filelock"]  # Colab has them, for scikit-learn

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="pip needs git to fetch the course"),
    pytest.mark.skipif(sys.version_info >= (3, 14), reason="Colab's NumPy has no wheel for this"),
]


# --- the environment -----------------------------------------------------------------------------


def distributions(requirements, but):
    """Installed here: what is required, and what that requires, and so on."""
    found, todo = {}, list(requirements)
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if name in found or name in but or not wanted:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # nothing that the course uses: the imports below would miss it
        todo += found[name].requires or []
    return found.values()


def link(found, folder):
    """Make distributions importable from a folder."""
    folder.mkdir()
    for dist in found:
        for name in {file.parts[0] for file in dist.files or ()}:
            if name not in ("..", "__pycache__") and not name.endswith(".pth"):
                target = folder / name
                if not target.exists():  # several may share a folder, such as nvidia's
                    target.symlink_to(dist.locate_file(name))


def build(folder, lacking):
    """Install Colab's versions into folder/own, link folder/shared; wheels of what it lacks."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    own = [f"{name}=={version}" for name, version in COLAB.items()] + OF_OLD
    install = ["install", "--no-deps", "--only-binary", ":all:", "--target", str(folder / "own")]
    commands = [[*pip, *install, *own]]
    commands += [[*pip, "wheel", "--no-deps", "-w", str(folder / "wheels"), p] for p in lacking]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            say(f"could not get Colab's versions, which needs the network once: {done.stderr}")
    installed = list(metadata.distributions(path=[str(folder / "own")]))
    required = [r for dist in installed for r in dist.requires or []]
    names = {canonicalize_name(dist.metadata["Name"]) for dist in installed}
    link(distributions(SHARED + required, but=names), folder / "shared")


@pytest.fixture(scope="session")
def packages(request):
    """Folder of Colab's packages, made when versions change."""
    lacking = sorted({v for p in NOTEBOOKS for v in rehome.LACKING.get(p.name[:2], "").split()})
    here = sorted(f"{dist.metadata['Name']} {dist.version}" for dist in metadata.distributions())
    key = json.dumps([sys.version, sys.prefix, COLAB, OF_OLD, SHARED, lacking, here])
    folders = request.config.cache.mkdir("colab")
    folder = folders / hashlib.sha256(key.encode()).hexdigest()[:12]
    if not folder.exists():
        # Complete or not there at all, even if two workers make it at the same time.
        with tempfile.TemporaryDirectory(dir=folders) as part:
            build(Path(part) / "new", lacking)
            with contextlib.suppress(OSError):  # the other one was faster
                (Path(part) / "new").rename(folder)
    for old in folders.iterdir():
        if old.name != folder.name and not old.name.startswith("tmp"):
            shutil.rmtree(old, ignore_errors=True)
    return folder


@pytest.fixture
def colab(packages, tmp_path):
    """Python of a fresh environment which has these packages, and not the course."""
    venv.create(tmp_path / "colab", symlinks=os.name != "nt")
    (site,) = (tmp_path / "colab").glob("lib/python*/site-packages")
    (site / "colab.pth").write_text(f"{packages / 'own'}\n{packages / 'shared'}\n")
    return tmp_path / "colab" / "bin" / "python"


@pytest.fixture(scope="session")
def github(tmp_path_factory):
    """A copy of the course with an address, committed and tagged; and the settings to go there."""
    root = tmp_path_factory.mktemp("github")
    shutil.copytree(
        ROOT / "mbrl_helpers", root / "mbrl_helpers", ignore=shutil.ignore_patterns("__pycache__")
    )
    for path in [*rehome.sources(ROOT), ROOT / "LICENSE"]:  # all that names the address
        (root / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, root / path.relative_to(ROOT))
    assert rehome.main([REPO, "--root", str(root)]) == 0
    _, ref = rehome.home((root / "pyproject.toml").read_text(encoding="utf-8"))
    git = ["git", "-C", str(root), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    git += [
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
        "-c",
        "init.defaultBranch=main",
    ]
    for command in [["init", "-q"], ["add", "-A"], ["commit", "-qm", "Copy"], ["tag", ref]]:
        subprocess.run([*git, *command], check=True)
    settings = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{root.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{REPO}",
    }
    return root, settings


# --- the notebooks in it -------------------------------------------------------------------------


def run(python, sources, settings):
    """Execute cells in a kernel of this Python; return them with their outputs."""
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager = type("Manager", (AsyncKernelManager,), {"kernel_spec": KernelSpec(argv=argv)})
    hide = {"MPLBACKEND", "PYTHONPATH", "MBRL_SEED"}
    env = {k: v for k, v in os.environ.items() if k not in hide} | settings
    env["IPYTHONDIR"] = str(python.parents[1] / "ipython")  # not the developer's settings
    nb = new_notebook(cells=[new_code_cell(source) for source in sources])
    client = NotebookClient(nb, timeout=300, kernel_manager_class=manager)
    client.execute(env=env, cwd=str(python.parents[1]))
    return nb.cells


NOT_YET = """
from importlib import metadata, util
assert util.find_spec("mbrl_helpers") is None, "the course is visible before it was installed"
print(*(metadata.version(name) for name in {names}))
"""
IMPORT_ALL = """
import importlib, pkgutil, sys
import mbrl_helpers
assert mbrl_helpers.__file__.startswith(sys.prefix), mbrl_helpers.__file__
for module in pkgutil.walk_packages(mbrl_helpers.__path__, "mbrl_helpers."):
    importlib.import_module(module.name)
    print(module.name)
"""
DRAW = """
import gymnasium as gym
with gym.make("CartPole-v1", render_mode="rgb_array") as env:
    env.reset(seed=0)
    assert env.render().std() > 0
"""


def groups():
    """Notebooks by what their install cells install: each of these is run once."""
    found = {}
    for path in NOTEBOOKS:
        found.setdefault(rehome.LACKING.get(path.name[:2], "course"), []).append(path.name)
    return found


@pytest.mark.parametrize("what", groups())
def test_installs_and_sets_up(what, colab, github, packages):
    root, settings = github
    code = {}
    for name in groups()[what]:
        cells = nbformat.read(root / "notebooks" / name, as_version=4).cells
        code[name] = [cell.source for cell in cells if cell.cell_type == "code"]
    install = {name: sources[0] for name, sources in code.items()}
    assert len(set(install.values())) == 1, install
    # Fast, and the same without a network: the cell needs the repository and nothing else.
    settings |= {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(packages / "wheels"),
        "PIP_NO_BUILD_ISOLATION": "0",  # "0" is how pip spells that it is on
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    sources = [NOT_YET.format(names=list(COLAB)), *[next(iter(install.values()))] * 2, IMPORT_ALL]
    set_up = [f"%reset -f\n# {name}\n{sources[1]}" for name, sources in code.items()]
    cells = run(colab, [*sources, *set_up, DRAW], settings)
    before, first, second, modules, *set_up, draw = cells

    versions = before.outputs[0].text.split()
    for version, wanted in zip(versions, COLAB.values(), strict=True):
        assert version.startswith(wanted.removesuffix("*"))
    assert "ERROR" not in str(first.outputs)
    assert second.outputs == [], "where the package is, the cell does nothing"
    assert "mbrl_helpers.exercises.frame" in "".join(o.get("text", "") for o in modules.outputs)
    assert draw.outputs == [], "complaints of the old pygame would end up in the notebooks"
    for cell in set_up:
        assert "MBRL_SEED=0" in str(cell.outputs), "the set-up cell did not call notebook.start()"
        assert "Warning" not in str(cell.outputs)
