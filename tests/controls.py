"""Collect the controls of the notebooks, as they were run last, into one table.

Each is a headline beside its rival explanation: see `mbrl_helpers.evidence.control`.
"""

import argparse
import json
import sys
from pathlib import Path

import nbformat
from course import notebooks

from mbrl_helpers.evidence import MIME

COLUMNS = ["notebook", "headline", "rival", "seeds", "in favour of the headline", "verdict"]


def controls(path):
    """The controls of a notebook, in its order, each a dict as `Control` has it."""
    cells = nbformat.read(path, as_version=4).cells
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [{"notebook": path.stem, **data[MIME]} for data in shown if MIME in data]


def row(made):
    """A line of the table: what was measured, and what the text says of it."""
    spread = "" if made["interval"] is None else " [{:+,.4g}, {:+,.4g}]".format(*made["interval"])
    verdict, said = made["verdict"], made["said"]
    return [
        made["notebook"], made["headline"], made["rival"], str(len(made["seeds"])),
        f"{made['difference']:+,.4g}{spread} {made['unit']} (margin {made['margin']:,.4g})",
        verdict if verdict == said else f"**{verdict}** (the text says: {said})",
    ]  # fmt: skip


def table(found):
    """Controls as a table in Markdown."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(row, found)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |" for r in rows)


def main():
    """Print the table, then the same as one line of JSON; fail if a text says otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; default: all of the course")
    found = [made for path in parser.parse_args().paths or notebooks() for made in controls(path)]
    print(table(found))
    print(json.dumps({"benchmark": "controls", "controls": found}))
    return any(made["verdict"] != made["said"] for made in found)


if __name__ == "__main__":
    sys.exit(main())
