"""The Makefile: it starts wherever it is put, whatever the caller's shell has set.

A stand-in takes Python's place in most of these: a shell script that writes down how it was called,
makes a `.venv` with itself inside, and installs nothing.
"""

import inspect
import os
import shutil
import socket
import subprocess
import sys
import threading
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

STAND_IN = """#!/bin/sh
venv=${0%/*}/..
echo "$*" >> "$CALLS"
case "$*" in
*version_info*) ;;
*find_spec*) test -e "$venv/complete" ;;
--version) echo Python 3.11.0 ;;
"-m venv"*) for folder; do :; done
    case $0 in *broken*) echo "no ensurepip here"; exit 1 ;; esac
    rm -rf "$folder"; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
*"-m pip"*--no-index*) test -e "$venv/complete" ;;
*"-m pip"*--index-url*) test -z "$INDEX_DOWN" ;;
*"-m pip"*) touch "$venv/complete"; env > "$CALLS.env" ;;
*move_venv.py) ;;
esac
"""


class Course:
    """A folder with the course's Makefile, and a `python3` that only pretends."""

    def __init__(self, folder, bin_):
        self.folder, self.bin, self.calls = folder, bin_, bin_ / "calls"
        folder.mkdir(parents=True)
        for name in ["Makefile", "pyproject.toml", "constraints.txt"]:
            shutil.copy(ROOT / name, folder)

    def make(self, *args, **env):
        """Run make; return its status and what it printed."""
        self.calls.write_text("")
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "CALLS": str(self.calls)} | env
        # Of a make that runs these tests nothing is handed on: neither flags nor its TORCH_INDEX.
        outer = ("MAKE", "MFLAGS", "TORCH_INDEX")
        env = {k: v for k, v in os.environ.items() if not k.startswith(outer)} | env
        command = ["make", "--no-print-directory", *args]
        done = subprocess.run(
            command, cwd=self.folder, env=env, text=True, stdout=-1, stderr=-2, timeout=60
        )
        return done.returncode, done.stdout

    def called(self, text):
        """How often Python was called with this."""
        return sum(text in line for line in self.calls.read_text().splitlines())

    def environment(self):
        """The environment in which pip ran."""
        lines = Path(f"{self.calls}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def course(tmp_path):
    put(tmp_path / "bin" / "python3")
    put(tmp_path / "bin" / "nvidia-smi", "exit 9")
    return Course(tmp_path / "course", tmp_path / "bin")


def put(path, script=STAND_IN):
    path.parent.mkdir(exist_ok=True)
    path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


STAMP = ".venv/.installed"


def test_installs_once(course):
    assert course.make(STAMP)[0] == 0
    assert course.called("-m venv --clear") == 1
    assert course.called("-e .[dev]") == 2  # asks first whether all is there
    assert course.make(STAMP)[0] == 0
    assert course.called("-m") == 0


# --- other folders, other Pythons ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["copied", "moved", "renamed in between"])
def test_another_folder_installs_again_and_leaves_the_first_alone(course, how):
    course.make(STAMP)
    first, before = course.folder, (course.folder / STAMP).read_text()
    course.folder = first.parent / "elsewhere" / "next year's course"
    course.folder.parent.mkdir()
    if how == "copied":
        shutil.copytree(first, course.folder, symlinks=True)
    else:
        first.rename(course.folder)
    status, shown = course.make(STAMP)
    assert (status, "copied or moved" in shown) == (0, True)
    assert course.called("move_venv.py") == course.called("--no-index") == 1
    assert course.called("--clear") == 0, "what was downloaded stays"
    assert (course.folder / STAMP).read_text() == f"{course.folder}\n"
    if how == "copied":
        assert (first / STAMP).read_text() == before
    if how == "renamed in between":
        course.folder = course.folder.rename(first)
        assert "copied or moved" in course.make(STAMP)[1]
    assert (course.make(STAMP)[0], course.called("-m")) == (0, 0)


def remove(python):
    python.unlink()


def dangle(python):
    python.unlink()
    python.symlink_to("/no/such/python3.10")


def break_(python):
    put(python, "echo 'error while loading shared libraries' >&2; exit 127")


def empty(python):
    (python.parents[1] / "complete").unlink()  # another minor version has another site-packages


@pytest.mark.parametrize("harm", [remove, dangle, break_, empty])
def test_venv_that_does_not_work_is_made_anew(course, harm):
    course.make(STAMP)
    harm(course.folder / ".venv" / "bin" / "python")
    status, shown = course.make(STAMP)
    assert (status, course.called("-m venv --clear")) == (0, 1), shown
    assert (course.make(STAMP)[0], course.called("-m")) == (0, 0)


def test_next_python_is_tried(course):
    (course.bin / "python3").rename(course.bin / "broken")
    (course.bin / "python3").symlink_to("broken")
    put(course.bin / "python3", STAND_IN.replace("*broken*", "*/python3"))
    put(course.bin / "python3.13", "exit 127")
    put(course.bin / "python3.12")
    status, shown = course.make(STAMP)
    assert status == 0
    assert "python3 can't make it." in shown
    assert "Making .venv with python3.12" in shown


@pytest.mark.parametrize(
    ("pythons", "expected"),
    [
        ({"old": "exit 1"}, "needs Python 3.11 or newer; tried: old"),
        ({"broken": STAND_IN}, "no ensurepip here\nOn Debian or Ubuntu: apt install python3-venv"),
    ],
)
def test_says_when_no_python_will_do(course, pythons, expected):
    for name, script in pythons.items():
        put(course.bin / name, script)
    status, shown = course.make("lab", f"PYTHON={' '.join(pythons)}")
    assert status != 0
    assert expected in shown
    assert "make PYTHON=/path/to/python3" in shown
    assert course.called("-m pip") == 0


@pytest.mark.parametrize("name", ["two words", "it's", 'a "b"', "a & b; c", "n#1", "50%", "künst"])
def test_folder_may_have_any_name(course, name):
    course.folder = course.folder.rename(course.folder.with_name(name))
    status, shown = course.make("lab")
    assert status == 0, shown
    assert course.called(f"-m jupyterlab --ServerApp.root_dir={course.folder} --LabApp") == 1
    assert [path.name for path in course.folder.parent.iterdir() if path != course.bin] == [name]
    assert course.make("lab")[0] == 0
    assert course.called("-m pip") == 0


@pytest.mark.parametrize("name", ["ca$h", "a:b", "{x}", "$HOME"])
def test_folder_that_python_cannot_install_into(course, name):
    """setuptools takes them for a variable, venv for the end of a path."""
    course.folder = course.folder.rename(course.folder.with_name(name))
    status, shown = course.make("lab")
    assert status != 0
    assert f"in its path: {course.folder}\nRename it" in shown
    assert not (course.folder / ".venv").exists(), "nothing is half done"


def test_venv_moves_in(tmp_path):
    """With a real one: its programs and activate name the new folder, nothing names the old one."""
    old, new = tmp_path / "old place", tmp_path / "new"
    venv.create(old / ".venv", symlinks=True, with_pip=True)
    (site,) = (old / ".venv").glob("lib/python*/site-packages")
    for name in ["tool", "second"]:
        put(old / ".venv/bin" / name, f"#!{old}/.venv/bin/python\nprint('old')")
    put(old / ".venv/bin/shell", "echo still here")
    info = site / "tool-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tool\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[console_scripts]\ntool = tool:main\n")
    (site / "tool.py").write_text("import sys\ndef main():\n    print(sys.prefix)\n")
    shutil.copytree(old, new, symlinks=True)
    before = {p: p.read_bytes() for p in (old / ".venv/bin").iterdir()}
    subprocess.run([new / ".venv/bin/python", ROOT / "tests/move_venv.py"], check=True)
    shown = subprocess.run([new / ".venv/bin/tool"], check=True, capture_output=True, text=True)
    assert shown.stdout == f"{new}/.venv\n"
    assert subprocess.run([new / ".venv/bin/shell"]).returncode == 0
    assert not (new / ".venv/bin/second").exists()
    texts = [p.read_bytes() for p in (new / ".venv/bin").iterdir() if not p.is_symlink()]
    assert not any(bytes(old) in text for text in texts)
    assert before == {p: p.read_bytes() for p in (old / ".venv/bin").iterdir()}


# --- the caller's shell --------------------------------------------------------------------------

ASTRAY = (
    "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_CONSTRAINT", "PYTHONPATH",
    "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "MPLBACKEND", "JUPYTER_CONFIG_DIR",
    "JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_DIR",
)  # fmt: skip


def test_caller_s_settings_do_not_lead_astray(course):
    status, shown = course.make(STAMP, **dict.fromkeys(ASTRAY, "/odd"), PIP_USER="1")
    assert status == 0, shown
    seen = course.environment()
    assert set(ASTRAY) & set(seen) == set()
    assert seen["PIP_USER"] == "0"


@pytest.mark.parametrize("setting", ["PIP_REQUIRE_VIRTUALENV", "MBRL_SEED", "PIP_INDEX_URL"])
def test_caller_s_other_settings_are_kept(course, setting):
    course.make(STAMP, **{setting: "1"})
    assert course.environment()[setting] == "1"


@pytest.mark.parametrize("name", ["VENV", "PYTHON", "NAME", "JOBS"])
def test_variables_of_common_names_do_nothing(course, name):
    status, shown = course.make("-n", "bench", "lab", **{name: "/odd"})
    assert status == 0
    assert "/odd" not in shown


@pytest.mark.parametrize("kind", ["missing", "a file", "its .jupyter cannot be written"])
def test_home_that_cannot_be_written(course, tmp_path, kind):
    home = tmp_path / "home"
    if kind == "a file":
        home.write_text("")
    elif kind != "missing":
        (home / ".jupyter").mkdir(parents=True)
        (home / ".jupyter").chmod(0o555)
        if os.access(home / ".jupyter", os.W_OK):
            pytest.skip("root may write anywhere")
    assert course.make(STAMP, HOME=str(home))[0] == 0
    assert course.environment()["HOME"] == f"{course.folder}/build/home"
    assert Path(course.environment()["HOME"]).is_dir()


def test_home_is_kept_where_it_can_be_written(course, tmp_path):
    course.make(STAMP, HOME=str(tmp_path))
    assert course.environment()["HOME"] == str(tmp_path)


# --- the address of the lab ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "env", "address"),
    [
        ("", {"JUPYTER_TOKEN": "secret"}, "http://localhost:{}/lab/tree/notebooks/00_start_here"),
        ("--IdentityProvider.token= --ip=127.0.0.1", {}, "http://127.0.0.1:{}/lab/tree/"),
        ("--ServerApp.base_url=/user/ada", {}, "http://localhost:{}/user/ada/lab/tree/"),
    ],
)
def test_lab_prints_its_address(tmp_path, flags, env, address):
    """A real server, on a port that is the next one because the first is taken."""
    hide = ("MAKE", "MFLAGS", "JUPYTER", "DISPLAY")
    env = {k: v for k, v in os.environ.items() if not k.startswith(hide)} | env
    env |= {"HOME": str(tmp_path)}
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        make = ["make", "-s", "-o", f"{sys.prefix}/.installed", "lab", f"VENV={sys.prefix}"]
        make += [f"LAB_FLAGS={flags} --port={port} --no-browser"]
        lab = subprocess.Popen(make, cwd=ROOT, env=env, text=True, stdout=-1, stderr=-2)
        timer = threading.Timer(60, lab.kill)
        timer.start()
        lines = []
        for line in lab.stdout:
            lines.append(line)
            if "Use Control-C" in line:
                break
        lab.terminate()
        timer.cancel()
        lab.communicate()
    shown = "".join(lines)
    assert any(address.format(p) in shown for p in range(port + 1, port + 60)), shown
    assert ("put your JUPYTER_TOKEN" in shown) == ("JUPYTER_TOKEN" in env)


def test_hub_is_told_of_its_own_way(course):
    shown = course.make("lab", JUPYTERHUB_SERVICE_PREFIX="/user/ada/")[1]
    assert "ipykernel install --user --name mbrl" in shown
    assert "ipykernel" not in course.make("lab")[1]


# --- where PyTorch comes from --------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pip's default is small")


@linux
def test_without_a_gpu_the_small_build_is_taken(course):
    course.make(STAMP)
    assert course.called("--index-url https://download.pytorch.org/whl/cpu torch") == 1
    course.make("clean", STAMP, "TORCH_INDEX=https://example.org/torch")
    assert course.called("--index-url https://example.org/torch torch") == 1


@linux
def test_an_index_that_is_named_is_taken_whatever_the_machine(course):
    put(course.bin / "nvidia-smi", "exit 0")
    course.make(STAMP, TORCH_INDEX="https://example.org/torch")
    assert course.called("--index-url https://example.org/torch torch") == 1


@linux
@pytest.mark.parametrize("why", ["a GPU", "no index wanted"])
def test_pip_s_default_is_taken(course, why):
    put(course.bin / "nvidia-smi", "exit 0" if why == "a GPU" else "exit 9")
    assert course.make(STAMP, *(["TORCH_INDEX="] if why != "a GPU" else []))[0] == 0
    assert course.called("--index-url") == 0
    assert course.called("-e .[dev]") == 2


@linux
def test_says_when_the_small_build_cannot_be_had(course):
    status, shown = course.make(STAMP, INDEX_DOWN="1")
    assert status == 0
    assert "can't be had from https://download.pytorch.org/whl/cpu." in shown
    assert "make TORCH_INDEX=" in shown
    assert course.called("-e .[dev]") == 2


def empty_wheel(folder, name, version, *requires):
    """Write a wheel that has only metadata, which is all that pip looks at; return its name."""
    info, file = f"{name}-{version}.dist-info", f"{name}-{version}-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: dev"]
    lines += [f"Requires-Dist: {other}" for other in requires]
    with zipfile.ZipFile(folder / file, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return file


BACKEND = f"""
import zipfile
from pathlib import Path
{inspect.getsource(empty_wheel)}
def build_editable(folder, *_):
    return empty_wheel(Path(folder), "course", "1", "torch>=2.4")
"""


@linux
def test_pip_takes_what_the_index_has(course, tmp_path):
    """With a real pip and a local index that has PyTorch's two builds, empty inside."""
    index = tmp_path / "index" / "torch"
    index.mkdir(parents=True)
    names = [empty_wheel(index, "torch", v, "sympy") for v in ("2.13.0+cpu", "2.99.0+cpu")]
    (index / "index.html").write_text("".join(f'<a href="{name}">{name}</a>' for name in names))
    empty_wheel(tmp_path, "sympy", "1.0")
    (course.bin / "python3").unlink()
    (course.folder / "backend.py").write_text(BACKEND)
    (course.folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (course.folder / "constraints.txt").write_text("torch==2.13.0\nsympy==1.0\n")
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path), "PIP_NO_INDEX": ""}
    offline |= {"PIP_INDEX_URL": (tmp_path / "none").as_uri(), "PIP_EXTRA_INDEX_URL": ""}
    status, shown = course.make(STAMP, f"TORCH_INDEX={index.parent.as_uri()}", **offline)
    assert status == 0, shown
    freeze = [course.folder / ".venv/bin/python", "-m", "pip", "freeze"]
    frozen = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    assert "torch==2.13.0+cpu" in frozen
    assert "sympy==1.0" in frozen
