# make setup   a .venv with everything (idempotent)        make test    all tests
# make demo    localize the demo drive with the shipped maps make bench   all benchmarks
# make fuzz MINUTES=60   attack it with altered maps, images, bags, data sets and settings
# make faults KILLS=200 DISKS=100   kill every writer, fill its disk, take its permission, run it twice
# make bench-gpu   the same on a GPU, as one JSON
# make lint    ruff and mypy                                make docs    regenerate the generated pages

SHELL := /bin/bash
VENV ?= .venv
# The first interpreter that is new enough; override with `make setup PYTHON=/path/to/python3`.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10 python3.13; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then command -v $$p; break; fi; done)
EXTRAS ?= all
# Processes of the tests, one more than there are cores: live tests mostly wait. A file's tests stay together, since
# they share what is slow to make.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
MINUTES ?= 60
BACKENDS ?= imposing pixloc retrieval irpnet features cascade copr camnet
DEVICE ?= cuda
REPEATS ?= 50
OUT ?= bench/results/gpu.json
KILLS ?= 200
DISKS ?= 100
STARTED := import vloc_ros.cli.main, vloc_ros.replay.runner, vloc_ros.localizers.backbones as b; b.import_timm(); \
	import vloc_ros.evaluation.plots, matplotlib.figure, matplotlib.backends.backend_agg, rosbags.highlevel, vloc_train.training.recipe
STAMP := $(VENV)/.vloc_setup
BIN := $(VENV)/bin

.PHONY: setup demo test fuzz faults bench bench-gpu lint docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py setup.cfg package.xml
	@if [ -z "$(PYTHON)" ]; then \
		echo "make setup: expected Python 3.10 or newer, found none; install it (Debian, Ubuntu: apt install python3 python3-venv)" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "make setup: $(PYTHON) cannot make virtual environments; install the package python3-venv (apt install python3-venv)" >&2; exit 1; fi
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then $(PYTHON) -m venv --clear $(VENV); fi
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@# pip compiled nothing, most of it is never imported. What a start imports is compiled now: users who may not write
	@# here, or with PYTHONDONTWRITEBYTECODE, would compile it at every start, for seconds.
	@-env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "$(STARTED)" 2>/dev/null
	@# An editable installation has no data files: make the environment an ament prefix with links, so that
	@# ros2 launch and ros2 run find the package once AMENT_PREFIX_PATH names it (docs/ros.md).
	@mkdir -p $(VENV)/share/ament_index/resource_index/packages $(VENV)/lib/vloc_ros
	@touch $(VENV)/share/ament_index/resource_index/packages/vloc_ros
	@ln -sfn "$(CURDIR)" $(VENV)/share/vloc_ros
	@ln -sfn ../../bin/localizer $(VENV)/lib/vloc_ros/localizer
	@ln -sfn ../../bin/evaluator $(VENV)/lib/vloc_ros/evaluator
	@touch $@

demo: setup
	$(BIN)/vloc demo

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Attack it for MINUTES: altered maps, images, bags, data sets, settings; what fails is kept in out/fuzz.
fuzz: setup
	VLOC_FUZZ_MINUTES=$$(awk "BEGIN { print $(MINUTES) / $$($(BIN)/python -m pytest test/fuzz --ignore test/fuzz/test_faults.py --collect-only -q | grep -c ::) }") \
		$(BIN)/python -m pytest test/fuzz --ignore test/fuzz/test_faults.py -s -q -o timeout=0

# Every writer meets kills, full disks, read-only file systems (as root) and a second one of its kind.
faults: setup
	OMP_NUM_THREADS=1 VLOC_FAULTS_KILLS=$(KILLS) VLOC_FAULTS_DISKS=$(DISKS) \
		$(BIN)/python -m pytest test/fuzz/test_faults.py -s -q -o timeout=0

bench: setup
	for backend in $(BACKENDS); do $(BIN)/vloc bench $$backend || exit 1; done

# Everything worth measuring on a GPU, in under ten minutes, as one JSON. DEVICE=cpu REPEATS=1 tries the command without one.
bench-gpu: setup
	$(BIN)/python -m bench.gpu --device $(DEVICE) --repeats $(REPEATS) --out $(OUT)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m vloc_ros.nodes.documentation docs

clean:
	rm -rf $(VENV) build dist *.egg-info
