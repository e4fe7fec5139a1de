"""`make check`: is the course installed as it should be?"""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import mbrl_helpers
from mbrl_helpers import check

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("how", [["-m", "mbrl_helpers.check"], ["mbrl_helpers/check.py"]])
def test_all_is_well_here(how):
    """As a module and as a script, and on a console without letters of its own."""
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, *how], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    *lines, last = done.stdout.splitlines()
    assert [line[:6] for line in lines] == ["ok    "] * len(check.ITEMS)
    assert "00_start_here.ipynb run" in lines[-1]
    assert last.startswith("All is well")


@pytest.fixture
def first(tmp_path, monkeypatch):
    """Write the first notebook as a learner may have left it."""
    path = tmp_path / "00_start_here.ipynb"
    monkeypatch.setattr(check, "FIRST", path)

    def write(*cells):
        nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), path)

    write.path = path
    return write


def test_first_notebook_missing_or_in_pieces(first):
    assert "a kernel starts, and a set-up run" in check.first_cells()
    first.path.write_text('{"cells": [')
    assert "a kernel starts, and a set-up run" in check.first_cells()


def test_first_notebook_changed_by_its_reader(first):
    first("1 / 0", "from mbrl_helpers import notebook; notebook.start()")
    assert "your first cells of 00_start_here.ipynb end in ZeroDivisionError" in check.first_cells()
    first("x = 1", "from mbrl_helpers import notebook; notebook.start()", "1 / 0")
    assert check.first_cells().endswith("the first cells of 00_start_here.ipynb run")


def raises(error):
    def item():
        raise error

    item.__name__ = "a_part"
    return item


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (check.Wrong("It is old.", "Get another."), "WRONG It is old.\n      Get another."),
        (
            OSError("libGL.so: cannot open"),
            "WRONG a_part: OSError: libGL.so: cannot open\n      Ins",
        ),
        (ImportError("No module\nnamed numpy"), "WRONG a_part: ImportError: No module named numpy"),
    ],
)
def test_one_wrong_thing_leaves_the_others(monkeypatch, capsys, error, expected):
    monkeypatch.setattr(check, "ITEMS", (check.python, raises(error), lambda: "the last"))
    assert check.main() == 1
    shown = capsys.readouterr().out
    assert expected in shown
    assert "ok    the last\n1 of 3 are wrong" in shown


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("torch", "2.3.1", "torch 2.3.1 does not do: the course needs >=2.4."),
        ("tqdm", None, "tqdm is missing."),
        ("mbrl_helpers", None, "mbrl_helpers, is not installed"),
    ],
)
def test_packages_that_are_old_or_missing(monkeypatch, name, version, expected):
    real = metadata.version

    def pretend(asked):
        if asked != name:
            return real(asked)
        if version is None:
            raise metadata.PackageNotFoundError(asked)
        return version

    monkeypatch.setattr(metadata, "version", pretend)
    if name == "mbrl_helpers":
        monkeypatch.setattr(metadata, "requires", pretend)
    with pytest.raises(check.Wrong, match=expected):
        check.packages()


def test_package_of_another_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(mbrl_helpers, "__file__", str(tmp_path / "mbrl_helpers" / "__init__.py"))
    with pytest.raises(check.Wrong, match=rf"in another place: {tmp_path}"):
        check.package()


def test_package_installed_in_another_version(monkeypatch):
    monkeypatch.setattr(mbrl_helpers, "__version__", "0.9.9")
    with pytest.raises(check.Wrong, match=r"of version 0\.9\.9, installed was"):
        check.package()


# --- a notebook's version ------------------------------------------------------------------------


def test_same_version_says_nothing(capsys):
    check.made_for(mbrl_helpers.__version__)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("version", "cure"),
    [
        ("0.10.0", "Update the course (make update, then make lab)"),
        ("1.0", "Update the course"),
        ("0.1.9", "Take the newer notebook from the course's folder"),
        ("0.0.12", "Take the newer notebook"),
    ],
)
def test_other_versions_name_the_cure(capsys, monkeypatch, version, cure):
    monkeypatch.setattr(mbrl_helpers, "__version__", "0.2.0")
    check.made_for(version)
    shown = capsys.readouterr().out
    assert f"is of version {version} of the course, the package of 0.2.0" in shown
    assert cure in shown
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    check.made_for(version)
    assert "Disconnect and delete runtime" in capsys.readouterr().out
