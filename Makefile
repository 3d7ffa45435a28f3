# make demo: train a small prior on built-in phantoms and reconstruct 20-view CT with it.  make test: run the tests.
PYTHON ?= python3
EXTRAS ?= test,dev
BIN := .venv/bin
RUN := $(BIN)/python -m padis_lightning
# Tests run in as many processes as there are cores, up to MAX_WORKERS, on one thread each: threads that wait for each other cost small
# tests more than they bring. All tests of a file run in one process, so that they share what it has trained and reconstructed.
MAX_WORKERS ?= 4
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses logical --maxprocesses $(MAX_WORKERS) \
    --dist loadfile --no-loadscope-reorder
NUMERICAL := solvers operators ct volumes cone training context networks noise image_operators tiling priors diffusion

#: what makes a lower bound of setup.cfg the one version that is installed
BOUND := s/^ *\([A-Za-z0-9_-]*\)\(\[.*\]\)*>=\([0-9.]*\).*/\1==\3/p

.PHONY: setup demo test slow check numerical lowest newest lint docs notebooks benchmark prior clean

setup: .venv/ready

.venv/ready: constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

demo: setup
	$(RUN) fit --config demo.yaml --output results/demo-prior
	$(RUN) predict --config ct20.yaml --prior.checkpoint results/demo-prior/prior.safetensors --output results/demo --results.overwrite true

# TESTS names files.
test: setup
	$(PYTEST) $(TESTS)

slow: setup
	$(PYTEST) -m slow $(TESTS)

# Both, in one run that keeps all cores busy to its end.
check: setup
	$(PYTEST) -m "" $(TESTS)

# What computes, with the kernels of older processors and two threads: verdicts have to be the same. Threads that have nothing to do
# sleep, since others wait for the processor.
numerical: export ONEDNN_MAX_CPU_ISA = AVX2
numerical: export ATEN_CPU_CAPABILITY = avx2
numerical: export OMP_WAIT_POLICY = passive
numerical: export OMP_NUM_THREADS = 2
numerical: setup
	$(PYTEST) $(NUMERICAL:%=tests/test_%.py)

# The tests with the lowest versions that setup.cfg admits, and with the newest, in environments of their own. PyPI's torch for Linux
# brings gigabytes of CUDA: TORCH names a version of which pip finds a build for processors. TESTS names files.
lowest newest:
	$(PYTHON) -m venv --clear build/$@
	sed -n '$(if $(filter lowest,$@),$(BOUND))' setup.cfg | sed '$(if $(TORCH),/^torch==/d)' > build/$@/bounds.txt
	build/$@/bin/pip install --quiet --only-binary :all: --constraint build/$@/bounds.txt $(TORCH:%=torch==%) --editable ".[test]"
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} build/$@/bin/python -m pytest $(TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, site/index.html, out of pages that docs/conf.py writes into build/docs; a warning is an error.
docs: setup
	rm -rf build/docs site
	mkdir -p build/docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs --doctree-dir build/doctrees build/docs site

# What the cells of the notebooks print and show, kept in them.
notebooks: setup
	$(BIN)/python -m notebooks.run

benchmark: setup
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.operators
	$(BIN)/python -m benchmarks.samples
	$(BIN)/python -m benchmarks.solvers
	$(BIN)/python -m benchmarks.training

# The bundled priors, from the built-in phantoms, objects and heads, and from PHOTOS, a folder or .zip of the photographs that NOTICE names.
PHOTOS ?= photographs.zip
prior: setup
	$(RUN) fit --config ct.yaml --output results/ct_phantoms
	cp results/ct_phantoms/prior.safetensors padis_lightning/assets/ct_phantoms.safetensors
	$(RUN) fit --config objects.yaml --trainer.precision bf16-mixed --output results/objects
	cp results/objects/prior.safetensors padis_lightning/assets/objects.safetensors
	$(RUN) fit --config brains.yaml --trainer.precision bf16-mixed --output results/brains
	cp results/brains/prior.safetensors padis_lightning/assets/brains.safetensors
	$(RUN) fit --config photographs.yaml --data.path $(PHOTOS) --model.credit "$$(sed -n '/^The weights/,$$p' NOTICE)" --output results/photographs
	cp results/photographs/prior.safetensors padis_lightning/assets/photographs.safetensors

clean:
	rm -rf .venv build site *.egg-info
