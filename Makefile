# Everything that the project needs is installed by its own targets: Debian
# packages by scripts/setup.sh, Go tools into $(CACHE)/bin.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Pinned tools. The generated BPF objects are reproducible with this clang only.
CLANG_VERSION         := 16
CLANG_RELEASE         := 16.0.6
GOLANGCI_LINT_VERSION := v2.15.0
ACTIONLINT_VERSION    := v1.7.12
CRANE_VERSION         := v0.22.1
HELM_VERSION          := v4.3.0
GOVULNCHECK_VERSION   := v1.8.0

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sidestep
OUT   := out

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

GOLANGCI_LINT := $(CACHE)/bin/golangci-lint-$(GOLANGCI_LINT_VERSION)
PROMTOOL      := $(CACHE)/bin/promtool
ACTIONLINT    := $(CACHE)/bin/actionlint-$(ACTIONLINT_VERSION)
CRANE         := $(CACHE)/bin/crane-$(CRANE_VERSION)
HELM          := $(CACHE)/bin/helm-$(HELM_VERSION)
GOVULNCHECK   := $(CACHE)/bin/govulncheck-$(GOVULNCHECK_VERSION)

export CLANG_VERSION CLANG_RELEASE

.PHONY: help
help: ## Show this list, by group
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Building

.PHONY: build
build: setup ## Build the agent, kubectl's plugin, the demo and its client into out/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(OUT)/ ./cmd/agent ./cmd/kubectl-sidestep ./test/demo
	CGO_ENABLED=0 go -C test/clients/vaultclient build -trimpath -o $(CURDIR)/$(OUT)/vaultclient .

# Where kubectl finds it, if that is in PATH.
PLUGIN_DIR ?= $(HOME)/.local/bin

.PHONY: plugin
plugin: build ## Install kubectl's plugin into PLUGIN_DIR (~/.local/bin)
	install -D -m 0755 $(OUT)/kubectl-sidestep $(PLUGIN_DIR)/kubectl-sidestep

.PHONY: generate
generate: setup ## Compile the BPF programs (clang $(CLANG_VERSION)), write the references in docs/ and the chart's schema
	go generate ./pkg/intercept ./cmd/agent
	go -C test/monitoring generate .

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

.PHONY: image-check
image-check: image ## Build the images again elsewhere, from nothing: the same digests? (minutes)
	scripts/image-check.sh $(VERSION)

# IMAGE is a name with a registry and a tag, as registry.example.org/sidestep-agent:v1.
.PHONY: push
push: image $(CRANE) ## Push the image, of both architectures, as IMAGE=…, without an engine
	@scripts/push-image.sh $(CRANE) "$(or $(IMAGE),$(error IMAGE is empty: say the name to push as))"

.PHONY: registry-login
registry-login: $(CRANE) ## Log in to REGISTRY=… as USERNAME=…, the password from standard input
	@$(CRANE) auth login "$(REGISTRY)" --username "$(USERNAME)" --password-stdin

.PHONY: manifests
manifests: setup ## Render into out/manifests/, with IMAGE=… if given, and manifests/install.yaml
	go -C test/manifests run . -render $(CURDIR)/$(OUT)/manifests -image '$(IMAGE)' -install $(CURDIR)/manifests/install.yaml

.PHONY: chart
chart: setup ## Package the Helm chart into out/
	@mkdir -p $(OUT)
	go -C test/manifests run . -package $(CURDIR)/$(OUT)

.PHONY: sbom
sbom: image ## Describe what the images are made of (CycloneDX) into out/
	for arch in amd64 arm64; do \
		go -C test/supplychain run . -image $(CURDIR)/$(OUT)/sidestep-agent-$$arch.tar \
			-version $(VERSION) -sbom $(CURDIR)/$(OUT)/sidestep-agent-$$arch.cdx.json; \
	done

##@ Testing

.PHONY: demo
demo: build ## The main job on this machine, without a cluster (root)
	$(OUT)/demo --agent $(OUT)/agent --client $(OUT)/vaultclient

# What CI runs. A part that fails does not keep the others from running.
.PHONY: test
test: setup ## All of the tests; what CI runs
	@scripts/test.sh lint generate-check test-unit test-image test-docs test-monitoring test-kernel test-handover test-faults-quick test-boot test-attack-quick node-build test-node

.PHONY: test-all
test-all: test test-attack test-outages test-faults test-kernels test-clients test-fresh fuzz soak ## With those that take long

# Suites that are no unit tests: each target below that runs one sets this, and
# `go test ./...` skips it (test/suite).
SUITE := SIDESTEP_SUITES=1

.PHONY: test-node
test-node: node-build $(HELM) ## Real pods on a real Kubernetes node; its faults are those of test-faults (root)
	$(SUITE) go test -v -count=1 -timeout 35m -skip '^TestFault' ./test/node/e2e

.PHONY: test-unit
test-unit: setup ## The unit tests of every module: go test ./..., with the race detector
	@scripts/test-unit.sh

.PHONY: test-image
test-image: setup ## The image, built here and elsewhere: the same bytes
	$(SUITE) go test -timeout 10m ./test/image

.PHONY: test-docs
test-docs: build $(CRANE) ## The commands of the pages that need no cluster, as they stand (root)
	$(SUITE) go test -count=1 -timeout 10m ./test/docs/run -args -crane $(CRANE)

# On a Debian of its own, with nothing of this machine's but Go.
.PHONY: test-fresh
test-fresh: setup ## The README's commands on a Debian that has nothing yet (root)
	@test/fresh/fresh.sh

.PHONY: test-monitoring
test-monitoring: setup $(PROMTOOL) ## Dashboard and alert rules against the agent's metrics; the rules' unit tests
	go -C test/monitoring test -count=1 ./... # its inputs lie outside of the module
	$(PROMTOOL) check rules manifests/monitoring/rules.yaml
	$(PROMTOOL) test rules test/monitoring/rules_test.yaml

$(PROMTOOL):
	@scripts/promtool.sh $@

.PHONY: test-kernel
test-kernel: setup ## Real programs, cgroups, namespaces and sockets (root)
	$(SUITE) go test -race -timeout 10m -count=1 ./test/lab
	go test -c -o $(OUT)/kernel.tasks ./test/kernel
	$(SUITE) SIDESTEP_LAB_TASKS=$(CURDIR)/$(OUT)/kernel.tasks go test -race -timeout 10m -count=1 -skip '^TestAttacks$$' ./test/kernel

.PHONY: test-handover
test-handover: build ## Agents replaced under load from clients that never try twice (root)
	$(SUITE) go test -v -count=1 -timeout 12m ./test/handover -handover.agent=$(CURDIR)/$(OUT)/agent

.PHONY: test-faults
test-faults: build node-build ## What goes wrong on a node, real: fault, expected, seen (root)
	go run ./test/faults/table -agent $(CURDIR)/$(OUT)/agent

.PHONY: test-faults-quick
test-faults-quick: build ## Those that are quick, without a node (root)
	go run ./test/faults/table -agent $(CURDIR)/$(OUT)/agent -quick

.PHONY: test-boot
test-boot: build ## The boot guard: in a lab, and as a unit of a systemd that boots (root)
	$(SUITE) go test -v -count=1 -timeout 5m ./test/boot -boot.agent=$(CURDIR)/$(OUT)/agent

.PHONY: test-attack
test-attack: setup ## Attacks on identity and floods, each also without its defence (root)
	go run ./test/attack
	go run ./test/floods

.PHONY: test-attack-quick
test-attack-quick: setup ## The same with every defence in its place (root)
	go run ./test/attack -quick
	go run ./test/floods -quick

# The faults run at the same time, in real time: as many as there are rows.
.PHONY: test-outages
test-outages: setup ## Entra's bad days, networks and secrets: the table of faults (2 minutes)
	$(SUITE) go test -v -count=1 -parallel 32 -timeout 5m ./test/outages | grep -vE '^ *=== '

# For how many minutes, and which suites: a regular expression, all if empty.
STRESS_MINUTES ?= 120
STRESS         ?=

.PHONY: test-stress
test-stress: setup node-build $(HELM) ## Suites again and again on a busy machine: how seldom they fail by chance (root)
	go run ./test/stress -minutes $(STRESS_MINUTES) -run '$(STRESS)' -out $(CURDIR)/$(OUT)/stress

# How long pods come and go, agents are replaced and Entra fails. Before and
# after it the agent rests, for six minutes in all.
DURATION ?= 10m

.PHONY: soak
soak: setup ## Churn, restarts and faults for DURATION; then nothing may be left (root)
	go run ./test/soak -duration $(DURATION)

.PHONY: lint-clients
lint-clients: ## The modules of real clients, whose dependencies nothing else needs
	for client in test/clients/go/*/; do \
		{ [ ! -f $$client/main.go ] || go -C $$client vet ./...; } && go -C $$client mod tidy -diff || exit 1; done

# The clients are some 400 MB, and Debian's packages as much again.
.PHONY: test-clients
test-clients: build lint-clients ## Every real client in a steered pod: whose token, how many requests (root)
	@test/clients/install.sh $(CACHE)/clients
	CGO_ENABLED=0 go build -trimpath -o $(OUT)/ ./test/clients/conformance
	$(OUT)/conformance --agent $(OUT)/agent --clients $(CACHE)/clients
	$(SUITE) go test -count=1 -timeout 30m ./test/docs/run -args -clients

.PHONY: test-kernels
test-kernels: setup ## The same on Debian's 6.1 and 6.12 in QEMU, too (root)
	@test/kernels/setup.sh
	go run ./test/kernels --cache $(CACHE)/kernels --logs $(OUT)/kernels

PLOT = go -C test/plots run .

# The plots are drawn also where a target is missed.
.PHONY: bench
bench: build ## What the agent costs, as ratios to a baseline of the same run (root, 12 minutes); BENCH='-only bridge -starts 300' for a part
	CGO_ENABLED=0 go build -trimpath -o $(OUT)/ ./test/bench ./test/bench/firstprocess
	status=0; $(OUT)/bench $(BENCH) || status=$$?; $(PLOT) -bench $(CURDIR)/$(OUT)/bench.json -out $(CURDIR)/$(OUT); exit $$status

.PHONY: scale
scale: node-build ## What 10 to 5,000 agents cost an API server; what does not fit is extrapolated
	go run ./test/scale -bin "$$(test/node/build.sh 2>/dev/null | tail -1)" -o $(OUT)/scale.json
	$(PLOT) -scale $(CURDIR)/$(OUT)/scale.json -out $(CURDIR)/$(OUT)

# The last run's table and plots into docs/performance.md.
.PHONY: bench-docs scale-docs
bench-docs scale-docs: %-docs:
	$(PLOT) -$* $(CURDIR)/$(OUT)/$*.json -out $(CURDIR)/docs/performance -doc $(CURDIR)/docs/performance.md

# For how long each fuzz test runs: a time, or a count as in 1000x.
FUZZTIME ?= 30s

.PHONY: fuzz
fuzz: export FUZZTIME := $(FUZZTIME)
fuzz: setup ## Every fuzz test in turn, each for FUZZTIME, and as root random frames; ends at a finding
	@scripts/fuzz.sh
	go test -v -count=1 -timeout 0 ./test/kernel -run '^TestRandomFrames$$' -frames.time=$(if $(filter %x,$(FUZZTIME)),0s,$(FUZZTIME))

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
lint: setup $(GOLANGCI_LINT) $(ACTIONLINT) ## go vet and golangci-lint, with the layers of the packages
	$(GOLANGCI_LINT) run --allow-parallel-runners ./...
	cd test/clients/vaultclient && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	cd test/clients/bindingclient && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	cd test/manifests && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	cd test/monitoring && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	cd test/supplychain && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	cd test/plots && $(GOLANGCI_LINT) run --allow-parallel-runners --config $(CURDIR)/.golangci.yaml ./...
	go mod tidy -diff
	go -C test/clients/vaultclient mod tidy -diff
	go -C test/clients/bindingclient mod tidy -diff
	go -C test/manifests mod tidy -diff
	go -C test/monitoring mod tidy -diff
	go -C test/supplychain mod tidy -diff
	go -C test/plots mod tidy -diff
	shellcheck -x scripts/*.sh test/fresh/*.sh test/node/*.sh test/kernels/*.sh test/clients/*.sh test/clients/az/*.sh test/clients/kubelogin/*.sh test/clients/rclone/*.sh test/node/e2e/testdata/az
	shellcheck -s sh test/kernels/init
	$(ACTIONLINT) .github/workflows/*.yaml

.PHONY: licenses
licenses: setup ## Modules of the programs and their licences; fails where one is not allowed
	@mkdir -p $(OUT)
	go -C test/supplychain run . -licenses $(CURDIR)/$(OUT)/licenses.txt

# It asks Go's vulnerability database for news, and fails where that is out of
# reach: no part of test.
.PHONY: vulncheck
vulncheck: setup $(GOVULNCHECK) ## Known vulnerabilities in what the programs call (needs the network)
	$(GOVULNCHECK) ./...

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the Go files
	$(GOLANGCI_LINT) fmt ./...

$(GOLANGCI_LINT): | setup
	@echo "building golangci-lint $(GOLANGCI_LINT_VERSION), once"
	GOBIN=$(CACHE)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv $(CACHE)/bin/golangci-lint $@

$(ACTIONLINT): | setup
	GOBIN=$(CACHE)/bin go install github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)
	mv $(CACHE)/bin/actionlint $@

$(CRANE): | setup
	GOBIN=$(CACHE)/bin go install github.com/google/go-containerregistry/cmd/crane@$(CRANE_VERSION)
	mv $(CACHE)/bin/crane $@

$(HELM): | setup
	GOBIN=$(CACHE)/bin go install helm.sh/helm/v4/cmd/helm@$(HELM_VERSION)
	mv $(CACHE)/bin/helm $@

# The node's tests ask where it is.
.PHONY: helm
helm: $(HELM)
	@echo $(HELM)

$(GOVULNCHECK): | setup
	GOBIN=$(CACHE)/bin go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	mv $(CACHE)/bin/govulncheck $@

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(OUT)
