PYTHON ?= python3
PORT ?= 8000
OPENCODE_VERSION = 1.18.33
OPENCODE = .node/$(OPENCODE_VERSION)
PROCESSES ?= 2
VERSIONS ?= 1.15.13 1.17.19
OLDER = $(VERSIONS:%=.node/versions/%/installed)
PIP = .venv/bin/pip --quiet --disable-pip-version-check

.PHONY: help demo scaled test fast chaos random bench versions check format lock .node

help:
	@echo "make demo     a chat in the browser, on http://127.0.0.1:$(PORT) (PORT=8000)"
	@echo "make scaled   the same chat on two web processes, two workers, a job queue and a bucket"
	@echo "make test     all tests; ARGS='-k name' for some, STRICT=1 to let none be skipped,"
	@echo "              PROCESSES=0 for one after the other, what they print with -s included"
	@echo "make fast     the tests of turns in a minute: on an Impostor, on SQLite"
	@echo "make chaos    everything broken everywhere, half an hour; make test breaks a sample"
	@echo "make random   10,000 replies and turns of random events, half an hour; a sample in make test"
	@echo "make bench    how fast it is beside its peers; JSON=file for figures"
	@echo "make versions the contract's tests on other versions of OpenCode (VERSIONS='$(VERSIONS)')"
	@echo "make check    formatting, lint and types, as CI checks them"
	@echo "make format   format, and repair what the linter can"
	@echo "make lock     resolve the newest dependencies into requirements.lock"

demo: .venv/installed .node
	exec env PORT=$(PORT) .venv/bin/python -m examples.chat.demo

scaled: .venv/installed .node
	exec env PORT=$(PORT) .venv/bin/python -m examples.scaled

# By file, for what tests of one share: two of everything, for they wait more than they compute.
test: .venv/installed .node
	.venv/bin/pytest -n $(PROCESSES) --dist loadfile $(ARGS)

fast: .venv/installed
	FAST=1 .venv/bin/pytest tests/turns -m "not slow" -n 3 --dist loadscope \
		-p no:hypothesispytest $(ARGS)

chaos: .venv/installed .node
	CHAOS=1 .venv/bin/pytest tests/chaos --capture=no $(ARGS)

random: .venv/installed
	SEQUENCES=10000 .venv/bin/pytest tests/protocol/test_random_events.py \
		tests/turns/test_random_streams.py --capture=no $(ARGS)

bench: .venv/installed
	.venv/bin/python -m tests.benchmarks $(if $(JSON),--json $(JSON)) $(ARGS)

versions: .venv/installed $(OLDER)
	for version in $(VERSIONS); do \
		OPENCODE_BINARY=$(CURDIR)/.node/versions/$$version/node_modules/.bin/opencode \
			.venv/bin/pytest tests/contract $(ARGS) || exit 1; \
	done

check: .venv/installed
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy

format: .venv/installed
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

lock: .venv/installed
	$(PIP) install uv
	.venv/bin/uv export --quiet --upgrade --no-hashes --no-header --no-annotate \
		--no-emit-project --output-file requirements.lock

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(PIP) install --requirement requirements.lock
	$(PIP) install --no-deps --editable .
	@touch $@

ifneq ($(and $(shell command -v node),$(shell command -v npm)),)
.node: $(OPENCODE)
else
.node:
	@echo "OpenCode is not installed, for that takes node and npm; tests that need it are skipped"
endif

# Its own install script puts the executable in place; npm may be set up not to run such scripts.
define install
npm install --prefix $(1) --silent --no-audit --no-fund --no-package-lock \
	--ignore-scripts opencode-ai@$(2)
cd $(1)/node_modules/opencode-ai && node postinstall.mjs
@touch $@
endef

$(OPENCODE):
	$(call install,.node,$(OPENCODE_VERSION))

$(OLDER): .node/versions/%/installed:
	$(call install,$(@D),$*)
