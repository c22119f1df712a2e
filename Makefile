# Needs Python 3.11 or later with its venv module, and nothing else: the rest goes into .venv.
#   make test ARGS="-k welcome -x"    passes arguments on; so do server and bench
#   make test JOBS=0                  runs the tests one after the other; most of them wait for servers
#   make PYTHON=/path/to/python ...   chooses the interpreter for a new .venv

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$$p"; break; }; done)
JOBS ?= 5
# Where this is set, each of the many programs that tests start would compile the package again.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

.PHONY: help setup demo test lint bench docs xep server release-check clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

setup: $(VENV)/.installed-test $(VENV)/.installed-lint  ## install what development needs into .venv
	@echo "Ready: activate with '. $(BIN)/activate'."

demo: $(VENV)/.installed  ## show three people in an encrypted room on a real server
	@$(BIN)/slixmpp-mls demo $(ARGS)

test: $(VENV)/.installed-test  ## run all tests, with real servers and other MLS implementations
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --durations=10 $(ARGS)

lint: $(VENV)/.installed-test $(VENV)/.installed-lint  ## check with ruff (rules, format), mypy, and the order of the packages
	@$(BIN)/ruff check .; check=$$?; $(BIN)/ruff format --check .; form=$$?; $(BIN)/mypy; types=$$?; \
	$(BIN)/lint-imports --no-cache; order=$$?; exit $$((check | form | types | order))

bench: $(VENV)/.installed-test $(VENV)/.installed-bench  ## make the tables and plots of benchmarks/
	@$(BIN)/python -m benchmarks $(or $(ARGS),core)

docs: $(VENV)/.installed-docs  ## build the site into docs/_build/html; warnings and broken links are errors
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs docs/_build/html $(ARGS)
	@$(BIN)/python docs/check_links.py docs/_build/html

xep: $(VENV)/.installed  ## check the documents of the specification and render them as HTML
	@$(BIN)/python xep/render.py $(ARGS)

server: $(VENV)/.installed  ## run a temporary XMPP server for bot development
	@$(BIN)/slixmpp-mls server $(ARGS)

release-check: $(VENV)/.installed-docs $(VENV)/.installed-release  ## build the sdist and the wheel into dist/ and check both
	@$(BIN)/python release/check.py $(ARGS)

clean:  ## remove everything that these targets made in this folder
	@rm -rf $(VENV) build dist sbom.cdx.json slixmpp-mls.1 docs/_build docs/reference/generated .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis .benchmarks tests/interop/*/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Where the interpreter is gone (an upgrade of the system's Python removes what .venv links to), start over.
ifneq ($(shell test -x $(BIN)/python && echo works),works)
$(shell rm -f $(VENV)/.made $(VENV)/.installed*)
endif

$(VENV)/.made:
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		test -n "$(PYTHON)" || { echo "Python 3.11 or later with venv is needed (Debian: apt install python3-venv)." >&2; exit 1; }; \
		echo "Making a virtual environment in $(VENV) with $(PYTHON) ..."; \
		"$(PYTHON)" -m venv --clear $(VENV); }
	@touch $@

# A stamp is as old as the last installation; a changed pyproject.toml makes a new one.
$(VENV)/.installed: pyproject.toml | $(VENV)/.made
	@echo "Installing slixmpp-mls and what it depends on into $(VENV) ..."
	@$(PIP) install -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(VENV)/.made
	@echo "Installing slixmpp-mls with what '$*' needs into $(VENV) ..."
	@$(PIP) install -e '.[$*]'
	@touch $@
