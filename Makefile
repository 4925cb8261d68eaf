# Every target sets up what it needs by itself: Python 3.11 or later and make are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo up test docs dist audit-dependencies mariadb servers emulator browser prometheus helm logrotate lint format bench report compare bench-peers bench-cluster bench-sources bench-scans bench-gate plan scenario record soak image package deploy outage chaos mutants clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make the virtual environment with everything in it (done by the others when needed)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11: name a newer one, as in 'make PYTHON=python3.12 $(MAKECMDGOALS)'" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: this Python cannot make virtual environments: install its venv package (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 2; }
	@echo "setting up $(VENV) (once, one to three minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[sandbox,otlp,dev]' > $(VENV)/setup.log 2>&1 & \
	  pip=$$!; count=0; \
	  while kill -0 $$pip 2>/dev/null; do \
	    sleep 1; count=$$((count + 1)); \
	    if [ $$((count % 5)) = 0 ]; then echo "  $$count s: $$(tail -n 1 $(VENV)/setup.log | cut -c 1-100)"; fi; \
	  done; \
	  wait $$pip || { tail -n 20 $(VENV)/setup.log >&2; echo "make: the setup failed; all of it: $(VENV)/setup.log" >&2; exit 1; }
	@echo "$(VENV) is ready"
	@touch $@

demo: $(READY) ## The main job on embedded parts: hashes set in Valkey appear in a DynamoDB table, every key compared
	@$(BIN)/engine demo

up: $(READY) ## Run the embedded stack (Valkey, DynamoDB, Lambda runtime) until stopped
	@$(BIN)/engine sandbox

test: $(READY) ## Run all tests (TESTS="tests/unit …": these alone)
	@$(BIN)/python -m pytest $(TESTS)

docs: $(READY) ## Build the documentation as a site, in build/docs; a broken link is an error
	@$(BIN)/python -m mkdocs build --quiet --config-file config/mkdocs.yml
	@echo "build/docs/index.html is there"

dist: $(READY) ## Build and check the distribution (wheel, source) in dist/python, with a bill of materials
	@rm -rf dist/python
	@$(BIN)/python -m build --outdir dist/python . >/dev/null
	@$(BIN)/python -m twine check --strict dist/python/*
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-file dist/python.sbom.json $(BIN)/python
	@echo "dist/python and dist/python.sbom.json are there"

audit-dependencies: $(READY) ## Check the installed dependencies against known vulnerabilities (IGNORE="ID …"; IF_REACHABLE=1: or say that it can't)
	@$(BIN)/python tests/parts/audit_dependencies.py $(if $(IF_REACHABLE),--if-reachable) $(foreach id,$(IGNORE),--ignore-vuln $(id))

mariadb: ## Install the server that the tests of lambdas/aurora_mysql start (Debian, Ubuntu); without it they are skipped
	@tests/parts/debian.sh mariadbd mariadb-server-core \
	  'MariaDB 10.6 or later; Fedora: dnf install mariadb-server; macOS: brew install mariadb'

servers: $(READY) ## Install one more server that the tests run on, Debian's Redis (Debian, Ubuntu); without it they run on fewer
	@tests/parts/debian.sh redis-check-rdb redis-tools 'Fedora: dnf install redis; macOS: brew install redis'
	@ln -sfn "$$(command -v redis-check-rdb)" $(BIN)/redis-server

browser: ## Install Chromium, in which the console's page is tested (Debian, Ubuntu); without it those tests are skipped
	@tests/parts/debian.sh chromium chromium 'Fedora: dnf install chromium; macOS: brew install --cask chromium'

prometheus: $(READY) ## Fetch Prometheus, in which the alerts are raised by real faults (Debian, Ubuntu); without it those tests are skipped
	@tests/parts/prometheus.sh $(BIN)

helm: $(READY) ## Build Helm, which renders the chart for its tests (wants Go; two to three minutes of CPU); without it they are skipped
	@tests/parts/helm.sh $(BIN)

logrotate: ## Install logrotate, by which the log of the stack's host is bounded (Debian, Ubuntu); without it its test is skipped
	@tests/parts/debian.sh logrotate logrotate 'Fedora: dnf install logrotate; macOS: brew install logrotate'

emulator: $(READY) ## Fetch AWS's runtime emulator, for the tests of functions under Lambda's own runtime; without it they are skipped
	@$(BIN)/python tests/parts/lambda_rie.py

lint: $(READY) ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## Put the code into the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## Measure: a table, reports/bench.json, bench.html and bench.md (7 to 10 minutes; QUICK=1 one to two; SEED=)
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(SEED),--seed $(SEED))

report: $(READY) ## Write the pages again (FILE=reports/bench.json; INTO=docs/benchmarks.md: its figures too)
	@$(BIN)/python -m benchmarks.report $(FILE) $(if $(INTO),--into '$(INTO)')

compare: $(READY) ## Two results, with the noise in mind (A=… B=…; REFERENCE=original_events_per_s)
	@$(BIN)/python -m benchmarks.judged.compare $(A) $(B) $(if $(REFERENCE),--reference $(REFERENCE))

bench-peers: $(READY) ## The engine beside Bento or Redpanda Connect (what of them is on PATH) and a redis-py script (QUICK=1, ONLY=)
	@$(BIN)/python -m benchmarks.peers $(if $(QUICK),--quick) $(if $(ONLY),--only '$(ONLY)')

bench-cluster: $(READY) ## Events a second and CPU an event over 1, 2, 3 primaries and 1 to 8 shards (four minutes; QUICK=1)
	@$(BIN)/python -m benchmarks.cluster $(if $(QUICK),--quick)

bench-sources: $(READY) ## What keyspace events and streams cost server and engine at 1,000 and 25,000 changes/s (two minutes; QUICK=1)
	@$(BIN)/python -m benchmarks.sources $(if $(QUICK),--quick)

bench-scans: $(READY) ## Passes over 1 million keys, and what unchanged values save (ten minutes; QUICK=1, KEYS=)
	@$(BIN)/python -m benchmarks.sources.passes $(if $(QUICK),--quick) $(if $(KEYS),--keys $(KEYS))

bench-gate: $(READY) ## Fail where a ratio of the last bench is worse than the baseline's, beyond the noise
	@$(BIN)/python -m benchmarks.judged.gate

plan: $(READY) ## What a deployment takes (RATE=50000 KEYS=2000000 BYTES=400 LAG_MS=250; SKEW=, WINDOW_S=, SCAN_PERIOD_S=, PRICES=, FROM=)
	@$(BIN)/python -m benchmarks.capacity.command --rate '$(RATE)' --keys '$(KEYS)' $(if $(BYTES),--bytes $(BYTES)) \
	  $(if $(LAG_MS),--lag-ms $(LAG_MS)) $(if $(SKEW),--skew $(SKEW)) $(if $(WINDOW_S),--window-s $(WINDOW_S)) \
	  $(if $(SCAN_PERIOD_S),--scan-period-s $(SCAN_PERIOD_S)) \
	  $(if $(PRICES),--prices '$(PRICES)') $(if $(FROM),--from '$(FROM)')

scenario: $(READY) ## One load of benchmarks/scenarios (NAME=steady, or a file; SEED=, SECONDS=, SINK=, REDIS_URL=)
	@$(BIN)/python -m benchmarks.scenarios.scenario $(NAME) $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(SINK),--sink $(SINK))

record: $(READY) ## When keys change on the server of REDIS_URL, as a trace for a scenario (SECONDS=60 FILE=trace.txt)
	@$(BIN)/python -m benchmarks.stand.record $(if $(SECONDS),--seconds $(SECONDS)) $(if $(FILE),--file '$(FILE)')

soak: $(READY) ## Long at half of saturation: nothing lost, memory flat (MINUTES=20; RATE=)
	@$(BIN)/python -m benchmarks.measured.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RATE),--rate $(RATE))

image: ## Build and push the image on a base pinned by digest; its own is in dist/image.txt (IMAGE=REPOSITORY:TAG; PLATFORM=linux/arm64, BASE=)
	@IMAGE='$(IMAGE)' PLATFORM='$(PLATFORM)' BASE='$(BASE)' config/image.sh

package: $(READY) ## Make each function's zip in dist/ (ONLY="NAME …", WITH="FILE …": files for its root)
	@$(BIN)/python -m lambdas.package $(ONLY) $(foreach file,$(WITH),--with $(file))

deploy: $(READY) ## The whole thing as a stack of AWS (BUCKET=name; STACK, ARCHITECTURE, PARAMETERS): config/README.md
	@BUCKET='$(BUCKET)' STACK='$(or $(STACK),ingest-engine)' ARCHITECTURE='$(or $(ARCHITECTURE),arm64)' \
	  PARAMETERS='$(PARAMETERS)' BIN='$(BIN)' config/sam/deploy.sh

outage: $(READY) ## A function is cut off at full load: memory, backlog, and the other route (MINUTES=10; QUICK=1 half of one)
	@$(BIN)/python -m benchmarks.outage $(if $(QUICK),--quick) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

chaos: $(READY) ## Faults on running parts, every key compared: a table, and reports/chaos.json (SEED=, QUICK=1, SERVER=redis-7.0, STAGE=cluster, ONLY=, SHARE=K/N)
	@SERVER='$(SERVER)' $(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(QUICK),--quick) $(if $(ONLY),--only '$(ONLY)') \
	  $(if $(STAGE),--stage $(STAGE)) $(if $(SHARE),--share $(SHARE))

mutants: $(READY) ## Break each line that keeps a promise, and see that a test fails (ONLY=NAME, SHARE=K/N)
	@$(BIN)/python -m tests.mutants $(if $(SHARE),--share $(SHARE)) $(if $(ONLY),--only '$(ONLY)')

clean: ## Remove what the targets made
	rm -rf $(VENV) build dist reports .pytest_cache .mypy_cache .ruff_cache .hypothesis .engine *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
