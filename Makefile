# make demo: set up and run the main job on a real model.   make test: set up and pass all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test lint emulator digits-checkpoint digits-dit-checkpoint photos-checkpoint ablation size-table bench-scale bench-fit bench-cpu attacks fuzz clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	touch $@

demo: setup
	$(BIN)/python -m mpq_export.pipelines.digits.demo --out out/demo

test: setup lint
	$(BIN)/python -m pytest -n auto

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The emulated processor of tests/lowering/test_without_vnni.py; needs Debian or Ubuntu and root.
emulator:
	command -v qemu-x86_64 >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends qemu-user)

# Trains the shipped model anew: about 15 minutes on two cores.
digits-checkpoint: setup
	$(BIN)/python -m mpq_export.pipelines.digits.train

# About 20 minutes on one core.
digits-dit-checkpoint: setup
	$(BIN)/python -m mpq_export.pipelines.digits_dit.train
	$(BIN)/python -m mpq_export.pipelines.model_report digits_dit --out docs/results

# Longer than an hour and a half on one core; where it is stopped, it goes on when it is started again.
photos-checkpoint: setup
	$(BIN)/python -m mpq_export.pipelines.photos.train
	$(BIN)/python -m mpq_export.pipelines.model_report photos --out docs/results

# Every method and what it is made of, on the three models above: many hours. It goes on where it
# was stopped; PARTS="--part digits --part forms" does these alone, --plan among them lists the cells.
PARTS ?=
ablation: setup
	$(BIN)/python -m mpq_export.pipelines.ablation.run $(PARTS)

# Bytes of the literature's models; needs 2 GB of memory and a few minutes.
size-table: setup
	$(BIN)/python -m mpq_export.evaluation.size_table --out docs/results

# Exports and checks two models of a billion weights: about half an hour, 10 GB of disk.
bench-scale: setup
	$(BIN)/python -m mpq_export.evaluation.scale_benchmark --out docs/results

bench-fit: setup
	$(BIN)/python -m mpq_export.evaluation.weight_fit_benchmark --out docs/results

# A step on this processor against the peers of pyproject's extra "bench"; wants a quiet machine.
# BENCH="--model unet26m --backend ort-int8" does these alone; what is measured is not done again.
BENCH ?=
bench-cpu: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev,bench]'
	$(BIN)/python -m mpq_export.evaluation.cpu_benchmark --out docs/results $(BENCH)

# The table of hostile inputs, docs/results/attacks.md.
attacks: setup
	PYTHONPATH=tests $(BIN)/python -m attacks.report --out docs/results

# Mutated bundles and packed layers; the same SEED gives the same inputs.
SECONDS ?= 60
SEED ?= 0
fuzz: setup
	PYTHONPATH=tests $(BIN)/python -m fuzz.fuzzer --seconds $(SECONDS) --seed $(SEED)

clean:
	rm -rf $(VENV) out build dist
