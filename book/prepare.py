"""Copies of the executed notebooks as the book shows them; the notebooks themselves stay as they are.

Cells that draw come folded, install cells and badges are gone, pictures and films become files
with their descriptions, sections get labels that other pages link to, and the first mention of a
term leads to the glossary. Nothing is executed.
"""

import base64
import html
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from glossary import Term, linked

SUFFIX = {"image/png": "png", "image/gif": "gif", "image/jpeg": "jpg"}
FILM = re.compile(
    r'<img alt="(?P<alt>[^"]*)" src="data:(?P<mime>image/\w+);base64,(?P<data>[^"]+)">'
)
HEADING = re.compile(r"^(#{1,3}) (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MINUTES = re.compile(r"\((\d+) min\)")


class Unfit(Exception):
    """Why there can be no book, in a sentence that says what to do."""


@dataclass(frozen=True)
class Picture:
    """A figure or film of a notebook.

    Attributes:
        file: where the book has it, from its root.
        alt: its description; "" where the notebook has none.
        film: whether it moves.
        section: number of the section that it stands in.
        cell: the source of the cell that drew it.
        folded: whether that cell comes folded.
    """

    file: str
    alt: str
    film: bool
    section: int
    cell: str
    folded: bool


@dataclass(frozen=True)
class Section:
    """A section of a notebook, as its heading says it; its text cell by cell, too."""

    number: int
    title: str
    minutes: int | None
    cells: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.cells)


class Notebook:
    """An executed notebook of the course, and what other pages need to know of it."""

    def __init__(self, path: Path):
        self.path, self.stem = path, path.stem
        self.number = path.stem.split("_")[0]
        try:
            self.nb = nbformat.read(path, as_version=4)
        except Exception as error:
            raise Unfit(f"book: {path.name} is no notebook: git checkout -- {path.name}") from error
        code = [cell for cell in self.nb.cells if cell.cell_type == "code"]
        if not any(cell.outputs for cell in code):
            raise Unfit(
                f"book: expected notebooks with their outputs, got none in {path.name}. "
                f"Run it first: make notebooks ARGS={self.number}"
            )
        self.pictures: list[Picture] = []
        self.files: dict[str, bytes] = {}
        self._find_pictures()

    @property
    def title(self) -> str:
        """The first heading."""
        found = HEADING.search(self.nb.cells[0].source)
        if not found:
            raise Unfit(f"book: expected a title in the first cell of {self.path.name}, got none.")
        return found.group(2)

    @property
    def opening(self) -> str:
        """The first cell: objectives, minutes, what it needs."""
        return self.nb.cells[0].source

    @property
    def minutes(self) -> int | None:
        """How long it takes, as its first cell says."""
        found = re.search(r"about\s+(\d+)\s+minutes", self.opening)
        return int(found.group(1)) if found else None

    @property
    def needs(self) -> list[str]:
        """Numbers of the notebooks that its first cell names as needed."""
        text = re.search(r"\*\*Needs\*\*(.*?)(\n\n|\Z)", self.opening, re.DOTALL)
        first = text.group(1).split(".")[0] if text else ""
        return re.findall(r"\b(\d\d[a-z]?)\b", first)

    @property
    def sections(self) -> list[Section]:
        """What stands under each heading of the second level, in order; 0 is the opening."""
        parts: list[list[str]] = [[""]]
        for cell in self.nb.cells:
            if cell.cell_type != "markdown":
                continue
            plain = FENCE.sub(lambda m: m.group().replace("\n#", "\n\0#"), cell.source)
            for piece in re.split(r"(?m)^(?=## )", plain):
                if piece.startswith("## "):
                    title, _, rest = piece.partition("\n")
                    parts.append([title[3:], rest])
                else:
                    parts[-1].append(piece)
        return [
            Section(
                i,
                MINUTES.sub("", t).strip(),
                _minutes(t),
                tuple(c.replace("\0", "") for c in cells),
            )
            for i, (t, *cells) in enumerate(parts)
        ]

    @property
    def questions(self) -> list[str]:
        """Numbers of all that it asks, in order: questions, exercises, builds."""
        source = "\n".join(c.source for c in self.nb.cells if c.cell_type == "code")
        asked = re.findall(r'^\s*(?:@exercise|@build|predict)\("([^"]+)"', source, re.MULTILINE)
        return list(dict.fromkeys(asked))

    def label(self, section: int) -> str:
        """What links to one of its sections are made of."""
        return f"s-{self.stem}-{section}"

    def _find_pictures(self) -> None:
        section = 0
        for cell in self.nb.cells:
            if cell.cell_type == "markdown":
                section += len(re.findall(r"(?m)^## ", FENCE.sub("", cell.source)))
                continue
            folded = "figure" in cell.metadata.get("tags", [])
            for output in cell.outputs:
                for mime, data, alt in _images(output):
                    name = f"{self.stem}-{len(self.pictures):02d}.{SUFFIX[mime]}"
                    self.files[name] = base64.b64decode(data)
                    one = Picture(
                        f"pictures/{name}", alt, mime == "image/gif", section, cell.source, folded
                    )
                    self.pictures.append(one)


def _minutes(title: str) -> int | None:
    found = MINUTES.search(title)
    return int(found.group(1)) if found else None


def _images(output: nbformat.NotebookNode) -> list[tuple[str, str, str]]:
    """(type, base64, description) of each picture of an output."""
    data = output.get("data", {})
    if "image/png" in data:
        alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
        return [("image/png", data["image/png"], alt)]
    films = FILM.finditer(data.get("text/html", ""))
    return [(f["mime"], f["data"], html.unescape(f["alt"])) for f in films]


def copy_of(
    notebook: Notebook, terms: list[Term], basic: set[str] | None = None
) -> nbformat.NotebookNode:
    """The notebook as a page of the book; `notebook.files` go beside it.

    Args:
        notebook: an executed one; it stays as it is.
        terms: of the glossary: the first mention of each leads there.
        basic: names of assumed terms that an earlier notebook has linked; it grows.
    """
    nb = nbformat.reads(nbformat.writes(notebook.nb), as_version=4)
    nb.cells = [cell for cell in nb.cells if "install" not in cell.metadata.get("tags", [])]
    pictures, section = iter(notebook.pictures), 0
    seen = set(basic or ())
    for index, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(?m)^\[!\[Open in Colab\].*\n?", "", cell.source)
            cell.source = cell.source.replace("](../book/", "](../")  # its pages lie at the root
            if index:
                cell.source = linked(cell.source, terms, seen)
            cell.source, section = _labelled(cell.source, notebook, section)
            continue
        tags = cell.metadata.get("tags", [])
        cell.metadata["tags"] = ["hide-input"] if "figure" in tags else []
        cell.metadata.pop("jupyter", None)
        cell.outputs = [_shown(output, pictures) for output in cell.outputs]
    if basic is not None:
        basic |= {term.name for term in terms if term.basic} & seen
    return nb


def _labelled(source: str, notebook: Notebook, section: int) -> tuple[str, int]:
    """Markdown with a label above each heading of the second level, and how many there were."""
    lines, inside = [], False
    for line in source.splitlines():
        inside ^= line.startswith("```")
        if line.startswith("## ") and not inside:
            section += 1
            lines.append(f"({notebook.label(section)})=")
        lines.append(line)
    return "\n".join(lines), section


def _shown(output: nbformat.NotebookNode, pictures: object) -> nbformat.NotebookNode:
    """An output with pictures as files, and source code as a block in the book's colours."""
    data = output.get("data", {})
    if "image/png" in data:
        return _html_of(output, [next(pictures)])
    films = FILM.findall(data.get("text/html", ""))
    if films:
        return _html_of(output, [next(pictures) for _ in films])
    if "text/latex" in data and "text/html" in data:  # IPython's Code: its colours are not ours
        source = data["text/plain"].rstrip()
        new = nbformat.v4.new_output("display_data")
        new["data"] = nbformat.from_dict({"text/markdown": f"```python\n{source}\n```"})
        return new
    return output


def _html_of(output: nbformat.NotebookNode, shown: list[Picture]) -> nbformat.NotebookNode:
    """An output that shows pictures which lie beside the page."""
    new = nbformat.v4.new_output("display_data")
    new["data"] = nbformat.from_dict({"text/html": "\n".join(img(p, "../") for p in shown)})
    return new


def img(picture: Picture, root: str = "", alt: str = "", lazy: bool = True) -> str:
    """A picture in HTML, seen from a page from which `root` leads to the top."""
    loading = ' loading="lazy"' if lazy else ""
    text = html.escape(picture.alt or alt)
    described = f' alt="{text}"' if text else ""  # none is better than an empty one: it is found
    return f'<img class="dark-light picture"{described} src="{root}{picture.file}"{loading}>'
