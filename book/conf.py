"""Settings of the book. `make book` calls Sphinx with them, on the sources that book/make.py prepares."""

import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "book")]

from rehome import home  # noqa: E402
from theme import theme_options  # noqa: E402

REPO, REF = home((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def mathjax_file() -> Path:
    """MathJax in one file, with its fonts, as a package on PyPI ships it."""
    files = metadata.files("sphinx-mathjax-offline") or []
    return next(Path(str(f.locate())) for f in files if f.name == "tex-svg-full.js")


project = "Model-based reinforcement learning, hands on"
author = "the course's authors"
release = REF.removeprefix("v")
copyright = "text and figures CC BY 4.0, code MIT"
extensions = ["myst_nb", "sphinx_design", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["sphinx.ext.mathjax", "sphinx_copybutton"]
exclude_patterns = ["_extra"]

nb_execution_mode = "off"  # what was run is shown; nothing runs here
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/markdown", 0)]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_dmath_double_inline = True
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]  # a notebook may skip a level

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
napoleon_attr_annotations = False  # types stand in the signature
napoleon_use_rtype = False
default_role = "py:obj"  # `name` in a docstring is a link where there is one, else code
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = theme_options(REPO, REF)
html_static_path = [str(ROOT / "book" / "assets"), str(mathjax_file())]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_extra_path = [str(ROOT / "build" / "book" / "source" / "_extra")]
html_copy_source = True
html_show_sourcelink = False
html_last_updated_fmt = None
mathjax_path = "tex-svg-full.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}

linkcheck_timeout = 20
linkcheck_workers = 4
linkcheck_anchors = False  # many sites make theirs in the browser
linkcheck_ignore = [r"https?://localhost.*"]


def marked(text: str) -> str:
    """A line of a docstring in which stars and bars mean themselves, but for code and arguments."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"(?<=\[)\*|\|", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def setup(app: object) -> None:
    """Docstrings are written for people: in Markdown's manner, not in Sphinx's."""

    def plain(app: object, what: str, name: str, obj: object, options: object, lines: list) -> None:
        lines[:] = [line if re.match(r"\s*\*+\w+:", line) else marked(line) for line in lines]

    app.connect("autodoc-process-docstring", plain, priority=100)  # before napoleon
