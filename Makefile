# make demo   from a fresh machine to a report
# make test   everything that CI runs and this machine has the tools for; make test-tools installs them
# make check  in under a minute: lint, types, the core's tests
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
.PHONY: help demo test test-tools setup tools check compilers lint types pytest report-picture bench-peers arm-evidence format engine engine-arm64 fuzz clean

help:
	@echo "make demo    install, fetch a real model, export it three ways, generate, measure, report"
	@echo "make test    lint, type check and run every test (installs what it needs)"
	@echo "make check   under a minute: lint, type check and the tests of the core"
	@echo "make test-tools  install from Debian or Ubuntu what the tests use, such as Chromium and QEMU"
	@echo "make setup   only install into $(VENV)"
	@echo "make format  format Python and C++"
	@echo "make engine  build the static program build/engine/mobileloop-engine; needs no Python package but cmake"
	@echo "make arm-evidence  simulated cache misses and counted instructions of 64-bit ARM, on an emulator"
	@echo "make engine-arm64  the same for 64-bit ARM and phones; ARM64_CXX=zig needs no cross compiler"
	@echo "make fuzz    look for inputs that crash the engine, FUZZ_SECONDS=600 for each target"
	@echo "make bench-peers  measure beside llama.cpp, onnxruntime-genai and ExecuTorch (docs/peers.md)"
	@echo "make report-picture  the README's picture of demo/report.html (needs Chromium)"
	@echo "make clean   remove $(VENV), build/ and demo/"

demo: setup
	@$(BIN)/mobileloop demo --folder demo

test: setup $(MODEL) lint types pytest

# For the hand, after each edit. What takes long, or needs more than Python, is in `make test` alone.
CORE_TESTS := $(addprefix tests/test_,$(addsuffix .py,imports spec_config spec_schedule spec_costs families_presets \
  artifact quant_records quant_schemes packed reference decode_generate decode_random halting checkpoints tokenizer \
  verify runtimes_engine))

check: lint types
	@$(BIN)/python -m pytest -q -n $(TEST_WORKERS) -m "not real" -k "not executorch and not transformers" $(CORE_TESTS)

# Tests without their tool are skipped, and a table says so at the end; with MOBILELOOP_TESTS=all that is a failure.
test-tools: $(VENV)/.cmake
	@$(PYTHON) tests/tools.py
	@$(MAKE) --no-print-directory engine-arm64 ARM64_CXX=zig

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

# More workers than this mean more time in importing PyTorch than in tests.
TEST_WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -le 4 ] && echo $$n || echo 4)

pytest: | setup
	@CXX="$(CXX)" $(BIN)/python -m pytest -n $(TEST_WORKERS) $(PYTEST_ARGS)

# Every program and library of the engine by both compilers; a warning is an error here. What GCC makes of the other
# two, the tests build.
compilers: | setup
	@mkdir -p build/compilers
	@for build in g++-ML_TESTS clang++-ML_TESTS clang++-ML_CLI clang++-ML_FUZZ; do \
	  compiler=$${build%-*}; folder=build/compilers/$$build; echo "building $$folder"; \
	  command -v $$compiler >/dev/null || { echo "$$compiler is missing; on Debian and Ubuntu: make test-tools"; exit 2; }; \
	  { $(BUILD_ENGINE) -B $$folder -D$${build##*-}=ON -DCMAKE_CXX_FLAGS=-Werror -DCMAKE_CXX_COMPILER=$$compiler && \
	    $(BIN)/cmake --build $$folder; } >$$folder.log 2>&1 || { tail -40 $$folder.log; exit 1; }; \
	done
	@for name in engine_tests topology_tests; do program=build/compilers/clang++-ML_TESTS/$$name; \
	  $$program >$$program.log 2>&1 || { tail -20 $$program.log; exit 1; }; tail -1 $$program.log; done

REPORT_RESULT ?= demo/result.json

report-picture: | setup
	@PYTHONPATH=tests $(BIN)/python tests/report_picture.py $(REPORT_RESULT) docs/report.png

# Everything interleaved in one run. PEERS adds options of `mobileloop bench`; --quick is 3 rounds, and --executorch also
# builds that peer (docs/peers.md).
bench-peers: $(MODEL) | setup
	@mkdir -p build
	@$(BIN)/python -m mobileloop_bench.peers build --source $(MODEL) $(filter --executorch,$(PEERS))
	@$(BIN)/mobileloop bench --recipe peers --repetitions 11 --json build/peers.json --markdown build/peers.md \
	  $(patsubst --quick,--repetitions=3,$(filter-out --executorch,$(PEERS)))

format: | setup
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	@$(BIN)/clang-format -i $$(find runtime_bench/engine -name '*.cpp' -o -name '*.h')

# The standalone program (docs/binary.md). It needs a compiler and cmake, and nothing of the Python side.
$(VENV)/.cmake: | $(BIN)/python
	@$(BIN)/python -m pip install -q --disable-pip-version-check "cmake>=3.20" "ninja>=1.11"
	@touch $@

$(VENV)/.zig: | $(BIN)/python
	@echo "installing zig, 101 MB ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check ziglang==0.17.1
	@touch $@

BUILD_ENGINE = $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -S runtime_bench/engine
ARM64 = -DML_CLI=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
ARM64_CXX ?= aarch64-linux-gnu-g++

engine: tools $(VENV)/.cmake
	@$(BUILD_ENGINE) -B build/engine -DML_CLI=ON -DCMAKE_CXX_COMPILER="$(CXX)" >/dev/null
	@$(BIN)/cmake --build build/engine
	@echo "built build/engine/mobileloop-engine"

ifeq ($(ARM64_CXX),zig)
# Zig brings its own C library (musl) and builds it at the first use, which takes minutes.
engine-arm64: $(VENV)/.cmake $(VENV)/.zig
	@zig=$$($(BIN)/python -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__) + "/zig")'); \
	  $(BUILD_ENGINE) -B build/engine-arm64-zig $(ARM64) -DML_ZIG=ON \
	    -DCMAKE_CXX_COMPILER="$$zig;c++;-target;aarch64-linux-musl" >/dev/null
	@$(BIN)/cmake --build build/engine-arm64-zig
	@echo "built build/engine-arm64-zig/mobileloop-engine"
else
engine-arm64: $(VENV)/.cmake
	@command -v $(ARM64_CXX) >/dev/null || { echo "the cross compiler $(ARM64_CXX) is missing; on Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu, or without it: make engine-arm64 ARM64_CXX=zig"; exit 2; }
	@$(BUILD_ENGINE) -B build/engine-arm64 $(ARM64) -DCMAKE_CXX_COMPILER=$(ARM64_CXX) >/dev/null
	@$(BIN)/cmake --build build/engine-arm64
	@echo "built build/engine-arm64/mobileloop-engine"
endif

# Crashing inputs land in build/fuzz/found; the exit code says whether there are any. libFuzzer where clang++ has it.
FUZZ_SECONDS ?= 600
FUZZ_CXX ?= $(shell command -v clang++ || echo $(CXX))
FUZZ_FOLDER ?= build/fuzz

fuzz: tools $(VENV)/.cmake
	@$(BUILD_ENGINE) -B $(FUZZ_FOLDER) -DML_FUZZ=ON -DCMAKE_CXX_COMPILER=$(FUZZ_CXX) >/dev/null
	@$(BIN)/cmake --build $(FUZZ_FOLDER)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) runtime_bench/engine/fuzz/run.sh $(FUZZ_FOLDER)

# Minutes; ARM_BLOCKS=6 is faster. ARM_PEERS="--llama-cpp FOLDER --onnxruntime LIBRARY" counts theirs too (docs/arm.md).
ARM_BLOCKS ?= 30

arm-evidence: setup
	@$(BIN)/python -m mobileloop_bench.simulate.arm misses --blocks $(ARM_BLOCKS) --output build/arm-misses.json
	@$(BIN)/python -m mobileloop_bench.simulate.arm products $(ARM_PEERS) --output build/arm-products.json

clean:
	rm -rf $(VENV) build demo .pytest_cache .mypy_cache .ruff_cache
