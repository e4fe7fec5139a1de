"""Which exercises a learner has solved, over all notebooks, and a file that an instructor collects.

What a kernel has just judged it knows; of other notebooks it reads what they showed when they were
saved last. Nothing is sent anywhere.
"""

import datetime
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mbrl_helpers
from mbrl_helpers.console import say
from mbrl_helpers.exercises import frame

KIND = "mbrl-course progress"
CORRECT, UNTOUCHED = "correct", "not attempted"
OUTCOMES = (CORRECT, "not yet", "your code raised", UNTOUCHED)
NOTEBOOK = re.compile(r"(\d\d[a-z]?)_[a-z0-9_]+\.ipynb")
ASKED = re.compile(r'^\s*(?:@exercise|@build|predict)\("([\w.]+)"', re.MULTILINE)
TOLD = re.compile(rf"^\S+ Exercise ([\w.]+): ({'|'.join(OUTCOMES)})\s*$", re.MULTILINE)


def progress(learner: str = "", folder: str | Path | None = None) -> dict[str, str]:
    """Say which exercises of all notebooks are solved; with a name, write a file of it, too.

    Save your notebooks first: what another one showed is read from its file.

    Args:
        learner: whose progress it is; the file is `progress_<name>.json`, beside the notebooks.
        folder: where the notebooks are; here, or in `notebooks/`, if not given.

    Returns:
        {number: outcome} of every exercise, question and build that the notebooks ask.

    Raises:
        FileNotFoundError: if the folder has no notebooks of the course.
        ValueError: if the name has no letter or digit in it.
    """
    if learner and not file_name(learner):
        raise ValueError(
            f"progress: expected a name with letters or digits, got {learner!r}. Give yours: "
            'progress("Ada Lovelace").'
        )
    place = _folder(folder)
    found = outcomes(place)
    _show(found)
    if learner:
        path = place / f"progress_{file_name(learner)}.json"
        text = json.dumps(record(learner, found), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        say(f"Written: {path.name}, for who teaches you. Your notebooks tell the rest.")
    return found


def file_name(learner: str) -> str:
    """A learner's name as a part of a file's: small letters and digits, joined by bars."""
    plain = unicodedata.normalize("NFKD", learner).casefold()
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    return re.sub(r"\W+", "_", kept).strip("_")


def outcomes(folder: Path) -> dict[str, str]:
    """{number: outcome} of all that the notebooks of a folder ask, in their order."""
    found: dict[str, str] = {}
    for path in _notebooks(folder):
        cells = _cells(path)
        asked = [n for cell in cells for n in ASKED.findall(_text(cell.get("source", "")))]
        shown = dict(told for cell in cells for told in TOLD.findall(_shown(cell)))
        found |= {number: shown.get(number, UNTOUCHED) for number in asked}
    return found | {n: outcome for n, outcome in frame.outcomes().items() if n in found}


def record(learner: str, found: dict[str, str]) -> dict[str, Any]:
    """What stands in the file: who, when, of which version, and a sum that shows damage."""
    body = {
        "kind": KIND,
        "version": mbrl_helpers.__version__,
        "learner": " ".join(learner.split()),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "exercises": found,
    }
    return body | {"sum": checksum(body)}


def checksum(body: dict[str, Any]) -> str:
    """A sum over all that a record says, to notice files that were cut or changed."""
    said = json.dumps({k: v for k, v in body.items() if k != "sum"}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _folder(folder: str | Path | None) -> Path:
    tried = [Path(folder)] if folder is not None else [Path(), Path("notebooks")]
    for place in tried:
        if place.is_dir() and _notebooks(place):
            return place
    raise FileNotFoundError(
        f"progress: expected the course's notebooks in {tried[0].resolve()}, got none. Call it in "
        'one of them, or name their folder: progress("…", folder="notebooks").'
    )


def _notebooks(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if NOTEBOOK.fullmatch(path.name))


def _cells(path: Path) -> list[dict[str, Any]]:
    """Cells of a notebook; none, and a word about it, where it can't be read."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [cell for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        say(
            f"{path.name} can't be read as a notebook, and is left out. Open it, and save it again."
        )
        return []


def _text(source: str | Iterable[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _shown(cell: dict[str, Any]) -> str:
    return "".join(_text(output.get("text", "")) for output in cell.get("outputs", []))


def _show(found: dict[str, str]) -> None:
    """A line for each notebook, a mark for each exercise."""
    marks = {CORRECT: "✅", UNTOUCHED: "✏️"}
    for notebook in dict.fromkeys(number.partition(".")[0] for number in found):
        own = {n: o for n, o in found.items() if n.partition(".")[0] == notebook}
        solved = sum(outcome == CORRECT for outcome in own.values())
        line = " ".join(f"{marks.get(o, '🔎')} {n.partition('.')[2]}" for n, o in own.items())
        say(f"{notebook}  {solved} of {len(own)} solved   {line}")
    solved = sum(outcome == CORRECT for outcome in found.values())
    say(f"In all {solved} of {len(found)}.")
