"""The repository itself: packaging, dependency lists, Makefile, size and structure."""

import ast
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mbrl_helpers

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mbrl_helpers"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Packages whose names differ on conda-forge.
CONDA_NAMES = {
    "gymnasium[classic-control]": ["gymnasium", "gymnasium-classic_control"],
    "gymnasium[box2d]": ["gymnasium-box2d"],
    "torch": ["pytorch-cpu"],
    "matplotlib": ["matplotlib-base"],
}
CONDA_ONLY = {"python", "pip", "setuptools"}  # what it takes to install the package itself

MAX_FILE, MAX_FUNCTION = 350, 40  # lines of code: smoke alarms, that want a look

# The rooms in the order of the data: each may import those before it.
ROOMS = (
    "console",
    "interfaces", "checks", "actions", "angles", "saving", "envs", "memory", "data", "interaction",
    "networks", "probabilistic", "units", "dynamics", "diagnosis", "uncertainty", "futures",
    "planners", "policies", "agents", "imagination", "training", "kept",
    "sweeps", "tabular",
)  # fmt: skip
WINGS = ("games", "cars", "boards", "hidden")  # import rooms, never each other
SHOWN = (
    "notebook",
    "evidence",
    "check",
    "update",
    "table",
)  # for notebooks: may import everything but exercises
LEAVES = ("plotting", "exercises")  # nobody imports them but what notebooks show
# Rooms that need fewer than all before them: what they may import, and nothing else.
NARROW = {
    "console": set(),
    "interfaces": set(),
    "checks": set(),
    "actions": set(),
    "angles": set(),
    "saving": set(),
    "networks": {"checks"},  # no environment
    "memory": {"checks", "actions"},
    "planners": {"interfaces", "checks", "actions"},  # no model: they see a score
    "kept": set(),
    "tabular": set(),
    "plotting": set(),
    "update": set(),  # it runs where nothing is installed
}


def split(requirement):
    """'torch>=2.2' -> ('torch', '2.2'), for both pip's and conda's spelling."""
    return re.fullmatch(r"([\w.\-\[\]]+)(?:[<>=~]+([\w.]+))?", requirement.strip()).groups()


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# --- packaging -----------------------------------------------------------------------------------


def test_wheel_alone_can_be_imported(tmp_path):
    """Build from a copy (building in place leaves files behind), import the wheel's own modules."""
    source, target, empty = tmp_path / "source", tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    shutil.copytree(PACKAGE, source / "mbrl_helpers", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(build, cwd=empty, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, cwd=empty, check=True)

    # -I keeps the working directory and PYTHONPATH out; the wheel precedes the editable install.
    names = [module_name(path) for path in SOURCES]
    code = f"""
import importlib, json, sys
sys.path.insert(0, {str(target)!r})
print(json.dumps([importlib.import_module(name).__file__ for name in {names!r}]))
"""
    run = [sys.executable, "-I", "-c", code]
    found = subprocess.run(run, cwd=empty, check=True, stdout=subprocess.PIPE, text=True).stdout
    for file in json.loads(found.splitlines()[-1]):
        assert Path(file).is_relative_to(target)

    def data(root):
        files = (root / "mbrl_helpers").rglob("*")
        kinds = {".py", ".pyc"}
        return {f.relative_to(root) for f in files if f.is_file() and f.suffix not in kinds}

    assert data(target) == data(source), "the wheel lacks (or adds) data files"


def test_environment_yml_agrees_with_pyproject():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = text.split("\ndependencies:\n")[1].replace("  - pip: #", "  # pip: #")
    lines = re.findall(r"^ {2,4}- (.*)$", listed, re.MULTILINE)
    uncommented = [line for line in lines if " # " not in line]
    assert not uncommented, "every dependency says why it is there"
    conda = dict(split(line.split(" # ")[0]) for line in lines)
    assert conda["python"] == PROJECT["requires-python"].removeprefix(">=")
    ours = dict(split(requirement) for requirement in PROJECT["dependencies"])
    expected = {c: floor for name, floor in ours.items() for c in CONDA_NAMES.get(name, [name])}
    assert {n: floor for n, floor in conda.items() if n not in CONDA_ONLY} == expected


def test_post_build_can_be_run():
    assert os.access(ROOT / "postBuild", os.X_OK) or os.name == "nt"
    subprocess.run(["bash", "-n", ROOT / "postBuild"], check=True)


@pytest.mark.skipif(shutil.which("jupyter-repo2docker") is None, reason="needs jupyter-repo2docker")
def test_binder_builds_what_we_think(tmp_path):
    """Only the recipe, without Docker: conda by environment.yml, then postBuild, and no pip."""
    for name in ["environment.yml", "postBuild", "pyproject.toml"]:
        shutil.copy(ROOT / name, tmp_path)
    binder = ["jupyter-repo2docker", "--no-build", "--debug", str(tmp_path)]
    done = subprocess.run(binder, capture_output=True, text=True, check=True)
    recipe = done.stdout + done.stderr
    assert re.search(r"env update .*--file \"environment.yml\"", recipe)
    assert re.search(r"environment\S*py\S*3\S*11\S*lock", recipe), "not the Python that we pin"
    assert "RUN ./postBuild" in recipe
    assert "pip install" not in recipe.replace("postBuild", "")


def pins():
    """Version of each package that constraints.txt sets for this Python on this system."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line.split(" #")[0] for line in text.splitlines() if line and line[0] not in "# "]
    needs = [Requirement(line) for line in lines]
    here = [need for need in needs if need.marker is None or need.marker.evaluate()]
    found = {canonicalize_name(need.name): str(need.specifier) for need in here}
    assert len(found) == len(here), "two versions of one package"
    assert all(re.fullmatch(r"==[\w.]+", version) for version in found.values())
    return {name: version.removeprefix("==") for name, version in found.items()}


def closure(*requirements):
    """{name: version} of all that is installed here of what these need, at any remove."""
    found, seen, todo = {}, set(), list(requirements)
    while todo:
        need = Requirement(todo.pop())
        for extra in {"", *need.extras}:
            key = canonicalize_name(need.name), extra
            if key in seen:
                continue
            seen.add(key)
            try:
                dist = metadata.distribution(need.name)
            except metadata.PackageNotFoundError:
                continue  # not asked for here, such as the browser extra
            found[key[0]] = dist.version
            for text in dist.requires or ():
                marker = Requirement(text).marker
                if marker is None or marker.evaluate({"extra": extra}):
                    todo.append(text)
    return found


def direct():
    """What pyproject.toml names: {name: floor}."""
    extras = [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    named = [split(r) for r in PROJECT["dependencies"] + extras]
    return {canonicalize_name(name.split("[")[0]): floor for name, floor in named}


def test_direct_dependencies_are_pinned_at_or_above_their_floors():
    pinned = pins()
    below = {n: v for n, v in direct().items() if Version(pinned[n]) < Version(v)}
    assert below == {}


@pytest.mark.newest
def test_everything_installed_is_pinned():
    """Local suffixes such as +cpu aside: they say how it was built."""
    installed, pinned = closure("mbrl_helpers[dev,browser]"), pins()
    del installed["mbrl-helpers"]
    assert len(installed) > 100
    assert {"jupyter-server", "sympy", "pygame-ce", "iniconfig"} <= set(installed)
    found = {name: version.split("+")[0] for name, version in installed.items()}
    expected = {name: pinned.get(name) for name in found}
    assert found == expected, "make clean lint installs what is pinned; make constraints pins anew"


def test_other_systems_are_pinned_too():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name, marker in [("appnope", "darwin"), ("colorama", "win32"), ("pywinpty", "nt")]:
        assert re.search(rf"^{name}==\S+ ; .*{marker}", text, re.MULTILINE)
    for name in ["nvidia-", "triton", "cuda-"]:  # or macOS would have none
        lines = [line for line in text.splitlines() if line.startswith(name)]
        assert lines
        assert all("sys_platform == 'linux'" in line for line in lines)


def test_ci_runs_the_targets_that_it_should():
    text = (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8")
    targets = ["test", "test-floors", "book-test", "links"]
    assert re.findall(r"run: make (\S+)", text) == targets
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^test: .*\n(\t.*\n)+", makefile, re.MULTILINE).group()
    assert not re.search("floors|make book|book.py", recipe), (
        "make test needs neither old versions nor Sphinx"
    )


def test_ci_takes_actions_and_systems_that_do_not_move():
    """A tag can be moved to other code; `latest` becomes another system overnight."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        uses = re.findall(r"uses: (\S+)(.*)", text)
        assert uses
        for action, comment in uses:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), f"{path.name}: {action}"
            assert re.search(r"# v\d+\.\d+\.\d+$", comment), "say which version that is"
        assert "-latest" not in text


def test_citation_names_this_version_and_says_what_the_schema_asks_for():
    """The whole schema is checked in CI, by cffconvert."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    said = dict(re.findall(r"(?m)^([\w-]+):[ ]*(.*)$", text))
    assert {"cff-version", "title", "message", "authors", "version", "license"} <= set(said)
    assert (said["cff-version"], said["version"]) == ("1.2.0", PROJECT["version"])
    address = PROJECT.get("urls", {}).get("Repository")
    assert said.get("repository-code", "").strip('"') == (address or "")


def test_changes_of_this_version_are_told():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^## {re.escape(PROJECT['version'])}\b", text)


def test_binder_does_not_take_the_container():
    """repo2docker looks for one in the root, in binder/ and in .binder/, and only there."""
    for folder in ("", "binder", ".binder"):
        assert not (ROOT / folder / "Dockerfile").exists()
    assert (ROOT / ".devcontainer/Dockerfile").exists()
    text = (ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8")
    made = json.loads(re.sub(r"(?m)^\s*//.*$", "", text))
    assert (ROOT / ".devcontainer" / made["build"]["dockerfile"]).is_file()
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert made["postCreateCommand"].split()[1] in targets


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split()
    make = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^  make ([\w-]+)", shown, re.MULTILINE) == targets


# --- size and structure --------------------------------------------------------------------------


def code_lines(source):
    """Numbers of the lines that hold code: no blanks, no comments, no docstrings."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    silent |= {tokenize.ENCODING, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def test_code_lines_counts_only_code():
    source = '"""Doc."""\n\n# comment\ndef f():\n    """Doc\n    more."""\n    x = """a\n    b"""\n'
    assert code_lines(source) == {4, 7, 8}


def test_files_stay_short():
    inside = [path for path in SOURCES if "exercises" not in path.parts]
    sizes = {module_name(p): len(code_lines(p.read_text(encoding="utf-8"))) for p in inside}
    assert sizes, "the package is missing"
    assert {name: size for name, size in sizes.items() if size > MAX_FILE} == {}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_functions_stay_short(path):
    source = path.read_text(encoding="utf-8")
    lines, long = code_lines(source), {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            size = len(lines & set(range(node.lineno, node.end_lineno + 1)))
            whole_page = path.name == "build06.py" and node.name == "learn"  # PETS, all of it
            if size > MAX_FUNCTION and not whole_page:
                long[node.name] = size
    assert long == {}


def imported(source, module, is_package=False):
    """Modules of the package that a module imports, by their first name: {'envs', ...}."""
    parts = module.split(".") if is_package else module.split(".")[:-1]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return {n.split(".")[1] for n in names if n.startswith("mbrl_helpers.")}


def test_imported_understands_every_spelling():
    source = """
import mbrl_helpers.envs
from mbrl_helpers import data
from mbrl_helpers.dynamics import fit
from . import planners
def late():
    from .agents import MPCAgent
"""
    expected = {"envs", "data", "dynamics", "planners", "agents"}
    assert imported(source, "mbrl_helpers.x") == expected
    inner = imported("from ..envs import a\nfrom . import b", "mbrl_helpers.exercises.nb03")
    assert inner == {"envs", "exercises"}
    assert imported("from . import envs", "mbrl_helpers", is_package=True) == {"envs"}


def allowed(own):
    """What a room, a wing or a leaf may import beside itself."""
    if own in NARROW:
        return NARROW[own]
    if own in ROOMS:
        return set(ROOMS[: ROOMS.index(own)])
    if own in WINGS:
        return set(ROOMS)
    assert own in SHOWN + LEAVES, f"{own} is in no list above: say where it belongs"
    return {*ROOMS, *WINGS, *SHOWN, *LEAVES} - ({"exercises"} if own in SHOWN else set())


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_one_way(path):
    name = module_name(path)
    found = imported(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
    found.discard("__version__")
    if name == "mbrl_helpers":  # the public face
        assert found <= set(ROOMS)
    else:
        own = name.split(".")[1]
        assert found - {own} <= allowed(own)


def test_every_room_is_there():
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py"}
    there |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__"} == {*ROOMS, *WINGS, *SHOWN, *LEAVES}


# --- the public face -----------------------------------------------------------------------------


def test_public_names_are_documented():
    assert len(set(mbrl_helpers.__all__)) == len(mbrl_helpers.__all__)
    for name in mbrl_helpers.__all__:
        thing = getattr(mbrl_helpers, name)
        assert name == "__version__" or inspect.getdoc(thing), f"{name} says nothing of itself"
    public = {n for n in vars(mbrl_helpers) if n[0] != "_"} | {"__version__"}
    rooms = {n for n in public if inspect.ismodule(getattr(mbrl_helpers, n))}
    assert public - rooms == set(mbrl_helpers.__all__)


def test_public_face_is_typed_for_others():
    assert (PACKAGE / "py.typed").exists()


def test_public_face_imports_little():
    """Torch is most of it; nothing that only notebooks or a wing need."""
    code = "import sys, mbrl_helpers; print(*{name.split('.')[0] for name in sys.modules})"
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    assert not {"matplotlib", "IPython", "minatar", "ale_py", "pygame", "PIL"} & set(found)


def test_readme_s_ten_lines_run(capsys, tmp_path, monkeypatch):
    """The use of the kit without any notebook, as the README has it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    inside = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(inside) <= 12
    monkeypatch.chdir(tmp_path)  # it saves an agent
    exec(code, {})
    assert mbrl_helpers.MPCAgent.load("agent.npz").model.num_members == 5
    means = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert max(means) >= 475  # falling over at once, as at random, is about 22


# --- hygiene -------------------------------------------------------------------------------------

# Paths and addresses of the machine that somebody worked on. (Written so as not to match itself.)
TRACES = re.compile(rb"(?<![\w.])/[w]ork/|/tmp/[v]\b|files\.[p]ythonhosted|pypi\.[o]rg/simple")


def test_no_file_names_the_machine_it_was_made_on():
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    texts = {path: path.read_bytes() for path in paths if path.is_file()}
    traces = {path.name: m.group() for path, text in texts.items() if (m := TRACES.search(text))}
    assert traces == {}
