"""Build the book: `make book`. With --links it checks the addresses of other sites instead."""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE, BUILD = ROOT / "book", ROOT / "build" / "book"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_design", "sphinx_copybutton")

import course  # noqa: E402 - it lies in tests/
import glossary  # noqa: E402
import instructor  # noqa: E402
import nbformat  # noqa: E402
import pages  # noqa: E402
import results  # noqa: E402
import slides  # noqa: E402
from prepare import Notebook, Unfit, copy_of  # noqa: E402

MADE = re.compile(r"<!-- made: ([\w-]+) -->")
FRONT_ALT = (
    "Sample efficiency: the course's agent reaches the best returns after far fewer real steps than the model-free rivals.",
    "A film of a lap in CarRacing with the plan drawn in.",
    "The game and a dream of it side by side: the same bounces, until the dream goes its own way.",
)
FRONT_SAYS = (
    "**Far fewer real steps.** The loop of model and planner beside tuned model-free agents.",
    "**From pixels, a whole lap** after 8,000 frames, with the plan drawn in.",
    "**A dream beside the game** that it was learned from: an agent that plays only in dreams plays the game, too.",
)


def missing() -> list[str]:
    """What the book needs and this Python has not."""
    there = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return there + (["sphinx-mathjax-offline"] if not there and not _mathjax() else [])


def _mathjax() -> bool:
    from importlib import metadata

    try:
        return bool(metadata.distribution("sphinx-mathjax-offline"))
    except metadata.PackageNotFoundError:
        return False


def read_notebooks(paths: list[Path]) -> list[Notebook]:
    """The executed notebooks of the course."""
    if not paths:
        raise Unfit("book: expected notebooks in notebooks/, got none. Is this the whole course?")
    return [Notebook(path) for path in paths]


def front(notebooks: list[Notebook]) -> str:
    """Three pictures of what the course reaches, out of the notebooks themselves."""
    parts = []
    for wanted, alt, says in zip(pages.FRONT, FRONT_ALT, FRONT_SAYS, strict=True):
        notebook = next((n for n in notebooks if wanted[0] in n.stem), notebooks[0])
        picture = pages.front_picture(notebooks, *wanted)
        words = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", says)
        link = f'<a href="notebooks/{notebook.stem}.html">{notebook.title}</a>'
        shown = pages.front_figure(picture, alt)
        parts.append(f"<figure>{shown}<figcaption>{words} {link}</figcaption></figure>")
    return '<div class="three">' + "".join(parts) + "</div>"


def toctree(entries: list[str], caption: str = "", maxdepth: int = 1) -> str:
    """A part of the table of contents at the side."""
    head = f":caption: {caption}\n" if caption else ""
    lines = "\n".join(entries)
    return f"```{{toctree}}\n:hidden:\n:maxdepth: {maxdepth}\n{head}\n{lines}\n```"


def toctrees(notebooks: list[Notebook]) -> str:
    """All of it: the course, what to look up, for instructors, the package."""
    trees = {
        "The course": ["routes", "onramp", *(f"notebooks/{n.stem}" for n in notebooks)],
        "Look up": [
            "install",
            "troubleshooting",
            "glossary",
            "sheet",
            "results",
            "how_we_know",
            "figures",
        ],
        "For instructors": ["instructor/index"],
        "The package": ["api/index"],
    }
    return "\n\n".join(toctree(entries, caption) for caption, entries in trees.items())


def prepare(notebooks: list[Notebook], source: Path) -> None:
    """Write all that Sphinx reads into a folder."""
    shutil.rmtree(source, ignore_errors=True)
    for folder in ("notebooks", "api", "instructor", "_extra/pictures", "_extra/slides"):
        (source / folder).mkdir(parents=True)
    terms, basic = glossary.read(), set()
    for notebook in notebooks:
        text = nbformat.writes(copy_of(notebook, terms, basic))
        (source / "notebooks" / notebook.path.name).write_text(text, encoding="utf-8")
        for name, data in notebook.files.items():
            (source / "_extra/pictures" / name).write_bytes(data)
        page = slides.page(notebook)
        (source / "_extra/slides" / f"{notebook.stem}.html").write_text(page, encoding="utf-8")
    made = made_parts(notebooks)
    for path in sorted(HERE.rglob("*.md")):
        target = path.relative_to(HERE)
        if target.parts[0] == "notes":
            continue
        text = path.read_text(encoding="utf-8")
        if target.name == "glossary.md":
            text = pages.with_places(text, terms, notebooks)
        text = MADE.sub(lambda m: made[m.group(1)], text)
        if target.name == "sheet.md":
            (source / "_extra/slides/sheet.html").write_text(slides.sheet(text), encoding="utf-8")
        target = Path("api/index.md") if target.name == "api_index.md" else target
        (source / target).parent.mkdir(parents=True, exist_ok=True)
        (source / target).write_text(text, encoding="utf-8")
    for number, (title, names) in enumerate(pages.api_groups().items()):
        (source / f"api/{number}.md").write_text(pages.api_page(title, names), encoding="utf-8")
    for name, text in instructor.pages(notebooks).items():
        (source / "instructor" / f"{name}.md").write_text(text, encoding="utf-8")


def made_parts(notebooks: list[Notebook]) -> dict[str, str]:
    """What stands in place of each `<!-- made: … -->`."""
    face = pages.public_face()
    numbers = [str(i) for i in range(len(pages.api_groups()))]
    return {
        "front": front(notebooks),
        "map": pages.course_map(notebooks),
        "toctrees": toctrees(notebooks),
        "drawing": pages.route_drawing(notebooks),
        "needs": pages.needs_table(notebooks),
        "evidence": pages.evidence(notebooks),
        "figures": pages.figure_sources(notebooks),
        "results": results.page(),
        "api": pages.api_index(sorted(face, key=str.lower), face),
        "api-toctree": toctree(numbers),
        "slides": instructor.slide_list(notebooks),
        "instructor-toctree": toctree(["plans", "machines", *(n.stem for n in notebooks)]),
        "minutes": instructor.minutes_table(notebooks),
        "symbols": instructor.symbols(notebooks),
        "boxes": instructor.boxes(notebooks),
    }


def write_readme(notebooks: list[Notebook]) -> None:
    """Put the film and the table of the README there anew, from the notebooks and the recordings."""
    film = pages.front_picture(notebooks, *pages.FRONT[1])
    owner = next(n for n in notebooks if Path(film.file).name in n.files)
    (HERE / "assets" / "lap.gif").write_bytes(owner.files[Path(film.file).name])
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_table(readme: str) -> str:
    """The README with the table of what the recordings say."""
    new = f"<!-- reaches -->\n{results.in_short()}\n<!-- /reaches -->"
    return re.sub(r"<!-- reaches -->.*?<!-- /reaches -->", lambda m: new, readme, flags=re.DOTALL)


def sphinx(builder: str, source: Path, out: Path, strict: bool) -> int:
    """Call Sphinx; a broken link inside the book is an error."""
    command = [sys.executable, "-m", "sphinx", "-q", "-b", builder, "-c", str(HERE)]
    command += ["-d", str(BUILD / "doctrees")] + (["-W", "--keep-going"] if strict else [])
    return subprocess.run([*command, str(source), str(out)], cwd=ROOT).returncode


def main(args: list[str] | None = None) -> int | str:
    """Build it, and print where to open it; or what else was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", action="store_true", help="check the addresses of other sites")
    parser.add_argument("--readme", action="store_true", help="film and table of the README anew")
    options, begin = parser.parse_args(args), time.time()
    if options.readme:
        write_readme(read_notebooks(course.notebooks()))
        return 0
    if lacking := missing():
        return (
            f"book: expected Sphinx and what the book needs of it, got no {', '.join(lacking)}. "
            'Install them: make book, or pip install -c constraints.txt -e ".[book]"'
        )
    source, out = BUILD / "source", BUILD / "html"
    try:
        prepare(read_notebooks(course.notebooks()), source)
    except Unfit as error:
        return str(error)
    if options.links:
        status = sphinx("linkcheck", source, BUILD / "links", strict=False)
        print(f"Every address, and what became of it: {BUILD / 'links' / 'output.txt'}")
        return status
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(BUILD / "doctrees", ignore_errors=True)
    if sphinx("html", source, out, strict=True):
        return "book: it has broken links or other faults, which are named above. Mend them."
    for path in course.notebooks():  # what can be downloaded is the notebook, not the book's copy
        shutil.copy(path, out / "_sources" / "notebooks" / path.name)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{time.time() - begin:.0f} seconds, {size / 1e6:.0f} MB. Open it in a browser:")
    print((out / "index.html").as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
