# Everything is installed into .venv, which is made here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
DEMO_MARK := runs/.demo-made-by-make
# -qq: errors are shown, nothing else.
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

# pyright: no look for a newer version; the one that is installed, with the Node.js that is installed beside it.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
unexport PYRIGHT_PYTHON_FORCE_VERSION PYRIGHT_PYTHON_PYLANCE_VERSION PYRIGHT_PYTHON_NODE_VERSION
unexport PYRIGHT_PYTHON_NODEJS_WHEEL PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT

.PHONY: help install demo test browser torture docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make install   .venv with accdd and what it needs (PYTHON=python3.12 chooses the Python)"
	@echo "make demo      distil the built-in digits to one image per class, into $(DEMO)"
	@echo "make test      linter, formatter, types, import order, tests"
	@echo "make browser   the report in a real browser; installs Debian's Chromium if there is none"
	@echo "make torture   kills, power cuts, full disks and hostile files at length; SCALE=0.01 for a hundredth"
	@echo "make docs      run every command of the documentation, build its site into site/"
	@echo "make bench     how fast it is here, beside a plain loop, in turn"
	@echo "make clean     remove .venv, caches and the demo; your own runs stay"

install: $(VENV)/.installed

# One thread: tensors of 8-pixel images are too small to be worth sharing out.
demo: $(VENV)/.installed
	@if [ -e $(DEMO) ] && [ ! -e $(DEMO_MARK) ]; then \
		echo "$(DEMO) exists and was not made by 'make demo': move it away first." >&2; exit 1; fi
	@rm -rf $(DEMO)
	@mkdir -p $(dir $(DEMO)) && touch $(DEMO_MARK)
	OMP_NUM_THREADS=1 $(BIN)/accdd distill digits --ipc 1 --steps 300 --set score.seeds=5 --out $(DEMO)

# One more than there are processors, as some tests wait; a few at most, as each takes memory.
WORKERS := $(shell n=`nproc 2>/dev/null || echo 3`; echo $$((n < 4 ? n + 1 : 4)))

test: $(VENV)/.installed-dev
	@echo "== ruff check: mistakes"
	@$(BIN)/ruff check .
	@echo "== ruff format: layout"
	@$(BIN)/ruff format --check .
	@echo "== pyright: types"
	@$(BIN)/pyright
	@echo "== import-linter: which file may import which"
	@$(BIN)/lint-imports --no-logo
	@echo "== pytest: behaviour (without the slow tests)"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
	@echo "== pytest: the same results on a GPU, where there is one"
	@$(BIN)/python -m pytest -m gpu tests/test_gpu.py

# In `make test` these are skipped where there is no browser.
browser: $(VENV)/.installed-dev
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
		echo "Installing Chromium, which needs an administrator"; \
		if [ `id -u` = 0 ]; then as=; else as=sudo; fi; $$as apt-get -qq update && $$as apt-get -qq install chromium; }
	@$(BIN)/python -m pytest tests/test_report_browser.py

# Hours on one core. The same in short is part of the tests (tests/test_torture.py).
SCALE ?= 1
torture: $(VENV)/.installed-dev
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m torture $(SCALE) $(NAMES)

# Minutes. What a page shows is run before it is built.
docs: $(VENV)/.installed-docs
	@echo "== pytest: the commands and the Python of every page, the notebooks"
	@$(BIN)/python -m pytest -m slow tests/test_docs.py
	@echo "== mkdocs: the site, any warning is an error"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open site/index.html"

# Half an hour on two quiet cores, most of it compiling; ARGUMENTS=--json for one JSON object a file.
bench: $(VENV)/.installed-dev
	@for question in startup matching networks growth; do \
		$(BIN)/python benchmarks/$$question.py $(ARGUMENTS) || exit 1; echo; done

clean:
	@if [ -e $(DEMO_MARK) ]; then rm -rf $(DEMO) $(DEMO_MARK); fi
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv makes: where it is, the environment is whole.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
		sys.exit(None if v >= (3, 11) else "accdd needs Python 3.11 or newer; $(PYTHON) is %d.%d." % v)' || { \
		echo "Name a Python 3.11 or newer, for example: make $(firstword $(MAKECMDGOALS) install) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making $(VENV) with `$(PYTHON) --version 2>&1`"
	@$(PYTHON) -m venv $(VENV)

# The stamps make a second call instant; a change of either list installs again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing accdd and its dependencies into $(VENV) (minutes, the first time)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing accdd, its dependencies and the development tools into $(VENV) (minutes, the first time)"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing accdd, its dependencies, the development tools and those of the site into $(VENV)"
	@$(PIP_INSTALL) -e '.[dev,docs]'
	@touch $(VENV)/.installed $(VENV)/.installed-dev $@
