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
	@+MAKEFLAGS= $(MAKE) --no-print-directory lint generate-check test-unit test-kernel

.PHONY: test-node
test-node: node-build ## Real pods on a real Kubernetes node (root)
	go test -v -count=1 -timeout 20m ./test/node/e2e

.PHONY: test-unit
test-unit: setup ## Tests of single packages, with the race detector
	go test -race -timeout 5m ./cmd/... ./pkg/... ./test/image ./test/node/image ./test/node/cmd/... ./test/standins/...
	go -C test/manifests test ./...
	go -C test/clients/vaultclient test ./...

.PHONY: test-kernel
test-kernel: setup ## Real programs, cgroups, namespaces and sockets (root)
	go test -race -timeout 10m -count=1 ./test/lab ./test/kernel

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
	cd test/manifests && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	go mod tidy -diff
	go -C test/clients/vaultclient mod tidy -diff
	go -C test/manifests mod tidy -diff
	shellcheck -x scripts/*.sh test/node/*.sh

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
