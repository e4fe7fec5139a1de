"""`make update`: the newer version of the course, with the learner's answers in it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mbrl_helpers import update

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

TASK = '@exercise("03.2")\ndef f(x):\n    ...'
ANSWER = '@exercise("03.2")\ndef f(x):\n    return 2 * x'
NAME = "notebooks/03_plan.ipynb"


def code(name, source):
    return new_code_cell(source, id=name, execution_count=1, outputs=[])


def course(**changes):
    """A notebook of the course; `changes` replaces cells, None removes them."""
    cells = {
        "top": new_markdown_cell("# 03 · Plan", id="top"),
        "setup": code("setup", "SEED = 1"),
        "task": code("task", TASK),
        "ask": code("ask", 'predict("03.1", ...)'),
        "play": code("play", "horizon = 15"),
        "end": code("end", "check_claims()"),
    }
    for name, source in changes.items():
        cells[name] = source and code(name, source)
    return new_notebook(cells=[cell for cell in cells.values() if cell])


def git(folder, *args):
    subprocess.run(["git", "-C", str(folder), *args], check=True, capture_output=True)


def put(folder, name, content):
    text = content if isinstance(content, str) else nbformat.writes(content) + "\n"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The teacher's checkout, a bare repository, and a learner's clone of it."""
    for key in ["user.name", "user.email"]:
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{'01'[key == 'user.email']}", key)
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "Ada")
    monkeypatch.setenv("GIT_CONFIG_VALUE_1", "ada@example.org")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    teacher, learner = tmp_path / "teacher", tmp_path / "learner's course"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "hub.git")
    git(tmp_path, "clone", "-q", "hub.git", "teacher")
    put(teacher, NAME, course())
    put(teacher, "notebooks/04_other.ipynb", course())
    put(teacher, "package.py", "x = 1\n")
    publish(teacher)
    git(tmp_path, "clone", "-q", "hub.git", learner.name)
    return teacher, learner


def publish(teacher, **files):
    for name, content in files.items():
        put(teacher, name, content)
    git(teacher, "add", "-A")
    git(teacher, "commit", "-qm", "New")
    git(teacher, "push", "-q", "origin", "HEAD:main")


def run(learner, capsys, status=0):
    assert update.main(["--root", str(learner)]) == status
    return capsys.readouterr().out


def sources(folder, name=NAME):
    nb = nbformat.read(folder / name, as_version=4)
    nbformat.validate(nb)
    return [cell.source for cell in nb.cells]


# --- what is carried over ------------------------------------------------------------------------


def test_answers_and_cells_go_into_the_newer_version(world, capsys):
    teacher, learner = world
    mine = course(task=ANSWER, ask='predict("03.1", "b")', play="horizon = 99")
    mine.cells.insert(3, new_code_cell("f(3)"))
    mine.cells.append(new_markdown_cell("my notes ✓"))
    put(learner, NAME, mine)
    publish(teacher, **{NAME: course(setup="SEED = 2", end="check_claims()  # all")})
    shown = run(learner, capsys)
    assert sources(learner) == [
        "# 03 · Plan", "SEED = 2", ANSWER, "f(3)", 'predict("03.1", "b")', "horizon = 99",
        "check_claims()  # all", "my notes ✓",
    ]  # fmt: skip
    assert sources(learner, "notebooks/03_plan.before-update.ipynb") == [
        c.source for c in mine.cells
    ]
    assert "carried over: exercise 03.2, your cell 'f(3)', exercise 03.1, cell 'horizon" in shown
    assert run(learner, capsys) == "The course is up to date.\n"


def test_an_exercise_that_changed_keeps_the_answer_and_says_so(world, capsys):
    teacher, learner = world
    put(learner, NAME, course(task=ANSWER, play="horizon = 1"))
    publish(teacher, **{NAME: course(task=TASK.replace("(x)", "(x, y)"), play="horizon = 20")})
    shown = run(learner, capsys)
    assert sources(learner)[2:5:2] == [ANSWER, "horizon = 20"]
    assert "exercise 03.2 (it has changed: read it again)" in shown
    assert "not carried over (its place has changed): cell 'horizon = 1'" in shown


def test_a_cell_that_is_gone_stays_in_the_learner_s_file(world, capsys):
    teacher, learner = world
    mine = course(task=ANSWER, play="horizon = 1")
    mine.cells.insert(3, new_code_cell("after the task"))
    put(learner, NAME, mine)
    publish(teacher, **{NAME: course(task=None, play=None)})
    shown = run(learner, capsys)
    expected = [
        "# 03 · Plan",
        "SEED = 1",
        "after the task",
        'predict("03.1", ...)',
        "check_claims()",
    ]
    assert sources(learner) == expected
    assert "not carried over (its place has changed): exercise 03.2, cell 'horizon = 1'" in shown
    assert ANSWER in sources(learner, "notebooks/03_plan.before-update.ipynb")


@pytest.mark.parametrize("ids", ["changed", "missing"])
def test_an_editor_that_gives_cells_other_ids(world, capsys, ids):
    teacher, learner = world
    mine = json.loads(nbformat.writes(course(task=ANSWER)))
    for i, cell in enumerate(mine["cells"]):
        cell.pop("id") if ids == "missing" else cell.update(id=f"colab{i}")
    put(learner, NAME, json.dumps(mine))
    publish(teacher, **{NAME: course(setup="SEED = 2")})
    run(learner, capsys)
    assert sources(learner) == [cell.source for cell in course(setup="SEED = 2", task=ANSWER).cells]


def test_an_exercise_answered_twice(world, capsys):
    teacher, learner = world
    mine = course(task=ANSWER)
    mine.cells.insert(3, new_code_cell(ANSWER + " + 0"))
    put(learner, NAME, mine)
    publish(teacher, **{NAME: course(setup="SEED = 2")})
    run(learner, capsys)
    assert sources(learner)[2:4] == [ANSWER, ANSWER + " + 0"]


# --- what is left alone --------------------------------------------------------------------------


def test_other_notebooks_stay_as_they_are(world, capsys):
    teacher, learner = world
    put(learner, "notebooks/04_other.ipynb", course(task=ANSWER))
    put(learner, "notebooks/scratch.ipynb", "{}")
    publish(teacher, **{NAME: course(setup="SEED = 2")})
    run(learner, capsys)
    assert ANSWER in sources(learner, "notebooks/04_other.ipynb")
    assert (learner / "notebooks/scratch.ipynb").read_text() == "{}"
    assert len(list((learner / "notebooks").iterdir())) == 3


def test_only_run(world, capsys):
    teacher, learner = world
    mine = course()
    mine.cells[1].execution_count = 77
    put(learner, NAME, mine)
    publish(teacher, **{NAME: course(setup="SEED = 2")})
    assert "you had only run it" in run(learner, capsys)
    assert sources(learner)[1] == "SEED = 2"


@pytest.mark.parametrize("text", ["{", '{"cells": 3}', "", "[]", "PK\x00"])
def test_no_notebook_any_more(world, capsys, text):
    teacher, learner = world
    put(learner, NAME, text)
    put(learner, "notebooks/03_plan.before-update.ipynb", "of last year")
    publish(teacher, **{NAME: course(setup="SEED = 2")})
    assert "can't be read as a notebook: yours is now 03_plan.before-upd" in run(learner, capsys)
    assert (learner / "notebooks/03_plan.before-update-2.ipynb").read_text() == text
    assert (learner / "notebooks/03_plan.before-update.ipynb").read_text() == "of last year"
    assert sources(learner)[1] == "SEED = 2"


@pytest.mark.parametrize("staged", [False, True])
def test_a_scratch_notebook_with_the_name_of_a_new_one(world, capsys, staged):
    teacher, learner = world
    put(learner, "notebooks/05_new.ipynb", course(task="mine"))
    if staged:
        git(learner, "add", "notebooks/05_new.ipynb")
    publish(teacher, **{"notebooks/05_new.ipynb": course()})
    assert "05_new.ipynb is new in the course: yours is now 05_new.before" in run(learner, capsys)
    assert TASK in sources(learner, "notebooks/05_new.ipynb")
    assert "mine" in sources(learner, "notebooks/05_new.before-update.ipynb")


def test_a_notebook_that_is_gone_or_was_removed(world, capsys):
    teacher, learner = world
    put(learner, NAME, course(task=ANSWER))
    (learner / "notebooks/04_other.ipynb").unlink()
    (teacher / NAME).unlink()
    publish(teacher, **{"notebooks/04_other.ipynb": course(setup="SEED = 2")})
    assert "no longer in the course: yours is now" in run(learner, capsys)
    assert ANSWER in sources(learner, "notebooks/03_plan.before-update.ipynb")
    assert not (learner / NAME).exists()
    assert "SEED = 2" in sources(learner, "notebooks/04_other.ipynb")


# --- when there is no update ---------------------------------------------------------------------


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts}


@pytest.mark.parametrize("name", ["package.py", "new.py"])
def test_other_files_that_both_have_changed(world, capsys, name):
    teacher, learner = world
    put(learner, name, "mine\n")
    put(learner, NAME, course(task=ANSWER))
    publish(teacher, **{name: "theirs\n", NAME: course(setup="SEED = 2")})
    before = contents(learner)
    assert f"You have changed {name}, and so does the newer version." in run(learner, capsys, 1)
    assert contents(learner) == before


def test_commits_of_the_learner(world, capsys):
    teacher, learner = world
    put(learner, NAME, course(task=ANSWER))
    git(learner, "commit", "-qam", "My answers")
    publish(teacher, **{NAME: course(setup="SEED = 2")})
    assert "commits of your own" in run(learner, capsys, 1)
    assert ANSWER in sources(learner)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("no network", "The newer version can't be fetched. Is there a network?"),
        ("no remote", "This checkout follows no other one"),
        ("no git checkout", "is no git checkout. Without git: unpack the newer course"),
        ("no git", "This needs git, which is not here."),
        ("no commit", "git rev-parse did not work"),
    ],
)
def test_says_why_not(world, capsys, monkeypatch, how, expected):
    _, learner = world
    put(learner, NAME, course(task=ANSWER))
    if how == "no network":
        shutil.rmtree(learner.parent / "hub.git")
    elif how == "no remote":
        git(learner, "remote", "remove", "origin")
    elif how == "no git":
        monkeypatch.setenv("PATH", str(learner))
    else:
        shutil.rmtree(learner / ".git")
        if how == "no commit":
            git(learner, "init", "-q")
    before = contents(learner)
    assert expected in run(learner, capsys, 1)
    assert contents(learner) == before


@pytest.mark.parametrize("command", ["checkout", "merge"])
def test_failing_in_the_middle(world, capsys, monkeypatch, command):
    """The learner's own file is back, and a second go ends it."""
    teacher, learner = world
    put(learner, NAME, course(task=ANSWER))
    publish(teacher, **{NAME: course(setup="SEED = 2")})
    before, real = (learner / NAME).read_bytes(), update.git

    def failing(root, *args):
        if args[0] == command:
            raise update.Stop("no space left on device")
        return real(root, *args)

    monkeypatch.setattr(update, "git", failing)
    assert "no space left" in run(learner, capsys, 1)
    assert (learner / NAME).read_bytes() == before
    monkeypatch.setattr(update, "git", real)
    run(learner, capsys)
    assert sources(learner)[1:3] == ["SEED = 2", ANSWER]


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals")
def test_ctrl_c_waits_until_the_notebooks_are_whole(world, capsys, monkeypatch):
    teacher, learner = world
    put(learner, NAME, course(task=ANSWER))
    publish(teacher, **{NAME: course(setup="SEED = 2")})
    real = update.git

    def interrupted(root, *args):
        if args[0] == "merge":
            os.kill(os.getpid(), signal.SIGINT)
        return real(root, *args)

    monkeypatch.setattr(update, "git", interrupted)
    run(learner, capsys)
    assert sources(learner)[1:3] == ["SEED = 2", ANSWER]


# --- from another folder -------------------------------------------------------------------------


def test_answers_of_another_folder(tmp_path, capsys):
    older, newer = tmp_path / "last year's", tmp_path / "new"
    put_all = {NAME: course(task=ANSWER), "notebooks/mine.ipynb": course(task="x")}
    (older / "notebooks").mkdir(parents=True)
    (newer / "notebooks").mkdir(parents=True)
    for name, nb in (put_all | {"notebooks/04_other.ipynb": "{"}).items():
        put(older, name, nb)
    put(newer, NAME, course(setup="SEED = 2", ask='predict("03.1", "a")'))
    put(newer, "notebooks/04_other.ipynb", course())
    before = contents(older)
    for carried in (True, False):
        assert update.main(["--root", str(newer), "--from", str(older)]) == 0
        shown = capsys.readouterr().out
        assert ("03_plan.ipynb: carried over: exercise 03.2\n" in shown) == carried
        assert "04_other.ipynb can't be read" in shown
        assert sources(newer)[1:4] == ["SEED = 2", ANSWER, 'predict("03.1", "a")']
        assert "x" in sources(newer, "notebooks/mine.ipynb")
    assert contents(older) == before


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_no_other_folder(tmp_path, capsys, where):
    (tmp_path / "notebooks").mkdir()
    assert update.main(["--root", str(tmp_path), "--from", str(tmp_path / where)]) == 1
    assert "is no other folder of the course" in capsys.readouterr().out


def test_runs_where_nothing_is_installed(world):
    """As the Makefile calls it: by a Python that has no package at all."""
    _, learner = world
    script = Path(update.__file__)
    command = [sys.executable, "-I", "-S", str(script), "--root", str(learner)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "The course is up to date.\n"


def test_what_the_course_s_cells_are_known_by():
    """Every exercise and question of the real notebooks is found, and is open."""
    for path in sorted((Path(update.COURSE) / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        nb = update.read(path.read_text(encoding="utf-8"))
        if nb is None:
            continue  # a learner's
        named = [number for cell in nb["cells"] if (number := update.number(cell))]
        assert named
        assert all(number.startswith(path.name[:2]) for number in named)
