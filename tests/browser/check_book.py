"""The built book in a real browser, with the network cut: `make book-test`.

Not named test_*, so that `make test`, which needs no Sphinx, does not collect it.
"""

import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from check_jupyterlab import browser  # noqa: F401 - a fixture
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "build" / "book" / "html"
SCREENSHOTS = ROOT / "build" / "browser"
PAGES = sorted(
    p.relative_to(BOOK).as_posix() for p in BOOK.rglob("*.html") if "_static" not in p.parts
)
SLIDES = [page for page in PAGES if page.startswith("slides/")]
MADE_BY_SPHINX = {"genindex.html", "py-modindex.html", "search.html"}
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]
OTHERS = [p for p in PAGES if p not in {*SLIDES, *NOTEBOOKS, *MADE_BY_SPHINX}]
WIDE, PHONE = {"width": 1300, "height": 1000}, {"width": 390, "height": 800}
SERIOUS = {"serious", "critical"}
# A page is looked at as a whole once; in the dark and on a phone only for what differs there.
LOOKS = (
    ("light", WIDE, None),
    ("dark", WIDE, ["color-contrast", "link-in-text-block"]),
    ("light", PHONE, ["scrollable-region-focusable", "color-contrast", "target-size"]),
)


def test_there_is_a_book():
    assert NOTEBOOKS, "make book first"
    assert {"index.html", "glossary.html", "onramp.html", "how_we_know.html"} <= set(OTHERS)


class Reader:
    """A browser without network, and all that it asked another host for."""

    def __init__(self, chromium):
        self.context = chromium.new_context(viewport=WIDE, color_scheme="light", offline=True)
        self.asked, self.errors = [], []
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("request", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note(self, request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.asked.append(request.url)

    def open(self, name):
        path, _, query = name.partition("?")
        self.page.goto((BOOK / path).as_uri() + (f"?{query}" if query else ""))
        self.page.wait_for_load_state("load")
        self.page.evaluate("window.MathJax?.startup?.promise")
        self.page.wait_for_timeout(600)  # what scrolls becomes reachable after half a second
        return self.page

    def show(self, scheme, viewport):
        """The same page in another colour scheme or size, everything that folds unfolded."""
        self.page.set_viewport_size(viewport)
        self.page.emulate_media(color_scheme=scheme)
        self.page.evaluate("scheme => { document.documentElement.dataset.theme = scheme }", scheme)
        unfold = "document.querySelectorAll('article details').forEach((d) => { d.open = true })"
        self.page.evaluate(unfold)
        self.page.evaluate("window.dispatchEvent(new Event('resize'))")
        self.page.wait_for_timeout(300)

    def screenshot(self, name):
        if os.environ.get("SCREENSHOTS"):
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


@pytest.fixture
def reader(browser):  # noqa: F811
    one = Reader(browser)
    yield one
    one.context.close()


def listed(violations):
    """What is serious, in words."""
    return [
        f"{v['id']} ({v['impact']}): {node['target']} {node['html'][:120]}"
        for v in violations
        if v["impact"] in SERIOUS
        for node in v["nodes"]
    ]


@pytest.mark.parametrize("name", PAGES)
def test_asks_no_other_host_and_shuts_nobody_out(reader, name):
    """All is there without network; in both colour schemes and on a phone nothing is in the way."""
    page = reader.open(name)
    # Pictures load when they come into sight: call them all.
    page.evaluate("document.querySelectorAll('img').forEach((i) => { i.loading = 'eager' })")
    page.wait_for_function("[...document.images].every((i) => i.complete)")
    broken = page.evaluate("[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)")
    assert (reader.asked, reader.errors, broken) == ([], [], [])
    assert page.locator("mjx-merror").count() == 0
    assert page.locator(".math:not(:has(mjx-container))").count() == 0
    found = []
    for scheme, viewport, rules in LOOKS:
        reader.show(scheme, viewport)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > viewport["width"] + 1:
            found.append(f"{width} pixels wide on a screen of {viewport['width']}")
        options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
        violations = Axe().run(page, options=options).response["violations"]
        found += [f"{scheme}, {viewport['width']}: {said}" for said in listed(violations)]
    assert found == []


def test_formulas_are_drawn(reader):
    assert reader.open("onramp.html").locator("mjx-container svg").count() > 5


def test_search_finds_a_word(reader):
    page = reader.open("search.html?q=receding+horizon")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").all_inner_texts()
    assert any("MPC" in title for title in found), found
    reader.screenshot("search")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_s_page(reader, name):
    page = reader.open(name)
    assert page.locator("details.hide").count() > 0, "cells that draw come folded"
    assert page.locator("details.hide[open]").count() == 0
    text = page.locator("article").inner_text()
    assert "find_spec" not in text, "an install cell"
    films = page.locator("img.picture[src$='.gif']").evaluate_all("all => all.map((i) => i.src)")
    for film in films:
        with Image.open(film.removeprefix("file://")) as picture:
            assert picture.n_frames > 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_can_be_downloaded_is_the_notebook_itself(name):
    original = ROOT / Path(name).with_suffix(".ipynb")
    offered = BOOK / "_sources" / Path(name).with_suffix(".ipynb")
    assert offered.read_bytes() == original.read_bytes()


def test_a_folded_cell_opens(reader):
    page = reader.open(NOTEBOOKS[0])
    fold = page.locator("details.hide").first
    fold.locator("summary").click()
    assert fold.locator("pre").first.is_visible()


def test_dark_mode_can_be_chosen(reader):
    page = reader.open("index.html")
    colour = "getComputedStyle(document.documentElement).getPropertyValue('--pst-color-background')"
    light = page.evaluate(colour)
    page.locator(".theme-switch-button:visible").first.click()
    page.locator(".theme-change-button[data-mode=dark]:visible").first.click()
    page.wait_for_timeout(300)
    assert page.evaluate(colour) != light
