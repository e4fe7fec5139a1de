"""`progress` and the table of a class: what was solved, and files that are damaged or foreign."""

import csv
import json
from pathlib import Path

import course
import nbformat
import pytest

from mbrl_helpers.exercises import classroom, frame, hint, predict, progress
from mbrl_helpers.exercises.progress import checksum, file_name, outcomes, record

NAME = "03_plan.ipynb"


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    monkeypatch.setattr(frame, "_outcomes", {})


@pytest.fixture
def folder(tmp_path):
    """Two notebooks: of the first one exercise is solved, the second was never answered."""
    notebook(
        tmp_path / NAME, {"03.1": "✅ Exercise 03.1: correct", "03.2": "🔎 Exercise 03.2: not yet"}
    )
    notebook(tmp_path / "04_search.ipynb", {"04.b": "✏️ Exercise 04.b: not attempted\n   Write it."})
    notebook(tmp_path / "scratch.ipynb", {"03.3": "✅ Exercise 03.3: correct"})
    return tmp_path


def notebook(path, told):
    cells = []
    for number, text in told.items():
        asked = (
            f'@build("{number}")\ndef f(): ...'
            if number.endswith("b")
            else f'predict("{number}", "a")'
        )
        shown = nbformat.v4.new_output("stream", text=f"{text}\n   and more\n")
        cells.append(nbformat.v4.new_code_cell(asked, outputs=[shown]))
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)), encoding="utf-8")


def write(folder, learner, found, /, **change):
    path = folder / f"{change.pop('name', file_name(learner))}.json"
    path.write_text(json.dumps(record(learner, found) | change), encoding="utf-8")
    return path


# --- progress ------------------------------------------------------------------------------------


def test_reads_what_the_notebooks_showed(folder):
    expected = {"03.1": "correct", "03.2": "not yet", "04.b": "not attempted"}
    assert outcomes(folder) == expected


def test_an_answer_of_this_kernel_counts(folder, monkeypatch):
    monkeypatch.setattr(frame, "_outcomes", {"03.2": "correct", "09.1": "correct"})
    found = outcomes(folder)
    assert found["03.2"] == "correct"
    assert "09.1" not in found, "only what these notebooks ask"


def test_answers_are_noted_and_hints_are_not(capsys):
    hint("03.1")
    assert frame.outcomes() == {}
    predict("03.1", "b")
    assert frame.outcomes() == {"03.1": "not yet"}
    predict("03.1", "a")
    assert frame.outcomes() == {"03.1": "correct"}


def test_writes_a_file_with_a_name(folder, capsys):
    found = progress("Ada  Lovelace", folder=folder)
    body = json.loads((folder / "progress_ada_lovelace.json").read_text(encoding="utf-8"))
    assert body["exercises"] == found
    assert (body["learner"], body["sum"]) == ("Ada Lovelace", checksum(body))
    said = capsys.readouterr().out
    assert "In all 1 of 3." in said
    assert "Written: progress_ada_lovelace.json" in said


def test_writes_nothing_without_a_name(folder):
    before = sorted(folder.iterdir())
    progress(folder=folder)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Ada", "ada"), ("José Ñúñez", "jose_nunez"), ("  a--b ", "a_b"), ("../x", "x"), ("李", "李")],
)
def test_file_name(name, expected):
    assert file_name(name) == expected


def test_a_name_without_letters_is_refused(folder):
    with pytest.raises(ValueError, match="expected a name with letters or digits, got"):
        progress("../..", folder=folder)


def test_a_folder_without_notebooks_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the course's notebooks in .*, got none"):
        progress(folder=tmp_path)


def test_a_damaged_notebook_is_named(folder, capsys):
    (folder / NAME).write_text("{", encoding="utf-8")
    assert set(outcomes(folder)) == {"04.b"}
    assert f"{NAME} can't be read as a notebook" in capsys.readouterr().out


def test_the_course_s_own_notebooks_are_understood():
    """As they are shipped, nothing is attempted, and everything asked is found."""
    (folder,) = {path.parent for path in course.notebooks()}
    found = outcomes(folder)
    assert {n.partition(".")[0] for n in found} >= {
        p.name.partition("_")[0] for p in course.notebooks()
    }
    assert set(found.values()) == {"not attempted"}
    for number in found:
        frame.find(number)


# --- a class -------------------------------------------------------------------------------------


def test_a_class_in_one_table(tmp_path, capsys):
    write(tmp_path, "Ada", {"03.1": "correct", "03.2": "correct"})
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "Bob", {"03.1": "not yet", "04.1": "correct"})
    assert classroom.main([str(tmp_path), "--autograder", str(tmp_path / "out")]) == 0
    rows = list(csv.reader((tmp_path / "table.csv").open(encoding="utf-8-sig")))
    assert rows[0][:5] == ["learner", "solved", "03.1", "03.2", "04.1"]
    assert [row[:5] for row in rows[1:]] == [
        ["Ada", "2", "correct", "correct", ""],
        ["Bob", "1", "not yet", "", "correct"],
    ]
    graded = json.loads((tmp_path / "out" / "bob.json").read_text())
    assert graded["score"] == 1
    assert [(t["name"], t["score"], t["max_score"]) for t in graded["tests"]] == [
        ("03.1", 0, 1),
        ("04.1", 1, 1),
    ]
    assert "Ada" in capsys.readouterr().out


def test_its_own_autograder_files_are_no_progress(tmp_path, capsys):
    write(tmp_path, "Ada", {"03.1": "correct"})
    for _ in range(2):
        assert classroom.main([str(tmp_path), "--autograder", str(tmp_path / "out")]) == 0
    assert (
        "ada.json: expected a progress file of this course, got other JSON"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "got something that is no JSON"),
        (b"\xff\xfe\x00", "got something that is no JSON"),
        (b"[1, 2]", "got other JSON"),
        (b'{"kind": "another"}', "got other JSON"),
    ],
)
def test_foreign_files_are_named_and_left_out(tmp_path, capsys, content, expected):
    write(tmp_path, "Ada", {"03.1": "correct"})
    (tmp_path / "bob.json").write_bytes(content)
    found, said = classroom.collect(tmp_path)
    assert [one.learner for one in found] == ["Ada"]
    assert len(said) == 1
    assert said[0].startswith("bob.json: ")
    assert expected in said[0]


@pytest.mark.parametrize(
    "change",
    [
        {"exercises": {"03.1": "correct", "03.2": "correct"}},
        {"learner": "Eve"},
        {"sum": None},
        {"exercises": ["03.1"]},
        {"written": 3},
    ],
)
def test_changed_files_are_named_and_left_out(tmp_path, change):
    write(tmp_path, "Ada", {"03.1": "correct", "03.2": "not yet"}, **change)
    found, said = classroom.collect(tmp_path)
    assert found == []
    assert said[0].startswith("ada.json: it was changed since it was written")


def test_an_outcome_that_there_is_not_is_damage(tmp_path):
    write(tmp_path, "Ada", {"03.1": "brilliant"})
    assert classroom.collect(tmp_path)[0] == []


def test_of_two_files_of_one_learner_the_later_counts(tmp_path, monkeypatch):
    write(tmp_path, "Ada", {"03.1": "correct"}, name="a")
    old = record("ADA ", {"03.1": "not yet"}) | {"written": "2020-01-01T00:00:00+00:00"}
    (tmp_path / "b.json").write_text(json.dumps(old | {"sum": checksum(old)}))
    (one,), said = classroom.collect(tmp_path)
    assert one.exercises == {"03.1": "correct"}
    assert said == [
        f"Ada has two files: a.json of {one.written} counts, b.json of {old['written']} does not. "
        "Two people? Then let each write a full name."
    ]


def test_files_are_named_with_their_folders(tmp_path):
    for folder in ("monday", "tuesday"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "Ada", {"03.1": "correct"}, name="a")
    said = " ".join(classroom.collect(tmp_path)[1])
    assert str(Path("monday/a.json")) in said
    assert str(Path("tuesday/a.json")) in said


def test_a_mark_in_front_of_a_file_is_no_damage(tmp_path):
    text = json.dumps(record("Ada", {"03.1": "correct"}))
    (tmp_path / "a.json").write_text(text, encoding="utf-8-sig")
    assert classroom.collect(tmp_path)[1] == []


def test_a_table_of_some_notebooks(tmp_path, capsys):
    write(tmp_path, "Ada", {"03.1": "correct", "04.1": "correct", "04.2": "not yet"})
    assert classroom.main([str(tmp_path), "--only", "04"]) == 0
    assert "1/2" in capsys.readouterr().out
    assert "03.1" not in (tmp_path / "table.csv").read_text(encoding="utf-8-sig")
    assert "expected numbers of notebooks" in classroom.main([str(tmp_path), "--only", "77"])


def test_several_versions_are_named(tmp_path):
    write(tmp_path, "Ada", {"03.1": "correct"})
    old = record("Bob", {"03.1": "correct"}) | {"version": "0.0.1"}
    (tmp_path / "bob.json").write_text(json.dumps(old | {"sum": checksum(old)}))
    assert "of several versions of the course, 0.0.1, " in classroom.collect(tmp_path)[1][0]


def test_an_empty_folder_and_none_are_named(tmp_path):
    assert "expected progress files in" in classroom.main([str(tmp_path)])
    assert "expected a folder, got" in classroom.main([str(tmp_path / "nowhere")])
