# A thin index over the console script `autonvis`; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust_core -name '*.rs' -o -name '*.toml' -o -name '*.pyi') Cargo.toml Cargo.lock

.DEFAULT_GOAL := help
.PHONY: help setup install build tools demo up deploy down health backup restore test test-rust test-slow faults fuzz contracts contracts-check docs bench-compare coverage audit lint format learn bench test-perf lock sbom clean

help:  ## list the targets
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 22

setup install build: $(VENV)/.rust  ## virtual environment, pinned dependencies, Rust build

$(VENV)/.python: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python >= 3.11 is needed, {v.major}.{v.minor} found: set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo 'cannot create $(VENV): on Debian, apt-get install python3-venv' >&2; exit 1; }
	@echo 'installing the pinned Python dependencies'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .  # setuptools warns of every such install
	@touch $@

$(VENV)/.rust: $(VENV)/.python $(RUST_SOURCES)
	@command -v cargo >/dev/null || { echo 'cargo is needed: install a stable Rust toolchain' >&2; exit 1; }
	@echo 'building rust_core'
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall ./rust_core
	@touch $@

tools:  ## what some tests need from the distribution (Debian): Prometheus and its Alertmanager
	@.ci/tools

demo: setup  ## run the main job once without a network; DATA=path runs it on your own observations, DAYS=n
	@$(BIN)/autonvis demo $(if $(DATA),--data '$(DATA)') $(if $(DAYS),--days $(DAYS))

up: setup  ## start the live system and print its addresses
	@$(BIN)/autonvis up

deploy: setup  ## bring the live system to what its settings and prefect.yaml say; ENV=name reads deployments/name.env, RESTART=1
	@$(BIN)/autonvis deploy $(if $(ENV),'$(ENV)') $(if $(RESTART),--restart)

down:  ## stop the live system
	@$(BIN)/autonvis down

backup: setup  ## back up the root; TO=path or URL, KIND=increment or whole
	@$(if $(TO),AUTONVIS_BACKUP_TO='$(TO)') $(BIN)/autonvis backup $(if $(KIND),--$(KIND))

restore: setup  ## make the root again from a backup; FROM=path or URL, AT=time, OVERWRITE=1, PREFECT=postgresql://…
	@$(BIN)/autonvis restore $(if $(FROM),'$(FROM)') $(if $(AT),--at '$(AT)') $(if $(OVERWRITE),--overwrite) $(if $(PREFECT),--prefect '$(PREFECT)')

health: setup  ## look at the live system: what is wrong, and the next step
	@$(BIN)/autonvis health

LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet
lock:  ## renew constraints.txt (everything) and requirements.txt (of it, what the image needs) from pyproject.toml
	$(LOCK) --extra dev -o constraints.txt
	$(LOCK) --extra build --extra s3 -c constraints.txt -o requirements.txt

# Of the packages that the image installs, not of those that are here for development.
sbom: setup  ## bills of materials (CycloneDX) of what the image holds: build/sbom/python.cdx.json and rust.cdx.json
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/image
	$(BIN)/uv pip install --quiet --python build/image --require-hashes -r requirements.txt
	@mkdir -p build/sbom
	$(BIN)/cyclonedx-py environment build/image --pyproject pyproject.toml --spec-version 1.6 --output-file build/sbom/python.cdx.json
	$(BIN)/python infra/rust_sbom.py > build/sbom/rust.cdx.json

# One process more than cores: the tests wait for brokers, servers and disks about as long as they compute. One file stays in one process: its tests
# share servers. Files keep their order, in which the long ones come first: by number of tests, the default, the few long tests of the fault
# matrix would come last, one after the other.
PYTEST_ALL := $(BIN)/python -m pytest -n $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --dist loadfile --no-loadscope-reorder
test: setup test-rust  ## all fast tests (9 minutes on 2 cores)
	$(PYTEST_ALL)

test-rust: setup
	cargo test --quiet --release

contracts: setup  ## renew what is generated from data_contracts/ and from the settings
	$(BIN)/python -m tasks.contracts --write
	$(BIN)/python -m tasks.settings > deployments/autonvis.env.example

BASE ?= main
contracts-check: setup  ## does a contract changed since BASE (a branch or commit) break readers or senders without a major version?
	$(BIN)/python -m tasks.contracts --against $(BASE)

docs: setup  ## the site of the documentation, into build/site; fails at a link that leads nowhere
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -c docs/site -b html . build/site

# In turns with the commit where this branch left BASE, whose kernel is built beside if it differs.
bench-compare: setup  ## the short benchmarks against BASE (a branch or commit) as a Markdown table; OUT=file
	@$(BIN)/python .ci/bench_compare.py $(BASE) $(if $(OUT),--out '$(OUT)')

coverage: setup  ## how much of Rust and Python the tests run, into build/coverage; needs cargo-llvm-cov and Rust's llvm-tools
	.ci/coverage

audit: setup  ## known vulnerabilities of the dependencies, licences and sources of crates; 3: not everything could be looked at
	$(BIN)/python .ci/audit.py

# stubtest: the package that maturin wraps around the module has no stub of its own; __all__ is compared.
lint: setup  ## ruff, mypy, stubtest, clippy, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --ignore-missing-stub rust_core
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings

format: setup  ## ruff and cargo fmt
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cargo fmt

test-slow: setup  ## the long tests too
	$(BIN)/python -m pytest -m 'slow or not slow'

faults: setup  ## kills, cuts and full disks, many times over; prints a table (50 minutes on 2 busy cores)
	$(BIN)/python -m pytest tests/faults --faults-size long --timeout 3600

SECONDS ?= 60
fuzz: setup  ## look for bytes that break a parser; SECONDS=n for each of them
	@for target in $$($(BIN)/python -c 'from tests.fuzz.parsers import TARGETS; print(*TARGETS)'); do \
	  mkdir -p var/fuzz/$$target && $(BIN)/python -m tests.fuzz.search $$target -max_total_time=$(SECONDS) -verbosity=0 -rss_limit_mb=4096 \
	    -artifact_prefix=var/fuzz/$$target- var/fuzz/$$target tests/fuzz/corpus/$$target || exit 1; done

DATA_SETS ?= ../shared/data/americas_2019 ../shared/data/europe_2022
learn: setup  ## learn the covariance from files of observations; DATA_SETS='path path', OUT=file
	$(BIN)/autonvis learn $(DATA_SETS) $(if $(OUT),--out '$(OUT)')

bench test-perf: setup  ## every benchmark; each prints one JSON line with the ratio to a peer in the same run
	@for script in benchmarks/*.py; do $(BIN)/python "$$script" || exit 1; done

clean:  ## remove what was built; keeps var/
	rm -rf $(VENV) target build *.egg-info
