# The course in three commands: `make lab`, `make check` and `make test`. Each makes .venv first if it
# is missing. Written for GNU Make 3.81, which macOS ships.

# By = and not ?=, so that variables of these common names in the caller's shell change nothing.
VENV = .venv
PYTHON =
JOBS = 2
ARGS =
FROM =
NAME =
REPO =
# More flags for JupyterLab. In a container: make lab LAB_FLAGS="--ip=0.0.0.0" (and publish port 8888)
LAB_FLAGS ?=
# Where PyTorch comes from; empty: from where pip gets everything else. That has the build for CUDA,
# several GB, so a Linux without an NVIDIA GPU takes PyTorch's own index of small builds.
ifeq ($(origin TORCH_INDEX),undefined)
TORCH_INDEX = $(shell test "$$(uname)" != Linux || nvidia-smi >/dev/null 2>&1 || echo $(SMALL))
SMALL = https://download.pytorch.org/whl/cpu
endif

PY = $(VENV)/bin/python
STAMP = $(VENV)/.installed
NOTEBOOKS = $$($(PY) tests/course.py)# the course's own: none that a learner has made
LINTED = mbrl_helpers tests book $(NOTEBOOKS)
PYTHONS = $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
RECENT = import sys; sys.exit(sys.version_info < (3, 11))
COMPLETE = import sys; from importlib.util import find_spec as f; sys.exit(not (f("pip") and f("torch")))
PIP = $(PY) -m pip install --disable-pip-version-check -c constraints.txt

# One thread each: on networks this small two threads are slower than one.
# No window is ever opened: films are drawn off screen.
QUIET = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 SDL_VIDEODRIVER=dummy
# Set in the caller's shell for something else, these would lead the course astray: pip to another
# place, Python to other packages, Jupyter to another's settings, figures out of the notebooks.
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_CONSTRAINT PIP_REQUIREMENT PIP_NO_DEPS
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS VIRTUAL_ENV MPLBACKEND
unexport JUPYTER_CONFIG_DIR JUPYTER_CONFIG_PATH JUPYTER_PATH JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR
unexport JUPYTERLAB_DIR JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR
export PIP_USER = 0# a pip.conf may say it, too

# Jupyter and Matplotlib write into the home folder: where they can't, one in build/ serves.
HOMES = "$$HOME" "$$HOME/.jupyter" "$$HOME/.local/share/jupyter" "$$HOME/Library/Jupyter"
ifneq ($(shell test -d "$$HOME" || echo no; for d in $(HOMES); do test ! -e "$$d" || test -w "$$d" || echo no; done),)
export HOME := $(CURDIR)/build/home
$(shell mkdir -p build/home)
endif

# An installation counts only in the folder that it was made for, and while its Python runs: in a copy
# of the folder it would run the package of the first one.
ifneq ($(shell test "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd -P)" && $(PY) -I -c '$(COMPLETE)' 2>/dev/null || echo no),)
ANEW = anew
endif

.DEFAULT_GOAL := help
.PHONY: help lab check update test test-browser lint format notebooks bench book links book-test solved constraints test-floors rehome clean

help: ## list the commands
	@echo "Commands (the first use installs everything into $(VENV)):"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

lab: $(STAMP) ## open the course in JupyterLab (LAB_FLAGS="..." adds flags, e.g. --ip=0.0.0.0)
	@set -- --ServerApp.root_dir="$$(pwd -P)" \
	    --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb --log-level=INFO; \
	if [ "$$(id -u)" = 0 ]; then set -- "$$@" --allow-root; fi; \
	if [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ] && [ "$$(uname)" != Darwin ] \
	    && ! grep -qi microsoft /proc/version 2>/dev/null; then set -- "$$@" --no-browser; fi; \
	echo "Starting JupyterLab. If no browser opens, open the last address printed below in one."; \
	if [ -n "$$JUPYTER_TOKEN$$JUPYTER_TOKEN_FILE" ]; then \
	    echo "It ends in token=... : put your JUPYTER_TOKEN in place of the dots."; fi; \
	if [ -n "$$JUPYTERHUB_SERVICE_PREFIX" ]; then \
	    echo "This is a JupyterHub, behind which that address may not be reached. Then type"; \
	    echo "    $(PY) -m ipykernel install --user --name mbrl"; \
	    echo "open notebooks/ in the hub's own JupyterLab, and pick the kernel mbrl there."; fi; \
	echo "To stop: Ctrl-C, then y."; \
	exec $(PY) -m jupyterlab "$$@" $(LAB_FLAGS)

check: $(STAMP) ## is all installed as it should be? (seconds)
	@$(QUIET) $(PY) mbrl_helpers/check.py

# Without $(STAMP): a course that can't be installed can still be updated.
update: ## the newest version of the course, and your answers in it (FROM=/older/copy: without git)
	@for p in $(PY) $(PYTHONS); do $$p -c '$(RECENT)' 2>/dev/null || continue; \
	    exec $$p -I mbrl_helpers/update.py $(if $(FROM),--from "$(FROM)"); done; \
	echo "The course needs Python 3.11 or newer; tried: $(PYTHONS)."; exit 1

test: lint ## everything CI checks: lint, unit and exercise tests, notebook checks, all notebooks
	$(QUIET) $(PY) -m pytest -n $(JOBS)
	$(QUIET) $(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
	    -n $(JOBS) --dist loadscope $(NOTEBOOKS)

test-browser: $(VENV)/.browser ## every notebook in JupyterLab in a real browser (CHROMIUM=/path/to/chromium)
	$(QUIET) $(if $(CHROMIUM),CHROMIUM="$(CHROMIUM)") $(PY) -m pytest tests/browser/check_jupyterlab.py

lint: $(STAMP) ## check style (ruff, notebooks included) and types (mypy)
	@$(PY) -m ruff check $(LINTED) && $(PY) -m ruff format --check $(LINTED) && $(PY) -m mypy || { \
	    echo "That is for who changes the course. Is it installed as it should be? make check"; exit 1; }

format: $(STAMP) ## fix style (ruff), notebooks included
	$(PY) -m ruff check --fix $(LINTED)
	$(PY) -m ruff format $(LINTED)

notebooks: $(STAMP) ## execute notebooks in place (ARGS="--changed", "03", "--seeds 0 1 2", "--html html")
	$(PY) tests/run_notebooks.py $(ARGS)

BENCHMARKS = $(filter-out tests/benchmarks/_%,$(sort $(wildcard tests/benchmarks/*.py)))
bench: $(STAMP) ## run the benchmarks, or one: make bench NAME=cartpole ARGS="--seeds 0 1"
	@set -e; for script in $(if $(NAME),tests/benchmarks/$(NAME).py,$(BENCHMARKS)); do \
	    test -f "$$script" || { echo "no $$script; there are: $(BENCHMARKS)"; exit 1; }; \
	    echo "== $$script $(ARGS)"; $(QUIET) $(PY) "$$script" $(ARGS); done

book: $(VENV)/.book ## the course as a website, in build/book; prints the address to open
	@$(PY) book/make.py

links: $(VENV)/.book ## check the addresses of other sites that the book names
	@$(PY) book/make.py --links

book-test: $(VENV)/.book $(VENV)/.browser book ## the book in a browser without network (CHROMIUM=/path/to/chromium)
	$(if $(CHROMIUM),CHROMIUM="$(CHROMIUM)") $(PY) -m pytest tests/browser/check_book.py

solved: $(STAMP) ## copies of all notebooks, solved, in build/solved (ARGS="--execute" runs them)
	$(QUIET) $(PY) book/solved.py $(ARGS)

# For every system and Python at once; versions that stand there already stay.
PINS = make constraints; pip install -c constraints.txt -e . installs these
constraints: $(STAMP) ## pin everything that gets installed (ARGS="--upgrade", "--upgrade-package torch")
	$(PIP) -q uv
	$(PY) -m uv pip compile -q --universal --python-version 3.11 --all-extras \
	    --annotation-style line --custom-compile-command "$(PINS)" \
	    -o constraints.txt $(ARGS) pyproject.toml

# uv takes the lowest version of what pyproject.toml names, and finds the oldest Python.
FLOORS = build/floors
test-floors: $(STAMP) ## unit tests with the oldest versions that pyproject.toml allows, in build/floors
	$(PIP) -q uv
	$(PY) -m uv venv -q --clear --seed --python 3.11 $(FLOORS)
	$(PY) -m uv pip install -q --python $(FLOORS)/bin/python --resolution lowest-direct \
	    $(if $(TORCH_INDEX),--torch-backend cpu) -e ".[dev]"
	$(QUIET) $(FLOORS)/bin/python -m pytest -n $(JOBS) -m "not newest" $(ARGS)

rehome: $(STAMP) ## give the course its address (REPO=owner/name); without, after a new version or notebook
	$(PY) tests/rehome.py $(REPO)

clean: ## delete .venv, caches and build leftovers
	rm -rf $(VENV) build dist html *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# --no-deps: that index may have other versions of the rest than those that are pinned.
define SMALL_TORCH
index="$(TORCH_INDEX)"; if [ -n "$$index" ]; then \
    $(PIP) --no-deps --retries 1 --timeout 15 --index-url "$$index" torch || { \
    echo "PyTorch's small build for the CPU can't be had from $$index."; \
    echo "Going on with pip's default, which may be several GB. Another source: make TORCH_INDEX=..."; }; fi
endef

# A .venv that still works goes on, or moves in; one that does not is made anew, by the first Python
# that can. Then pip is asked whether all is there already, which needs no network. The stamp is
# written last: an interrupted install is done again, a complete one is never repeated.
.PHONY: $(ANEW)
$(STAMP): pyproject.toml constraints.txt $(ANEW)
	@case "$$(pwd -P)" in *[:{}$$]*) \
	    echo "Python can't install into a folder with one of : { } \$$ in its path: $$(pwd -P)"; \
	    echo "Rename it, or move the course to another place."; exit 1;; esac
	@if $(PY) -I -c '$(COMPLETE)' 2>/dev/null; then \
	    case "$$(cat $@ 2>/dev/null)" in "$$(pwd -P)"|"") exit 0;; esac; \
	    echo "This folder was copied or moved: $(VENV) moves in here."; \
	    $(PY) tests/move_venv.py 2>/dev/null && exit 0; fi; \
	why=; for p in $(PYTHONS); do \
	    $$p -c '$(RECENT)' 2>/dev/null || continue; \
	    echo "Making $(VENV) with $$p, $$($$p --version)"; \
	    why=$$($$p -m venv --clear $(VENV) 2>&1) && exit 0; \
	    echo "$$p can't make it."; done; \
	if [ -z "$$why" ]; then echo "The course needs Python 3.11 or newer; tried: $(PYTHONS)."; \
	else echo "$$why"; echo "On Debian or Ubuntu: apt install python3-venv. Or take another Python:"; fi; \
	echo "Install one, or name it: make PYTHON=/path/to/python3 ..."; exit 1
	@$(PIP) -q --no-index --no-build-isolation -e ".[dev]" 2>/dev/null || { \
	$(SMALL_TORCH); $(PIP) -e ".[dev]"; }
	@pwd -P > $@

# Sphinx is for the book only.
$(VENV)/.book: $(STAMP)
	@$(PIP) -q -e ".[book]" || { \
	    echo "The book needs Sphinx, and it can't be had: see above. With network, try again: make book"; exit 1; }
	@touch $@

# Playwright is for browser tests only. It drives a Chromium that is installed already.
$(VENV)/.browser: $(STAMP)
	$(PIP) -e ".[browser]"
	@touch $@
