"""Checks of the notebooks as they are shipped, without running them."""

import ast
import re
from pathlib import Path

import course
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = course.notebooks()
MAX_BYTES = 1_500_000
MAX_CODE_LINES, MAX_WORDS = 40, 150  # in one cell
MIN_FIGURES, MIN_QUESTIONS, MAX_TAUGHT = 3, 3, 3  # in one notebook
# What a run leaves behind that is not the same for the next reader.
LOCAL = re.compile(r"/tmp/|/root/|/home/|/Users/|[A-Z]:\\\\Users| at 0x[0-9a-f]{6}")


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def nb(path):
    """A notebook that was run from top to bottom: of another, one failure says enough."""
    if how_it_was_left(path):
        pytest.skip("see test_was_run_from_top_to_bottom")
    return nbformat.read(path, as_version=4)


def how_it_was_left(path):
    """What there is to say to who left a notebook other than run from top to bottom."""
    try:
        cells = code_cells(nbformat.read(path, as_version=4))
    except Exception:
        return f"{path.name} is no notebook any more: git checkout -- notebooks/{path.name}"
    in_order = [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    if in_order and not any(o.output_type == "error" for c in cells for o in c.outputs):
        return ""
    return (
        f"{path.name} was not run from top to bottom. Restart the kernel and run all cells, or: "
        f"make notebooks ARGS={path.name[:2]} (Do you only want to know whether the course is "
        "installed as it should be? make check)"
    )


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def outputs(nb):
    return [output for cell in code_cells(nb) for output in cell.outputs]


def first_line(cell):
    return cell.source.strip().partition("\n")[0]


# --- form ----------------------------------------------------------------------------------------


def test_valid_and_small(path, nb):
    nbformat.validate(nb)
    assert path.stat().st_size < MAX_BYTES
    assert nb.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in nb.cells]
    assert len(set(ids)) == len(ids)


def test_was_run_from_top_to_bottom(path):
    if said := how_it_was_left(path):
        pytest.fail(said, pytrace=False)


@pytest.mark.parametrize(
    ("counts", "output", "expected"),
    [
        ([1, 2, 3], [], ""),
        ([1, 2, None], [], "02_x.ipynb was not run"),
        ([1, 7, 3], [], "02_x.ipynb was not run"),
        ([None, None, None], [], "make notebooks ARGS=02"),
        ([1, 2, 3], [nbformat.v4.new_output("error", ename="E")], "make check"),
        (None, [], "02_x.ipynb is no notebook any more: git checkout -- notebooks/02_x.ipynb"),
    ],
)
def test_how_it_was_left(tmp_path, counts, output, expected):
    path, new = tmp_path / "02_x.ipynb", nbformat.v4.new_code_cell
    cells = [new("x", execution_count=n, outputs=output) for n in counts or []]
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)) if counts else "{")
    assert bool(said := how_it_was_left(path)) == bool(expected)
    assert expected in said


def test_ends_with_its_claims(nb):
    assert "check_claims()" in code_cells(nb)[-1].source


def test_outputs_are_the_same_everywhere(nb):
    """No paths of one machine, no addresses of objects (end a plotting line with a semicolon)."""
    found = []
    for output in outputs(nb):
        data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
        text = f"{output.get('text', '')} {data}"
        # Films are base64 in HTML, where anything may turn up.
        found += LOCAL.findall(re.sub(r"base64,[\w+/=]+", "", text))
    assert found == []


# --- teaching ------------------------------------------------------------------------------------


def test_cells_fit_on_a_screen(nb):
    long = {}
    for cell in code_cells(nb):
        lines = [line for line in cell.source.splitlines() if line.split("#")[0].strip()]
        if len(lines) > MAX_CODE_LINES:
            long[first_line(cell)] = len(lines)
    assert long == {}


def test_folded_cells_only_draw(nb):
    """What is learned, asked or claimed stays in sight: only cells tagged `figure` fold."""
    wrong = []
    for cell in code_cells(nb):
        folded = "figure" in cell.metadata.get("tags", [])
        assert folded == cell.metadata.get("jupyter", {}).get("source_hidden", False)
        if folded and re.search(r"claim|predict\(|@exercise|hint\(|\.fit\(|backward", cell.source):
            wrong.append(first_line(cell))
    assert wrong == []


def test_prose_comes_in_small_portions(nb):
    long = {}
    for cell in nb.cells:
        if cell.cell_type != "markdown" or re.search(r"^\s*\|.*\|\s*$", cell.source, re.MULTILINE):
            continue  # tables are looked up, not read
        text = re.sub(r"\]\([^)]*\)|https?://\S+|\$\$.*?\$\$|<[^>]+>", " ", cell.source, flags=re.S)
        words = len(re.findall(r"\w+(?:['’-]\w+)*", text))
        if words > MAX_WORDS:
            long[first_line(cell)] = words
    assert long == {}


def test_shows_figures(nb):
    assert sum("image/png" in o.get("data", {}) for o in outputs(nb)) >= MIN_FIGURES


def num_bare(shown):
    """How many of these outputs are pictures without alternative text."""
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    return sum(not o.get("metadata", {}).get("image/png", {}).get("alt") for o in pictures)


def test_num_bare_counts_pictures_without_description():
    picture = {"data": {"image/png": "iVBORw0=", "text/plain": "<Figure>"}, "metadata": {}}
    described = picture | {"metadata": {"image/png": {"alt": "A line that rises."}}}
    empty = picture | {"metadata": {"image/png": {"alt": ""}}}
    text, film = {"text": "1"}, {"data": {"text/html": "<img>"}, "metadata": {}}
    assert num_bare([picture, described, empty, text, film]) == 2


def test_pictures_are_described(nb):
    bare = num_bare(outputs(nb))
    assert not bare, (
        f"{bare} pictures without a description: show each with notebook.show(figure, alt=...), "
        "and run the notebook with: make notebooks"
    )


def test_asks_something(path, nb):
    source = "\n".join(cell.source for cell in code_cells(nb))
    asked = re.findall(r"^(?:@exercise|predict)\(", source, re.MULTILINE)
    assert len(asked) >= (1 if path.stem.startswith("00") else MIN_QUESTIONS)


def test_sliders_show_what_they_draw(nb):
    """Inside interact, a figure that is not shown appears once and never changes."""
    source = "\n\n".join(cell.source for cell in code_cells(nb))
    for name in re.findall(r"\binteract\(\s*(\w+)", source):
        body = re.search(rf"^def {name}\(.*\n((?:[ \t].*)?\n)*", source, re.MULTILINE).group()
        shown = "plt.show()" in body or "notebook.show(" in body
        assert shown, f"end {name} with notebook.show(figure, alt=...) or plt.show()"


# --- what is taught is what the package runs -----------------------------------------------------


def strip(tree):
    """Without docstrings and annotations, in place: what is left decides what the code does."""
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                # A field of a dataclass must have one: only which one does not matter.
                setattr(node, field, ast.Constant(0) if isinstance(node, ast.AnnAssign) else None)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def definitions(source):
    kinds = ast.FunctionDef | ast.ClassDef
    found = [node for node in ast.parse(source).body if isinstance(node, kinds)]
    return {node.name: ast.unparse(strip(node)) for node in found}


def test_strip_keeps_only_behaviour():
    taught = 'def f(x):\n    return x + 1\nclass C:\n    a: int = 1\n    b: "T"\n'
    packaged = '''
def f(x: int) -> int:
    """Add one."""
    return x + 1  # why
class C:
    """Doc."""
    a: float = 1
    b: int
'''
    assert definitions(taught) == definitions(packaged)
    assert definitions(taught) != definitions(packaged.replace("x + 1", "x - 1"))


def test_taught_code_is_the_packages_code(nb):
    taught = []
    for cell in code_cells(nb):
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("taught:"):
                taught.append((tag.removeprefix("taught:"), cell.source))
    assert len(taught) <= MAX_TAUGHT
    for module, source in taught:
        package = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        here, there = definitions(source), definitions(package)
        assert here, f"tagged taught:{module}, but defines nothing:\n{source}"
        assert here == {name: there.get(name) for name in here}
