# Targets with a ## comment are listed by `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON_SOURCES := contract/src operator/src inference_server/src cli/src chaos dashboards demo images kindcluster scripts tests benchmarks
VENV := .venv/bin
export CLUSTER ?= embedded

.PHONY: $(shell sed -nE 's/^([a-z0-9-]+):.*/\1/p' Makefile)

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -ts $$'\t'

setup: ## Bring everything that is needed and not there
	@scripts/setup.sh

check: setup ## Format, lint, types, generated files (changes nothing)
	$(VENV)/ruff format --check .
	$(VENV)/ruff check .
	@$(MAKE) --no-print-directory types
	$(VENV)/python scripts/write_crds.py --check
	$(VENV)/python scripts/write_values.py --check
	$(VENV)/python scripts/write_metrics.py --check
	$(VENV)/python scripts/write_cli_reference.py --check
	$(VENV)/python -m dashboards.write --check
	$(VENV)/python scripts/write_http_apis.py --check
	cd devcluster && { ! command -v go >/dev/null || { test -z "$$(gofmt -l .)" && go vet ./...; }; }
	@! command -v go >/dev/null || "$$(scripts/action_lint.sh)"

types:
	$(VENV)/mypy $(PYTHON_SOURCES)

lint-chart: setup ## kube-score over the chart and the children of services; builds kube-score the first time, a minute
	$(VENV)/python -m scripts.lint_chart

fix: setup ## Format and repair what can be repaired
	$(VENV)/ruff format .
	$(VENV)/ruff check --fix .
	$(VENV)/python scripts/write_crds.py
	$(VENV)/python scripts/write_values.py
	$(VENV)/python scripts/write_metrics.py
	$(VENV)/python scripts/write_cli_reference.py
	$(VENV)/python -m dashboards.write
	$(VENV)/python scripts/write_http_apis.py

test: setup ## All tests but those of the night: real API server, real Redis, real pipelines
	cd devcluster && { ! command -v go >/dev/null || go test ./...; }
	scripts/test.sh

test-nightly: setup ## Tests whose behaviour a sibling or a lower level shows in `make test` already
	scripts/test.sh -m nightly

# Two processes, each with its own servers: much of the time is spent on waiting for real ones. A file stays together.
test-fast: setup ## Tests without a cluster, torch, a browser and the soak, under two minutes
	$(VENV)/pytest -n 2 --dist loadfile -m "not cluster and not torch and not browser and not slow and not nightly"

test-kind e2e-kind: export CLUSTER := kind

test-kind: setup ## On a kind cluster of one node what only a real container runtime shows: limits, probes, NetworkPolicies
	EASEL_KIND_CLUSTER=easel-test $(VENV)/pytest tests/kind

e2e-kind: setup ## The end-to-end tests on a kind cluster of three nodes, with the real images (the worker's takes 18 GB of disk)
	EASEL_KIND_CLUSTER=easel-e2e $(VENV)/pytest tests/e2e

demo: setup ## The whole path on a real Kubernetes, with a load, a crash and a summary; the cluster stays up
	$(VENV)/python -m demo up

demo-down: ## Take the demo's cluster down again
	$(VENV)/python -m demo down

bench-demo: setup ## Times of set-up and of the demo's phases, into benchmarks/results/demo.json (COLD=1: from empty caches)
	$(VENV)/python -m benchmarks.demo $(if $(COLD),--cold)

bench-server: setup ## The data plane under load beside others, into benchmarks/results/server.json (ONLY="cached jobs latency memory")
	scripts/bench_arq.sh
	$(VENV)/python -m benchmarks.server $(ONLY)

bench-engine: setup ## The engine beside the stock call and static batches, into benchmarks/results/engine.json (ONLY="alone serving …"; QUICK=1: few rounds)
	$(VENV)/python -m benchmarks.engine $(if $(QUICK),--quick --dry) $(ONLY)

bench-adapters: setup ## LoRAs on the engine: a switch, images a second over none, memory, into benchmarks/results/adapters.json (ONLY="sd15 memory"; QUICK=1)
	$(VENV)/python -m benchmarks.adapters $(if $(QUICK),--quick --dry) $(ONLY)

# Without set-up: such a machine has no internet, and its own Python with torch. ARCHIVE: python -m benchmarks.gpu.packages
bench-gpu: ## Published models at full width on this machine's GPU, into benchmarks/results/gpu-DEVICE.json (PYTHON=python3 PACKAGES=archive ONLY="sdxl")
	scripts/bench_gpu.sh $(ONLY)

walk: setup ## Files and functions that one request, one scaling tick and one reconcile go through (VERBOSE=1: each)
	$(VENV)/python -m benchmarks.walk $(if $(VERBOSE),--verbose)

bench-beside: setup ## This tree beside an older commit on the same machine, into benchmarks/results/beside.json (REV=commit)
	$(VENV)/python -m benchmarks.server.beside $(REV)

soak: setup ## 2,000 jobs while gateways, workers and Redis are killed (SOAK_SEED=n replays, SOAK_JOBS=n)
	SOAK_JOBS=$${SOAK_JOBS:-2000} $(VENV)/pytest -s tests/soak

soak-faults: setup ## What clients get from a full, evicting or wiped Redis, a rolled gateway, a flood, into benchmarks/results/soak-faults.json (REV=commit: as before)
	$(VENV)/python -m benchmarks.soak_faults $(if $(REV),--rev $(REV)) $(ONLY)

chaos: setup ## 100,000 jobs over an hour and more on a cluster where everything fails in turn, into benchmarks/results/chaos.json (CHAOS_JOBS=n CHAOS_SEED=n; ONLY="Redis|drained": a part, which is only shown)
	$(VENV)/python -m chaos

bench-autoscaler: setup ## Easel, others' autoscalers and an oracle on TRACES (CSV) and shapes, into benchmarks/results/autoscaler.json and the pages' tables (ONLY="bursty 90/30"; ESTIMATE=1: only tell the time)
	$(VENV)/python -m benchmarks.autoscaler $(if $(ONLY),--only "$(ONLY)") $(if $(ESTIMATE),--estimate) $(TRACES)

bench-operator: setup ## The operator with 1,000 and 5,000 services beside a bare client, on a real control plane, into benchmarks/results/operator.json (ONLY="1000"; QUICK=1)
	$(VENV)/python -m benchmarks.control_plane $(if $(QUICK),--quick --dry) $(ONLY)

bench-scaling-loop: setup ## The scaling loop over 1,000 services of 3 pods, into benchmarks/results/scaling-loop.json
	$(VENV)/python -m benchmarks.scale

bench-planner: setup ## The planner's tick with and without its bank of shadow fleets, and memory at 1,000 services, into benchmarks/results/planner.json
	$(VENV)/python -m benchmarks.planner

bench-simulator: setup ## Traces on an embedded cluster and in the simulator, and the time to an order (AGAIN=1: simulate only)
	$(VENV)/python -m benchmarks.simulator $(if $(AGAIN),--again)

crds: setup ## Write crds/ and the chart's copy from the pydantic models, and the table of the chart's values
	$(VENV)/python scripts/write_crds.py
	$(VENV)/python scripts/write_values.py
	$(VENV)/python scripts/write_metrics.py
	$(VENV)/python -m dashboards.write

lock: setup ## Lock dependencies, Python's and npm's, as names, versions and hashes
	scripts/lock.sh

images: ## Build the container images with docker or podman (ONLY="operator gateway"; BASE=debian: on a stand-in; docs/platform/images.md)
	scripts/images.sh --only "$(ONLY)" $(if $(BASE),--base $(BASE)) $(if $(PLATFORM),--platform $(PLATFORM))

test-images: setup ## Build the operator's and the gateway's image, and run them (BASE=pinned: on the base of releases, from its registry)
	images/setup.sh
	scripts/images.sh --only "operator gateway" --base $(or $(BASE),debian)
	$(VENV)/pytest -m "images and not nightly" tests/images

images-base: ## Ask the registry for the digest of the images' base, into images/base.env
	scripts/images.sh --refresh-base

# The variable silences the theme's news of its successor: docs/decisions/2026-11-27-a-site-by-mkdocs.md.
docs: setup ## The pages as a site in site/, which loads nothing from another host; fails on a link that leads nowhere
	$(VENV)/python -m scripts.lay_out_site
	NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict --quiet

docs-serve: setup ## The same on http://127.0.0.1:8000, built anew when a page changes
	$(VENV)/python -m scripts.lay_out_site
	NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs serve
