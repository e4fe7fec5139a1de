"""What the book is made of, without Sphinx: the glossary, copies of notebooks, pages, plans.

The built book is tested by `make book-test`, which needs Sphinx and a browser.
"""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import course
import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "book"))

import glossary  # noqa: E402 - these lie in book/
import instructor  # noqa: E402
import make  # noqa: E402
import pages  # noqa: E402
import prepare  # noqa: E402
import results  # noqa: E402
import solved  # noqa: E402

NOTEBOOKS = [prepare.Notebook(path) for path in course.notebooks()]
TERMS = glossary.read()
every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
# Terms that are used before a notebook explains them, and why that is all right.
EARLY = {
    "ensemble": "the first notebook says what it is: five networks; explained when it matters",
    "MuZero": "one of the names in a list, for who knows it",
    "AlphaZero": "one of the names in a list, for who knows it",
    "Monte Carlo tree search": "one of the names in a list, for who knows it",
    "hidden state": "said in passing of MuZero; a notebook of its own is to come",
}
NO_TERMS = {"copied", "What else could it be?"}  # names that a notebook gives, not of the field


def markdown(text):
    return nbformat.v4.new_markdown_cell(text)


def code(source, *outputs, tags=()):
    new = nbformat.v4.new_code_cell
    return new(source, outputs=list(outputs), execution_count=1, metadata={"tags": list(tags)})


def picture(kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def written(folder, *cells, name="03_plan.ipynb"):
    path = folder / name
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=list(cells))), encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path):
    """A notebook with all that the book changes."""
    shown = nbformat.v4.new_output(
        "display_data", {"image/png": picture(), "text/plain": "<Figure>"},
        metadata={"image/png": {"alt": 'A "line" rises.'}},
    )  # fmt: skip
    film = f'<img alt="It &lt;falls&gt;." src="data:image/gif;base64,{picture("GIF")}">'
    moving = nbformat.v4.new_output("execute_result", {"text/html": film, "text/plain": "<HTML>"})
    source = nbformat.v4.new_output(
        "execute_result", {"text/html": "<style>", "text/latex": "x", "text/plain": "def f(): ..."}
    )
    return prepare.Notebook(written(
        tmp_path,
        markdown("# 03 · Plan\n\n[![Open in Colab](https://a.b/c.svg)](https://a.b)\n\n- plan;\n\n"
                 "**Time** about 95 minutes. **Needs** notebooks 01 (data) and 02. See 07."),
        code("from importlib.util import find_spec", tags=["install"]),
        markdown("## 1 · Think (10 min)\n\nA **receding horizon**, `regret`. A regret.\n\n"
                 "```\n## no heading\n```"),
        code("draw()", shown, tags=["figure"]),
        markdown("## 2 · Look (5 min)\n\nRegret again."),
        code("film()", moving),
        code("show_source(f)", source, tags=["taught:x"]),
    ))  # fmt: skip


# --- notebooks as pages --------------------------------------------------------------------------


def test_reads_a_notebook(small):
    assert (small.number, small.title, small.minutes) == ("03", "03 · Plan", 95)
    assert small.needs == ["01", "02"]
    assert [(s.title, s.minutes) for s in small.sections[1:]] == [
        ("1 · Think", 10),
        ("2 · Look", 5),
    ]
    assert [(p.film, p.section, p.alt, p.folded) for p in small.pictures] == [
        (False, 1, 'A "line" rises.', True), (True, 2, "It <falls>.", False),
    ]  # fmt: skip


def test_the_copy_is_what_the_book_shows(small):
    before = nbformat.writes(small.nb)
    copy = prepare.copy_of(small, TERMS)
    assert nbformat.writes(small.nb) == before, "the notebook itself stays"
    text = nbformat.writes(copy)
    assert "find_spec" not in text
    assert "Colab" not in text
    assert "base64" not in text
    folded, film, source = [cell for cell in copy.cells if cell.cell_type == "code"]
    assert folded.metadata.tags == ["hide-input"]
    assert film.metadata.tags == source.metadata.tags == []
    shown = folded.outputs[0].data["text/html"]
    assert 'alt="A &quot;line&quot; rises."' in shown
    assert 'src="../pictures/03_plan-00.png"' in shown
    assert 'alt="It &lt;falls&gt;."' in film.outputs[0].data["text/html"]
    assert source.outputs[0].data == {"text/markdown": "```python\ndef f(): ...\n```"}
    assert set(small.files) == {"03_plan-00.png", "03_plan-01.gif"}
    sections = [cell.source for cell in copy.cells if cell.cell_type == "markdown"]
    assert sections[1].startswith("(s-03_plan-1)=\n## 1 · Think")
    assert "```\n## no heading" in sections[1], "no label inside a block of code"
    assert sections[2].startswith("(s-03_plan-2)=\n## 2")


def test_a_term_is_linked_once_and_only_in_prose(small):
    texts = [c.source for c in prepare.copy_of(small, TERMS).cells if c.cell_type == "markdown"]
    assert "**{term}`receding horizon <receding horizon>`**" in texts[1]
    assert "`regret`. A {term}`regret <regret>`." in texts[1]
    assert "Regret again." in texts[2]


def test_a_notebook_without_outputs_is_refused_with_what_to_do(tmp_path):
    path = written(tmp_path, markdown("# x"), code("1"))
    with pytest.raises(
        prepare.Unfit, match=r"expected notebooks with their outputs, got none in 03"
    ):
        prepare.Notebook(path)
    path.write_text("{")
    with pytest.raises(prepare.Unfit, match=r"03_plan.ipynb is no notebook: git checkout"):
        prepare.Notebook(path)


def test_no_notebooks_and_no_sphinx_are_said(monkeypatch):
    with pytest.raises(prepare.Unfit, match="expected notebooks in notebooks/, got none"):
        make.read_notebooks([])
    monkeypatch.setattr(make, "NEEDED", ("sphinx_that_is_not_there",))
    said = make.main([])
    assert "expected Sphinx and what the book needs of it, got no sphinx_that_is_not_there" in said
    assert 'pip install -c constraints.txt -e ".[book]"' in said


@every_notebook
def test_each_notebook_becomes_a_page(notebook):
    copy = prepare.copy_of(notebook, TERMS)
    nbformat.validate(copy)
    text = nbformat.writes(copy)
    assert "data:image" not in text
    assert "find_spec" not in text
    shown = re.findall(r'src=\\"../(pictures/[^"\\]+)', text)
    assert shown == [p.file for p in notebook.pictures]
    assert len(notebook.files) == len(shown)


def test_the_readiness_test_leads_to_the_on_ramp():
    """In the notebook to the file, in the book to its page."""
    first = prepare.Notebook(course.notebooks()[0])
    assert "(../book/onramp.md)" in "".join(cell.source for cell in first.nb.cells)
    assert "(../onramp.md)" in "".join(cell.source for cell in prepare.copy_of(first, []).cells)


# --- the glossary --------------------------------------------------------------------------------


def test_a_term_has_one_entry_that_says_something():
    names = [name for term in TERMS for name in term.names]
    assert len(names) == len(set(names)) > 100
    assert [term.name for term in TERMS if len(term.meaning) < 20] == []
    assert any(term.basic for term in TERMS)


def test_no_term_is_used_before_it_is_explained():
    early = [line for line in glossary.too_early(TERMS, NOTEBOOKS)]
    assert [line for line in early if not any(f"uses {name!r}" in line for name in EARLY)] == []


def test_an_early_use_is_found(tmp_path):
    def notebook(name, text):
        path = written(
            tmp_path,
            markdown("# x"),
            markdown(f"## 1 · A (5 min)\n\n{text}"),
            code("1", nbformat.v4.new_output("stream", text="1")),
            name=name,
        )
        return prepare.Notebook(path)

    late = notebook("02_b.ipynb", "This is called **MBPO**.")
    for text, count in [
        ("MBPO does it.", 1),
        ("MBPO (notebook 02) does it.", 0),
        ("`MBPO` in code", 0),
        ("*MBPO* is this.", 0),
    ]:
        found = glossary.too_early(TERMS, [notebook("01_a.ipynb", text), late])
        assert len(found) == count, text
    assert (
        "01_a, 1 · A: uses 'MBPO', which 02_b explains first"
        in glossary.too_early(TERMS, [notebook("01_a.ipynb", "MBPO."), late])[0]
    )


@every_notebook
def test_what_a_notebook_gives_a_name_to_is_in_the_glossary(notebook):
    named = {name for s in notebook.sections for name in glossary.introduced(s.text)}
    missing = [
        n for n in named if n not in NO_TERMS and not any(t.pattern.search(n) for t in TERMS)
    ]
    assert missing == [], "explain it in book/glossary.md"


def test_introduced_hears_a_name_given():
    text = "Called an *open loop*.\nKnown as **red\nnoise**. **Model X** (MX). *Not* called so."
    assert glossary.introduced(text) == ["open loop", "red noise", "Model X"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("elites", True),
        ("Elites", True),
        ("ELITES", False),
        ("elite", False),
        ("delites", False),
        ("cem", False),
        ("CEM", True),
        ("iCEM", False),
    ],
)
def test_patterns_find_words_only(text, found):
    term = glossary.Term(("elites", "CEM"), "")
    assert bool(term.pattern.search(f"an {text}.")) == found


def test_first_met_places_stand_in_the_page():
    page = pages.with_places(glossary.PAGE.read_text(encoding="utf-8"), TERMS, NOTEBOOKS)
    met = [t for t in TERMS if not t.basic and glossary.first_met(t, NOTEBOOKS)]
    assert page.count("*First met in*") == len(met) > 80
    labels = {n.label(s.number) for n in NOTEBOOKS for s in n.sections}
    assert set(re.findall(r"\(#(s-[^)]+)\)", page)) <= labels


# --- pages ---------------------------------------------------------------------------------------


def test_every_public_name_of_the_package_says_something():
    silent = {
        f"{module}.{name}"
        for module in pages.modules()
        for name, said in pages.public(ROOT / (module.replace(".", "/") + ".py")).items()
        if not said
    }
    assert silent == set()


def test_public_finds_a_name_without_docstring(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        'def f(): ...\nclass C:\n    """Doc."""\n    def g(self): ...\n    def _h(self): ...\n'
    )
    assert pages.public(path) == {"f": None, "C": "Doc.", "C.g": None}


def test_the_api_shows_every_module_once():
    grouped = [name for names in pages.api_groups().values() for name in names]
    assert sorted(grouped) == sorted(pages.modules())
    assert len(grouped) == len(set(grouped)) > 30
    face = pages.public_face()
    import mbrl_helpers

    assert set(face) | {"__version__"} == set(mbrl_helpers.__all__)


def test_the_front_page_shows_what_the_notebooks_drew():
    shown = re.findall(r'src="(pictures/[^"]+)"', make.front(NOTEBOOKS))
    assert len(shown) == len(set(shown)) == 3
    assert set(shown) <= {p.file for n in NOTEBOOKS for p in n.pictures}
    with pytest.raises(prepare.Unfit, match=r"under a heading with 'No such'.*Change FRONT"):
        pages.front_picture(NOTEBOOKS, "", "No such", False)


def test_every_control_and_every_figure_is_listed():
    import controls

    text = pages.evidence(NOTEBOOKS)
    found = [made for n in NOTEBOOKS for made in controls.controls(n.path)]
    assert found
    for made in found:
        assert pages.escaped(made["rival"]) in text
    listed = re.findall(r"(?m)^\d+\. (?:figure|film), ", pages.figure_sources(NOTEBOOKS))
    assert len(listed) == sum(len(n.pictures) for n in NOTEBOOKS)


def test_every_recording_names_a_script_that_is_there():
    for recording in pages.recordings():
        assert (ROOT / recording["script"]).is_file(), recording
        assert recording["when"], recording
        assert pages.benchmark_says(recording["script"])


def test_the_routes_show_every_notebook():
    drawing, level = pages.route_drawing(NOTEBOOKS), pages.depths(NOTEBOOKS)
    for notebook in NOTEBOOKS:
        assert f'href="notebooks/{notebook.stem}.html"' in drawing
        assert all(level[need] < level[notebook.number] for need in notebook.needs if need in level)
        assert set(pages.direct(NOTEBOOKS, notebook.number)) <= set(notebook.needs)


def test_results_are_those_of_the_recordings():
    made = {one.title: one for one in (make_one() for make_one in results.RESULTS)}
    steps = [
        float(rows[0]["steps"]) for rows in results.by_seed(results.rows_of("cartpole")).values()
    ]
    first = made["CartPole-v1"].rows[0]
    assert float(first[1]) <= float(first[2])
    assert float(first[1]) >= min(steps)
    assert all(len(row) == len(one.head) for one in made.values() for row in one.rows)


def test_the_readme_s_table_is_that_of_the_recordings():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- reaches -->" in readme
    assert readme == make.with_table(readme), "run: .venv/bin/python book/make.py --readme"


def test_first_step_asks_for_so_many_in_a_row():
    rows = [{"steps": str(i), "x": x} for i, x in enumerate("nynyy")]
    good = lambda row: row["x"] == "y"  # noqa: E731
    assert results.first_step(rows, good) == 1
    assert results.first_step(rows, good, 2) == 3
    assert results.first_step(rows, good, 3) == float("inf")


def test_without_an_address_there_are_no_launch_buttons():
    import theme

    assert "launch_buttons" not in theme.theme_options(None, "v1")
    options = theme.theme_options("ada/course", "v1")
    assert options["repository_url"] == "https://github.com/ada/course"
    assert options["repository_branch"] == "v1"
    assert {"binderhub_url", "colab_url"} <= set(options["launch_buttons"])


# --- for instructors -----------------------------------------------------------------------------


@every_notebook
def test_an_instructor_finds_every_question_with_its_answer(notebook):
    page = instructor.notebook_page(notebook)
    for number in notebook.questions:
        assert f"### {number}\n\n>" in page, "the words in which it is asked"
    assert page.count(" ✓**") == page.count("The answer is ")
    assert f"slides/{notebook.stem}.html" in page


def test_plans_add_up():
    page = instructor.plans_page(NOTEBOOKS)
    assert [t.split(":")[0] for t in re.findall(r"(?m)^## (.*)$", page)] == [
        "90 minutes",
        "Half a day",
        "Two days",
        "A term",
    ]
    rows = re.findall(r"(?m)^\| (\d+):(\d\d) \| (\d+) \|", page.split("## Half")[0])
    clock = 0
    for hours, minutes, takes in rows:
        assert 60 * int(hours) + int(minutes) == clock
        clock += int(takes)
    assert 80 <= clock <= 95, "a plan for 90 minutes takes about as long"


def test_a_plan_for_what_is_not_there_is_named():
    with pytest.raises(prepare.Unfit, match=r"expected in plans.txt one of .*, got 'no_such'"):
        instructor.entry(NOTEBOOKS, "no_such | 1-2")
    with pytest.raises(prepare.Unfit, match="expected sections with minutes"):
        instructor.entry(NOTEBOOKS, f"{NOTEBOOKS[0].stem.partition('_')[2]} | 90-95")


def test_plans_and_notes_name_exercises_that_there_are():
    texts = [instructor.PLANS, *instructor.NOTES.glob("*.md")]
    named = {n for p in texts for n in instructor.QUESTION.findall(p.read_text(encoding="utf-8"))}
    asked = {number for notebook in NOTEBOOKS for number in notebook.questions}
    assert named
    assert named - asked == set()


def test_notes_belong_to_notebooks():
    """A note whose notebook was renamed would be lost."""
    names = {n.stem.partition("_")[2] for n in NOTEBOOKS}
    assert {path.stem for path in instructor.NOTES.glob("*.md")} <= names


@every_notebook
def test_slides_show_all_its_pictures_and_votes(notebook):
    import slides as of

    text = of.page(notebook)
    for one in notebook.pictures:
        assert one.file in text
    assert text.count("<section>") >= len(notebook.sections) - 2
    assert "http" not in re.sub(r'<a href="[^"]*"', "", text)


def test_a_vote_ends_where_its_cell_does():
    import slides as of

    asked = "### Predict first (exercise 99.1)\n\nWhich?\n\n- **a)** this\n- **b)** that"
    told = (
        "*What you should see:* that.\n\n### A heading\n\nIt predicts badly. **Bold words here.**"
    )
    section = prepare.Section(1, "Ends", 5, (asked, told))
    assert of.questions(section) == [asked]
    shown = [s for s in of.of_section(section, []) if "Predict:" in s]
    assert len(shown) == 1
    assert "What you should see" not in shown[0]


@every_notebook
def test_no_vote_tells_what_comes_of_it(notebook):
    import slides as of

    for section in notebook.sections:
        for question in of.questions(section):
            assert "should see" not in question


# --- solved copies -------------------------------------------------------------------------------


@every_notebook
def test_solved_copies_answer_everything(notebook):
    nb = solved.solve(notebook.nb)
    assert solved.open_questions(nb) == []
    assert solved.open_questions(notebook.nb) == notebook.questions
    asked = [n for c in nb.cells if c.cell_type == "code" for n, _ in solved.asked(c.source)]
    assert set(asked) <= set(notebook.questions)
    for cell in nb.cells:
        if cell.cell_type == "code":
            compile(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source), "cell", "exec")


def test_a_solved_copy_runs_and_says_what_is_not_correct(tmp_path, capsys):
    """On a small notebook: those of the course take minutes."""
    imports = (
        "from mbrl_helpers.exercises import exercise, predict\nfrom mbrl_helpers import notebook"
    )
    stub = '@exercise("00.1")\ndef push_where_it_leans(obs):\n    """Which?"""\n    ...'
    path = written(tmp_path, code(imports), code(stub), code('predict("00.7", ...)'))
    copy = solved.solve(nbformat.read(path, as_version=4))
    assert '"""Which?"""\n    pole_angle' in copy.cells[1].source
    path.write_text(nbformat.writes(copy))
    assert solved.execute(path) == ""
    assert solved.wrong_outcomes(nbformat.read(path, as_version=4)) == []
    copy.cells[2].source = 'predict("00.7", ...)'
    path.write_text(nbformat.writes(copy))
    assert "Exercise 00.7: not attempted" in solved.execute(path)
    assert "expected notebooks of the course, got ['77']" in solved.main(["77"])


def test_the_sheet_has_no_mark_left():
    import slides as of

    source = "# A\n\n## Algorithms\n\nlong\n\n**In a line each**\n\n| | |\n|---|---|\n| a | $x$ |\n"
    text = of.sheet(source)
    assert "long" not in text
    assert "<table>" in text
    assert r"\(x\)" in text


def test_make_test_needs_no_sphinx():
    folders = [str(ROOT / "book"), str(ROOT / "tests")]
    program = f"import sys; sys.path[:0] = {folders}; import make; print('sphinx' in sys.modules)"
    run = [sys.executable, "-c", program]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip() == "False"
