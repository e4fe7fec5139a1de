"""Slides of a notebook: its own figures, questions and key sentences, in one file a notebook."""

import html
import re

import mistune  # nbconvert's reader of Markdown
from prepare import Notebook, Picture, Section, img

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: slides</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0; font: 1.15rem/1.45 system-ui, sans-serif; background: #fff; color: #1b1f24; }}
main {{ max-width: 62rem; margin: auto; }}
section {{ min-height: 100vh; box-sizing: border-box; padding: 2.2rem 1.4rem; display: flex; flex-direction: column; justify-content: center; border-bottom: 1px solid #ccc; }}
h1, h2 {{ line-height: 1.2; margin: 0 0 .8rem; }}
img {{ max-width: 100%; max-height: 62vh; height: auto; background: #fff; align-self: center; }}
pre {{ overflow-x: auto; background: #f2f4f7; padding: .8rem; border-radius: 6px; font-size: .9rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }} td, th {{ border: 1px solid #999; padding: .3rem .6rem; text-align: left; }}
blockquote {{ border-left: 4px solid #0b62a4; margin: 0; padding-left: 1rem; }}
a {{ color: #0b5a97; }} .where {{ font-size: .9rem; color: #565d66; }}
mjx-container[display="true"] {{ overflow-x: auto; max-width: 100%; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #14181d; color: #e8eaed; }} pre {{ background: #232a32; }} a {{ color: #7cc4ff; }} .where {{ color: #b4bac2; }} }}
@media print {{ section {{ page-break-after: always; border: 0; min-height: 0; }} }}
</style>
<script>window.MathJax = {{ options: {{ enableMenu: false }} }};</script>
<script defer src="../_static/tex-svg-full.js"></script></head>
<body><main>{slides}</main>
<script>
const all = [...document.querySelectorAll("section")];
const here = () => all.reduce((best, s, i) => Math.abs(s.getBoundingClientRect().top) < Math.abs(all[best].getBoundingClientRect().top) ? i : best, 0);
const go = (i) => all[Math.max(0, Math.min(all.length - 1, i))].scrollIntoView();
addEventListener("keydown", (e) => {{
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (["ArrowRight", "PageDown", " "].includes(e.key)) {{ e.preventDefault(); go(here() + 1); }}
  if (["ArrowLeft", "PageUp"].includes(e.key)) {{ e.preventDefault(); go(here() - 1); }}
  if (e.key === "p" || e.key === "P") print();
}});
const reachable = () => document.querySelectorAll("pre, table, mjx-container").forEach((box) => {{ if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0; }});
addEventListener("load", () => setTimeout(reachable, 500));
addEventListener("resize", reachable);
</script></body></html>
"""
MARKDOWN = mistune.create_markdown(escape=False, plugins=["table", "math"])


def shown(text: str) -> str:
    """Markdown as HTML; links to other notebooks lead to their pages."""
    text = str(MARKDOWN(text))
    return re.sub(r'href="(\d\d[a-z]?_\w+)\.ipynb"', r'href="../notebooks/\1.html"', text)


def title_of(text: str) -> str:
    """A heading's words, without a paragraph around them."""
    return re.sub(r"^<p>|</p>$", "", shown(html.escape(text, quote=False)).strip())


def slide(title: str, body: str, level: int = 2) -> str:
    """One slide."""
    return f"<section><h{level}>{title_of(title)}</h{level}>{body}</section>"


def key_sentences(section: Section) -> list[str]:
    """Paragraphs in which something is set in bold, the plan of a section aside."""
    text = re.sub(r"(?m)^```.*?^```", "", section.text, flags=re.DOTALL)
    blocks = [b.strip() for b in re.split(r"\n\s*\n", text)]
    plain = [b for b in blocks if re.search(r"\*\*[^*]{12,}\*\*", b) and b[0] not in "|#>-*["]
    return [_sentence(b) for b in plain][:3]


def _sentence(block: str) -> str:
    """The sentence of a paragraph that has the words in bold."""
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z*])", block.replace("\n", " "))
    found = [part for part in parts if part.count("**") == 2]
    return found[0] if found else block


def questions(section: Section) -> list[str]:
    """What to vote on: headings or words *Predict*, or choices, to the end of their cell.

    What the next cell says comes after its experiment, and would give the answer away.
    """
    parts = [p for cell in section.cells for p in re.split(r"(?m)^(?=### |\*\*Predict)", cell)]
    return [
        p.strip()
        for p in parts
        if re.match(r"### .*[Pp]redict|\*\*Predict", p) or (p.startswith("###") and "**a)**" in p)
    ]


def page(notebook: Notebook) -> str:
    """All slides of a notebook."""
    opening = re.sub(r"(?m)^(# .*|\[!\[.*)\n", "", notebook.opening).split("**Time**")[0]
    slides = [slide(notebook.title, shown(opening), 1)]
    for section in notebook.sections[1:]:
        pictures = [p for p in notebook.pictures if p.section == section.number]
        slides += of_section(section, pictures)
    return PAGE.format(title=html.escape(notebook.title), slides="\n".join(slides))


def of_section(section: Section, pictures: list[Picture]) -> list[str]:
    """A section: its votes, then its figures, with the key sentences under the first."""
    where = f"<p class='where'>{section.minutes} min</p>" if section.minutes else ""
    slides = []
    asked = questions(section)
    for question in asked:
        text = re.sub(r"(?m)^#+ .*\n|^Put your choice[^\n]*", "", question).strip()
        slides.append(slide(f"Predict: {section.title}", shown(text)))
    said = "".join(f"<blockquote>{shown(s)}</blockquote>" for s in key_sentences(section))
    boxes = re.findall(r"(?m)^```\n.*?^```", section.text, re.DOTALL)
    if boxes:
        slides.append(slide(section.title, shown(boxes[0]) + where))
    for i, picture in enumerate(pictures):
        slides.append(
            slide(section.title, img(picture, "../", lazy=False) + (said if i == 0 else ""))
        )
    table = re.search(r"(?m)^\|.*(?:\n\|.*)+", section.text)
    if table and not section.minutes:
        slides.append(slide(section.title, shown(table.group())))
    if not slides and (said or where):
        slides.append(slide(section.title, said + where))
    return slides


SHEET = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Algorithms and symbols, to print</title>
<style>
@page {{ size: A4 landscape; margin: 8mm; }}
body {{ margin: 0 auto; padding: .5rem; max-width: 281mm; font: 10pt/1.35 system-ui, sans-serif; color: #000; background: #fff; }}
main {{ columns: 2; column-gap: 6mm; }}
h1 {{ font-size: 13pt; margin: 0 0 1mm; }} h2 {{ font-size: 11pt; margin: 1.5mm 0 1mm; }}
p, ol, ul, blockquote {{ margin: 0 0 1mm; }} ol, ul {{ padding-left: 4mm; }} blockquote {{ padding-left: 2mm; border-left: .6mm solid #0b62a4; }}
pre {{ font-size: 7pt; line-height: 1.15; margin: 0 0 1mm; white-space: pre-wrap; }} code {{ font-size: 9pt; }}
table {{ border-collapse: collapse; width: 100%; margin-bottom: 1mm; }} td, th {{ border: .2mm solid #999; padding: .3mm 1mm; text-align: left; vertical-align: top; }}
thead:not(:has(th:not(:empty))) {{ display: none; }}
@media screen and (max-width: 60rem) {{ main {{ columns: 1; }} body {{ font-size: 11pt; }} pre, code {{ font-size: 9pt; }} pre, table {{ display: block; overflow-x: auto; }} }}
</style>
<script>window.MathJax = {{ options: {{ enableMenu: false }} }};</script>
<script defer src="../_static/tex-svg-full.js"></script></head>
<body><main>{body}</main></body></html>
"""


def sheet(text: str) -> str:
    """One page of paper, of the sheet's Markdown: without the boxes, which are longer than that."""
    short = re.sub(
        r"(?s)^## Algorithms\n.*?(?=^\*\*In a line each)", "## Algorithms\n\n", text, flags=re.M
    )
    return SHEET.format(body=shown(re.sub(r"(?m)^Made from .*\n.*\n", "", short)))
