"""Copy the course's address and version from pyproject.toml to wherever they are used.

They are used by the install cell and the badges of each notebook, the badges of the README,
CITATION.cff, and `mbrl_helpers.__version__`. The install cell also compares the notebook's version
with that of the package. Without an argument: after a new version, or for a new notebook.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

import nbformat
from course import notebooks

ROOT = Path(__file__).resolve().parents[1]
# What Colab lacks for one notebook, by its number. Everything else of the course is there already.
LACKING = {"08": "box2d", "09": "minatar ale-py"}

INSTALL = """\
# On Colab this installs the course's package, within seconds; no restart is needed. Elsewhere the
# package is there already, and this does nothing.
from importlib.util import find_spec

if find_spec("mbrl_helpers") is None:
    %pip install -q --no-deps {packages}
{made_for}"""
HOMELESS = """\
# Is the course's package here, and of this notebook's version? Then this does nothing.
from importlib.util import find_spec

if find_spec("mbrl_helpers") is None:
    raise ModuleNotFoundError(
        "The course's package, mbrl_helpers, is missing here. Start as the README says, or pick "
        "the course's kernel. Colab can install it once the course has an address (make rehome)."
    )
{made_for}"""
MADE_FOR = """
from mbrl_helpers.check import made_for

made_for("{version}")"""
BADGES = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repo}/blob/{ref}/{notebook}) "
    "[![Open in Binder](https://mybinder.org/badge_logo.svg)]"
    "(https://mybinder.org/v2/gh/{repo}/{ref}?urlpath=lab/tree/{notebook})"
)
FIRST = "notebooks/00_start_here.ipynb"  # where the README's badges lead
GITHUB = "https://github.com/"


def checked(repo, where):
    """owner/name of a GitHub repository, from that or from its address."""
    name = repo.removeprefix(GITHUB).removesuffix("/").removesuffix(".git")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_][\w.-]*", name, re.ASCII):
        raise ValueError(
            f"{where}: expected a GitHub repository as owner/name, got {repo!r}. Give it as in: "
            "make rehome REPO=ada/planning-course"
        )
    return name


def home(pyproject):
    """(owner/name, ref) that pyproject.toml names; None for the first while there is no address."""
    project = tomllib.loads(pyproject)["project"]
    address = project.get("urls", {}).get("Repository")
    repo = address and checked(address, "pyproject.toml, Repository")
    return repo, f"v{project['version']}"


def with_address(pyproject, repo):
    """pyproject.toml with this repository as its address."""
    table = "[project.urls]\n"
    text = re.sub(r"(?m)^Repository = .*\n", "", pyproject)
    if table not in text:
        text = text.replace("[tool.", f"{table}\n[tool.", 1)
    return text.replace(table, f'{table}Repository = "{GITHUB}{repo}"\n')


def with_citation(citation, repo, ref):
    """CITATION.cff with this version, and the address if there is one."""
    text = re.sub(r"(?m)^repository-code: .*\n", "", citation)
    address = f'repository-code: "{GITHUB}{repo}"\n' if repo else ""
    version = f"version: {ref.removeprefix('v')}\n"
    return re.sub(r"(?m)^version: .*\n", version + address, text)


def install_cell(repo, ref, stem):
    """Source of the first code cell of a notebook."""
    packages = [LACKING.get(stem[:2]), f"git+{GITHUB}{repo}@{ref}"]
    made_for = MADE_FOR.format(version=ref.removeprefix("v"))
    cell = INSTALL if repo else HOMELESS
    return cell.format(packages=" ".join(filter(None, packages)), made_for=made_for)


def with_badges(text, repo, ref, notebook, where):
    """Markdown with these badges below its title, and no others; with none without an address."""
    title, newline, rest = re.sub(r"\n\[!\[Open in Colab\].*\n", "", text).partition("\n")
    if not title.startswith("# "):
        raise ValueError(
            f"{where}: expected a title such as '# 04 · CEM' in the first line, got {title!r}. "
            "Write one: the badges go below it."
        )
    badges = f"\n{BADGES.format(repo=repo, ref=ref, notebook=notebook)}\n" if repo else ""
    return title + newline + badges + rest


def with_home(path, repo, ref):
    """Text of a notebook with badges and install cell; all else stays as it is."""
    text = path.read_text(encoding="utf-8")
    nb, before = (nbformat.reads(text, as_version=4) for _ in range(2))
    where = f"notebooks/{path.name}"
    top = nb.cells[0] if nb.cells and nb.cells[0].cell_type == "markdown" else {"source": ""}
    top["source"] = with_badges(top["source"], repo, ref, where, f"{where}, first cell")
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    install = next((c for c in code if "install" in c.metadata.get("tags", [])), None)
    if install is None:
        install = nbformat.v4.new_code_cell(id="install", metadata={"tags": ["install"]})
        nb.cells.insert(nb.cells.index(code[0]) if code else 1, install)
    install.source = install_cell(repo, ref, path.stem)
    # Editors write the same notebook with other blanks: that is no change.
    return text if nb == before else nbformat.writes(nb) + "\n"


def updates(root, repo=None):
    """{path: new text} of all files under root that do not agree with pyproject.toml (or repo)."""
    old = {path: path.read_text(encoding="utf-8") for path in sources(root)}
    pyproject, readme, package, citation, *notebooks = old
    new = dict(old)
    if repo is not None:
        new[pyproject] = with_address(old[pyproject], checked(repo, "rehome"))
    repo, ref = home(new[pyproject])
    new[readme] = with_badges(old[readme], repo, ref, FIRST, "README.md")
    version = f'__version__ = "{ref.removeprefix("v")}"'
    new[package] = re.sub(r"(?m)^__version__ = .*$", version, old[package])
    new[citation] = with_citation(old[citation], repo, ref)
    new |= {path: with_home(path, repo, ref) for path in notebooks}
    return {path: text for path, text in new.items() if text != old[path]}


def sources(root):
    """The files that name the address or the version: pyproject.toml first."""
    names = ["pyproject.toml", "README.md", "mbrl_helpers/__init__.py", "CITATION.cff"]
    return [*(root / name for name in names), *notebooks(root)]


def main(args=None):
    """Write them, and say which changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repo", nargs="?", help="owner/name on GitHub")
    parser.add_argument("--root", type=Path, default=ROOT, help="course to change (default: this)")
    args = parser.parse_args(args)
    try:
        changed = updates(args.root, args.repo)
    except ValueError as error:
        return str(error)
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
        print("changed", path.relative_to(args.root))
    repo, ref = home((args.root / "pyproject.toml").read_text(encoding="utf-8"))
    if repo:
        print(f"The course lives at {GITHUB}{repo}. Commit, tag {ref} and push the tag: badges and")
        print("install cells point to it.")
    else:
        print("The course has no address yet. Give it one with: make rehome REPO=owner/name")
    return 0


if __name__ == "__main__":
    sys.exit(main())
