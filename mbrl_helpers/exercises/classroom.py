"""The progress files of a class in one table, and a JSON a learner for those who autograde.

python -m mbrl_helpers.exercises.classroom FOLDER --autograder results
"""

import argparse
import csv
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mbrl_helpers.console import say
from mbrl_helpers.exercises.progress import CORRECT, KIND, OUTCOMES, checksum, file_name


class Unreadable(Exception):
    """Why a file is left out, in a sentence."""


@dataclass(frozen=True)
class Progress:
    """What one file says."""

    path: Path
    learner: str
    written: str
    version: str
    exercises: dict[str, str]

    @property
    def solved(self) -> int:
        """How many exercises are solved."""
        return sum(outcome == CORRECT for outcome in self.exercises.values())


def read(path: Path) -> Progress:
    """Read a progress file.

    Raises:
        Unreadable: if it is damaged, or none.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Unreadable(f"{path.name}: can't be opened ({error.strerror}). Left out.") from None
    except ValueError:  # no JSON, or no text at all
        raise Unreadable(
            f"{path.name}: expected a progress file, got something that is no JSON: cut short, or "
            "another kind of file. Left out; ask for it again."
        ) from None
    if not isinstance(body, dict) or body.get("kind") != KIND:
        raise Unreadable(
            f"{path.name}: expected a progress file of this course, got other JSON. Left out."
        )
    if not _whole(body):
        raise Unreadable(
            f"{path.name}: it was changed since it was written, or a part is missing. Left out; "
            "ask for it again, as progress() wrote it."
        )
    return Progress(
        path, body["learner"], body["written"], body["version"], dict(body["exercises"])
    )


def _whole(body: dict[str, Any]) -> bool:
    texts = [body.get(key) for key in ("learner", "written", "version")]
    exercises = body.get("exercises")
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(exercises, dict)
        and all(outcome in OUTCOMES for outcome in exercises.values())
        and body.get("sum") == checksum(body)
    )


def collect(folder: Path) -> tuple[list[Progress], list[str]]:
    """All progress files of a folder and of those inside it.

    Returns:
        One for each learner, by name; and what there is to say: files left out, learners with
        several files, and versions that differ.
    """
    said: list[str] = []
    latest: dict[str, Progress] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            one = read(path)
        except Unreadable as error:
            said.append(str(error))
            continue
        key = file_name(one.learner)
        other = latest.get(key)
        if other is not None:
            earlier, later = sorted((other, one), key=lambda p: p.written)
            said.append(
                f"{later.learner} has two files: {later.path.relative_to(folder)} of "
                f"{later.written} counts, {earlier.path.relative_to(folder)} of {earlier.written} "
                "does not. Two people? Then let each write a full name."
            )
            one = later
        latest[key] = one
    found = [latest[key] for key in sorted(latest)]
    versions = sorted({one.version for one in found})
    if len(versions) > 1:
        said.append(
            f"They are of several versions of the course, {', '.join(versions)}: an exercise that "
            "one of them lacks is empty there."
        )
    return found, said


def only(one: Progress, notebooks: list[str]) -> Progress:
    """What a file says of some notebooks, by their numbers."""
    kept = {n: o for n, o in one.exercises.items() if n.partition(".")[0] in notebooks}
    return replace(one, exercises=kept)


def table(found: list[Progress]) -> list[list[str]]:
    """A row for each learner, a column for each exercise, after their sum; a head on top."""
    numbers = sorted({number for one in found for number in one.exercises})
    head = ["learner", "solved", *numbers, "written", "version"]
    rows = [
        [one.learner, str(one.solved), *(one.exercises.get(n, "") for n in numbers),
         one.written, one.version]
        for one in found
    ]  # fmt: skip
    return [head, *rows]


def autograder(one: Progress) -> dict[str, Any]:
    """The results of a learner, in the form that Gradescope's autograder reads."""
    tests = [
        {"name": number, "score": int(outcome == CORRECT), "max_score": 1, "output": outcome}
        for number, outcome in one.exercises.items()
    ]
    return {"score": one.solved, "tests": tests, "output": f"{one.learner}, {one.written}"}


def main(args: list[str] | None = None) -> int | str:
    """Print the table of a class, write it as table.csv, and say what was left out."""
    parser = argparse.ArgumentParser(description=__doc__, prog="classroom")
    parser.add_argument("folder", type=Path, help="where the progress files are")
    parser.add_argument("--autograder", type=Path, metavar="DIR", help="also a JSON a learner")
    parser.add_argument(
        "--only", nargs="+", metavar="NUMBER", help="only these notebooks, such as 00 01"
    )
    options = parser.parse_args(args)
    if not options.folder.is_dir():
        return (
            f"classroom: expected a folder, got {str(options.folder)!r}. Name the one with the "
            "files that progress() wrote."
        )
    found, said = collect(options.folder)
    for line in said:
        say(f"! {line}")
    if not found:
        return (
            f"classroom: expected progress files in {options.folder}, got none that can be read. "
            'Learners write theirs with progress("their name").'
        )
    if options.only:
        found = [only(one, options.only) for one in found]
        if not any(one.exercises for one in found):
            return (
                f"classroom: expected numbers of notebooks, such as 00 01, got {options.only}. "
                "None of the files has an exercise of these."
            )
    _print(found)
    path = options.folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # with a mark, for Excel
        csv.writer(file).writerows(table(found))
    say(f"Written: {path}")
    if options.autograder:
        options.autograder.mkdir(parents=True, exist_ok=True)
        for one in found:
            target = options.autograder / f"{file_name(one.learner)}.json"
            target.write_text(json.dumps(autograder(one), indent=1) + "\n", encoding="utf-8")
        say(f"Written: {len(found)} files in {options.autograder}, as Gradescope reads them")
    return 0


def _print(found: list[Progress]) -> None:
    """Learners by rows, notebooks by columns: solved of asked."""
    notebooks = sorted({n.partition(".")[0] for one in found for n in one.exercises})
    width = max(7, *(len(one.learner) for one in found))
    say(f"{'learner':{width}}  {'all':>7}  " + "  ".join(f"{n:>5}" for n in notebooks))
    for one in found:
        cells = []
        for notebook in notebooks:
            own = [o for n, o in one.exercises.items() if n.partition(".")[0] == notebook]
            cells.append(f"{sum(o == CORRECT for o in own)}/{len(own)}")
        total = f"{one.solved}/{len(one.exercises)}"
        say(f"{one.learner:{width}}  {total:>7}  " + "  ".join(f"{c:>5}" for c in cells))


if __name__ == "__main__":
    sys.exit(main())
