"""What the package prints, on a console of any alphabet; and how files come out of git."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mbrl_helpers import exercises, notebook
from mbrl_helpers.console import say

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8", "utf-16"])
def test_prints_on_every_console(monkeypatch, encoding):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding, errors="strict"))
    say("ünsure ✓ 💡")
    notebook.start()
    notebook.claim("Müller's gain Δ", 3, at_least=2)
    notebook.claim("and its loss", 3, at_most=2)
    exercises.hint("00.1")
    exercises.predict("03.1", "b")
    sys.stdout.flush()
    shown = file.getvalue().decode(encoding)
    assert shown.startswith("?nsure ? ?" if encoding == "ascii" else shown[:2] + "sure")
    assert "mbrl_helpers" in shown
    assert "(claim: at least 2)" in shown
    assert "Exercise 00.1: hint" in shown
    if encoding.startswith("utf"):
        assert shown.startswith("ünsure ✓ 💡")


def test_prints_where_there_is_no_encoding(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    say("✓ ünsure")
    assert sys.stdout.getvalue() == "✓ ünsure\n"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_line_ends_survive_a_checkout_on_windows(tmp_path):
    names = ["Makefile", "postBuild", ".ci/run", "tests/run_notebooks.py", "constraints.txt"]
    for name in [".gitattributes", *names]:
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "here" / name)
    data = b"PK\r\n\0\r\n"
    (tmp_path / "here" / "recorded.npz").write_bytes(data)
    git = ["git", "-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    git += ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q", "."], ["add", "."], ["commit", "-qm", "Copy"]):
        subprocess.run([*git, *command], cwd=tmp_path / "here", check=True)
    subprocess.run([*git, "clone", "-q", "here", "there"], cwd=tmp_path, check=True)
    for name in names:
        assert b"\r" not in (tmp_path / "there" / name).read_bytes()
    assert (tmp_path / "there" / "recorded.npz").read_bytes() == data
