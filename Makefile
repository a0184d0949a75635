# Everything a developer or an operator types. The work is done by scripts/, so that each can be read and run alone.

.PHONY: run cluster build test test-clients torture failover sim sim-long sim-mutations lint format bench proto docs clean

run: build
	exec bin/moonraft --config config/moonraft.toml $(ARGS)

cluster: build
	exec scripts/cluster.sh $(ARGS)

build:
	scripts/install-deps.sh
	scripts/build.sh

test:
	scripts/install-deps.sh
	scripts/install-deps.sh --test
	scripts/test.sh

# etcd's own Go client, from Debian's packages.
test-clients: build
	Tests/clients/run.sh $(ARGS)

# Kills, freezes and cuts off real members under load for SECONDS; SEED repeats a run.
torture: build
	scripts/install-deps.sh --test
	scripts/torture.sh torture $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

# How long writes are refused when the leader is killed, over TRIALS.
failover: build
	scripts/install-deps.sh --test
	scripts/torture.sh failover $(if $(TRIALS),--trials $(TRIALS)) $(ARGS)

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
