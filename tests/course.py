"""Which notebooks are the course's own; run as a script, it prints their paths for the Makefile.

A learner's scratch notebooks lie beside them, and copies with such names as `03_…-Copy1.ipynb`.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"\d\d[a-z]?_[a-z0-9_]+\.ipynb")


def notebooks(root=ROOT):
    """Paths of those that git knows (a new one: `git add` it); without git, all named like them."""
    there = sorted(path for path in (root / "notebooks").iterdir() if NAME.fullmatch(path.name))
    git = ["git", "-C", str(root), "ls-files", "-z", "--full-name", "notebooks"]
    try:
        known = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # no git; no checkout of git's
        known = []
    names = {Path(name).name for name in known if name}
    return [path for path in there if not names or path.name in names]


if __name__ == "__main__":
    print(*(path.relative_to(ROOT).as_posix() for path in notebooks()))
