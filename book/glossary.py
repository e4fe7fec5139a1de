"""The words of the glossary: where each is first met, and links that lead to it."""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent / "glossary.md"
# What is no prose: code, mathematics, links and roles, headings, quoted titles of papers.
SILENT = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$|!?\[[^\]]*\]\([^)]*\)|^#+ .*$|^\(.*\)=$|<[^>]+>|https?://\S+",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Term:
    """A word of the field, its other names, and what it means."""

    names: tuple[str, ...]
    meaning: str

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
    for block in re.findall(r"^:{3,}\{glossary\}\n(.*?)^:{3,}$", text, re.MULTILINE | re.DOTALL):
        for entry in re.split(r"\n\s*\n(?=\S)", block.strip("\n")):
            names = [line.strip() for line in entry.splitlines() if line and line[0] != " "]
            meaning = " ".join(line.strip() for line in entry.splitlines() if line[:1] == " ")
            terms.append(Term(tuple(names), meaning))
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
            if any(term.pattern.search(m) for m in re.findall(r"\*+([^*\n]{2,60})\*+", text)):
                return notebook, section
            if mentioned is None and term.pattern.search(text):
                mentioned = notebook, section
    return mentioned
