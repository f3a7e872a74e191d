# Everything sets itself up: see scripts/setup.
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

.PHONY: help setup demo device-demo docs test lint mutants coverage bench bench-compare train clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

setup: ## Make .venv with everything (done by the other targets)
	@scripts/setup

demo: ## Run the main job on the bundled test case; results in results/demo
	@scripts/setup
	@$(BIN)/asrdeploy demo

device-demo: ## Run jobs on an emulated phone through the real adb; results in results/device-demo
	@scripts/setup $(ANDROID) $(ARM) $(ADB)
	@$(BIN)/python scripts/device_demo.py "$$(android/build | tail -n 1)"

docs: ## Build the documentation into build/docs; strict: a link that leads nowhere is an error
	@scripts/setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo 'The documentation is build/docs/index.html. Its search needs a server: $(BIN)/python -m http.server -d build/docs'

lint: ## Style, types and the directions of imports
	@scripts/setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: ## All checks and tests, the full-size architectures included
	@scripts/setup $(SPEAKERS) $(BROWSER) $(ANDROID) $(ARM) $(ADB) $(CURL)
	@$(MAKE) --no-print-directory lint
	android/build
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

mutants: ## Mutation tests of what counts errors, selects labels and reads bitstreams; see docs/tests.md
	@scripts/setup
	@scripts/mutants

coverage: ## All tests with the lines that they reach, those of their processes too; see docs/tests.md
	@scripts/setup $(SPEAKERS) $(BROWSER) $(ANDROID) $(ARM) $(ADB) $(CURL)
	android/build
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered $(PYTEST)

bench: ## All benchmarks, and docs/performance.md of what they found; SETTING=full takes long, RESUME=1 goes on
	@scripts/setup
	$(BIN)/python -m benchmarks run --setting $(SETTING) $(if $(RESUME),--resume)
	$(BIN)/python -m benchmarks page

bench-compare: ## All benchmarks anew into results/benchmarks, and their ratios to the stored ones; NEW=folder runs nothing
	@scripts/setup
	$(BIN)/python -m benchmarks compare --setting $(SETTING) $(if $(NEW),--new $(NEW)) $(if $(AGAINST),--against $(AGAINST))

train: ## Train the bundled model anew into runs/digits (hours); FSDD=folder adds recorded digits
	@scripts/setup $(SPEAKERS) cc=build-essential
	@$(BIN)/python -c 'import ttspico' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[training]'
	$(BIN)/python -m toolchain.training run -o runs/digits $(if $(FSDD),--fsdd $(FSDD))

clean: ## Remove what the targets made, but for .venv
	rm -rf results artifacts build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* mutants
