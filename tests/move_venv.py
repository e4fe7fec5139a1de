"""Make a .venv at home in the folder into which it was copied or moved with the course.

`activate` and the programs in bin/ name the folder that it was made for: a copy would start what is
installed there. Run it with the Python of that .venv.
"""

import sys
import venv
from importlib.metadata import entry_points
from pathlib import Path

from pip._vendor.distlib.scripts import ScriptMaker  # pip writes its own with this, too


def main():
    """Write what names the folder again; remove what can't be."""
    venv.create(sys.prefix, symlinks=True)  # activate and pyvenv.cfg; all else stays
    folder = Path(sys.prefix, "bin")
    maker = ScriptMaker(None, str(folder))
    maker.clobber, maker.variants = True, {""}
    maker.make_multiple(
        f"{point.name} = {point.value}"
        for point in entry_points(group="console_scripts")
        if (folder / point.name).is_file()
    )
    for file in folder.iterdir():
        head = file.read_bytes()[:500]
        if head.startswith(b"#!") and b"/bin/python" in head and bytes(folder) not in head:
            file.unlink()  # a second name of a program, such as pip3.11


if __name__ == "__main__":
    main()
