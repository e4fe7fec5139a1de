"""The runner of the notebooks: what it writes, and what it leaves alone."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

RUNNER = Path(__file__).with_name("run_notebooks.py")


@pytest.fixture
def run(tmp_path):
    """Write and run a notebook of the given cells; return status, JSON line and notebook."""

    def run(*sources, options=()):
        path = tmp_path / "nb.ipynb"
        cells = [
            source if isinstance(source, dict) else new_code_cell(source) for source in sources
        ]
        nb = new_notebook(cells=cells)
        nb.metadata = {"widgets": {}, "kernelspec": {"name": "no-such-kernel", "display_name": "x"}}
        nbformat.write(nb, path)
        command = [sys.executable, str(RUNNER), str(path), "--timeout", "60", *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        after = nbformat.read(path, as_version=4)
        assert [c.id for c in after.cells] == [c.id for c in nb.cells]
        return done.returncode, json.loads(done.stdout.splitlines()[-1]), after

    return run


def test_success_is_written_with_stable_metadata(run):
    code = "import os, pathlib\nprint(os.environ['MBRL_SEED'], os.environ['OMP_NUM_THREADS'])"
    status, table, nb = run(code, "pathlib.Path('nb.ipynb').exists()")
    assert status == 0
    assert table["benchmark"] == "notebooks"
    assert table["error"] == [""]
    assert table["claims"] == ["-"]
    assert table["peak_mb"][0] > 10
    assert [cell.execution_count for cell in nb.cells] == [1, 2]
    assert nb.cells[0].outputs[0].text == "0 1\n"
    assert nb.cells[1].outputs[0].data["text/plain"] == "True"  # it runs in its own folder
    assert nb.metadata.kernelspec.name == "python3"
    assert "widgets" not in nb.metadata


def test_cells_that_only_draw_are_folded(run):
    tagged = new_code_cell("x = 1", metadata={"tags": ["figure"], "collapsed": False})
    was = new_code_cell("x = 2", metadata={"jupyter": {"source_hidden": True}, "cellView": "form"})
    _, _, nb = run(tagged, was)
    assert nb.cells[0].metadata == {
        "tags": ["figure"], "jupyter": {"source_hidden": True}, "cellView": "form",
    }  # fmt: skip
    assert nb.cells[1].metadata == {}


def test_failure_leaves_the_notebook_alone(run):
    status, table, nb = run("x = 1", "1 / 0", "x = 2")
    assert status == 1
    assert table["error"] == ["cell 1: ZeroDivisionError: division by zero"]
    assert [cell.execution_count for cell in nb.cells] == [None, None, None]


def test_seeds_are_a_check_run(run):
    code = "import os\nassert os.environ['MBRL_SEED'] != '8'"
    status, table, nb = run(code, options=["--seeds", "7", "8", "9", "--keep-going"])
    assert status == 1
    assert table["seed"] == [7, 8, 9]
    assert table["error"] == ["", "cell 0: AssertionError: ", ""]
    assert nb.cells[0].execution_count is None


def test_widgets_become_what_they_show(run):
    show = "import ipywidgets, IPython.display as d\nout = ipywidgets.Output()\n"
    show += "with out:\n    print('inside')\nd.display(ipywidgets.HBox([out]))"
    bar = "from tqdm.notebook import tqdm\nfor _ in tqdm(range(3)): pass"
    status, _, nb = run(show, bar, "ipywidgets.IntSlider()")
    assert status == 0
    shown, progress, slider = [cell.outputs for cell in nb.cells]
    assert [output.text for output in shown] == ["inside\n"]
    assert progress == []
    assert list(slider[0].data) == ["text/plain"]


def test_pictures_get_smaller_and_look_the_same(run):
    paint = """
import io
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image
walks = np.random.default_rng(0).normal(size=(60, 80)).cumsum(axis=1)
plt.plot(walks.T, color="tab:blue", alpha=0.3)
plt.plot(walks[:9].T, color="tab:orange", alpha=0.4)
file = io.BytesIO()
plt.savefig(file)
plt.close()
pixels = plt.imread(io.BytesIO(file.getvalue()))[..., :3]
print(len(file.getvalue()), *pixels.mean(axis=(0, 1)))
Image(file.getvalue())
"""
    status, _, nb = run(paint)
    assert status == 0
    printed, shown = nb.cells[0].outputs
    size, *means = map(float, printed.text.split())
    png = base64.b64decode(shown.data["image/png"])
    assert len(png) < 0.6 * size
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255
    assert pixels.mean(axis=(0, 1)) == pytest.approx(means, abs=0.01)


@pytest.mark.parametrize("why", ["no git", "no checkout"])
def test_changed_needs_git(tmp_path, why):
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1")]), tmp_path / "nb.ipynb")
    env = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    if why == "no git":
        env["PATH"] = str(tmp_path)
    command = [sys.executable, str(RUNNER), str(tmp_path / "nb.ipynb"), "--changed"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    said = "--changed asks git, and this is no git checkout. Name the notebooks: 03 04"
    assert done.stderr.splitlines()[-1] == said  # older kernels warn before it


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_prints_on_every_console(tmp_path, encoding):
    nb = new_notebook(cells=[new_code_cell("raise ValueError('✗ Größe')")])
    nbformat.write(nb, tmp_path / "nb.ipynb")
    command = [sys.executable, str(RUNNER), str(tmp_path / "nb.ipynb")]
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE)
    assert "ValueError: ? Gr" in done.stdout.decode(encoding)
