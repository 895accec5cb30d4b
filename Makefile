# make demo   from a fresh machine to a report
# make test   everything that CI runs
# make help   the rest, such as make bench-peers

PYTHON ?= python3
VENV ?= .venv
ifeq ($(origin CXX),default) # make knows g++ by itself
CXX := c++
endif
BIN := $(VENV)/bin
MODEL := demo/SmolLM2-135M-Instruct.Q4_1.gguf
ENGINE_SOURCES := $(shell find runtime_bench/engine -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test setup tools check lint types pytest bench-peers format clean

help:
	@echo "make demo    install, fetch a real model, export it three ways, generate, measure, report"
	@echo "make test    lint, type check and run every test (installs what it needs)"
	@echo "make setup   only install into $(VENV)"
	@echo "make format  format Python and C++"
	@echo "make bench-peers  measure beside llama.cpp, onnxruntime-genai and ExecuTorch (docs/peers.md)"
	@echo "make clean   remove $(VENV), build/ and demo/"

demo: setup
	@$(BIN)/mobileloop demo --folder demo

test: setup $(MODEL) lint types pytest

setup: tools $(VENV)/.ready

# One sentence for each thing that is missing, before anything is downloaded.
tools:
	@$(PYTHON) -c "" 2>/dev/null || { echo "$(PYTHON) is missing or does not start; Python 3.10 to 3.13 is needed, name one: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Python 3.10 to 3.13 is needed, and $(PYTHON) is $$($(PYTHON) -V | cut -d" " -f2); name another: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@command -v $(firstword $(CXX)) >/dev/null || { echo "a C++17 compiler is missing ($(CXX)); on Debian and Ubuntu: apt-get install g++"; exit 2; }
	@printf '#include <optional>\nint main() { if constexpr (true) return 0; }\n' | $(CXX) -std=c++17 -x c++ - -o /dev/null 2>/dev/null || { echo "$(CXX) cannot compile C++17; install GCC 9 or newer, or name another: make CXX=g++-12"; exit 2; }

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

# The default Linux wheel of torch brings gigabytes of CUDA. The CPU build comes from a configured index where there
# is one, else by uv, which knows PyTorch's own; only then the default.
$(VENV)/.torch: | $(BIN)/python
	@echo "installing PyTorch (CPU build) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check "torch==2.13.0+cpu" 2>/dev/null \
	  || { $(BIN)/python -m pip install -q uv && $(BIN)/uv pip install -q --python $(BIN)/python --torch-backend=cpu torch==2.13.0; } \
	  || $(BIN)/python -m pip install torch==2.13.0
	@touch $@

$(VENV)/.executorch: $(VENV)/.torch
	@echo "installing ExecuTorch (its headers are needed to build our operators) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar on executorch==1.5.1
	@touch $@

$(VENV)/.ready: pyproject.toml $(ENGINE_SOURCES) | $(VENV)/.executorch
	@$(BIN)/python runtime_bench/engine/onnxruntime/fetch_headers.py || true # it says what is left out then
	@echo "building the engine and installing mobileloop ..."
	@CXX="$(CXX)" $(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar on -e ".[torch,executorch,onnx,bench,dev]"
	@touch $@

$(MODEL): | setup
	@mkdir -p $(dir $@)
	@$(BIN)/mobileloop fetch -o $@

lint: | setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run -Werror $$(find runtime_bench/engine -name '*.cpp' -o -name '*.h')

types: | setup
	@$(BIN)/mypy

pytest: | setup
	@CXX="$(CXX)" $(BIN)/python -m pytest $(PYTEST_ARGS)

# Everything interleaved in one run; PEERS="--quick" or PEERS="--build-executorch" adds options (docs/peers.md).
bench-peers: $(MODEL) | setup
	@mkdir -p build
	@$(BIN)/python -m mobileloop_bench.peers --source $(MODEL) --json build/peers.json --markdown build/peers.md $(PEERS)

format: | setup
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	@$(BIN)/clang-format -i $$(find runtime_bench/engine -name '*.cpp' -o -name '*.h')

clean:
	rm -rf $(VENV) build demo .pytest_cache .mypy_cache .ruff_cache
