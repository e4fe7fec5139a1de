"""Which notebooks are the course's own."""

import shutil
import subprocess

import course
import pytest

OWN = ["00_start_here.ipynb", "02b_more.ipynb", "12_your_own.ipynb"]
SCRATCH = ["Untitled.ipynb", "00_start_here-Copy1.ipynb", "scratch.ipynb", "0_x.ipynb", "03_b.part"]
SCRATCH += ["03_Mine.ipynb", "02 copy.ipynb", "04_x.before-update.ipynb"]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in OWN + SCRATCH:
        (tmp_path / "notebooks" / name).write_text("{}")
    return tmp_path


def names(root):
    return [path.name for path in course.notebooks(root)]


def test_without_git_by_their_names(root):
    assert names(root) == OWN


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_with_git_by_what_it_knows(root):
    git = ["git", "-C", str(root)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run(
        [*git, "add", *(f"notebooks/{name}" for name in OWN[:2] + SCRATCH[:1])], check=True
    )
    (root / "notebooks" / "05_mine.ipynb").write_text("{}")
    (root / "notebooks" / OWN[0]).unlink()
    assert names(root) == OWN[1:2]


def test_git_that_is_not_there(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    assert names(root) == OWN


def test_there_are_some_here():
    assert len(course.notebooks()) >= 11
