"""Pages for who teaches: plans with minutes, and per notebook what to ask, answers, and slips.

Minutes are those printed in the notebooks' headings, questions and answers those of the exercises:
all is read from what stands, so a new notebook has its page at once. What only experience says is
written by hand in notes/, in a file with the notebook's name without its number.
"""

import inspect
import re
from pathlib import Path

import pages as site
from prepare import Notebook, Section, Unfit

from mbrl_helpers.exercises import frame
from mbrl_helpers.exercises.builds import Build

NOTES = Path(__file__).parent / "notes"
PLANS = Path(__file__).parent / "plans.txt"
QUESTION = re.compile(r"(?<![\d.])(\d\d[a-z]?\.\w+)\b")


def pages(notebooks: list[Notebook]) -> dict[str, str]:
    """{name: Markdown} of the plans, and of a page for each notebook."""
    return {"plans": plans_page(notebooks)} | {n.stem: notebook_page(n) for n in notebooks}


# --- plans ---------------------------------------------------------------------------------------


def plans_page(notebooks: list[Notebook]) -> str:
    """Every plan of plans.txt as a table with a clock."""
    parts = [
        "# Plans\n\nMinutes of sections are those printed in the notebooks' headings, for reading and exercises together; they were "
        "set by the course's authors and have not been timed with a class yet: note yours, and send them. Clocks count from zero. "
        "Change `book/plans.txt`, and `make book` adds up again."
    ]
    for block in re.split(r"(?m)^(?=# )", PLANS.read_text(encoding="utf-8"))[1:]:
        head, *lines = block.strip().splitlines()
        says = " ".join(line[2:] for line in lines if line.startswith("> "))
        rows, clock, taught = [], 0, 0
        for line in (line for line in lines if line.strip() and line[:2] != "> "):
            if line.startswith("## "):
                rows.append([f"**{line[3:]}**", "", "", ""])
                clock = 0
                continue
            minutes, what, taught_here, how = entry(notebooks, line)
            rows.append([f"{clock // 60}:{clock % 60:02d}", str(minutes), what, how])
            clock, taught = clock + minutes, taught + taught_here
        table = site.table(["at", "min", "what", "how"], rows)
        parts.append(
            f"## {head[2:]}\n\n{says}\n\n{table}\n\nIn all {taught} minutes of the course, breaks aside."
        )
    return "\n\n".join(parts) + "\n"


def entry(notebooks: list[Notebook], line: str) -> tuple[int, str, int, str]:
    """A line of a plan: (minutes, what, minutes of the course, how).

    A line is `break | 15`, `talk | 10 | what to say`, or `plan_with_mpc | 1-4 | how`, where the
    numbers are those of sections; `plan_with_mpc | all` is the whole notebook.
    """
    what, amount, how = [part.strip() for part in (line + " | | ").split("|")[:3]]
    if what in ("break", "lunch", "talk", "home"):
        return (
            int(amount),
            {"talk": "All together", "home": "At home"}.get(what, what.title()),
            0,
            how,
        )
    notebook = next((n for n in notebooks if n.stem.partition("_")[2] == what), None)
    if notebook is None:
        known = ", ".join(n.stem.partition("_")[2] for n in notebooks)
        raise Unfit(
            f"book: expected in plans.txt one of {known}, got {what!r}. Mend the line: {line}"
        )
    link = f"[{notebook.title}](../notebooks/{notebook.stem}.ipynb)"
    if amount == "all":
        minutes = notebook.minutes or total(notebook.sections)
        return minutes, f"{link}, all of it", minutes, how
    chosen = [s for s in notebook.sections if s.number and s.number in numbers(amount)]
    minutes = total(chosen)
    if not minutes:
        raise Unfit(f"book: expected sections with minutes for {line!r} in plans.txt, got none.")
    word = "section" if len(numbers(amount)) == 1 else "sections"
    return minutes, f"{link}, {word} {amount.replace('-', ' to ')}", minutes, how


def numbers(text: str) -> set[int]:
    """The sections that a line names: "1-3, 5" means 1, 2, 3 and 5."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def total(sections: list[Section]) -> int:
    """Minutes of sections."""
    return sum(s.minutes or 0 for s in sections)


# --- a page for each notebook --------------------------------------------------------------------


def notebook_page(notebook: Notebook) -> str:
    """What goes wrong, what to ask, where to vote, answers, what to skip."""
    links = f"[notebook](../notebooks/{notebook.stem}.ipynb)"
    slides = f'<a href="../slides/{notebook.stem}.html">slides</a>'
    parts = [f"# {notebook.title}: notes", f"The {links}, its {slides}.", notes(notebook)]
    rows = [
        [f"[{s.title}](#{notebook.label(s.number)})", str(s.minutes or "")]
        for s in notebook.sections[1:]
    ]
    parts.append("## Minutes\n\n" + site.table(["section", "minutes, as printed"], rows))
    votes, exercises, builds = [], [], []
    for number in notebook.questions:
        task = frame.find(number)
        if isinstance(task, frame.Question):
            votes.append(vote(notebook, number, task))
        elif isinstance(task, Build):
            builds.append(build(notebook, number, task))
        else:
            exercises.append(exercise(notebook, number, task))
    for title, found in (("Where to vote", votes), ("Exercises", exercises), ("Builds", builds)):
        if found:
            parts.append(f"## {title}\n\n" + "\n\n".join(found))
    return "\n\n".join(parts) + "\n"


def notes(notebook: Notebook) -> str:
    """What somebody wrote by hand on this notebook, or that nobody has."""
    path = NOTES / f"{notebook.stem.partition('_')[2]}.md"
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    return "*No notes from teaching yet: what follows is made from the notebook itself. Yours are welcome.*"


def asked(notebook: Notebook, number: str) -> str:
    """The words in which a notebook asks something: its part of the cell that names it."""
    for cell in notebook.nb.cells:
        if cell.cell_type == "markdown" and number in QUESTION.findall(cell.source):
            item = re.search(
                rf"^- \*\*{re.escape(number)}\*\*(.*?)(?=^- |\Z)", cell.source, re.M | re.S
            )
            if item:
                return item.group(1).strip()
            tail = cell.source[max(0, cell.source.rfind("\n#", 0, cell.source.find(number))) :]
            return re.sub(r"(?m)^#+ .*\n", "", tail.strip() + "\n").strip()
    return ""


def quoted(text: str) -> str:
    """Markdown as a quotation."""
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def opened(title: str, text: str) -> str:
    """Something that opens on a click."""
    return f"::::{{dropdown}} {title}\n{text}\n::::"


def vote(notebook: Notebook, number: str, task: frame.Question) -> str:
    """A question, and what to say to each choice."""
    said = "\n".join(
        f"- **{c}{' ✓' if c == task.answer else ''}** {r}" for c, r in task.replies.items()
    )
    return f"### {number}\n\n{quoted(asked(notebook, number))}\n\n" + opened(
        f"The answer is {task.answer}", said
    )


def exercise(notebook: Notebook, number: str, task: frame.Exercise) -> str:
    """An exercise: a solution, and the slips that its check knows by name."""
    text = f"```python\n{inspect.getsource(task.reference)}```"
    slips = "\n".join(f"- {' '.join(w.hint.split())}" for w in task.wrong)
    hints = "\n".join(f"{i}. {' '.join(h.split())}" for i, h in enumerate(task.hints, 1))
    parts = [
        opened("A solution", text),
        opened("Slips that the check knows, and what it says to them", slips),
    ]
    parts.append(opened("Its hints", hints))
    return f"### {number}\n\n{quoted(asked(notebook, number))}\n\n" + "\n\n".join(parts)


def build(notebook: Notebook, number: str, task: Build) -> str:
    """A build: a skeleton, a reference, and the faults that its judge tells apart."""
    faults = "\n".join(f"- {' '.join(w.hint.split())}" for w in task.faulty)
    parts = [
        opened("The skeleton", f"```python\n{inspect.getsource(task.starter)}```"),
        opened("A reference", f"```python\n{inspect.getsource(task.reference)}```"),
        opened("Faults that the judge tells apart (a part of what it says)", faults),
    ]
    return f"### {number}\n\n{quoted(asked(notebook, number))}\n\n" + "\n\n".join(parts)


# --- lists ---------------------------------------------------------------------------------------


def minutes_table(notebooks: list[Notebook]) -> str:
    """Minutes, votes, exercises and builds of each notebook, with links to its notes and slides."""
    rows = []
    for n in notebooks:
        kinds = [type(frame.find(number)).__name__ for number in n.questions]
        counts = [str(kinds.count(kind)) for kind in ("Question", "Exercise", "Build")]
        minutes = [str(n.minutes or ""), str(total(n.sections))]
        rows.append([f"[{n.title}](../notebooks/{n.stem}.ipynb)", *minutes, *counts,
                     f"[notes]({n.stem}.md)", f'<a href="../slides/{n.stem}.html">slides</a>'])  # fmt: skip
    head = [
        "notebook",
        "minutes, as it says",
        "all sections, builds too",
        "votes",
        "exercises",
        "builds",
        "for you",
        "to show",
    ]
    return site.table(head, rows)


def slide_list(notebooks: list[Notebook]) -> str:
    """Links to the slides of all notebooks."""
    return "\n".join(f'- <a href="../slides/{n.stem}.html">{n.title}</a>' for n in notebooks)


# --- the sheet to print --------------------------------------------------------------------------


def symbols(notebooks: list[Notebook]) -> str:
    """The first table of symbols that a notebook has."""
    for notebook in notebooks:
        for section in notebook.sections:
            found = re.search(r"(?m)^\| symbol .*(?:\n\|.*)+", section.text)
            if found:
                return found.group()
    raise Unfit("book: expected a table of symbols in a notebook ('| symbol | …'), got none.")


def boxes(notebooks: list[Notebook]) -> str:
    """The pseudo-code of each notebook that has some, under its title."""
    parts = []
    for notebook in notebooks:
        text = "\n\n".join(section.text for section in notebook.sections)
        found = re.search(
            r"(?m)^\*\*The algorithm[^\n]*\*\*\n\n```[a-z]*\n(.*?)^```", text, re.DOTALL
        )
        quote = re.search(r"(?m)^(?:>.*\n)*> .*\*\*repeat\*\*.*\n(?:>.*\n?)*", text)
        if found:
            parts.append(f"**{notebook.title}**\n\n```text\n{found.group(1)}```")
        elif quote:
            parts.append(f"**{notebook.title}**\n\n{quote.group().strip()}")
    return "\n\n".join(parts)
