# Two commands: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV ?= .venv
# One lane more than cores: tests wait for servers.
LANES ?= 3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check benchmark lock clean

demo: $(READY)
	$(BIN)/tfship run sundaynet

test: $(READY)
	$(BIN)/python -m pytest -q -n $(LANES) --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: $(READY)
	$(BIN)/python -m tests.benchmarks.runs --out build/benchmarks
	$(BIN)/python -m tests.benchmarks.large --out build/benchmarks

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "tfship needs Python 3.11 to 3.13, and %s is %d.%d: name another with `make PYTHON=python3.12 …`" % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)
	@# The lock is whole: resolving again would only let a release of tomorrow in by an unpinned extra. `pip check` proves it.
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip check --quiet
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(READY)

# Needs uv; writes versions and hashes, no index.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .tfship build *.egg-info
