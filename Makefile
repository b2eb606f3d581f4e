# make demo         all set-up, then the demo
# make test         all set-up, then lint, types and tests but the slow ones
# make test SLOW=1  the same with the slow ones, which run last
#     SLOW_UNTIL=TIME  but for those that have not begun by then (Unix time in seconds)
# make model        retrain the demo model from nothing and print its scores
.DELETE_ON_ERROR:
.PHONY: demo test lint model setup clean

BIN := .venv/bin
READY := .venv/.ready

demo: $(READY)
	$(BIN)/torpor demo

test: lint
	$(BIN)/pytest $(if $(SLOW),$(SLOW_UNTIL:%=--slow-until=%),-m "not slow")

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

model: $(READY)
	$(BIN)/python -m engine.demo_model train --out models/demo
	$(BIN)/python -m engine.demo_model evaluate models/demo

setup: $(READY)

$(READY): scripts/setup.sh requirements/cpu.lock requirements/cpu-nodeps.lock pyproject.toml \
    $(wildcard tests/node/package-lock.json)
	scripts/setup.sh
	touch $@

clean:
	rm -rf .venv .torpor .mypy_cache .ruff_cache .pytest_cache
