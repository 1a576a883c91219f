# make demo: set up and run the main job on a real model.   make test: set up and pass all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test pytest lint emulator native-tools native-cases native-sanitizers native-aarch64 native-fuzz gpu-tools gpu-emulation planted-faults kernel-table gpu-check trt-plugin trt-plugin-check digits-checkpoint digits-dit-checkpoint photos-checkpoint ablation gate-report size-table temporal-cache-table training-profile bench-scale bench-fit bench bench-methods bench-cpu browser tensorrt-plans attacks fuzz clean

setup: $(READY)

# The native libraries are compiled by pip, anew where their sources have changed.
NATIVE := plugins/onnxruntime
NATIVE_SOURCES := $(shell find plugins -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)

$(READY): pyproject.toml constraints.txt $(NATIVE_SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,trt,dev]'
	touch $@

demo: setup
	$(BIN)/python -m mpq_export.pipelines.digits.demo --out out/demo

test: lint pytest

pytest: setup
	$(BIN)/python -m pytest -n auto --dist worksteal --durations 30

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files '*.cpp' '*.h' '*.c' '*.cu' | xargs $(BIN)/clang-format --dry-run -Werror

# The emulated processor of tests/lowering/test_without_vnni.py; needs Debian or Ubuntu and root.
emulator:
	command -v qemu-x86_64 >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends qemu-user)

# What the native targets below need; Debian or Ubuntu and root.
native-tools:
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends g++ cmake make qemu-user g++-aarch64-linux-gnu

NATIVE_CASES := build/native/cases.bin
native-cases: setup
	mkdir -p $(dir $(NATIVE_CASES))
	PYTHONPATH=tests $(BIN)/python -m plugins.onnxruntime.case_file $(NATIVE_CASES)

# All operators on every set of kernels of this processor, from two threads, under sanitizers.
SANITIZERS ?= address,undefined thread
native-sanitizers: native-cases
	set -e; for kind in $(SANITIZERS); do \
	  cmake -S $(NATIVE) -B build/native/$$kind -DMPQ_TESTS=ON -DMPQ_SANITIZE=$$kind; \
	  cmake --build build/native/$$kind --target run_cases run_operators --parallel 2; \
	  build/native/$$kind/run_cases $(NATIVE_CASES); \
	  build/native/$$kind/run_operators; \
	done

# The same on emulated 64-bit ARM, with and without dot products.
native-aarch64: native-cases
	cmake -S $(NATIVE) -B build/native/aarch64 -DMPQ_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	  -DCMAKE_EXE_LINKER_FLAGS=-static
	cmake --build build/native/aarch64 --target run_cases run_operators --parallel 2
	set -e; for cpu in max cortex-a53; do \
	  qemu-aarch64 -cpu $$cpu build/native/aarch64/run_cases $(NATIVE_CASES); \
	  qemu-aarch64 -cpu $$cpu build/native/aarch64/run_operators; \
	done

# Mutated layer descriptions; needs clang with its runtimes (libclang-rt-dev). It goes on from its corpus.
native-fuzz:
	mkdir -p build/native/corpus
	cmake -S $(NATIVE) -B build/native/fuzz -DMPQ_FUZZ=ON -DMPQ_SANITIZE=address,undefined \
	  -DCMAKE_CXX_COMPILER=clang++
	cmake --build build/native/fuzz --target fuzz_layer --parallel 2
	build/native/fuzz/fuzz_layer build/native/corpus -max_total_time=$(SECONDS) -max_len=8192 \
	  -artifact_prefix=build/native/

# CUDA's compilers for the tests of compiled code where there are none: nvcc 13, torch's NVRTC and
# JetPack 6's. 215 MB to fetch, 530 MB on disk; for Linux on x86-64.
GPU_TOOLS := nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
  nvidia-cuda-runtime==13.0.88 nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-nvrtc-cu12==12.6.85
gpu-tools: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target build/gpu-tools $(GPU_TOOLS)

# The GPU kernels on the processor, exact on many random layers.
CASES ?= 400
gpu-emulation: setup
	MPQ_KERNEL_CASES=$(CASES) $(BIN)/python -m pytest -n auto tests/plugins/kernels

# Mistakes in copies of the GPU kernels: all must be noticed. Some minutes.
planted-faults: setup
	PYTHONPATH=tests $(BIN)/python -m plugins.kernels.planted_faults

# What nvcc makes of the GPU kernels, for every architecture; needs CUDA 13's nvcc (make gpu-tools),
# no GPU.
kernel-table: setup
	$(BIN)/python plugins/kernels/compiled_code.py docs/results/kernel_table.md

# On a machine with an NVIDIA GPU: exactness and speed in ten minutes, docs/results/gpu.md. GPU="--part kernels"
# does that alone; GPU=--emulated needs no GPU. Where nothing can be installed, run the command itself.
GPU ?=
GPU_OUT ?= docs/results
gpu-check: setup
	$(BIN)/python -m mpq_export.evaluation.gpu_check --out $(GPU_OUT) $(GPU)

# The plugin library for TensorRT, for all GPUs or ARCHITECTURES="87"; TENSORRT=FOLDER is an SDK or a folder
# of its headers, where the system has none.
TENSORRT ?=
ARCHITECTURES ?=
trt-plugin:
	cmake -S plugins/tensorrt -B build/trt-plugin $(if $(TENSORRT),-DTensorRT_ROOT=$(abspath $(TENSORRT))) \
	  $(if $(ARCHITECTURES),-DCMAKE_CUDA_ARCHITECTURES="$(ARCHITECTURES)")
	cmake --build build/trt-plugin
	@echo build/trt-plugin/libmpq_tensorrt.so

# What can be proved of it without a GPU, docs/results/tensorrt_plugin.md: HEADERS are include folders of TensorRT,
# RUNTIMES libraries with its plugin registry (libnvinfer_lean.so.11, libtensorrt_rtx.so.1, x86-64 or aarch64); CUDA_TARGET
# as in plugins/tensorrt/cmake/aarch64.cmake.
HEADERS ?=
RUNTIMES ?=
CUDA_INCLUDE ?= /usr/local/cuda/include
CUDA_TARGET ?=
trt-plugin-check: setup
	PYTHONPATH=tests $(BIN)/python -m plugins.tensorrt.proof --out docs/results --headers $(HEADERS) \
	  $(if $(RUNTIMES),--runtimes $(RUNTIMES)) --cuda $(CUDA_INCLUDE) $(if $(CUDA_TARGET),--cuda-target $(CUDA_TARGET))

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

# What mpq-check's limits say of bundles with one broken layer, docs/results/gate.md; a few minutes.
gate-report: setup
	$(BIN)/python -m mpq_export.evaluation.gate_report --out docs/results

# Bytes of the literature's models; needs 2 GB of memory and a few minutes.
size-table: setup
	$(BIN)/python -m mpq_export.evaluation.size_table --out docs/results

# What caching temporal features takes from the literature's graphs, docs/results/temporal_cache.*.
temporal-cache-table: setup
	$(BIN)/python -m mpq_export.evaluation.temporal_cache_table --out docs/results

# What an update of the default method spends its time on, docs/results/training_profile.*; wants a quiet machine.
training-profile: setup
	$(BIN)/python -m mpq_export.evaluation.training_profile --ckpt pipelines/digits/checkpoint

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

# The digits model at fp32, int8 and three bundles in one picture, docs/results/bench_digits.*; under ten
# minutes on two quiet cores. Bundles that are there are not made again.
BENCH_BUNDLES := $(patsubst %,out/bench/%/manifest.json,w4a8 w3a4 w2a4)
out/bench/w4a8/manifest.json: TRAIN_STEPS := 0
$(BENCH_BUNDLES): TRAIN_STEPS ?= 150
$(BENCH_BUNDLES): out/bench/%/manifest.json: | setup
	$(BIN)/mpq-export --ckpt pipelines/digits/checkpoint --bits $* --train-steps $(TRAIN_STEPS) --out out/bench/$*

bench: setup $(BENCH_BUNDLES)
	$(BIN)/mpq-bench $(patsubst %/manifest.json,%,$(BENCH_BUNDLES)) --ckpt pipelines/digits/checkpoint \
	  --out out/bench --name bench_digits
	cp $(patsubst %,out/bench/bench_digits.%,json md html svg) docs/results

# All methods on photographs at three widths beside fp32 and int8, docs/results/bench_methods.*. Takes the
# bundles of the grid, out/ablation, and makes those that are missing, which takes hours; then half an hour.
bench-methods: setup
	$(BIN)/python -m mpq_export.pipelines.ablation.bundles --part methods --to out/methods
	$(BIN)/mpq-bench out/methods/*-w4a8 out/methods/*-w3a4 out/methods/*-w2a4 \
	  --ckpt pipelines/photos/checkpoint --out out/bench --name bench_methods
	cp $(patsubst %,out/bench/bench_methods.%,json md html svg) docs/results

# A browser for the test of mpq-bench's page; Debian or Ubuntu and root.
browser:
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

# How large plans of TensorRT-RTX are; no GPU. Some minutes; PLANS="--model digits" does that alone.
PLANS ?=
tensorrt-plans: setup
	$(BIN)/python -m mpq_export.evaluation.tensorrt_plans --out docs/results $(PLANS)

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
