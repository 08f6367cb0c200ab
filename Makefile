# `make help` lists what there is. Any tool takes further arguments: make test ARGS="-k retry -x"
#
# The environment, .venv, is made by uv where it is on PATH, else by Python's own venv and pip: what
# requirements.lock pins, hashes checked, and this project on top.

PYTHON ?= python3
ARGS ?=
ENGINE ?= $(shell command -v docker || command -v podman || echo docker)
IMAGE ?= docora-ops

BIN := .venv/bin
READY := .venv/.ready

# Whatever the caller's shell and machine are set up for, the environment is the same.
unexport CONDA_PREFIX PYTHONDONTWRITEBYTECODE PYTHONHOME PYTHONPATH VIRTUAL_ENV
unexport PIP_PREFIX PIP_PYTHON PIP_ROOT PIP_TARGET
unexport UV_BUILD_CONSTRAINT UV_CONSTRAINT UV_EXCLUDE_NEWER UV_NO_BINARY UV_NO_BUILD
unexport UV_NO_BUILD_ISOLATION UV_OVERRIDE UV_PRERELEASE UV_PYTHON UV_RESOLUTION UV_SYSTEM_PYTHON
# An empty value would leave what a configuration file says in force.
export PIP_CONSTRAINT := /dev/null
export PIP_REQUIRE_HASHES := 0
export PIP_USER := 0
export UV_PYTHON_DOWNLOADS := never

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(READY) ## Show the tool at work on servers of its own (ARGS=--keep: leave them up to play with)
	@$(BIN)/docora-ops demo $(ARGS)

.PHONY: test
test: $(READY) ## Run the fast tests, on servers of their own or on TEST_DATABASE_URL and TEST_REDIS_URL
	$(BIN)/pytest -n 4 --dist worksteal -m 'not slow' $(ARGS)

.PHONY: test-all
test-all: $(READY) ## Run the slow tests, too, with a new seed for order and data, which is printed
	$(BIN)/pytest -n 4 --dist worksteal --randomly-seed=default $(ARGS)

.PHONY: test-plain
test-plain: ## Run the fast tests in a fresh clone, root as nobody and under another host name
	sh tests/as_plain_user.sh $(MAKE) --no-print-directory test

.PHONY: lint
lint: $(READY) ## Check style, types, who imports whom, workflows, and that requirements.lock is complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/zizmor --quiet --offline .github/workflows
	$(BIN)/uv pip check --quiet --python $(BIN)/python

.PHONY: coverage
coverage: $(READY) ## Run the tests and list the lines that no process of theirs has run
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 4 $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	echo "Coverage of the suite: $$($(BIN)/coverage report --format=total) %" | \
	    tee -a "$${GITHUB_STEP_SUMMARY:-/dev/null}"

.PHONY: bench
bench: $(READY) ## Measure the speed and print ratios
	$(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: pictures
pictures: $(READY) ## Draw the pictures of README anew, from the real commands on the demo's servers
	$(BIN)/python -m tests.pictures

.PHONY: lock
lock: $(READY) ## Write the three locks after a change in pyproject.toml (ARGS=--upgrade: newest versions)
	$(COMPILE) --extra demo --group dev $(ARGS) pyproject.toml --output-file requirements.lock
	$(COMPILE) --no-annotate --extra worker $(ARGS) pyproject.toml \
	    --output-file .github/image/requirements.lock
	printf '%s\n' hatchling hatch-fancy-pypi-readme | $(COMPILE) --no-annotate $(ARGS) - \
	    --output-file .github/image/build.lock

COMPILE = UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --universal \
    --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links

.PHONY: audit
audit: $(READY) ## Look for known vulnerabilities of what requirements.lock pins
	$(BIN)/uv tool run --quiet pip-audit@2.10.1 --strict --require-hashes --disable-pip \
	    --requirement requirements.lock

.PHONY: build
build: $(READY) ## Build the wheel into dist/
	$(BIN)/hatchling build -t wheel

.PHONY: release-check
release-check: $(READY) ## Do all of a release but publish it: build twice, compare, install, run, list packages
	$(BIN)/python -m tests.release

.PHONY: image
image: ## Build the container image docora-ops with docker or podman (ENGINE=podman, IMAGE=NAME)
	$(ENGINE) build --file .github/image/Dockerfile --tag '$(IMAGE)' \
	    --label "org.opencontainers.image.version=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' docora_ops/__init__.py)" \
	    --label "org.opencontainers.image.revision=$$(git rev-parse HEAD)" $(ARGS) .

.PHONY: image-check
image-check: image $(READY) ## Run commands and a worker in the image, read-only and without capabilities
	TEST_IMAGE='$(IMAGE)' TEST_ENGINE=$(ENGINE) $(BIN)/pytest -n 0 tests/image

.PHONY: clean
clean: ## Remove the environment, the wheel and all caches
	rm -rf .venv dist .coverage* .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find docora_ops tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment does not survive moving the folder, nor the loss of its Python.
MADE_FOR := $(CURDIR) $(PYTHON)
ifneq ($(shell test -x $(BIN)/python && cat $(READY) 2>/dev/null),$(MADE_FOR))
$(READY): anew
endif
.PHONY: anew
anew:

# Prints the Python that an environment's Python stands on, since PYTHON may be that of the very
# .venv that is about to be replaced.
FIND_PYTHON := import sys; old = sys.version_info < (3, 11); \
    print(getattr(sys, "_base_executable", sys.executable)); \
    sys.exit(old and "docora-ops needs Python 3.11 or newer, and $(PYTHON) is %d.%d: \
    name another one, as in make PYTHON=python3.13" % sys.version_info[:2])

$(READY): requirements.lock pyproject.toml
	@command -v '$(PYTHON)' >/dev/null || { \
	    echo 'docora-ops needs Python 3.11 or newer, and there is no $(PYTHON) that you may run: install it,' \
	        'or name another one, as in make PYTHON=python3.13' >&2; exit 1; }; \
	python=$$('$(PYTHON)' -c '$(FIND_PYTHON)') || exit 1; \
	uv=$$(command -v uv) && ! test "$$uv" -ef $(BIN)/uv || uv=; \
	while sleep 2 && kill -0 $$$$ 2>/dev/null; do printf . >&2; done & dots=$$!; \
	trap 'kill $$dots; echo >&2' EXIT; \
	set -e; \
	if test "$$uv"; then \
	    echo "Creating .venv with $$python and uv" >&2; \
	    rm -rf .venv; \
	    uv venv --quiet --python "$$python" .venv; \
	    uv pip sync --quiet --python $(BIN)/python --require-hashes --only-binary :all: \
	        --compile-bytecode requirements.lock; \
	    uv pip install --quiet --python $(BIN)/python --offline --no-deps --no-build-isolation \
	        --editable .; \
	else \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
	        echo '$(PYTHON) lacks the venv module: install it (on Debian and Ubuntu the package' \
	            'python3-venv), or install uv' >&2; exit 1; }; \
	    echo "Creating .venv with $$python and pip: this takes a minute" >&2; \
	    rm -rf .venv; \
	    "$$python" -m venv .venv; \
	    pip="$(BIN)/python -m pip --quiet --disable-pip-version-check --no-input install"; \
	    $$pip --require-hashes --no-deps --only-binary :all: --compile -r requirements.lock; \
	    $$pip --no-index --no-deps --no-build-isolation --editable .; \
	fi; \
	$(BIN)/python -m compileall -q docora_ops; \
	echo '$(MADE_FOR)' >$(READY)
