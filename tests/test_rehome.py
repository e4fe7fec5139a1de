"""The course's one address: in pyproject.toml, and copied from there by `make rehome`."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import rehome
from course import notebooks

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = notebooks()
FIRST = {"repo": "ada/planning-course", "ref": "v0.1.0"}
SECOND = {"repo": "Grace-H/mbrl.course_2", "ref": "v0.2.0"}


@pytest.fixture
def course(tmp_path):
    """A copy of all files that name the address, without one."""
    for path in rehome.sources(ROOT):
        (tmp_path / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    pyproject = tmp_path / "pyproject.toml"
    text = re.sub(r"(?m)^Repository = .*\n", "", pyproject.read_text(encoding="utf-8"))
    pyproject.write_text(re.sub(r'(?m)^version = ".*"$', 'version = "0.1.0"', text))
    run(tmp_path)
    return tmp_path


def run(root, *repo):
    """What the command would show; it ends with a message only if it failed."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        error = rehome.main([*repo, "--root", str(root)])
    return shown.getvalue() if error == 0 else error


def contents(root):
    return {path: path.read_text(encoding="utf-8") for path in rehome.sources(root)}


def install_cells(root):
    """The first code cell of each notebook."""
    cells = {path.stem: nbformat.read(path, as_version=4).cells for path in notebooks(root)}
    return {stem: next(c for c in nb if c.cell_type == "code") for stem, nb in cells.items()}


# --- this checkout -------------------------------------------------------------------------------


def test_every_file_agrees_with_pyproject():
    stale = [path.name for path in rehome.updates(ROOT)]
    assert stale == [], "run: make rehome, and for a new notebook then: make notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_code_cell_installs(path):
    nb = nbformat.read(path, as_version=4)
    tagged = [i for i, cell in enumerate(nb.cells) if "install" in cell.metadata.get("tags", [])]
    code = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    assert tagged == code[:1], "the install cell comes first: what it installs is used below it"
    assert nb.cells[tagged[0]].outputs == [], "it should find the package where notebooks are run"


# --- a new address -------------------------------------------------------------------------------


def assert_lives_at(root, repo, ref):
    texts = contents(root)
    pyproject, readme, package, citation, *notebooks = texts
    project = tomllib.loads(texts[pyproject])["project"]
    assert project["urls"] == {"Repository": f"https://github.com/{repo}"}
    assert f'__version__ = "{ref[1:]}"' in texts[package]
    said = f'version: {ref[1:]}\nrepository-code: "https://github.com/{repo}"\n'
    assert texts[citation].count(said) == texts[citation].count("repository-code") == 1
    colab, binder = "colab.research.google.com/github", "mybinder.org/v2/gh"
    for path in [readme, *notebooks]:
        name = "00_start_here.ipynb" if path == readme else path.name
        text = texts[path]
        assert text.count(f"https://{colab}/{repo}/blob/{ref}/notebooks/{name})") == 1
        assert text.count(f"https://{binder}/{repo}/{ref}?urlpath=lab/tree/notebooks/{name})") == 1
        assert text.count(colab) == text.count(binder) == 1, "badges of another address are left"
    for stem, cell in install_cells(root).items():
        packages = re.search(r"%pip install -q --no-deps (.*)", cell.source).group(1).split()
        assert packages[-1] == f"git+https://github.com/{repo}@{ref}"
        assert packages[:-1] == rehome.LACKING.get(stem[:2], "").split()


def test_moves_in_twice_and_on(course):
    homeless = contents(course)
    assert not any("colab.research" in text for text in homeless.values())

    assert "tag v0.1.0" in run(course, FIRST["repo"])
    assert_lives_at(course, **FIRST)
    once = contents(course)
    assert "changed" not in run(course, FIRST["repo"])
    assert "changed" not in run(course)
    assert contents(course) == once

    pyproject = course / "pyproject.toml"
    pyproject.write_text(once[pyproject].replace('version = "0.1.0"', 'version = "0.2.0"'))
    assert "tag v0.2.0" in run(course, f"https://github.com/{SECOND['repo']}.git")
    assert_lives_at(course, **SECOND)

    # And home again: only what names the address was ever touched.
    text = re.sub(r"Repository = .*\n", "", pyproject.read_text(encoding="utf-8"))
    pyproject.write_text(text.replace('version = "0.2.0"', 'version = "0.1.0"'))
    run(course)
    assert {**contents(course), pyproject: ""} == {**homeless, pyproject: ""}


def test_keeps_all_but_badges_and_install_cell(course):
    before = {p: nbformat.read(p, as_version=4) for p in (course / "notebooks").glob("*.ipynb")}
    run(course, FIRST["repo"])
    for path, old in before.items():
        new = nbformat.read(path, as_version=4)
        assert path.read_text(encoding="utf-8") == nbformat.writes(new) + "\n"
        assert [c.id for c in new.cells] == [c.id for c in old.cells]
        changed = [i for i, (a, b) in enumerate(zip(old.cells, new.cells, strict=True)) if a != b]
        tags = [new.cells[i].metadata.get("tags") for i in changed]
        assert (changed[0], tags) == (0, [None, ["install"]])
        for i in changed:
            new.cells[i].source = old.cells[i].source
        assert new == old


def test_a_notebook_saved_by_another_editor_is_no_change(course):
    path = course / "notebooks" / "03_plan_with_mpc.ipynb"
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=4)
    path.write_text(text, encoding="utf-8")
    assert "changed" not in run(course)
    assert path.read_text(encoding="utf-8") == text


def test_new_notebook_gets_its_cell(course):
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_markdown_cell("# 08 · Cars"), nbformat.v4.new_code_cell("x = 1")]
    nbformat.write(nb, course / "notebooks" / "08_cars.ipynb")
    run(course, FIRST["repo"])
    assert_lives_at(course, **FIRST)
    new = nbformat.read(course / "notebooks" / "08_cars.ipynb", as_version=4)
    assert [cell.cell_type for cell in new.cells] == ["markdown", "code", "code"]
    install = "%pip install -q --no-deps box2d git+https://github.com/ada/planning-course@v0.1.0\n"
    assert install in new.cells[1].source
    assert new.cells[1].source.endswith('made_for("0.1.0")')
    assert new.cells[2] == nb.cells[1]


def test_result_passes_lint(course):
    """With an address as long as they come, too."""
    run(course, f"{'a' * 39}/{'b' * 60}")
    for command in ["check", "format --check"]:
        ruff = [sys.executable, "-m", "ruff", *command.split(), "--no-cache", "."]
        done = subprocess.run(ruff, cwd=course, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("repo", ["", "planning-course", "a/b/c", "a b/c", "https://else.org/a/b"])
def test_refuses_what_is_no_repository(course, repo):
    before = contents(course)
    error = run(course, repo)
    assert error.startswith(f"rehome: expected a GitHub repository as owner/name, got {repo!r}.")
    assert "make rehome REPO=" in error
    assert contents(course) == before


def test_refuses_a_notebook_without_title(course):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    nbformat.write(nb, course / "notebooks" / "04_x.ipynb")
    error = run(course)
    assert error.startswith("notebooks/04_x.ipynb, first cell: expected a title such as")


# --- the cell itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("repo", [None, "a/b"])
def test_cell_does_nothing_where_the_package_is(repo, capsys):
    _, ref = rehome.home((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    source = rehome.install_cell(repo, ref, "00_x").replace("%pip", "raise SystemExit #")
    exec(source, {})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ref", ["v99.1.0", "v0.0.1"])
def test_cell_says_when_the_package_is_of_another_version(ref, capsys):
    exec(rehome.install_cell(None, ref, "00_x"), {})
    assert f"This notebook is of version {ref[1:]} of the course" in capsys.readouterr().out


def test_cell_says_what_is_missing_while_there_is_no_address(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"mbrl_helpers, is missing.*README.*kernel.*Colab"
    ):
        exec(rehome.install_cell(None, "v1", "00_x"), {})
