# The course in two commands: `make lab` and `make test`. Each makes .venv first if it is missing.
# Written for GNU Make 3.81, which macOS ships.

VENV ?= .venv
PYTHON ?=
JOBS ?= 2
# More flags for JupyterLab. In a container: make lab LAB_FLAGS="--ip=0.0.0.0" (and publish port 8888)
LAB_FLAGS ?=

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
RECENT := import sys; sys.exit(sys.version_info < (3, 11))

# One thread each: on networks this small two threads are slower than one.
# No window is ever opened: films are drawn off screen.
QUIET := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 SDL_VIDEODRIVER=dummy
# A backend set in the caller's shell would keep figures out of the notebooks.
unexport MPLBACKEND

.DEFAULT_GOAL := help
.PHONY: help lab test test-browser lint format notebooks bench rehome clean

help: ## list the commands
	@echo "Commands (the first use installs everything into $(VENV)):"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

lab: $(STAMP) ## open the course in JupyterLab (LAB_FLAGS="..." adds flags, e.g. --ip=0.0.0.0)
	@set -- --ServerApp.root_dir="$(CURDIR)" \
	    --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb --log-level=WARN; \
	if [ "$$(id -u)" = 0 ]; then set -- "$$@" --allow-root; fi; \
	if [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ] && [ "$$(uname)" != Darwin ] \
	    && ! grep -qi microsoft /proc/version 2>/dev/null; then set -- "$$@" --no-browser; fi; \
	echo "Starting JupyterLab. If no browser opens, open the last address printed below in one."; \
	echo "To stop: Ctrl-C, then y."; \
	exec $(PY) -m jupyterlab "$$@" $(LAB_FLAGS)

test: lint ## everything CI checks: lint, unit and exercise tests, notebook checks, all notebooks
	$(QUIET) $(PY) -m pytest -n $(JOBS)
	$(QUIET) $(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
	    -n $(JOBS) --dist loadscope notebooks/

test-browser: $(VENV)/.browser ## every notebook in JupyterLab in a real browser (CHROMIUM=/path/to/chromium)
	$(QUIET) $(if $(CHROMIUM),CHROMIUM="$(CHROMIUM)") $(PY) -m pytest tests/browser/check_jupyterlab.py

lint: $(STAMP) ## check style (ruff, notebooks included) and types (mypy)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP) ## fix style (ruff), notebooks included
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

notebooks: $(STAMP) ## execute notebooks in place (ARGS="--changed", "03", "--seeds 0 1 2", "--html html")
	$(PY) tests/run_notebooks.py $(ARGS)

BENCHMARKS = $(filter-out tests/benchmarks/_%,$(sort $(wildcard tests/benchmarks/*.py)))
bench: $(STAMP) ## run the benchmarks, or one: make bench NAME=cartpole ARGS="--seeds 0 1"
	@set -e; for script in $(if $(NAME),tests/benchmarks/$(NAME).py,$(BENCHMARKS)); do \
	    test -f "$$script" || { echo "no $$script; there are: $(BENCHMARKS)"; exit 1; }; \
	    echo "== $$script $(ARGS)"; $(QUIET) $(PY) "$$script" $(ARGS); done

rehome: $(STAMP) ## give the course its address (REPO=owner/name); without, after a new version or notebook
	$(PY) tests/rehome.py $(REPO)

clean: ## delete .venv, caches and build leftovers
	rm -rf $(VENV) build dist html *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# The stamp is written last: an interrupted install is done again, a complete one is never repeated.
$(STAMP): pyproject.toml constraints.txt
	@$(PY) -c '$(RECENT)' 2>/dev/null && exit 0; \
	for p in $(PYTHONS); do $$p -c '$(RECENT)' 2>/dev/null && break; p=; done; \
	if [ -z "$$p" ]; then echo "The course needs Python 3.11 or newer; tried: $(PYTHONS)."; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3 ..."; exit 1; fi; \
	if ! $$p -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "$$p cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv"; \
	    exit 1; fi; \
	echo "Making $(VENV) with $$($$p --version)"; $$p -m venv --clear $(VENV)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

# Playwright is for that one target only. It drives a Chromium that is installed already.
$(VENV)/.browser: $(STAMP)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e ".[browser]"
	@touch $@
