# make demo    from shipped weights to masks on a real cine, in out/demo (no torch)
# make test    everything installed, then the tests; PYTEST_ARGS="-m 'not slow'" for the quick ones
# make check   lint, format and types
# make clean   removes the environment, caches and out/
#
# make bench-cpu
#              the runs behind the README's figures, engines of the shipped weights against every library that runs the same
#              network, in out/cpu; CPU_ARGS="--engine FOLDER --checkpoint FILE --data DDTI" adds others
# make bench-gpu CHECKPOINTS="lite.safetensors net.safetensors" DATA=ddti
#              TensorRT engines against PyTorch on this machine's GPU, in out/gpu; TRT_PYTHON=PATH takes TensorRT from another
#              interpreter; GPU_ARGS=--dry-run alone rehearses on the CPU (python -m benchmarks.gpu --help)
#
# make PYTHON=python3.12 ... takes another interpreter, make QUIET= ... shows what pip says.

PYTHON ?= python3
PYTEST_ARGS ?=
QUIET ?= -qq
CHECKPOINTS ?=
DATA ?=
TRT_PYTHON ?=
GPU_ARGS ?=
CPU_ARGS ?=

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install $(QUIET) --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench-cpu bench-gpu clean

demo: .venv/.demo
	$(BIN)/ssmt-edge demo --out out/demo

# a process a core, each file in one of them; one thread in each, or they would fight for the cores
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-cpu: .venv/.dev
	$(BIN)/python -m benchmarks.cpu --out out/cpu $(CPU_ARGS)

bench-gpu: .venv/.dev
	$(BIN)/python -m benchmarks.gpu --out out/gpu $(addprefix --checkpoint ,$(CHECKPOINTS)) $(addprefix --data ,$(DATA)) \
	    $(addprefix --trt-python ,$(TRT_PYTHON)) $(GPU_ARGS)

clean:
	rm -rf .venv out build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an environment is filled again only after the packages it takes have changed.
.venv/.demo: .venv/.made pyproject.toml constraints.txt
	@echo "Installing ssmt-edge and what building an engine takes (no torch); the download is the longest part ..."
	@$(INSTALL) -e '.[export]'
	@touch $@

.venv/.dev: .venv/.made pyproject.toml constraints.txt
	@echo "Installing ssmt-edge with torch, OpenVINO and the development tools; this takes some minutes ..."
	@$(INSTALL) -e '.[train,export,openvino,dicom,igtl,view,seg,dev]'
	@touch $@

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "error: $(PYTHON) is missing or older than Python 3.10; name another one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Making the environment .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	    echo "error: $(PYTHON) cannot make an environment (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@touch $@
