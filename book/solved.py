"""Copies of the notebooks with every exercise, question and build solved: `make solved`."""

import argparse
import ast
import asyncio
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import course  # noqa: E402 - it lies in tests/
import nbformat  # noqa: E402

from mbrl_helpers.exercises import frame  # noqa: E402

PREDICTED = re.compile(r'^(predict\("([\w.]+)",\s*)\.\.\.(?=\s*\))', re.MULTILINE)


def solve(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy in which every stub is its reference, and every question has its answer; no outputs."""
    new = nbformat.reads(nbformat.writes(nb), as_version=4)
    for cell in new.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = with_answers(cell.source)
    return new


def with_answers(source: str) -> str:
    """A cell's source with its answers in it."""
    source = PREDICTED.sub(lambda m: f'{m.group(1)}"{frame.find(m.group(2)).answer}"', source)
    lines = source.splitlines()
    for number, node in reversed(asked(source)):
        answer = inspect.getsource(frame.find(number).reference).splitlines()
        if said := ast.get_docstring(node, clean=False):
            answer.insert(1, f'    """{said}"""')
        lines[node.lineno - 1 : node.end_lineno] = answer
    return "\n".join(lines)


def asked(source: str) -> list[tuple[str, ast.FunctionDef]]:
    """(number, function) of each function that a cell asks to write."""
    if "@exercise(" not in source and "@build(" not in source:
        return []
    found = []
    for node in ast.parse(source).body:
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("exercise", "build"):
                found.append((ast.literal_eval(call.args[0]), node))
    return found


def open_questions(nb: nbformat.NotebookNode) -> list[str]:
    """Numbers of what is still to be answered, in order."""
    found: list[str] = []
    for cell in (c for c in nb.cells if c.cell_type == "code"):
        found += [number for _, number in PREDICTED.findall(cell.source)]
        for number, node in asked(cell.source):
            answer = ast.parse(inspect.getsource(frame.find(number).reference)).body[0]
            said = ast.get_docstring(node) is not None
            if ast.unparse(node.body[said:]) != ast.unparse(answer.body):
                found.append(number)
    return found


def wrong_outcomes(nb: nbformat.NotebookNode) -> list[str]:
    """What an executed copy says of its answers, where that is not *correct*."""
    text = "".join(o.get("text", "") for c in nb.cells for o in c.get("outputs", []))
    return re.findall(r"Exercise [\w.]+: (?!correct).*", text)


def execute(path: Path) -> str:
    """Run a solved copy in place; an error, or "" if all went well and all is correct."""
    import run_notebooks

    nb = nbformat.read(path, as_version=4)
    row, state = asyncio.run(run_notebooks.execute(nb, path.parent, 0, 900))
    run_notebooks.normalise(nb, state)
    path.write_text(nbformat.writes(nb) + "\n", encoding="utf-8")
    print(f"{path.name}: {row['seconds']} s, claims {row['claims']}", flush=True)
    return row["error"] or "; ".join(wrong_outcomes(nb))


def main(args: list[str] | None = None) -> int | str:
    """Write the copies, run them if asked, and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="numbers or names of notebooks; default: all")
    parser.add_argument("--execute", action="store_true", help="run them, too (minutes)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "solved")
    options = parser.parse_args(args)
    wanted = tuple(options.names) or ("",)
    paths = [path for path in course.notebooks() if path.name.startswith(wanted)]
    if not paths:
        return f"solved: expected notebooks of the course, got {options.names}. Give numbers: 03 04"
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for path in paths:
        copy = options.out / path.name
        copy.write_text(
            nbformat.writes(solve(nbformat.read(path, as_version=4))) + "\n", encoding="utf-8"
        )
        if options.execute and (error := execute(copy)):
            failed.append(f"{path.name}: {error}")
    print(f"{len(paths)} solved notebooks in {options.out}")
    return "\n".join(failed) if failed else 0


if __name__ == "__main__":
    sys.exit(main())
