# Everything happens in .venv, beside this file; `make clean` takes it all away again.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/digits-quick
SOURCES := setup.py $(shell find csrc -type f)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: all paper test lint kernels pytest bench gpu clean
.DELETE_ON_ERROR:

# Threads that wait asleep: two that spin for each other on a busy machine take 20 times as long.
paper pytest: export OMP_WAIT_POLICY := passive

all: .venv/built

# Train classifiers on real digits, attack them, write tables, curves, pictures and one page.
paper: .venv/built
	fastrobust paper --data-set digits --preset quick --out $(OUT)

# Every check, the same ones that a change must pass.
test: lint kernels pytest

lint: .venv/built
	ruff check
	ruff format --check
	mypy
	clang-format --dry-run -Werror $$(find csrc -type f)

# The C++ tests once as they are and once under the address and undefined behaviour sanitizers.
kernels: .venv/built
	cmake -S . -B build/kernels -G Ninja
	cmake -S . -B build/sanitized -G Ninja -DFASTROBUST_SANITIZE=ON
	for build in kernels sanitized; do \
	  cmake --build build/$$build && ctest --test-dir build/$$build --output-on-failure || exit 1; done

pytest: .venv/built
	python -m pytest

bench: .venv/built
	python -m benches

# What only a machine with a GPU can do: PART=tests, kernels or engine, else all three. It takes the
# python on PATH as it is (and .venv, if there is one) and asks for no network.
gpu:
	@python -c 'import torch' || { echo "gpu: $$(command -v python) must have torch"; exit 2; }
	python -m benches.gpu $(if $(PART),--part $(PART))

clean:
	rm -rf .venv build dist *.egg-info fastrobust/_C*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fastrobust needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V); set PYTHON="; exit 1; }
	$(PYTHON) -m venv .venv

# torch first: the extension is compiled against the torch that it will run with.
.venv/installed: pyproject.toml | .venv/bin/python
	python -m pip install --quiet "setuptools>=77" wheel pybind11 ninja numpy torch torchvision
	python -m pip install --quiet --no-build-isolation --editable ".[paper,test,bench,dev]"
	touch $@

# The installation builds the extension; an extension that does not fit csrc/ is built again.
.venv/built: .venv/installed $(SOURCES)
	@mkdir -p build; [ .venv/installed -nt setup.py ] && python -c "import fastrobust" 2> build/log || \
	  python setup.py build_ext --inplace > build/log 2>&1 || { cat build/log; exit 1; }
	@fastrobust --version
	@touch $@
