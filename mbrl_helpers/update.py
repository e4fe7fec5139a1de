"""Update the course, and keep a learner's answers: `make update`, or run this file with Python.

In a git checkout the newer version is pulled. A notebook that it changes, and the learner has
changed, too, is put together: the newer version, with the learner's answers and cells in it. The
learner's own file stays as `….before-update.ipynb`. Where there is no git, the answers of another
folder of the course are carried over here: `make update FROM=/path/to/it`.

It needs only the standard library, so that it runs even where nothing is installed, or no more.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

COURSE = Path(__file__).resolve().parents[1]
# What marks an answer: the number that its first line of this kind names.
ANSWER = re.compile(r'^@?(?:exercise|predict|build)\(\s*"([\w.]+)"', re.MULTILINE)
OPEN = re.compile(r"^\s*\.\.\.\s*(?:#.*)?$|,\s*\.\.\.\s*\)", re.MULTILINE)  # not answered yet

Cell = dict[str, Any]
Notebook = dict[str, Any]


WITHOUT_GIT = (
    "Without git: unpack the newer course beside this one, and there type: "
    "make update FROM=/path/to/this/one"
)


class Stop(Exception):
    """Why there is no update, in a sentence; nothing has been changed."""


# --- notebooks -----------------------------------------------------------------------------------


def read(text: str) -> Notebook | None:
    """A notebook; None if it is none (any more)."""
    try:
        nb = json.loads(text)
        return nb if all(isinstance(cell["cell_type"], str) for cell in nb["cells"]) else None
    except (ValueError, KeyError, TypeError):
        return None


def written(nb: Notebook) -> str:
    """A notebook as Jupyter writes it."""
    return json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def source(cell: Cell) -> str:
    """What stands in a cell."""
    return "".join(cell["source"])


def number(cell: Cell) -> str | None:
    """Which exercise or question it answers, such as "03.2"."""
    found = ANSWER.search(source(cell)) if cell["cell_type"] == "code" else None
    return found and found.group(1)


def keys(nb: Notebook) -> dict[str, Cell]:
    """Cells by what they are known by from version to version: an exercise, or the cell's id."""
    found: dict[str, Cell] = {}
    for i, cell in enumerate(nb["cells"]):
        key = number(cell)
        if key is None or key in found:  # of two answers to one exercise, the first counts
            key = cell.get("id") or f"cell {i}"
        found[key] = cell
    return found


def matched(mine: Notebook, before: dict[str, Cell]) -> list[tuple[str | None, Cell]]:
    """A learner's cells, with their keys in the old version; None for those that are new.

    Some editors (Colab) change the ids: there the same source is the same cell.
    """
    same, pairs, used = {source(cell): key for key, cell in before.items()}, [], set()
    for key, cell in keys(mine).items():
        known = key if key in before else same.get(source(cell))
        pairs.append((None if known in used else known, cell))
        used.add(known)
    return pairs


def combined(old: Notebook, mine: Notebook, new: Notebook) -> tuple[list[str], list[str]]:
    """Put what the learner has changed since `old` into `new`.

    Returns:
        What was carried over, and what could not be.
    """
    before, after, carried, left = keys(old), keys(new), [], []
    place = -1  # in the new notebook, of the last cell that both have
    for key, cell in matched(mine, before):
        name = f"exercise {number(cell)}" if number(cell) else f"cell {source(cell)[:30]!r}"
        if key is None:
            if source(cell).strip():
                place += 1
                new["cells"].insert(place, fresh(cell, new))
                carried.append(f"your {name}")
            continue
        target, original = after.get(key), source(before[key])
        if target is not None:
            place = next(i for i, c in enumerate(new["cells"]) if c is target)
        if source(cell) == original:
            continue
        moved = target is not None and source(target) != original
        if target is None or (moved and not number(cell)):
            left.append(name)
            continue
        answer(target, cell)
        carried.append(f"{name} (it has changed: read it again)" if moved else name)
    return carried, left


def answered(theirs: Notebook, new: Notebook) -> list[str]:
    """Put answers of another copy into open exercises of `new`; which ones."""
    found = {number(cell): cell for cell in theirs["cells"] if number(cell)}
    carried = []
    for cell in new["cells"]:
        answer_of = found.get(number(cell))
        if answer_of and OPEN.search(source(cell)) and not OPEN.search(source(answer_of)):
            answer(cell, answer_of)
            carried.append(f"exercise {number(cell)}")
    return carried


def answer(target: Cell, cell: Cell) -> None:
    """Give a cell the source of another. Results come when it is run."""
    target["source"] = cell["source"]
    if target["cell_type"] == "code":
        target.update(outputs=[], execution_count=None)


def fresh(cell: Cell, nb: Notebook) -> Cell:
    """A cell that a learner added, under a name that nothing else in the notebook has."""
    if cell.get("id") in {None, *(other.get("id") for other in nb["cells"])}:
        return cell | {"id": uuid.uuid4().hex[:8]}
    return cell


# --- git -----------------------------------------------------------------------------------------


def git(root: Path, *args: str) -> str:
    """What a command of git prints."""
    env = os.environ | {"GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1", "LC_ALL": "C"}
    try:
        done = subprocess.run(["git", "-C", str(root), *args], env=env, capture_output=True)
    except OSError as error:
        raise Stop(f"This needs git, which is not here. Install it. {WITHOUT_GIT}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise Stop(f"git {args[0]} did not work: {said[-1]}")
    return done.stdout.decode(errors="replace")


def names(root: Path, *args: str) -> list[str]:
    """File names that a command of git prints."""
    command, *rest = args
    return [name for name in git(root, command, "-z", *rest).split("\0") if name]


def newer(root: Path) -> str:
    """The commit to go on to, fetched."""
    if not (root / ".git").exists():
        raise Stop(f"{root} is no git checkout. {WITHOUT_GIT}")
    git(root, "rev-parse", "HEAD")  # or git says why it does not like the folder
    try:
        upstream = git(root, "rev-parse", "--abbrev-ref", "@{upstream}").strip()
    except Stop as error:
        raise Stop(
            "This checkout follows no other one, so there is nowhere to look for a newer version. "
            "Name it once: git branch --set-upstream-to=origin/main"
        ) from error
    try:
        git(root, "fetch", "--quiet")
    except Stop as error:
        raise Stop(f"The newer version can't be fetched. Is there a network? {error}") from error
    return upstream


def update(root: Path) -> list[str]:
    """Go on to the newer version of a git checkout; what there is to say."""
    upstream = newer(root)
    incoming = set(names(root, "diff", "--name-only", "--no-renames", "HEAD", upstream))
    if not incoming or not git(root, "rev-list", f"HEAD..{upstream}"):
        return ["The course is up to date."]
    if git(root, "rev-list", f"{upstream}..HEAD"):
        raise Stop(
            "You have commits of your own, which this does not touch. Put both together yourself: "
            f"git merge {upstream}"
        )
    known = set(names(root, "ls-tree", "-r", "--name-only", "HEAD"))
    changed = set(names(root, "diff", "--name-only", "--no-renames", "HEAD")) & incoming
    own = {name for name in incoming - known if (root / name).exists()}
    changed -= own
    other = sorted(name for name in changed | own if not name.endswith(".ipynb"))
    if other:
        raise Stop(
            f"You have changed {', '.join(other)}, and so does the newer version. Copy what you "
            f"want to keep, then: git checkout HEAD -- {' '.join(other)} (or remove it, if it is "
            "new), and make update again."
        )
    texts, said = {}, []
    for name in sorted(changed | own):
        texts[name], lines = put_together(root, name, upstream, name in known)
        said += lines
    replace(root, upstream, sorted(changed), sorted(own), texts)
    return [*said, "The course is updated. Go on with: make lab"]


def put_together(root: Path, name: str, upstream: str, known: bool) -> tuple[str | None, list[str]]:
    """Keep a learner's notebook aside; the new text for it, if any, and what to say."""
    path, there = root / name, set(names(root, "ls-tree", "-r", "--name-only", upstream))
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    mine = read(text) if text is not None else None
    if text is None:  # the learner has removed it
        return None, [f"{name} is there again."]
    if not known:
        return None, [f"{name} is new in the course: yours is now {keep(path)}"]
    if name not in there:
        return None, [f"{name} is no longer in the course: yours is now {keep(path)}"]
    old, new = (read(git(root, "show", f"{at}:{name}")) for at in ("HEAD", upstream))
    if mine is None or old is None or new is None:
        return None, [f"{name} can't be read as a notebook: yours is now {keep(path)}"]
    carried, left = combined(old, mine, new)
    if not carried and not left:
        return None, [f"{name} is the newer version; you had only run it."]
    lines = [f"{name}: your own file is now {keep(path)}"]
    lines += [f"  carried over: {', '.join(carried)}"] if carried else []
    lines += [f"  not carried over (its place has changed): {', '.join(left)}"] if left else []
    return written(new), lines


def keep(path: Path) -> str:
    """Copy a notebook to a name that is free, before anything else is done; that name."""
    aside = path.with_suffix(".before-update.ipynb")
    for i in range(2, 1000):
        if not aside.exists():
            break
        aside = path.with_suffix(f".before-update-{i}.ipynb")
    part = aside.with_suffix(".part")
    part.write_bytes(path.read_bytes())
    part.replace(aside)
    return aside.name


def replace(
    root: Path, upstream: str, changed: list[str], own: list[str], texts: dict[str, str | None]
) -> None:
    """Make the working tree the newer version, then write what was put together.

    A Ctrl-C has to wait: in between, a notebook is there without its answers.
    """
    paths = [root / name for name in changed + own if (root / name).exists()]
    files = {path: path.read_bytes() for path in paths}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if changed:
            git(root, "checkout", "HEAD", "--", *changed)
        if own:
            git(root, "rm", "--cached", "--quiet", "--ignore-unmatch", "--", *own)
        for name in own:
            (root / name).unlink()
        git(root, "merge", "--ff-only", "--quiet", upstream)
        for name, text in texts.items():
            if text is not None:
                write(root / name, text)
    except BaseException:
        for path, content in files.items():
            path.write_bytes(content)
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def write(path: Path, text: str) -> None:
    """Write a file whole, or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


# --- another folder ------------------------------------------------------------------------------


def carry(source_of: Path, root: Path) -> list[str]:
    """Bring the answers and the scratch notebooks of another folder here; it stays as it is."""
    there = source_of / "notebooks"
    if not there.is_dir() or there.resolve() == (root / "notebooks").resolve():
        raise Stop(f"{source_of} is no other folder of the course: it needs notebooks/ inside.")
    said: list[str] = []
    for path in sorted(there.glob("*.ipynb")):
        here, text = root / "notebooks" / path.name, path.read_text("utf-8", errors="replace")
        if not here.exists():
            write(here, text)
            said.append(f"{path.name}: brought here, for the course has none of this name")
            continue
        mine, new = read(text), read(here.read_text(encoding="utf-8", errors="replace"))
        if mine is None or new is None:
            said.append(f"{path.name} can't be read as a notebook: it stays where it is")
        elif carried := answered(mine, new):
            write(here, written(new))
            said.append(f"{path.name}: carried over: {', '.join(carried)}")
    return [*said, f"Cells that you added to the course's own notebooks are still in {there}"]


def show(lines: Iterable[str]) -> None:
    """Print on any console."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    for line in lines:
        print(line.encode(encoding, "replace").decode(encoding))


def main(args: list[str] | None = None) -> int:
    """Do it, and say what was done."""
    parser = argparse.ArgumentParser(description="Update the course and keep your answers.")
    parser.add_argument("--from", dest="older", type=Path, help="folder with your answers")
    parser.add_argument("--root", type=Path, default=COURSE, help="course to update")
    options = parser.parse_args(args)
    root, older = options.root, options.older
    try:
        show(carry(older.expanduser(), root) if older else update(root))
    except (Stop, OSError) as error:
        show([str(error)])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
