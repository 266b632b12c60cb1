# Two commands matter: `make demo` and `make test`. Both set up .venv by themselves and reuse it when up to date.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo-out

.PHONY: demo test check format dashboards clean
.DELETE_ON_ERROR:

demo: .venv/ready
	$(BIN)/prunebench demo --out $(OUT)

# Two workers, however many cores: tests/scheduling.py says who runs what.
test: .venv/eval
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --durations=40

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py
	$(BIN)/prunebench dashboards check

# What Grafana and Prometheus read, written anew from the code.
dashboards: .venv/ready
	$(BIN)/prunebench dashboards build

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch==…+cpu is not on every index: see README, "Installation".
.venv/ready: requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# What `evaluate --task` needs; the demo does not.
.venv/eval: requirements/eval.txt .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/eval.txt
	touch $@

clean:
	rm -rf .venv demo-out build *.egg-info
