# Every target sets itself up: the first call makes .venv and installs what was tested, later calls install nothing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup demo test soak lint docs tables
.DELETE_ON_ERROR:

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[demo,dev]' -c constraints.txt
	touch $@

demo: $(INSTALLED)
	$(BIN)/ham demo --out runs/demo --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2

soak: $(INSTALLED)
	$(BIN)/python tests/soak/kill_store.py --kills 30 --stops 20 --exports 20
	$(BIN)/python tests/soak/concurrent_store.py --reads 200 --writes 4
	$(BIN)/python tests/soak/fuzz_store.py --stores 100
	$(BIN)/python tests/soak/forged_store.py

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python docs/reference.py > docs/configuration.md

tables: $(INSTALLED)
	$(BIN)/python benchmarks/result_tables.py
