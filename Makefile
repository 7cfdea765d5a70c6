# Everything that the project needs is installed by its own targets: Debian
# packages by scripts/setup.sh, Go tools into $(CACHE)/bin.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Pinned tools. The generated BPF objects are reproducible with this clang only.
CLANG_VERSION         := 16
CLANG_RELEASE         := 16.0.6
GOLANGCI_LINT_VERSION := v2.15.0

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sidestep
OUT   := out

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

GOLANGCI_LINT := $(CACHE)/bin/golangci-lint-$(GOLANGCI_LINT_VERSION)

export CLANG_VERSION CLANG_RELEASE

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

##@ Building

.PHONY: build
build: setup ## Build the agent, the demo and its client into out/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(OUT)/ ./cmd/agent ./cmd/demo
	CGO_ENABLED=0 go -C test/clients/vaultclient build -trimpath -o $(CURDIR)/$(OUT)/vaultclient .

.PHONY: generate
generate: setup ## Compile the BPF programs anew (clang $(CLANG_VERSION))
	go generate ./pkg/intercept

.PHONY: generate-check
generate-check: setup ## Prove that the committed BPF objects are those of the sources
	scripts/generate-check.sh

.PHONY: setup
setup: ## Install the Debian packages that building and testing need
	@scripts/setup.sh

.PHONY: image
image: setup ## Make the agent's image for amd64 and arm64 into out/, without an engine
	for arch in amd64 arm64; do \
		go run ./test/image --arch $$arch --version $(VERSION) --out $(OUT)/sidestep-agent-$$arch.tar; \
	done

.PHONY: manifests
manifests: setup ## Render the manifests into out/manifests/
	go -C test/manifests run . -render $(CURDIR)/$(OUT)/manifests

##@ Testing

.PHONY: demo
demo: build ## The main job on this machine, without a cluster (root)
	$(OUT)/demo --agent $(OUT)/agent --client $(OUT)/vaultclient

# The node's Kubernetes takes a quarter of an hour the first time: it is built
# beside the other tests.
.PHONY: test
test: setup ## All of the tests; what CI runs
	@$(MAKE) --no-print-directory -j2 node-build test-without-node
	@$(MAKE) --no-print-directory test-node

.PHONY: test-without-node
test-without-node:
	@+MAKEFLAGS= $(MAKE) --no-print-directory lint generate-check test-unit test-kernel test-handover test-attack

.PHONY: test-all
test-all: test test-outages test-kernels test-clients fuzz soak ## With those that take long

.PHONY: test-node
test-node: node-build ## Real pods on a real Kubernetes node (root)
	go test -v -count=1 -timeout 20m ./test/node/e2e

.PHONY: test-unit
test-unit: setup ## Tests of single packages, with the race detector
	go test -race -timeout 5m ./cmd/... ./pkg/... ./test/attack ./test/image ./test/kernels ./test/node/image ./test/node/cmd/... ./test/standins/... ./test/load ./test/scene ./test/soak ./test/clients/conformance
	go -C test/manifests test ./...
	go -C test/clients/vaultclient test ./...
	go -C test/clients/bindingclient test ./...

.PHONY: test-kernel
test-kernel: setup ## Real programs, cgroups, namespaces and sockets (root)
	go test -race -timeout 10m -count=1 -skip '^TestAttacks$$' ./test/lab ./test/kernel

.PHONY: test-handover
test-handover: build ## Agents replaced under load from clients that never try twice (root)
	go test -v -count=1 -timeout 5m ./test/handover -handover.agent=$(CURDIR)/$(OUT)/agent

.PHONY: test-attack
test-attack: setup ## Attacks on identity, each also without its defence (root)
	go run ./test/attack

# The faults run at the same time, in real time: as many as there are rows.
.PHONY: test-outages
test-outages: setup ## Entra's bad days, networks and secrets: the table of faults (2 minutes)
	go test -v -count=1 -parallel 32 -timeout 5m ./test/outages | grep -vE '^ *=== '

# How long pods come and go, agents are replaced and Entra fails. Before and
# after it the agent rests, for six minutes in all.
DURATION ?= 10m

.PHONY: soak
soak: setup ## Churn, restarts and faults for DURATION; then nothing may be left (root)
	go run ./test/soak -duration $(DURATION)

# The clients are some 400 MB, and Debian's packages as much again.
.PHONY: test-clients
test-clients: build ## Every real client in a steered pod: whose token, how many requests (root)
	@test/clients/install.sh $(CACHE)/clients
	CGO_ENABLED=0 go build -trimpath -o $(OUT)/ ./test/clients/conformance
	$(OUT)/conformance --agent $(OUT)/agent --clients $(CACHE)/clients

.PHONY: test-kernels
test-kernels: setup ## The same on Debian's 6.1 and 6.12 in QEMU, too (root)
	@test/kernels/setup.sh
	go run ./test/kernels --cache $(CACHE)/kernels --logs $(OUT)/kernels

.PHONY: bench
bench: setup ## What the guards cost, as ratios to no program in the same run (root)
	go test -run '^$$' -bench . -benchtime 1x -count 1 -timeout 10m ./test/kernel

# For how long each fuzz test runs: a time, or a count as in 1000x.
FUZZTIME ?= 30s

.PHONY: fuzz
fuzz: export FUZZTIME := $(FUZZTIME)
fuzz: setup ## Every fuzz test in turn, each for FUZZTIME; ends at a finding
	@scripts/fuzz.sh

##@ A real node

.PHONY: node-build
node-build: setup ## Build the node's Kubernetes into the cache, once (some 12 minutes)
	@test/node/build.sh >/dev/null

.PHONY: node-up
node-up: setup ## Bring up a real Kubernetes node with Sidestep on this machine (root)
	@test/node/up.sh

# value: a $ in CMD is the shell's, not make's.
.PHONY: node-exec
node-exec: export NODE_CMD := $(value CMD)
node-exec: ## Run CMD='…' in the node's namespaces, with kubectl at hand
	@test/node/exec.sh "$${NODE_CMD:?is empty: say what in CMD}"

.PHONY: node-down
node-down: ## End the node, and leave nothing of it behind
	@test/node/down.sh

.PHONY: node
node: ## A shell in the node, which is brought up if it is not
	@test/node/exec.sh true 2>/dev/null || $(MAKE) --no-print-directory node-up
	@test/node/exec.sh

##@ Reading

.PHONY: lint
lint: setup $(GOLANGCI_LINT) ## go vet and golangci-lint, with the floors between the packages
	$(GOLANGCI_LINT) run --allow-parallel-runners ./...
	cd test/clients/vaultclient && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	cd test/clients/bindingclient && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	cd test/manifests && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	go mod tidy -diff
	go -C test/clients/vaultclient mod tidy -diff
	go -C test/clients/bindingclient mod tidy -diff
	go -C test/manifests mod tidy -diff
	for client in test/clients/go/*/; do go -C $$client vet ./... && go -C $$client mod tidy -diff; done
	shellcheck -x scripts/*.sh test/node/*.sh test/kernels/*.sh test/clients/*.sh test/clients/az/*.sh
	shellcheck -s sh test/kernels/init

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the Go files
	$(GOLANGCI_LINT) fmt ./...

$(GOLANGCI_LINT): | setup
	@echo "building golangci-lint $(GOLANGCI_LINT_VERSION), once"
	GOBIN=$(CACHE)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv $(CACHE)/bin/golangci-lint $@

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(OUT)
