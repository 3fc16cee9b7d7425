# The commands of a day. `make` alone lists them.

VIDGEN := target/release/vidgen
DEMO   := out/seasons.mp4

.PHONY: help deps build demo test torture lint bench-multiprompt bench-plan test-slurm

help:
	@echo 'make demo    install what is missing, build, render a video on the embedded model'
	@echo 'make test    run all tests'
	@echo 'make torture kill a run 200 times, at random moments, and compare what it makes in the end'
	@echo 'make build   the release binary, target/release/vidgen'
	@echo 'make lint    formatting, clippy and documentation, warnings denied'
	@echo 'make bench-multiprompt    render a set of stories four ways and measure them (SET, STORIES, STEPS, MODEL, CLIP)'
	@echo 'make bench-plan   what vidgen plan says beside what runs take'
	@echo 'make test-slurm   a batch as a Slurm job array on this machine (root, Debian)'
	@echo 'make deps    FFmpeg development files, pkg-config, clang'

deps:
	@scripts/deps.sh

build: deps
	cargo build --release --locked

demo: build
	@mkdir -p out
	$(VIDGEN) multi-prompt prompts/seasons.txt --seed 7 -y -o $(DEMO)

test: deps
	cargo test --locked

torture: deps
	VIDGEN_KILLS=200 cargo test --locked --test cli killed -- --nocapture

lint: deps
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --no-default-features --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps

bench-multiprompt: build
	benches/multiprompt/run.sh

bench-plan: build
	scripts/bench_plan.py $(VIDGEN)

test-slurm: build
	scripts/test-slurm.sh $(VIDGEN)
