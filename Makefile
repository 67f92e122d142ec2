# The everyday commands. `make demo` and `make test` are all that a newcomer needs:
# both set up .venv by themselves. `make help` lists the rest.

PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready
BENCH  := .venv-bench
RUN    := $(BIN)/python -m
FAST   := $(wildcard tests/unit tests/property tests/contract tests/docs)

# Tests start the service hundreds of times: it is compiled once, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check audit fuzz bench bench-check bench-peers bench-report docs site screenshots lock proto \
	clean

# A machine that lacks Python 3.11 or python3-venv is told so in one line, before anything runs.
# A failing recipe would make `make` add a line of its own and exit with 2; -q stops it with 1.
ifneq ($(filter-out help clean,$(or $(MAKECMDGOALS),help)),)
ifeq ($(wildcard $(READY)),)
ifneq ($(shell sh scripts/preflight.sh '$(PYTHON)' || echo missing),)
MAKEFLAGS += -q
endif
endif
endif

help:
	@echo 'make demo    start the service, deploy the examples, call them, show what came back'
	@echo 'make test    run every test'
	@echo 'make check   what must hold before a commit: lint, types, layers, security, fast tests'
	@echo 'make audit   look the locked dependencies up among known vulnerabilities'
	@echo 'make fuzz    fuzz each parser; SECONDS=600 for that long, ONLY=NAME for one of them'
	@echo 'make bench   run the benchmarks beside their peers; ARGS="--quick" or ARGS="--only NAME"'
	@echo 'make bench-check    compare them with the baseline'
	@echo 'make bench-report   write the newest results into the documents'
	@echo 'make docs    write the reference pages again from the code'
	@echo 'make site    build the documentation as pages for a browser, into build/site'
	@echo 'make screenshots     take the pictures of the dashboard again, with Chromium'
	@echo 'make lock    pin the dependencies again'
	@echo 'make proto   generate the gRPC code again'
	@echo 'make clean   remove .venv, caches and build results'

$(READY): pyproject.toml requirements.lock scripts/setup.sh
	@sh scripts/setup.sh '$(PYTHON)' .venv

demo: $(READY)
	@$(BIN)/python scripts/demo.py

test: $(READY)
	@sh scripts/promtool.sh .venv
	@$(RUN) pytest -rs

check: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy --strict
	$(BIN)/lint-imports
	$(RUN) bandit --quiet --recursive --configfile pyproject.toml src scripts
	$(RUN) pytest --numprocesses 2 -m 'not slow' $(FAST)

audit: $(READY)
	@$(BIN)/python scripts/audit.py

fuzz: $(READY)
	@$(RUN) tests.fuzz --seconds $(or $(SECONDS),60) $(if $(ONLY),--only $(ONLY))

bench: $(BENCH)/.ready
	@$(BENCH)/bin/python -m bench $(ARGS)

bench-check: $(BENCH)/.ready
	@$(BENCH)/bin/python -m bench --check $(ARGS)

bench-peers: $(BENCH)/.ready
	@$(BENCH)/bin/python -m bench.installing $(ARGS)

bench-report: $(BENCH)/.ready
	@$(BENCH)/bin/python -m bench report

$(BENCH)/.ready: $(READY) bench/requirements.txt
	@echo 'setting up $(BENCH) ...'
	@$(PYTHON) -m venv --clear $(BENCH)
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c requirements.lock -e .
	@$(BENCH)/bin/python -m bench.installing
	@touch $@

docs: $(READY)
	$(BIN)/python scripts/gen_reference.py

site: $(READY)
	@$(RUN) properdocs build --strict --quiet
	@echo 'build/site/index.html'

screenshots: $(READY)
	ATLATL_SCREENSHOTS=1 $(RUN) pytest tests/e2e/test_dashboard.py -k deploy_call
	cp build/screenshots/dashboard.png build/screenshots/dashboard-dark.png \
	  build/screenshots/dashboard-phone.png docs/

lock: $(READY)
	$(RUN) pip install --quiet pip-tools
	CUSTOM_COMPILE_COMMAND='make lock' $(RUN) piptools compile --quiet --extra dev \
	  --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --output-file requirements.lock pyproject.toml

proto: $(READY)
	$(RUN) grpc_tools.protoc -I src --python_out=src --pyi_out=src --grpc_python_out=src \
	  $(wildcard src/atlatl/front/proto/*.proto)

clean:
	rm -rf .venv .venv-bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
