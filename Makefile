# Fermata: `make demo` shows the main job on real guests, `make test` runs all the tests.
# Both install what is missing (apt-get, as root or with sudo).

.PHONY: help demo test mutants test-swift test-integration test-specification model bench bench-hold bench-many bench-wire bench-guard \
	bench-snapshot bench-takeover bench-locks bench-events bench-notifier soak soak-host simulate ha build \
	build-debug fuzz format lint check-generated deps clean images test-compose

CACHE ?= .cache
PYTHON ?= /usr/bin/python3
FERMATA_DEBUG = .build/debug/fermata
FERMATA_RELEASE = .build/release/fermata

help:
	@echo 'make demo              three hosts, six real guests, one rollout from QEMU to QEMU'
	@echo 'make demo REPORT=F     the same, with a JSON report in the file F'
	@echo 'make demo KEEP=1       the same, left running with the commands to look around'
	@echo 'make ha                three servers, three etcd members and three hosts, left running to break'
	@echo 'make test              all the tests, on real guests too'
	@echo 'make model             check the model of the protocol with spin: all its configurations'
	@echo 'make images            the container images, with docker: fermata and fermata-agent'
	@echo 'make test-compose      builds them with podman, and tries both clusters of cluster/compose'
	@echo 'make fuzz SECONDS=N    fuzz all that reads bytes of strangers, for N seconds (600) in all'
	@echo 'make mutants           whether the simulator finds each of the deliberate bugs, within 2000 seeds'
	@echo 'make bench             bench-wire, -snapshot, -hold, -many, -guard, -takeover, -locks, -events, -notifier'
	@echo 'make bench-wire        the codec, the memory of a session, handshakes a second'
	@echo 'make bench-snapshot    a snapshot of a million guests beside commits; loading it'
	@echo 'make bench-hold        our hold against a bare script that does the same'
	@echo 'make bench-many        32 guests of one host, one by one and together'
	@echo 'make bench-guard       the memory of a guard, and how soon it continues a guest'
	@echo 'make bench-takeover    the leader killed 100 times: until the next directive, and added to a hold'
	@echo 'make bench-locks       locks granted a second in three etcd members, against etcd'\''s own locks'
	@echo 'make bench-events      10,000 guests that poll scheduled events; changes through a leader'
	@echo 'make bench-notifier    annotations: recorded and delivered after a hold; 100,000 drained'
	@echo 'make soak              1000 hand-overs in a row, half with a random fault (COUNT=, SEED=)'
	@echo 'make soak-host         the same for holds of a whole host, under a release of commands'
	@echo 'make simulate          a thousand clusters on a virtual clock (SEEDS=1..1000, PROFILE=mixed)'
	@echo 'make build             the release executable: $(FERMATA_RELEASE)'
	@echo 'make format, make lint swift format, warnings, import rule'
	@echo 'make clean             removes what the build and the caches hold'

deps:
	@scripts/install-dependencies.sh test

build: deps
	swift build -c release --product fermata

build-debug: deps
	swift build --build-tests

# The guest, the two QEMU installations: built once, then kept.
lab: deps
	cluster/guest/build.sh $(CACHE)/guest
	cluster/qemu/install.sh $(CACHE)/qemu
.PHONY: lab

demo: build lab
	$(PYTHON) cluster/demo.py --fermata $(FERMATA_RELEASE) --cache $(CACHE) \
		$(if $(REPORT),--report $(REPORT)) $(if $(KEEP),--keep)

ha: build lab
	cluster/ha.py up --fermata $(FERMATA_RELEASE) --cache $(CACHE)

test: build-debug lab
	scripts/run-tests.sh

test-swift: build-debug
	swift test --skip-build

test-specification: deps
	PYTHON=$(PYTHON) scripts/check-vectors.sh
	$(PYTHON) -m unittest discover -s proto-spec/python

# The short form of it is part of `make test`.
model: deps
	scripts/check-model.sh

test-integration: build-debug lab
	FERMATA=$(FERMATA_DEBUG) FERMATA_CACHE=$(CACHE) \
		$(PYTHON) -m unittest discover -s Tests/Integration -t Tests/Integration -v

DOCKER ?= docker
VERSION = 0.1.0
# Debian 12's docker builds in the old way unless it is told, and that knows no RUN --mount. Podman ignores it.
images: export DOCKER_BUILDKIT = 1
images:
	$(DOCKER) build --target fermata --tag localhost/fermata:$(VERSION) .
	$(DOCKER) build --target fermata-agent --tag localhost/fermata-agent:$(VERSION) .

# ONLY=single or ONLY=ha: one of the clusters.
test-compose: lab
	@scripts/install-dependencies.sh compose
	$(PYTHON) cluster/compose/test.py --cache $(CACHE) $(if $(ONLY),--only $(ONLY))

mutants: deps
	$(PYTHON) scripts/check-mutants.py

SECONDS ?= 600
fuzz: deps
	scripts/fuzz.sh --seconds $(SECONDS)

bench: bench-wire bench-snapshot bench-hold bench-many bench-guard bench-takeover bench-locks bench-events \
	bench-notifier

bench-wire: build
	swift build -c release --product wire-bench
	$(PYTHON) cluster/bench/wire.py --fermata $(FERMATA_RELEASE) --bench .build/release/wire-bench

bench-snapshot: deps
	swift build -c release --product snapshot-bench
	$(PYTHON) cluster/bench/snapshot.py --bench .build/release/snapshot-bench

bench-hold: build lab
	$(PYTHON) cluster/bench/hold.py --fermata $(FERMATA_RELEASE) --cache $(CACHE) --large 4096

bench-many: build lab
	$(PYTHON) cluster/bench/many.py --fermata $(FERMATA_RELEASE) --cache $(CACHE)

bench-guard: build lab
	$(PYTHON) cluster/bench/guard.py --fermata $(FERMATA_RELEASE) --cache $(CACHE)

bench-notifier: build
	$(PYTHON) cluster/bench/notifier.py --fermata $(FERMATA_RELEASE)

bench-takeover: build lab
	swift build -c release --product hosts-bench
	$(PYTHON) cluster/bench/takeover.py --fermata $(FERMATA_RELEASE) \
		--bench .build/release/hosts-bench --cache $(CACHE)

bench-locks: build lab
	swift build -c release --product hosts-bench
	$(PYTHON) cluster/bench/locks.py --fermata $(FERMATA_RELEASE) \
		--bench .build/release/hosts-bench --cache $(CACHE)

bench-events: build
	swift build -c release --product events-bench
	$(PYTHON) cluster/bench/events.py --fermata $(FERMATA_RELEASE) \
		--bench .build/release/events-bench

COUNT ?= 1000
soak: build lab
	$(PYTHON) cluster/soak.py --fermata $(FERMATA_RELEASE) --cache $(CACHE) --count $(COUNT) \
		$(if $(SEED),--seed $(SEED))

soak-host: build lab
	$(PYTHON) cluster/soak_host.py --fermata $(FERMATA_RELEASE) --cache $(CACHE) \
		--count $(COUNT) $(if $(SEED),--seed $(SEED))

SEEDS ?= 1..1000
PROFILE ?= mixed
simulate: build
	$(PYTHON) scripts/simulate.py --fermata $(FERMATA_RELEASE) --seeds $(SEEDS) --profile $(PROFILE)

format:
	swift format -i -r -p Package.swift $$(git ls-files '*.swift' | grep -v /Generated/)

lint:
	swift format lint --strict -p $$(git ls-files '*.swift' | grep -v /Generated/)
	$(PYTHON) scripts/check-imports.py

check-generated: deps
	scripts/generate-proto.sh --check
	$(PYTHON) scripts/generate-reference.py --check

clean:
	rm -rf .build .build-fuzz .build-mutants .build-protoc $(CACHE)
