# make train | test | test-slow | test-long | lint | chain | benchmark | conformance | offline | test-offline: each sets up what it needs, once per change of pyproject.toml.
PYTHON ?= python3
VENV := .venv
GYM100 := .venv-gym100
OFFLINE := .venv-offline
RUN := $(VENV)/bin/python
# One thread per library: the learner's small networks lose time to a second one as soon as another process is busy.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# What the environment holds; CI adds cuda, to compile the kernels to PTX.
EXTRAS ?= dev
# pip's own range comes first in the command, so that an index with a CPU build of torch is asked for that one.
TORCH := "torch>=2.6,<2.14"
# A real EVM node, the pools' own bytecode and the compiler, for tests/chain and tests/live; no package's install script is run.
EVM := .evm
EVM_PACKAGES := @foundry-rs/anvil-linux-amd64@1.7.1 @uniswap/v2-core@1.0.1 @uniswap/v3-core@1.0.1 @uniswap/v4-core@1.0.2 \
	@pancakeswap/v3-core@1.0.2 solc@0.8.24

.PHONY: train test test-slow test-long lint chain benchmark conformance offline test-offline clean

train: $(VENV)/.installed
	$(RUN) -m experiments.train ppo_flash

test: $(VENV)/.installed
	$(RUN) -m pytest -m "not slow" -n 2 --dist loadfile -q

test-slow: $(VENV)/.installed
	$(RUN) -m pytest -m "slow and not long" -q

# A thousand seeds of each fault, thirty simulated days, a thousand restarts on anvil.
test-long: $(VENV)/.installed
	ARBGYM_PARITY_BLOCKS=10000 $(RUN) -m pytest -m slow -q -s tests/live

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

chain: $(EVM)/.installed

benchmark: $(VENV)/.installed
	$(RUN) -m experiments.benchmark

conformance: $(GYM100)/.installed
	$(GYM100)/bin/python -m pytest -m conformance -q --ignore=tests/agents --ignore=tests/experiments --ignore=tests/models --ignore=tests/offline --ignore=tests/live

# IQL, CQL and cloning: d3rlpy pins gymnasium 1.0.0, so they have an environment of their own, in which the same commands run.
offline: $(OFFLINE)/.installed

test-offline: $(OFFLINE)/.installed
	$(OFFLINE)/bin/python -m pytest -q tests/offline

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet $(TORCH) -e ".[$(EXTRAS)]"
	touch $@

$(GYM100)/.installed: pyproject.toml
	$(PYTHON) -m venv $(GYM100)
	$(GYM100)/bin/python -m pip install --quiet "gymnasium==1.0.0" -e ".[data,test]"
	touch $@

$(OFFLINE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OFFLINE)
	$(OFFLINE)/bin/python -m pip install --quiet $(TORCH) -e ".[train,data,offline,test]"
	touch $@

$(EVM)/.installed: Makefile
	mkdir -p $(EVM)
	npm install --prefix $(EVM) --ignore-scripts --no-save --no-audit --no-fund --silent $(EVM_PACKAGES)
	touch $@

clean:
	rm -rf $(VENV) $(GYM100) $(EVM) $(OFFLINE) build dist .pytest_cache .mypy_cache .ruff_cache
