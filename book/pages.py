"""Pages that are made from what stands: evidence, figures, routes, the API; nothing is copied by hand."""

import ast
import csv
import html
import re
import sys
from pathlib import Path

from glossary import Term, first_met
from prepare import Notebook, Picture, Unfit, img

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

import controls  # noqa: E402 - it lies in tests/

RECORDED = ROOT / "mbrl_helpers" / "recorded"
BENCHMARKS = ROOT / "tests" / "benchmarks"
PACKAGE = ROOT / "mbrl_helpers"
# What the front page shows: a part of a notebook's name, words of the section's heading, film or not.
FRONT = (
    ("closing_the_loop", "The figure", False),
    ("car_racing", "Drive, fit, drive", True),
    ("atari", "dream with the face", True),
)
GROUPS = {  # of the API's pages: title to modules, in the order of the data
    "Tasks and experience": ["interfaces", "actions", "angles", "envs", "data", "interaction"],
    "Models": ["networks", "probabilistic", "units", "dynamics", "diagnosis", "uncertainty"],
    "Planning and acting": ["futures", "planners", "agents"],
    "Policies and loops": ["policies", "imagination", "training", "tabular"],
    "Many seeds, and files": ["sweeps", "kept", "saving"],
    "In notebooks": ["notebook", "evidence", "plotting", "check", "update"],
}


def escaped(text: str) -> str:
    """Text for a cell of a table, on one line."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


# --- the front page and the routes ---------------------------------------------------------------


def front_picture(notebooks: list[Notebook], name: str, heading: str, film: bool) -> Picture:
    """The last figure, or film, under a heading of a notebook."""
    for notebook in notebooks:
        if name not in notebook.stem:
            continue
        for section in notebook.sections:
            if heading in section.title:
                shown = [p for p in notebook.pictures if p.section == section.number]
                found = [p for p in shown if p.film == film]
                if found:
                    return found[-1]
    kind = "film" if film else "figure"
    raise Unfit(
        f"book: expected a {kind} for the front page under a heading with {heading!r}, in a notebook "
        f"with {name!r} in its name, got none. Change FRONT in book/pages.py."
    )


def course_map(notebooks: list[Notebook]) -> str:
    """The notebooks, what each is for, and its minutes."""
    rows = []
    for notebook in notebooks:
        goals = re.findall(r"^- (.*?)(?=^- |^\n|\Z)", notebook.opening, re.MULTILINE | re.DOTALL)
        first = escaped(goals[0]).rstrip(";.") if goals else ""
        rows.append([f"[{notebook.title}](notebooks/{notebook.stem}.ipynb)", first, _of(notebook)])
    return table(["notebook", "first of what you will be able to do", "minutes"], rows)


def _of(notebook: Notebook) -> str:
    return str(notebook.minutes or "")


def depths(notebooks: list[Notebook]) -> dict[str, int]:
    """How many notebooks come before each at the least, by what their first cells say is needed."""
    needs = {n.number: [m for m in n.needs if m != n.number] for n in notebooks}
    found: dict[str, int] = {}

    def depth(number: str, above: tuple[str, ...] = ()) -> int:
        if number in above or number not in needs:
            return -1
        if number not in found:
            found[number] = 1 + max([depth(m, (*above, number)) for m in needs[number]], default=-1)
        return found[number]

    for number in needs:
        depth(number)
    return found


TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><polygon points="0,0 8,4 0,8"/></marker></defs>'
)


def direct(notebooks: list[Notebook], number: str) -> list[str]:
    """What a notebook needs, but for what the others that it needs need already."""
    needs = {n.number: [m for m in n.needs if m != n.number] for n in notebooks}

    def below(one: str, seen: frozenset[str] = frozenset()) -> set[str]:
        inner = [m for m in needs.get(one, []) if m not in seen]
        return set(inner).union(*(below(m, seen | {one}) for m in inner))

    return [m for m in needs[number] if not any(m in below(o) for o in needs[number] if o != m)]


def route_drawing(notebooks: list[Notebook]) -> str:
    """Which notebook needs which, as a drawing; the table below it says the same in words."""
    level, places, row = depths(notebooks), {}, {}
    for notebook in notebooks:
        y = level[notebook.number]
        places[notebook.number] = 230 * row.setdefault(y, 0), 74 * y
        row[y] += 1
    width, height = 230 * max(row.values()), 74 * (1 + max(row))
    lines, boxes = [], []
    for notebook in notebooks:
        x, y = places[notebook.number]
        for need in direct(notebooks, notebook.number):
            if need in places:
                a, b = places[need][0] + 100, places[need][1] + 44
                lines.append(
                    f'<path d="M{a} {b} C{a} {b + 20} {x + 100} {y - 22} {x + 100} {y - 4}" marker-end="url(#tip)"/>'
                )
        words = html.escape(notebook.title.partition(" · ")[2] or notebook.title)
        boxes.append(
            f'<a href="notebooks/{notebook.stem}.html">'
            f'<rect x="{x}" y="{y}" width="200" height="44" rx="6"/>'
            f'<text x="{x + 10}" y="{y + 18}" class="number">{notebook.number}</text>'
            f'<text x="{x + 10}" y="{y + 36}">{words}</text></a>'
        )
    return (
        f'<div class="routes"><svg viewBox="-2 -2 {width - 26} {height - 26}" role="group" '
        f'aria-label="Which notebook needs which; the table below says it in words">'
        f"{TIP}{''.join(lines)}{''.join(boxes)}</svg></div>"
    )


def needs_table(notebooks: list[Notebook]) -> str:
    """What each notebook needs, and how long it takes with exercises."""
    known = {n.number: n for n in notebooks}
    rows = []
    for n in notebooks:
        needed = [m for m in n.needs if m in known and m != n.number]
        links = ", ".join(f"[{m}](notebooks/{known[m].stem}.ipynb)" for m in needed) or "nothing"
        rows.append([f"[{n.title}](notebooks/{n.stem}.ipynb)", links, _of(n)])
    return table(["notebook", "needs", "minutes"], rows)


# --- how we know, and where figures come from ----------------------------------------------------


def evidence(notebooks: list[Notebook]) -> str:
    """Every headline with its rival, the seeds, what was measured, and the verdict."""
    parts = []
    for notebook in notebooks:
        found = controls.controls(notebook.path)
        if not found:
            continue
        rows = []
        for made in found:
            _, headline, rival, seeds, measured, verdict = controls.row(made)
            rows.append([escaped(c) for c in (headline, rival, seeds, measured, verdict)])
        head = ["headline", "rival explanation", "seeds", "in favour of the headline", "the rival"]
        parts.append(
            f"## [{notebook.title}](notebooks/{notebook.stem}.ipynb)\n\n{table(head, rows)}"
        )
    without = [n for n in notebooks if not controls.controls(n.path)]
    if without:
        named = ", ".join(f"[{n.number}](notebooks/{n.stem}.ipynb)" for n in without)
        parts.append(
            f"**No controls yet**, only claims against a bound and baselines in the text: {named}."
        )
    return "\n\n".join(parts)


def recordings() -> list[dict[str, str]]:
    """Each recorded table: the commands that wrote it, when and on what, and how many rows."""
    found = []
    for path in sorted(RECORDED.glob("*.csv")):
        text = path.read_text(encoding="utf-8")
        notes = [line[2:] for line in text.splitlines() if line.startswith("# ")]
        script = next(iter(re.findall(r"(tests/benchmarks/\w+\.py)", "\n".join(notes))), "")
        dated = [note for note in notes if re.match(r"\d{4}-\d\d-\d\d", note)]
        rows = list(csv.DictReader(line for line in text.splitlines() if line[:1] != "#"))
        found.append(
            {
                "name": path.stem,
                "script": script,
                "when": dated[-1] if dated else "",
                "rows": str(len(rows)),
            }
        )
    return found


def benchmark_says(script: str) -> str:
    """The first sentence of a benchmark's docstring."""
    path = ROOT / script
    if not script or not path.is_file():
        return ""
    return escaped(
        (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    )


def figure_sources(notebooks: list[Notebook]) -> str:
    """Every recording, and which notebooks read it; then every figure with what made it."""
    readers: dict[str, list[str]] = {}
    for n in notebooks:
        source = "\n".join(c.source for c in n.nb.cells if c.cell_type == "code")
        for name in dict.fromkeys(re.findall(r'read_recorded\("(\w+)"\)', source)):
            readers.setdefault(name, []).append(f"[{n.number}](notebooks/{n.stem}.ipynb)")
    rows = [
        [f"`{r['name']}`", benchmark_says(r["script"]), f"`{Path(r['script']).stem}`", r["when"],
         ", ".join(readers.get(r["name"], []))]
        for r in recordings()
    ]  # fmt: skip
    head = ["recording", "what it measures", "NAME", "when, on what", "read by"]
    parts = [table(head, rows), "\n## Every figure\n"]
    for n in notebooks:
        sections = {s.number: s.title for s in n.sections}
        lines = []
        for i, p in enumerate(n.pictures, 1):
            kind = "film" if p.film else "figure"
            text = " ".join(p.alt.split()) or "*no description yet*"
            where = (
                f"[section {sections[p.section]}](#{n.label(p.section)})"
                if p.section
                else "opening"
            )
            lines.append(f"{i}. {kind}, {where}: {_plain(text)}")
        parts.append(f"### {n.title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text that Markdown takes as it is."""
    return re.sub(r"([*_$`\[\]<>{}])(?!no description)", r"\\\1", text) if text[0] != "*" else text


# --- the glossary --------------------------------------------------------------------------------


def with_places(page: str, terms: list[Term], notebooks: list[Notebook]) -> str:
    """The glossary's page with a link to where each term is first met."""
    for term in terms:
        place = None if term.basic else first_met(term, notebooks)
        if place is None:
            continue
        notebook, section = place
        link = f"*First met in* [{notebook.number}, {escaped(section.title)}](#{notebook.label(section.number)})."
        pattern = rf"^({re.escape(term.name)}\n(?:\S.*\n)*(?:  .*\n)+)"
        page = re.sub(
            pattern,
            lambda m, link=link: m.group(1) + f"  {link}\n",
            page,
            count=1,
            flags=re.MULTILINE,
        )
    return page


# --- the API -------------------------------------------------------------------------------------


def modules() -> list[str]:
    """Names of all modules that the API reference shows: exercises are answers, and not shown."""
    found = sorted(
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in PACKAGE.rglob("*.py")
        if "exercises" not in p.parts and p.name != "__init__.py"
    )
    return [name for name in found if not name.rpartition(".")[2].startswith("_")]


def public(path: Path) -> dict[str, str | None]:
    """{name: docstring or None} of public classes and functions of a module, and their methods."""
    found: dict[str, str | None] = {}
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        found[node.name] = ast.get_docstring(node)
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, kinds) and not inner.name.startswith("_"):
                name = f"{node.name}.{inner.name}"  # a property's setter repeats its name
                found[name] = found.get(name) or ast.get_docstring(inner)
    return found


def api_groups() -> dict[str, list[str]]:
    """Title to modules: the groups above, what is in no group, and the wings."""
    left = {name.removeprefix("mbrl_helpers."): name for name in modules()}
    groups = {t: [left.pop(m) for m in names if m in left] for t, names in GROUPS.items()}
    wings = sorted({name.split(".")[0] for name in left if "." in name})
    for wing in wings:
        inside = [left.pop(n) for n in sorted(left) if n.startswith(f"{wing}.")]
        groups[f"The wing {wing}"] = inside
    if left:
        groups["Other rooms"] = [left[n] for n in sorted(left)]
    return {title: names for title, names in groups.items() if names}


def api_page(title: str, names: list[str]) -> str:
    """A page of the API: each module with all its public names."""
    parts = [f"# {title}"]
    for name in names:
        parts.append(
            f"## {name.removeprefix('mbrl_helpers.')}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```"
        )
    return "\n\n".join(parts) + "\n"


def api_index(face: list[str], home: dict[str, str]) -> str:
    """The names that a user needs, and the pages of all others."""
    said = []
    for name in face:
        module = home[name]
        tree = public(ROOT / (module.replace(".", "/") + ".py"))
        first = escaped((tree.get(name) or "").split("\n\n")[0])
        said.append([f"{{py:obj}}`{name} <{module}.{name}>`", first])
    return table(["name", "what it is"], said)


def public_face() -> dict[str, str]:
    """{name: module that defines it} of what `from mbrl_helpers import ...` gives."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return {a.name: str(node.module) for node in imports for a in node.names}


def front_figure(picture: Picture, alt: str) -> str:
    """A picture of the front page."""
    return img(picture, alt=alt, lazy=False)
