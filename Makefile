# `make demo` and `make test` are the two commands to know; both make .venv where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CSRC := $(wildcard csrc/*.cpp csrc/*.h csrc/CMakeLists.txt)
CXX_FILES := $(wildcard csrc/*.cpp csrc/*.h tests/csrc/*.cpp)

.PHONY: install demo test test-full bench lint format sanitize fuzz clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py constraints.txt $(CSRC)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/albert-fast demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -m "not gpu and not slow"

test-full: $(INSTALLED)
	$(BIN)/python -m pytest -q -m "not gpu"

bench: $(INSTALLED)
	$(BIN)/python -m bench.run

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build dist *.egg-info albert_fast/*.so .mypy_cache .ruff_cache
