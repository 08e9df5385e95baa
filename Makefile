# make prints what it can do. Nothing here is longer than a line or two;
# anything more is Go, in integration_test/judges.

FUZZTIME ?= 30s
SOAK ?= 30
DAVBENCH ?= ../shared/bench
SIZE ?= full
WORKLOADS ?=
OUT ?= overdav
IMAGE ?= .image
ENGINE ?= podman
CERTS ?= /etc/ssl/certs/ca-certificates.crt
TOOL = go tool -modfile=tools.mod

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

deps: ## install the programs that tests run overdav under (Debian, as root)
	go run ./integration_test/judges deps

build: ## ./overdav: static, and the same bytes wherever it is built
	CGO_ENABLED=0 go build -trimpath -ldflags=-s -o $(OUT) .

image: ## a container image of it, by ENGINE (podman), out of the directory IMAGE
	$(MAKE) build OUT=$(IMAGE)/overdav && install -D -m 644 -t $(IMAGE) Containerfile $(CERTS) && install -d $(IMAGE)/state
	$(ENGINE) build -f $(IMAGE)/Containerfile -t overdav $(IMAGE)

run: ## serve testdata/demo on http://127.0.0.1:8080/
	go run . serve --config config.yaml

test: ## everything, with what it needs installed where we may; says what it skipped
	go run ./integration_test/judges test

test-root: ## the tests as root alone, faster
	test $$(id -u) = 0 && go test ./...

race: ## all tests under the race detector
	go test -race -timeout 30m ./...

fuzz: ## every fuzz test for FUZZTIME (30s) each
	grep -ro --include='*_test.go' 'func Fuzz[A-Za-z0-9_]*' . | sed 's/:func / /' | while read f name; do go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$(dirname $$f)" || exit 1; done

lint: ## gofumpt, vet here and for another system, a build for 32 bits, staticcheck
	test -z "$$($(TOOL) gofumpt -l . | tee /dev/stderr)" && go vet ./... && GOOS=darwin go vet . ./davfs ./overlay ./web
	GOARCH=arm go build -o /dev/null .
	$(TOOL) staticcheck ./...

locks: ## checklocks: who holds a mutex when, against what the fields say
	go vet -vettool="$$($(TOOL) -n checklocks)" ./...

golden: ## accept changed output of scenarios, after looking at it
	go test ./overlay -update; git diff --stat

bench: ## beside other servers, by davbench in DAVBENCH (as root), into docs/performance.md; SIZE=smoke is quicker
	go run ./integration_test/judges bench $(DAVBENCH) $(SIZE) '$(WORKLOADS)'

bench-code: ## the benchmarks beside the code, into docs/bench/latest.txt
	mkdir -p docs/bench && go test -run '^$$' -bench . -benchmem -timeout 60m ./... | tee docs/bench/latest.txt

bench-compare: ## those figures against the ones in file OLD
	$(TOOL) benchstat $(OLD) docs/bench/latest.txt

litmus: ## the outside suite of the protocol
	go test -run Litmus -v ./integration_test

soak: ## random operations against the kernel, SOAK (30) times as many as in the tests
	OVERDAV_SOAK=$(SOAK) go test -timeout 12h -v -run 'Lockstep|MountOptions' ./overlay

check: lint test race ## all that a change has to pass

.PHONY: help deps build image run test test-root race fuzz lint locks golden bench bench-code bench-compare litmus soak check
