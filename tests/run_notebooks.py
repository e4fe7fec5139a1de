"""Execute notebooks in place, each in a fresh kernel of this Python, and measure them."""

import argparse
import ast
import asyncio
import base64
import inspect
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from course import notebooks
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbconvert import HTMLExporter
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 1_500_000
COLUMNS = ["notebook", "seed", "seconds", "cpu_seconds", "peak_mb", "claims", "error"]
ROW = "{:<28} {:>4} {:>8} {:>11} {:>8} {:>7}  {}"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # in JupyterLab; in Colab


class ThisPython(AsyncKernelManager):
    """Starts this interpreter, whatever kernels the user has registered under the same name."""

    kernel_spec = KernelSpec(**get_kernel_dict(["--log-level=ERROR"]))


class QuietOutput(OutputWidget):
    """Keeps what a widget shows, without sending it back to the kernel.

    nbclient sends on the socket on which it waits for the kernel's reply, and with large pictures
    then sometimes overlooks the reply until the cell's time is up.
    """

    def send(self, *args, **kwargs):
        """Send nothing."""


def kernel_report():
    """What the kernel used and which claims held: runs inside it, after the last cell."""
    import resource
    import sys

    usage = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    summary = getattr(sys.modules.get("mbrl_helpers.notebook"), "claims_summary", None)
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss * unit / 1e6),
        "claims": "{}/{}".format(*summary()) if summary else "-",
    }


async def execute(nb, folder, seed, timeout):
    """Run all cells up to the first error; return the measurements and the widgets' state."""
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}  # it would hide the figures
    env |= ONE_THREAD | {"MBRL_SEED": str(seed), "SDL_VIDEODRIVER": "dummy"}
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(nb, timeout=timeout, resources=where, kernel_manager_class=ThisPython)
    client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": QuietOutput}}
    client.reset_execution_trackers()
    row, start = dict.fromkeys(COLUMNS, "-") | {"error": ""}, time.time()
    async with client.async_setup_kernel(env=env):
        try:
            for index, cell in enumerate(nb.cells):
                await client.async_execute_cell(cell, index)
        except CellExecutionError as error:
            row["error"] = f"cell {index}: {error.ename}: {error.evalue}"
        except (CellTimeoutError, DeadKernelError) as error:
            row["error"] = f"cell {index}: {type(error).__name__}"
            return row, {}  # the kernel would not answer
        finally:
            row["seconds"] = round(time.time() - start, 1)
        code, ask = inspect.getsource(kernel_report), {"report": "kernel_report()"}
        reply = await client.kc.execute(code, silent=True, user_expressions=ask, reply=True)
        answer = reply["content"]["user_expressions"]["report"]["data"]["text/plain"]
        return row | ast.literal_eval(answer), client.widget_state


def pictures(model, state):
    """The outputs inside a widget: what remains of it where no kernel runs."""
    widget = state.get(model, {})
    inside = [pictures(child.split("_")[-1], state) for child in widget.get("children", [])]
    return [nbformat.from_dict(output) for output in sum(inside, widget.get("outputs", []))]


def static(output, state):
    """Replace a live widget by what it shows; a progress bar shows nothing that lasts."""
    view = output.get("data", {}).pop(WIDGET, None)
    bar = view and re.match(r".*\d+%\|", output.data.get("text/plain", ""))
    return (view and pictures(view["model_id"], state)) or ([] if bar else [output])


def smaller(png):
    """A picture (base64) with 256 colours: less than half as large, and the same to the eye."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    file = io.BytesIO()
    picture.convert("RGB").quantize(dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return min(png, base64.b64encode(file.getvalue()).decode() + "\n", key=len)


def normalise(nb, state):
    """Keep what a reader needs, and nothing that changes from run to run."""
    nb.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in nb.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = ({"tags": tags} if tags else {}) | (FOLDED if "figure" in tags else {})
        if cell.cell_type == "code":
            cell.outputs = [new for old in cell.outputs for new in static(old, state)]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = smaller(output.data["image/png"])


def run(path, seed, args):
    """Run one notebook, and write what the arguments ask for."""
    nb = nbformat.read(path, as_version=4)
    row, state = asyncio.run(execute(nb, path.parent, seed, args.timeout))
    normalise(nb, state)
    text = nbformat.writes(nb) + "\n"
    if len(text.encode()) > MAX_BYTES and not row["error"]:
        row["error"] = f"{len(text.encode()) / 1e6:.1f} MB is too large: use smaller pictures"
    if not row["error"] and not args.seeds:
        part = path.with_suffix(".part")  # an interruption must leave the old notebook whole
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    if args.html:
        args.html.mkdir(parents=True, exist_ok=True)
        page, _ = HTMLExporter().from_notebook_node(nb)
        (args.html / f"{path.stem}.html").write_text(page, encoding="utf-8")
    return row | {"notebook": path.stem, "seed": seed}


def find(name):
    """Notebooks of a path; the course's own of a name or a number such as 03, or all."""
    if Path(name).is_file():
        return [Path(name)]
    return [path for path in notebooks(ROOT) if path.name.startswith(name)] or sys.exit(
        f"no notebook of the course found: {name or 'notebooks/'} (A new one? git add it, or give "
        "its path.)"
    )


def changed(path):
    """Whether it differs from HEAD, or has cells that were not run."""
    git = ["git", "status", "--porcelain", "--", path.name]
    try:
        differs = subprocess.run(git, cwd=path.parent, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git; no checkout of git's
        sys.exit("--changed asks git, and this is no git checkout. Name the notebooks: 03 04")
    cells = nbformat.read(path, as_version=4).cells
    return bool(differs) or not all(cell.get("execution_count", True) for cell in cells)


def main():
    """Run what was asked for; a table, then the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    option("names", nargs="*", help="paths, names or numbers of notebooks; default: all")
    option("--changed", action="store_true", help="only what differs from HEAD or was not run")
    option("--seeds", nargs="+", type=int, help="check run with these MBRL_SEEDs: writes nothing")
    option("--keep-going", action="store_true", help="go on after a notebook has failed")
    option("--timeout", type=int, default=300, help="seconds for one cell")
    option("--html", type=Path, metavar="DIR", help="also write HTML pages")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # an error may say what the console can't show
    paths = [path for name in args.names or [""] for path in find(name)]
    paths, rows = [path for path in paths if not args.changed or changed(path)], []
    print(ROW.format(*COLUMNS))
    for path, seed in itertools.product(paths, args.seeds or [0]):
        rows.append(run(path, seed, args))
        print(ROW.format(*rows[-1].values()), flush=True)
        if rows[-1]["error"] and not args.keep_going:
            break
    print(json.dumps({"benchmark": "notebooks"} | {c: [row[c] for row in rows] for c in COLUMNS}))
    return any(row["error"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
