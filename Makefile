# Each target makes what it needs: a virtual environment in .venv with the tested versions.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STEM := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
# The tests mostly compile, which takes one core: two at a time.
TWO := -n 2 --dist worksteal

.PHONY: demo test lint test-slow processes detection faults buckets test-gpu tpu parity browser slurm kubernetes newcomer docs clean

demo: $(STEM)
	$(BIN)/python -m moco_jax.main --config=configs/demo.py --workdir=runs/demo

test: $(STEM)-test lint
	$(PYTEST) $(TWO) -m "not slow and not processes and not detection and not gpu and not tpu"

lint: $(STEM)-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/shellcheck launch/*.sh .ci/run

test-slow: $(STEM)-test
	$(PYTEST) -m slow

# Runs of several processes, killed and started again.
processes: $(STEM)-test
	$(PYTEST) -m processes

# Whole runs of detectors and segmenters, on shapes.
detection: $(STEM)-detection
	$(PYTEST) $(TWO) -m detection

# What a run stands on, broken for real: signals, disks, files, processes.
faults: $(STEM)-test
	$(PYTEST) $(TWO) tests/faults

# Workdirs and data in buckets, of servers that it starts.
buckets: $(STEM)-buckets
	$(PYTEST) $(TWO) tests/buckets

test-gpu: $(STEM)-test
	JAX_PLATFORMS=cuda $(PYTEST) -m gpu

# The plan by the TPU compiler, which needs no TPU and which only this target installs.
tpu: $(STEM)-tpu
	$(PYTEST) -m tpu

# Against PyTorch, torchvision, timm and scikit-learn, which only this target installs.
parity: $(STEM)-parity
	$(PYTEST) $(TWO) tests/parity

# The wheel outside the checkout, and the notebook, as a newcomer runs them.
newcomer: $(STEM)-newcomer
	$(PYTEST) tests/newcomer

# The site, into build/site; a dead link is an error. And the commands on its pages are run.
docs: $(STEM)-docs
	$(BIN)/mkdocs build --strict
	$(PYTEST) $(TWO) tests/shown

# The report and the site in a real browser.
browser: $(STEM)-browser
	@{ command -v chromium && command -v chromedriver; } >/dev/null || \
	  { echo "make browser needs Chromium and its driver; on Debian: apt-get install chromium chromium-driver"; exit 1; }
	$(PYTEST) tests/browser

# launch/slurm.sh on a SLURM of this machine alone.
slurm: $(STEM)-test
	@{ command -v sbatch && ls /usr/sbin/munged; } >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null; } || \
	  { echo "make slurm needs SLURM and munge; on Debian: apt-get install slurm-wlm munge"; exit 1; }
	$(PYTEST) tests/launch/test_slurm.py

# The Kubernetes files against the published schemas.
kubernetes: $(STEM)-kubernetes
	$(PYTEST) tests/launch/test_kubernetes.py

$(STEM):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "moco_jax needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[all]'
	@touch $@

$(STEM)-test: $(STEM)
	$(INSTALL) -e '.[test]'
	@touch $@

$(STEM)-tpu: $(STEM)-test
	$(INSTALL) -e '.[tpu]'
	@touch $@

$(STEM)-parity: $(STEM)-test
	$(INSTALL) -e '.[parity]'
	@touch $@

$(STEM)-buckets: $(STEM)-test
	$(INSTALL) -e '.[buckets]'
	@touch $@

$(STEM)-kubernetes: $(STEM)-test
	$(INSTALL) -e '.[kubernetes]'
	@touch $@

$(STEM)-newcomer: $(STEM)-test
	$(INSTALL) -e '.[newcomer]'
	@touch $@

$(STEM)-detection: $(STEM)-test
	$(INSTALL) -e '.[detection]'
	@touch $@

$(STEM)-docs: $(STEM)-test
	$(INSTALL) -e '.[docs]'
	@touch $@

$(STEM)-browser: $(STEM)-docs
	$(INSTALL) -e '.[browser]'
	@touch $@

$(STEM): setup.py constraints.txt

clean:
	rm -rf $(VENV) .cache
