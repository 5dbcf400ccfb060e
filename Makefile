# Every target that CI runs is a target here; `make help` lists them.
SHELL  := /bin/bash
PYTHON ?= python3
VENV   ?= .venv
NODES  ?= 0
# The headline run: the toy world here, the published recipe on a cluster.
RECIPE ?= $(if $(filter 0,$(NODES)),clip_toy,clip_vitb32_yfcc15m)
ARGS   ?=
CLUSTER ?= default
GPUS   ?=
SWEEP  ?= sweeps/pi_controls.yaml
SECONDS ?= 60
SEEDS  ?= 20
TASKS  ?= paper29+paper2
OUT    ?= runs/eval.json
OPS    ?=
FAST   := tests/test_structure.py $(addprefix tests/launch/,test_cli.py test_recipes.py test_cluster.py rundir) \
          $(addprefix tests/pretrain/,recipe test_losses.py test_optim.py test_trainer.py) \
          $(addprefix tests/data_pipeline/,test_order.py test_randomness.py test_files.py triplets index/test_lookup.py) \
          $(addprefix tests/data_pipeline/,stores/test_tar.py images/test_crops.py images/test_transforms.py) \
          $(addprefix tests/evals/,data/test_tasks.py results segmentation/test_miou.py triplets) tests/kernels/test_backend.py
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PEERS  := .venv-peers/.ready

# Where this is set, every process that starts would compile torch and our own modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help pretrain neco align plan sweep status logs stop resume eval compare test test-fast test-faults golden wheel fuzz chaos lint format bench-engine bench-kernels kernels-aot bench-data bench-evals peers toy clean constraints

help: ## list every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is written last, so that a cut installation is done again.
$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pineco: $(PYTHON) is older than 3.11; pass PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	@touch $@

ifeq ($(NODES),0)
pretrain: $(READY) ## toy world -> perceptual initialisation -> CLIP -> report, here [RECIPE= ARGS="key=value"]
	$(BIN)/pineco train $(RECIPE) $(ARGS) --resume
else
pretrain: $(READY) ## NODES=8 submits it to SLURM instead [CLUSTER= GPUS= RECIPE= ARGS="key=value" DRY_RUN=1]
	$(BIN)/pineco submit $(RECIPE) $(ARGS) --nodes $(NODES) --cluster $(CLUSTER) \
	    $(if $(GPUS),--gpus $(GPUS)) $(if $(RUN),--run-dir $(RUN)) $(if $(DRY_RUN),--dry-run)
endif

neco: ## post-pretrain a backbone so that patches keep their neighbours' order [RECIPE=neco_tiny NODES= CLUSTER= ARGS=]
	$(MAKE) --no-print-directory pretrain RECIPE=$(if $(filter file,$(origin RECIPE)),neco_tiny,$(RECIPE))

align: ## tune a backbone on human similarity triplets by LoRA [RECIPE=align_tiny NODES= CLUSTER= ARGS=]
	$(MAKE) --no-print-directory pretrain RECIPE=$(if $(filter file,$(origin RECIPE)),align_tiny,$(RECIPE))

plan: $(READY) ## memory, speed, bandwidth, hours and cost of a run, before it runs [NODES=8 CLUSTER= RECIPE= ARGS=]
	$(BIN)/pineco plan $(RECIPE) $(ARGS) --nodes $(if $(filter 0,$(NODES)),1,$(NODES)) --cluster $(CLUSTER)

sweep: $(READY) ## an array of runs [SWEEP=sweeps/pi_controls.yaml CLUSTER=]
	$(BIN)/pineco sweep $(SWEEP) --cluster $(CLUSTER) $(if $(DRY_RUN),--dry-run)

status: $(READY) ## every run below runs/, from its directory and from SLURM [ARGS=--watch]
	$(BIN)/pineco status $(ARGS)

logs: $(READY) ## follow what a run says, here or on a cluster [RUN=runs/NAME]
	$(BIN)/pineco logs $(RUN)

stop: $(READY) ## have a run on a cluster save and end [RUN=runs/NAME]
	$(BIN)/pineco stop $(RUN)

resume: $(READY) ## let a run go on, also on another number of nodes [RUN=runs/NAME NODES=4]
	$(BIN)/pineco resume $(RUN) $(if $(filter-out 0,$(NODES)),--nodes $(NODES))

eval: $(READY) ## a model on zero-shot benchmarks [MODEL= DATA= TASKS=paper29+paper2 OUT=runs/eval.json ARGS=]
	$(if $(and $(MODEL),$(DATA)),,$(error pass MODEL=EXPORT_OR_NAME and DATA=FOLDER_OR_ADDRESS))
	@mkdir -p '$(dir $(OUT))'
	$(BIN)/pineco eval zeroshot --model '$(MODEL)' --data '$(DATA)' --tasks '$(TASKS)' --out '$(OUT)' $(ARGS)

compare: $(READY) ## runs or reports against the first, image by image [RUNS="a b@1000 c.json"]
	$(BIN)/pineco compare $(RUNS) $(ARGS)

test: $(READY) ## the tests, but for the long rows of faults
	$(BIN)/python -m pytest

test-fast: $(READY) ## a quick part of the tests: no compilation, no servers, no SLURM
	$(BIN)/python -m pytest $(FAST)

test-faults: $(READY) ## the long rows of faults on a virtual SLURM, which CI runs, too
	$(BIN)/python -m pytest -m faults

golden: $(READY) ## record the golden losses anew, where a change of numbers is meant
	TRITON_INTERPRET=1 $(BIN)/python -m tests.support.golden

wheel: $(READY) ## build the wheel and try it in an empty environment
	VENV=$(VENV) .ci/wheel

fuzz: $(READY) ## damaged tars and indexes against the parsers, SECONDS=60 for each test
	PINECO_FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest tests/fuzz

chaos: $(READY) ## faults in a row at runs on a virtual SLURM, which must end as R0 does [SEEDS=20]
	PINECO_CHAOS_SEEDS=$(SEEDS) $(BIN)/python -m pytest -m faults -n 0

lint: $(READY) ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

toy: $(READY) ## write the toy world to data/toy, and a picture of it
	$(BIN)/pineco data toy data/toy --sheet data/toy.png

bench-engine: $(READY) ## one step through Trainer and engine against a bare PyTorch loop, into results/
	$(BIN)/python -m tests.bench.engine

bench-kernels: $(READY) ## time every kernel against torch, after its tests, into results/ [OPS="patch_distance ..."]
	$(BIN)/python -m pineco.kernels.bench $(OPS)

kernels-aot: $(READY) ## compile every kernel for sm_80 and sm_90, no GPU needed; fail on spills
	$(BIN)/python -m pineco.kernels.aot

bench-data: $(READY) ## the reading path against webdataset, Pillow and a slow S3 link, into results/
	$(BIN)/python -m tests.bench.data.run $(ARGS)

peers: $(PEERS) ## clip-benchmark in an environment of its own, to compare with

$(PEERS): $(READY) constraints-peers.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers
	$(BIN)/uv pip install --quiet --python .venv-peers/bin/python --constraint constraints-peers.txt clip-benchmark requests
	@touch $@

bench-evals: $(PEERS) ## the evaluation against clip-benchmark and the bare forward pass, into results/ [ARGS=]
	$(BIN)/python -m tests.bench.evals $(ARGS)

constraints: $(READY) ## write constraints.txt anew from what is installed
	{ head -1 constraints.txt; $(BIN)/uv pip freeze --exclude-editable --python $(BIN)/python; } > constraints.new
	mv constraints.new constraints.txt

clean: ## remove runs and caches (keeps .venv and data)
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
