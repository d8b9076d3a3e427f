# Everything here works in a fresh clone: what is missing is installed first.
#   make train ARGS="reward_scheme=uniform seed=1"      PYTHON, VENV, TORCH can be set the same way
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# Numbers in tests are exact for one thread; a worker for each core, at most four.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rfEs -n auto --maxprocesses=4 --dist loadgroup
# Folders of scripts, which find one another by the folder that they lie in.
EXPERIMENTS := experiments $(addprefix experiments/,base_model benchmarks benchmarks/peers dae slides)
export PYTHON TORCH

.DEFAULT_GOAL := help
.PHONY: help setup train test-fast test test-slow reproduce same-numbers files-touched matrix lint type arch ci coverage format docs startup clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## create .venv with everything at the tested versions, or complete it; nothing if complete
	@.ci/setup $(VENV)

train: ## the main job: SFT, reward model, RL, evaluation; ARGS="reward_scheme=sparse seed=1"
	@started=$$(date +%s) && .ci/setup $(VENV) && \
	TOKENCREDIT_INSTALL_SECONDS=$$(( $$(date +%s) - started )) $(BIN)/tokencredit train $(ARGS)

test-fast: setup ## the quickest check, at most 90 s: no training, no processes
	@$(PYTEST) -m "not slow" tests/core tests/rewards tests/algorithms tests/contracts tests/style tests/architecture $(ARGS)

test: setup ## all tests but the slow ones, at most 15 minutes
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: setup ## the rest: real training, packaging
	@$(PYTEST) -m slow $(ARGS)

reproduce: setup ## one cell of each page again, hours said first, log in experiments/REPRODUCED.md; STEPS=3 for a part
	@$(BIN)/tokencredit reproduce --pages $(if $(STEPS),--steps $(STEPS)) $(ARGS)

same-numbers: setup ## does the working tree give BASE's numbers? BASE=COMMIT [KEEP=FOLDER] [ONLY=NAME,NAME] [JOBS=2]
	@PYTHONPATH=tests:tests/helpers $(BIN)/python -m same_numbers "$(BASE)" --jobs $(or $(JOBS),2) \
		$(if $(KEEP),--keep "$(KEEP)") $(if $(ONLY),--only "$(ONLY)")

files-touched: setup ## which files TLCR cost, by part; with BASE=COMMIT [HEAD=COMMIT] which a change touched, and how many count
	@PYTHONPATH=tests $(BIN)/python -m architecture.$(if $(BASE),files_touched "$(BASE)" $(HEAD),files_of_methods)

matrix: setup ## two processes against one, for every way to divide the work; log in experiments/benchmarks/measured; ONLY=TEXT
	@PYTHONPATH=tests:tests/helpers $(BIN)/python -m matrix $(if $(ONLY),--only "$(ONLY)")

lint: setup ## ruff: rules and format; deptry: what is imported is declared, what is declared is used
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/deptry src
	@$(BIN)/deptry tests tests/helpers $(EXPERIMENTS) --ignore DEP002,DEP004

format: setup ## repair what ruff can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

type: setup ## mypy --strict: the package, tests' helpers, experiments
	@$(BIN)/mypy

arch: setup ## import-linter: which part may import which
	@$(BIN)/lint-imports

ci: ## everything that a change must pass, in at most an hour: what .ci/run runs
	@.ci/run

coverage: setup ## lines of the package that the fast tests never reach, the worst file first; HTML=1 for pages in coverage/
	@$(BIN)/coverage erase
	@OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -rfEs -n auto --maxprocesses=4 --dist loadgroup -m "not slow" $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage $(if $(HTML),html,report)

docs: setup ## write docs/config.md, signatures of docs/python.md, the configuration snapshots, and the picture of the floors again
	@$(BIN)/python -m tokencredit.commands.reference > docs/config.md
	@$(BIN)/python -m tokencredit.commands.python_page docs/python.md
	@$(BIN)/python tests/config/make_snapshots.py
	@PYTHONPATH=tests $(BIN)/python -m architecture.drawing

startup: setup ## how long --help, a mistake, and a plan take, against `import torch`
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/startup.py

clean: ## remove the environment and caches; store/ and runs/ stay
	@rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find src tests -name __pycache__ -prune -exec rm -rf {} +
