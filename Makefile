# Everything a developer or an operator types. The work is done by scripts/, so that each can be read and run alone.

.PHONY: run build test lint format bench proto docs sim sim-long sim-mutations clean

run: build
	exec bin/moonraft --config config/moonraft.toml $(ARGS)

build:
	scripts/install-deps.sh
	scripts/build.sh

test:
	scripts/install-deps.sh
	scripts/install-deps.sh --test
	scripts/test.sh

lint:
	scripts/lint.sh

format:
	swift format --in-place --parallel --recursive Sources Tests Package.swift

bench: build
	scripts/bench.sh

proto:
	scripts/proto.sh

docs:
	scripts/docs.sh

# The simulator (docs/simulation.md): bin/moonraft-sim --seed N [--trace].
sim:
	scripts/sim.sh

# Many seeds: make sim-long SEEDS=10000 [FROM=1]
sim-long: sim
	SEEDS=$(SEEDS) FROM=$(FROM) scripts/sim-long.sh

# Whether the simulator finds the bugs that are planted for it.
sim-mutations:
	scripts/sim.sh --mutations

clean:
	rm -rf .build .build-debug .build-release .build-tools .build-venv bin
