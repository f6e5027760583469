# Every target sets up .venv by itself. It needs make, Python >= 3.11, and a package index; uv is used where it is installed.

PYTHON ?= $(or $(shell for p in python3.13 python3.12 python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet
# what the demo asks: any file of questions
QUESTIONS ?=
COLUMN ?=
DRAWS ?=
# what is measured: everything, unless named
THEMES ?=
DEMO = $(if $(QUESTIONS),--questions "$(QUESTIONS)") $(if $(COLUMN),--column "$(COLUMN)") $(if $(DRAWS),--draws $(DRAWS))

.DEFAULT_GOAL := help
.PHONY: help demo demo-servers test slow nightly providers servers lint prose format bench bench-quick lowest mutants clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## a FAQ bot without cache, with it, and again in a new process (QUESTIONS=file.csv COLUMN=text DRAWS=10000)
	$(BIN)/python examples/faq_bot.py $(DEMO) $(ARGS)

demo-servers: $(VENV)/.test servers  ## the same bot on Redis and MongoDB: two processes, then Redis is stopped, then MongoDB too
	PYTHONPATH=tests $(BIN)/python examples/faq_bot_on_servers.py

test: $(VENV)/.test servers  ## the ordinary tests, 4 minutes (ARGS="-k name" for a part of them)
	$(BIN)/python tests/run.py test $(ARGS)

slow: $(VENV)/.test servers  ## the slow tests, 12 minutes
	$(BIN)/python tests/run.py slow $(ARGS)

nightly: $(VENV)/.test servers  ## stress tests, their mutants and full matrices, more than an hour; run by hand before a release
	$(BIN)/python tests/run.py nightly $(ARGS)

providers:  ## the wire oracle over every provider class, and docs/providers.md, half an hour (ARGS="langchain -k Groq"): tests/providers/README.md
	$(PYTHON) tests/providers/run.py $(ARGS)

# redis-server has Sentinel in it; openssl makes certificates; the mongod of the test wheel is linked with libcurl
servers:  ## the programs of Debian that tests and benchmarks start: installed as root, else it says how
	@missing=; \
	for name in redis-server openssl; do command -v $$name >/dev/null 2>&1 || missing="$$missing $$name"; done; \
	[ "$$(uname -s)" != Linux ] || ls /usr/lib/*/libcurl.so.4 /usr/lib*/libcurl.so.4 2>/dev/null | grep -q . || missing="$$missing libcurl4"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	install="apt-get install -y -qq --no-install-recommends$$missing"; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "installing$$missing ..."; \
		export DEBIAN_FRONTEND=noninteractive; \
		$$install >/dev/null 2>&1 || { apt-get update -qq && $$install >/dev/null; } && exit 0; \
	fi; \
	echo "make: tests that need$$missing are skipped until it is installed; on Debian: sudo apt-get install$$missing"

# the files and folders in plain language; new ones are added, and none is taken out
PROSE = SECURITY.md docs langchain_layered_cache llamaindex_layered_cache shared/layered_cache tests/project

lint: $(VENV)/.lint  ## ruff, basedpyright on the packages, mypy on the typed API, and the language of the texts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/mypy
	$(MAKE) prose

prose: $(VENV)/.lint  ## the language of docstrings, comments and pages
	$(BIN)/python tests/project/prose_lint.py $(PROSE)

format: $(VENV)/.lint  ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench servers  ## how fast it is, beside its goals and other caches, some minutes (THEMES="memory sqlite" for a part of it)
	$(BIN)/python -m benchmarks $(THEMES) $(ARGS)

bench-quick: $(VENV)/.bench servers  ## the same, coarsely, within a minute
	$(BIN)/python -m benchmarks --quick $(THEMES) $(ARGS)

lowest: servers  ## the adapters' tests and the contracts on memory and SQLite, on the lowest supported versions, in an environment of its own
	$(MAKE) .venv-lowest/.test VENV=.venv-lowest CONSTRAINTS=tests/lowest.txt
	.venv-lowest/bin/python tests/run.py lowest $(ARGS)

mutants: $(VENV)/.mutants  ## break some modules in 900 small ways, one after the other: does a test notice? An hour, not part of CI (ARGS=keys)
	$(BIN)/python tests/mutation_testing/run.py $(ARGS)

clean:  ## remove the environments and what tools leave behind
	rm -rf .venv .venv-lowest .venv-providers build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# one stamp for each purpose: the demo need not wait for what only tests and checks need
$(VENV)/.demo: GROUP = demo
$(VENV)/.test: GROUP = test
$(VENV)/.lint: GROUP = dev
$(VENV)/.bench: GROUP = bench
$(VENV)/.mutants: GROUP = mutants
$(VENV)/.%: pyproject.toml $(CONSTRAINTS)
	@if [ ! -x $(BIN)/python ]; then $(PYTHON) -m venv $(VENV) || { echo "make: cannot make $(VENV): Python >= 3.11 with venv is needed (PYTHON=/path/to/python)"; exit 1; }; fi
	@echo "installing what is needed for this into $(VENV) ..."
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --editable '.[all]' --group $(GROUP) $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)); \
	else \
		$(PIP_INSTALL) --upgrade 'pip>=25.1' && $(PIP_INSTALL) --editable '.[all]' --group $(GROUP) $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)); \
	fi
	@touch $@
