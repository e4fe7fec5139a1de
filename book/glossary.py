"""The words of the glossary: where each is first met, and links that lead to it."""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent / "glossary.md"
# What is no prose: code, mathematics, links and roles, headings, quoted titles of papers.
SILENT = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$|!?\[[^\]]*\]\([^)]*\)"
    r"|^#+ [^\n]*$|^\([^\n]*\)=$|</?[a-z][^>\n]*>|https?://\S+",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Term:
    """A word of the field, its other names, and what it means."""

    names: tuple[str, ...]
    meaning: str
    basic: bool = False  # assumed from the start

    @property
    def name(self) -> str:
        """What it is listed as."""
        return self.names[0]

    @property
    def pattern(self) -> re.Pattern:
        """Finds it in prose, with a plural's s; abbreviations only in capitals."""
        return re.compile("|".join(_pattern(n) for n in sorted(self.names, key=len, reverse=True)))


def _pattern(name: str) -> str:
    words = re.split(r"[\s]+", name)
    one = r"\s+".join(re.escape(w) for w in words)
    if name == name.lower():
        first, rest = one[0], one[1:]
        if first.isalpha():
            one = f"[{first}{first.upper()}]{rest}"
    return rf"(?<![\w-]){one}(?:e?s)?(?![\w-])"


def read(text: str | None = None) -> list[Term]:
    """The terms of the page, in its order."""
    text = PAGE.read_text(encoding="utf-8") if text is None else text
    terms: list[Term] = []
    for part in re.split(r"(?m)^(?=## )", text):
        for block in re.findall(r"^:{3,}\{glossary\}\n(.*?)^:{3,}$", part, re.M | re.S):
            for entry in re.split(r"\n\s*\n(?=\S)", block.strip("\n")):
                names = [line.strip() for line in entry.splitlines() if line and line[0] != " "]
                meaning = " ".join(line.strip() for line in entry.splitlines() if line[:1] == " ")
                terms.append(Term(tuple(names), meaning, part.startswith("## Assumed")))
    return terms


def prose(source: str) -> str:
    """Markdown with everything that is no prose blanked out; places stay the same."""
    return SILENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), source)


def linked(source: str, terms: list[Term], seen: set[str]) -> str:
    """Markdown in which the first mention of each term leads to the glossary.

    Args:
        source: a cell of Markdown.
        terms: of the glossary.
        seen: names of terms that were linked before; those found here join them.
    """
    text, found = prose(source), []
    for term in terms:
        if term.name in seen:
            continue
        match = term.pattern.search(text)
        if match and not any(a < match.end() and match.start() < b for a, b, _ in found):
            found.append((match.start(), match.end(), term.name))
            seen.add(term.name)
    for start, end, name in sorted(found, reverse=True):
        shown = " ".join(source[start:end].split())
        source = f"{source[:start]}{{term}}`{shown} <{name}>`{source[end:]}"
    return source


def first_met(term: Term, notebooks: list) -> tuple | None:
    """(notebook, section) where a term is set in bold or italics first, or else mentioned first."""
    mentioned = None
    for notebook in notebooks:
        for section in notebook.sections[1:]:
            text = prose(section.text)
            if any(term.pattern.fullmatch(words) for words in emphasised(text)):
                return notebook, section
            if mentioned is None and term.pattern.search(text):
                mentioned = notebook, section
    return mentioned


def emphasised(text: str) -> list[str]:
    """What is set in bold or italics, without signs around it."""
    return [m.strip(" .:,;()?") for m in re.findall(r"\*+([^*]{2,60}?)\*+", text)]


def explained(term: Term, notebooks: list) -> int | None:
    """Place in the course of the notebook that explains a term: in bold, italics or a heading."""
    for index, notebook in enumerate(notebooks):
        for section in notebook.sections[1:]:
            headings = re.findall(r"(?m)^#+ (.*)$", section.text)
            said = [section.title, *headings, *emphasised(prose(section.text))]
            if any(term.pattern.search(words) for words in said):
                return index
    return None


def too_early(terms: list[Term], notebooks: list) -> list[str]:
    """Terms that a notebook uses before the one that explains them, in words.

    Tables to look things up in (sections without minutes), what everybody is assumed to know, and
    paragraphs that name another notebook are left out.
    """
    found = []
    for term in (term for term in terms if not term.basic):
        place = explained(term, notebooks)
        for notebook in notebooks[: place or 0]:
            for section in (s for s in notebook.sections[1:] if s.minutes):
                for paragraph in re.split(r"\n\s*\n", section.text):
                    points = re.search(r"notebooks? \d\d|\(\d\d", paragraph)
                    if term.pattern.search(prose(paragraph)) and not points:
                        found.append(
                            f"{notebook.stem}, {section.title}: uses {term.name!r}, which "
                            f"{notebooks[place].stem} explains first. Explain it there, or point to it."
                        )
    return found


def introduced(source: str) -> list[str]:
    """What a cell gives a name to: "is called *x*", "known as **x**", "**x** (XY)"."""
    text = prose(source)
    called = r"(?i:called|known as|named)\s+(?:an? |the )?\*+([^*]{2,60}?)\*+"
    short = r"\*\*([^*]{2,60}?)\*\*\s+\([A-Z]{2,}\)"
    return [" ".join(m.split()) for m in re.findall(called, text) + re.findall(short, text)]
