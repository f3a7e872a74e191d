# Every target installs what it requires: see scripts/setup.
SHELL := /bin/bash
BIN := .venv/bin
VOICES := /usr/share/festival/voices
SPEAKERS := espeak-ng=espeak-ng flite=flite festival=festival \
	$(VOICES)/english/kal_diphone=festvox-kallpc16k $(VOICES)/english/ked_diphone=festvox-kdlpc16k \
	$(VOICES)/us/cmu_us_slt_arctic_hts=festvox-us-slt-hts
BROWSER := chromium=chromium chromedriver=chromium-driver
ANDROID := javac=openjdk-17-jdk-headless mvn=maven npm=npm
ARM := qemu-aarch64-static=qemu-user-static mksh=mksh
ADB := adb=adb
CURL := curl=curl
FSDD ?=
SETTING ?= quick

.PHONY: help setup demo device-demo docs benchcore test test-fast lint mutants coverage bench bench-compare train clients clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

setup: ## Create .venv with all dependencies (the other targets do this too)
	@scripts/setup

demo: ## Run the demo on the bundled test case (results in results/demo)
	@scripts/setup
	@$(BIN)/asrdeploy demo

device-demo: ## Run jobs on an emulated phone through the real adb client (results in results/device-demo)
	@scripts/setup $(ANDROID) $(ARM) $(ADB)
	@$(BIN)/python scripts/device_demo.py "$$(android/build | tail -n 1)"

docs: ## Build the documentation into build/docs (broken links are errors)
	@scripts/setup
	@$(BIN)/python scripts/commands_page.py
	@$(BIN)/zensical build --strict --clean
	@echo 'Open build/docs/index.html. The search requires a server: $(BIN)/python -m http.server -d build/docs'

lint: ## Check style, types and the direction of imports
	@scripts/setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchcore: ## Build and test the part of the Android app that runs on any JVM
	android/build

test: ## Run all checks and tests, including the full-size architectures
	@scripts/setup $(SPEAKERS) $(BROWSER) $(ANDROID) $(ARM) $(ADB) $(CURL)
	@$(MAKE) --no-print-directory -j 2 -O lint benchcore
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

test-fast: ## Run the checks and the tests for daily work: no full-size models, browser or JVM
	@scripts/setup $(ADB)
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not long' $(PYTEST)

mutants: ## Run mutation tests of error counting, label selection and bitstream reading (see docs/tests.md)
	@scripts/setup
	@scripts/mutants

coverage: ## Run all tests and measure line coverage, including their subprocesses (see docs/tests.md)
	@scripts/setup $(SPEAKERS) $(BROWSER) $(ANDROID) $(ARM) $(ADB) $(CURL)
	android/build
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered $(PYTEST)

bench: ## Run all benchmarks and write docs/performance.md (SETTING=full: takes long, RESUME=1: resume)
	@scripts/setup
	$(BIN)/python -m benchmarks run --setting $(SETTING) $(if $(RESUME),--resume)
	$(BIN)/python -m benchmarks page

bench-compare: ## Repeat all benchmarks and compare them with the stored ones (NEW=FOLDER: compare that folder, run nothing)
	@scripts/setup
	$(BIN)/python -m benchmarks compare --setting $(SETTING) $(if $(NEW),--new $(NEW)) $(if $(AGAINST),--against $(AGAINST))

train: ## Train the bundled model again into runs/digits, for hours (FSDD=FOLDER: add recorded digits)
	@scripts/setup $(SPEAKERS) cc=build-essential
	@$(BIN)/python -c 'import ttspico' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[training]'
	$(BIN)/python -m toolchain.training run -o runs/digits $(if $(FSDD),--fsdd $(FSDD))

clients: ## Compare transcripts of optimum, transformers.js, onnx-asr and sherpa-onnx with ours (see docs/exporters.md)
	@scripts/setup npm=npm
	@$(BIN)/python scripts/clients/compare.py

clean: ## Remove everything that the targets created, except .venv
	rm -rf results artifacts build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* mutants
