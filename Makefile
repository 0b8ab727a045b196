# make        everything: environment, then the whole default experiment
# make test   the tests (what .ci/run calls, besides format and lint); make test-fast: those of two minutes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Snakemake and uv keep caches in the home; where nobody can write to it, they keep them here.
ifneq ($(shell test -w "$$HOME" && echo yes),yes)
  export XDG_CACHE_HOME ?= $(CURDIR)/.cache
endif

.PHONY: all run test test-fast test-gpu-extras test-trackers test-storage test-cluster benchmarks benchmarks-gpu lint format environment requirements audit clean
all: run

environment: $(VENV)/.ready
$(VENV)/.ready: envs/requirements.txt pyproject.toml
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/uv.txt
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --require-hashes -r envs/requirements.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q legible scripts
	touch $@

run: environment
	$(BIN)/snakemake --cores $$($(BIN)/python -m legible.cores)

# Two test files at a time, in the order of tests/conftest.py; the workflow's files share a finished run.
test: environment
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# For the inner loop (a minute and a half): no models, no workflow, no whole pages and figures.
test-fast: environment
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit -m "not slow"

# What needs torchao or bitsandbytes, which lie beside the environment: with them in there, every import takes longer.
test-gpu-extras: environment
	$(BIN)/uv pip install --quiet --target .gpu --no-deps --require-hashes -r envs/gpu.txt
	PYTHONPATH=.gpu $(BIN)/python -m pytest tests/models/test_optimizer.py tests/models/test_quantization.py tests/models/test_performance.py \
	  tests/models/test_family_training.py

# TensorBoard and wandb themselves, which lie beside the environment too.
test-trackers: environment
	$(BIN)/uv pip install --quiet --target .trackers --require-hashes -r envs/trackers.txt
	PYTHONPATH=.trackers $(BIN)/python -m pytest tests/unit/test_trackers.py

# The tiny experiment by object storage, each stage where nothing else is; the storage's plugin lies beside, it needs rsync.
test-storage: environment
	$(BIN)/uv pip install --quiet --target .storage --no-deps --require-hashes -r envs/storage.txt
	PYTHONPATH=$(CURDIR)/.storage $(BIN)/python -m pytest tests/workflow/test_storage.py

# The tiny experiment on a real SLURM of one node, with what goes wrong there (half an hour, root, Debian; docs/CLUSTER.md).
test-cluster: environment
	$(BIN)/uv pip install --quiet --target .slurm --no-deps --require-hashes -r envs/slurm.txt
	$(BIN)/python tests/cluster/drill.py

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: environment
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

# Resolve the pinned, hashed requirements anew (needs uv and a package index; writes no addresses).
requirements:
	uv pip compile pyproject.toml --extra dev --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --quiet -o envs/requirements.txt
	python envs/write_conda.py
	printf 'bitsandbytes\ntorchao\n' | uv pip compile - --python-version 3.11 --universal --no-deps --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --quiet -o envs/gpu.txt
	printf 'tensorboard\nwandb\n' | uv pip compile - -c envs/requirements.txt --python-version 3.11 --universal \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o envs/trackers.txt
	printf 'snakemake-executor-plugin-%s\n' slurm slurm-jobstep cluster-generic | uv pip compile - --python-version 3.11 \
	  --universal --no-deps --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o envs/slurm.txt
	printf 'snakemake-storage-plugin-fs\nsysrsync\ntoml\n' | uv pip compile - --python-version 3.11 --universal \
	  --no-deps --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o envs/storage.txt

# Known holes in the pinned packages; asks the advisories over the network, installs nothing here (SECURITY.md).
audit: environment
	$(BIN)/uv tool run pip-audit==2.10.1 --require-hashes --disable-pip -r envs/requirements.txt

# Drops all experiments; the checkpoints of nano's own training (hours of work) stay.
clean:
	find results -mindepth 1 -maxdepth 1 -type d ! -name nano_models -exec rm -rf {} +
	rm -rf .snakemake

# docs/PERFORMANCE.md, times taken on this machine. Without a GPU: nano and a slice of Z-Image (two hours; keep it quiet).
MEASURE := PYTHONPATH=.:.gpu $(BIN)/python
benchmarks: environment
	$(BIN)/uv pip install --quiet --target .gpu --no-deps --require-hashes -r envs/gpu.txt
	$(MEASURE) benchmarks/train_step.py --model nano --steps 15 --output docs/performance/train_step-nano.json
	$(MEASURE) benchmarks/sample.py --model nano --cases 1,1+compile,32,32+compile --steps 15 \
	  --output docs/performance/sample-nano.json
	$(MEASURE) benchmarks/train_step.py --model slice --steps 3 --warmup 1 \
	  --cases lora,lora+compile,full+compile,full+checkpointing+compile \
	  --output docs/performance/train_step-slice.json
	$(MEASURE) benchmarks/sample.py --model slice --cases 1,1+compile --steps 3 --warmup 1 \
	  --output docs/performance/sample-slice.json
	$(MEASURE) benchmarks/rollout.py --output docs/performance/rollout/zimage.json
	$(MEASURE) benchmarks/write_performance.py

# The same of the whole 6B model with random weights, on a GPU with 141 GB.
benchmarks-gpu: environment
	$(BIN)/uv pip install --quiet --target .gpu --no-deps --require-hashes -r envs/gpu.txt
	$(MEASURE) benchmarks/train_step.py --model full --steps 20 --warmup 5 --output docs/performance/train_step-full.json
	$(MEASURE) benchmarks/sample.py --model full --steps 10 --warmup 3 --output docs/performance/sample-full.json
	$(MEASURE) benchmarks/write_performance.py
