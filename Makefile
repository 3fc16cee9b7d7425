# The commands of a day. `make` alone lists them.

VIDGEN := target/release/vidgen
DEMO   := out/seasons.mp4

CUDA_TOOLKIT ?=
CUDA_FEATURES ?= cuda

METRICS ?=

.PHONY: help metrics deps build cuda cuda-check demo gallery pictures test torture lint fuzz bench-multiprompt bench-toyland bench-plan bench-gpu-smoke test-slurm dist

help:
	@echo 'make demo    install what is missing, build, render a video on the embedded model'
	@echo 'make gallery the storyboards of prompts/ as videos in out/gallery, each with a strip of pictures beside it'
	@echo 'make pictures   those of README and docs again (PYTHON: one with Pillow)'
	@echo 'make metrics the networks that eval measures with, into your data directory (METRICS: which)'
	@echo 'make test    run all tests'
	@echo 'make torture kill a run 200 times, at random moments, and compare what it makes in the end'
	@echo 'make build   the release binary, target/release/vidgen'
	@echo 'make dist    the archive to hand out, target/dist/vidgen-VERSION-TARGET.tar.gz, and its checksum'
	@echo 'make cuda    the release binary for NVIDIA GPUs, target/cuda/release/vidgen; see docs/cuda.md'
	@echo 'make cuda-check   whether the CUDA assembler takes the kernels in the repository; needs no GPU'
	@echo 'make lint    formatting, clippy and documentation, warnings denied'
	@echo 'make bench-multiprompt    render a set of stories four ways and measure them (SET, STORIES, STEPS, MODEL, CLIP)'
	@echo 'make bench-toyland   the embedded model against its bars (CAPTIONS, STEPS, GUIDANCE, MODEL)'
	@echo 'make bench-plan   what vidgen plan says beside what runs take'
	@echo 'make bench-gpu-smoke   the scripts of benches/gpu on small models and the CPU (PYTHON: one with torch and diffusers)'
	@echo 'make test-slurm   a batch as a Slurm job array on this machine (root, Debian)'
	@echo 'make fuzz    every fuzz target for ten minutes; see docs/fuzzing.md'
	@echo 'make deps    FFmpeg development files, pkg-config, clang'

deps:
	@scripts/deps.sh

build: deps
	cargo build --release --locked

cuda: deps
	@CUDA_TOOLKIT='$(CUDA_TOOLKIT)' scripts/cuda-build.sh build --release --features '$(CUDA_FEATURES)'

cuda-check:
	scripts/cuda-check.sh

# Python 3 collects the licences of the crates.
dist: build
	@scripts/dist.sh $(VIDGEN)

demo: build
	@mkdir -p out
	$(VIDGEN) multi-prompt prompts/seasons.txt --seed 7 -y -o $(DEMO)

# For CogVideoX is one of them. What is finished is left alone.
GALLERY := $(filter-out prompts/dark-knight.txt,$(wildcard prompts/*))

gallery: build
	@for file in $(GALLERY); do \
	  name=$${file##*/}; \
	  case $$name in *.txt) key=prompt_file ;; *) key=script ;; esac; \
	  echo "{\"id\": \"$${name%.*}\", \"$$key\": \"$$file\"}"; \
	done | $(VIDGEN) batch - --output-root out/gallery --preview strip

PYTHON ?= python3

pictures: build
	$(PYTHON) scripts/pictures.py $(VIDGEN)

test: deps
	cargo test --locked --workspace

torture: deps
	VIDGEN_KILLS=200 cargo test --locked --test all killed -- --nocapture

lint: deps
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --no-default-features --lib --bins -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

bench-multiprompt: build
	benches/multiprompt/run.sh

CAPTIONS ?= 256
STEPS    ?= 0
GUIDANCE ?= 0
MODEL    ?= toyland

bench-toyland: build
	training/bars.py --vidgen $(VIDGEN) --model $(MODEL) --captions $(CAPTIONS) --steps $(STEPS) --guidance $(GUIDANCE)

bench-plan: build
	scripts/bench_plan.py $(VIDGEN)

bench-gpu-smoke: build
	SMOKE=1 OUT=out/gpu-smoke benches/gpu/run.sh all

test-slurm: build
	scripts/test-slurm.sh $(VIDGEN)

FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

# New inputs go to a scratch directory: the corpora in the repository stay small.
fuzz:
	cargo +nightly fuzz build --sanitizer none
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p target/fuzz/$$target; \
	  echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
	  cargo +nightly fuzz run --sanitizer none $$target target/fuzz/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=512 -malloc_limit_mb=256 -max_len=65536 -print_final_stats=1 || exit 1; \
	done

metrics:
	scripts/metrics $(METRICS)
