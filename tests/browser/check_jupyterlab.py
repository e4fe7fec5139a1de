"""Every notebook in JupyterLab, in a real browser: `make test-browser`.

Not named test_*, so that `make test` does not collect it. The notebooks are copies without outputs;
the checkout is never opened.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
NUMBERED = "notebooks/[0-9][0-9]_*.ipynb"
NOTEBOOKS = sorted(path for path in ROOT.glob(NUMBERED) if "-Copy" not in path.name)
SCREENSHOTS = ROOT / "build" / "browser"
RUN_SECONDS = 300  # for a whole notebook
CHROMIUMS = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
SETTINGS = {
    # Else cells out of sight are not rendered, and can't be looked at.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
TOKEN = "course"


# --- server and browser --------------------------------------------------------------------------


def ask(url, method="GET"):
    request = urllib.request.Request(
        url, method=method, headers={"Authorization": f"token {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.loads(reply.read() or "null")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Address of a JupyterLab on copies of the notebooks, with nobody's settings."""
    home = tmp_path_factory.mktemp("lab")
    (home / "notebooks").mkdir()
    for path in NOTEBOOKS:
        nb = nbformat.read(path, as_version=4)
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.update(outputs=[], execution_count=None)
        nbformat.write(nb, home / "notebooks" / path.name)
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    folders = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"]
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    env |= {name: str(home / name.lower()) for name in folders}
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser"]
    command += [f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--ServerApp.root_dir={home / 'notebooks'}", "--ServerApp.port_retries=0"]
    url = f"http://127.0.0.1:{port}"
    with open(home / "log", "w") as log:
        process = subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                ask(f"{url}/api/status")
                break
            except OSError:
                assert process.poll() is None, (home / "log").read_text()
                time.sleep(0.25)
        else:
            pytest.fail("JupyterLab did not start:\n" + (home / "log").read_text())
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def browser():
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else CHROMIUMS
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        pytest.fail(
            f"test-browser: expected Chromium, got none of {', '.join(names)}. Install it (Debian, "
            "Ubuntu: apt-get install chromium; macOS: brew install --cask chromium), or name one "
            "that you have: make test-browser CHROMIUM=/path/to/chromium",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=FLAGS, headless=True)
        yield browser
        browser.close()


@pytest.fixture
def lab(browser, server, request):
    """A fresh browser window; a screenshot is kept of what a failed test saw last."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(30_000)
    failed = request.session.testsfailed
    yield Lab(page, server)
    if request.session.testsfailed > failed or os.environ.get("SCREENSHOTS"):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.]+", "_", request.node.name)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")
    context.close()
    for session in ask(f"{server}/api/sessions"):
        ask(f"{server}/api/sessions/{session['id']}", "DELETE")


class Lab:
    """What a learner does in JupyterLab."""

    def __init__(self, page, server):
        self.page, self.server = page, server
        self.cells = page.locator(".jp-Notebook .jp-CodeCell")

    def open(self, name):
        self.page.goto(f"{self.server}/lab/tree/{name}?token={TOKEN}&reset")
        expect(self.cells.first).to_be_visible(timeout=90_000)
        self.wait(lambda: self.state() == "idle", 60, "the kernel to start")

    def state(self):
        """What the kernel is doing, if there is one."""
        sessions = ask(f"{self.server}/api/sessions")
        return sessions[0]["kernel"]["execution_state"] if sessions else "none"

    def wait(self, condition, seconds, what):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s for {what}"
            self.page.wait_for_timeout(200)

    def prompts(self):
        """Execution count of each code cell, as it is shown: '[3]:'."""
        return self.cells.locator(".jp-InputArea-prompt").all_inner_texts()

    def errors(self):
        """Tracebacks, and whatever else is shown on red: JupyterLab marks both as stderr."""
        shown = self.page.locator('.jp-Notebook [data-mime-type="application/vnd.jupyter.stderr"]')
        return shown.all_inner_texts()

    def menu(self, *items):
        for item in items:
            self.page.get_by_role("menuitem", name=item, exact=True).click()

    def run_all(self):
        """Run → Run All Cells, and wait until the last one is done, or one has failed."""
        wanted = [f"[{i + 1}]:" for i in range(self.cells.count())]
        self.menu("Run", "Run All Cells")
        self.wait(
            lambda: self.prompts() == wanted or self.errors(), RUN_SECONDS, "all cells to be run"
        )
        self.wait(lambda: self.state() == "idle", 30, "an idle kernel")

    def write(self, cell, source):
        """Put this into a cell and run it."""
        cell.locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Shift+Enter")


# --- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_its_sliders_move(lab, path):
    lab.open(path.name)
    lab.run_all()
    assert lab.errors() == []
    code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    handles = lab.page.locator(".jp-Notebook .widget-slider .noUi-handle")
    assert handles.count() >= "".join(code).count("Slider("), "a slider is not shown"
    for i in range(handles.count()):
        handle = handles.nth(i)
        figure = handle.locator("xpath=ancestor::div[contains(@class, 'jp-CodeCell')]//img").last
        before, value = figure.get_attribute("src"), handle.get_attribute("aria-valuetext")
        at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        handle.press("ArrowLeft" if at_end else "ArrowRight")
        expect(handle).not_to_have_attribute("aria-valuetext", value)
        follows = f"the figure to follow slider {i + 1}"
        lab.wait(lambda f=figure, b=before: f.get_attribute("src") != b, 20, follows)
        lab.wait(lambda: lab.state() == "idle", 30, "an idle kernel")
    assert lab.errors() == []


def test_exercise_answers_back(lab):
    """Exercise 00.1: not attempted, not yet, correct."""
    lab.open("00_start_here.ipynb")
    cell = lab.cells.filter(has_text='@exercise("00.1")')
    stub = cell.locator(".cm-content").inner_text()
    assert stub.count("...") == 1
    output = cell.locator(".jp-OutputArea-output")
    cell.locator(".cm-content").click()
    lab.menu("Run", "Run All Above Selected Cell")
    lab.write(cell, stub)
    expect(output).to_contain_text("Exercise 00.1: not attempted", timeout=60_000)
    lab.write(cell, stub.replace("...", "return 0 if obs[2] > 0 else 1"))
    expect(output).to_contain_text("Exercise 00.1: not yet")
    lab.write(cell, stub.replace("...", "return 1 if obs[2] > 0 else 0"))
    expect(output).to_contain_text("Exercise 00.1: correct")
