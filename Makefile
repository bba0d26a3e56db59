# Both commands of the README build .venv on first use and reuse it afterwards.
#   Linux without a GPU: TORCH_INDEX=https://download.pytorch.org/whl/cpu avoids the CUDA download.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
STAMP := $(VENV)/.installed
N ?= 8
SEED ?= 0
OUT ?= out
SHOTS ?=
WEB_MODEL ?=

# Make would read a `$` in CAPTION="..." as a variable; $(value) takes it as typed, and the shell
# sees it only as an environment variable, so quotes, `$` and emoji survive.
export BRIDGE_CAPTION := $(value CAPTION)
unexport CAPTION

.PHONY: generate test test-faults test-web clean

generate: $(STAMP)
	@$(VENV)/bin/bridge generate "$$BRIDGE_CAPTION" -n $(N) --seed $(SEED) --out "$(OUT)"

# Two processes of one thread each: small networks lose more to threads than they gain.
test: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadfile

# Fifty kills of a training run instead of the three of `make test`, and every other fault.
test-faults: $(STAMP)
	BRIDGE_FAULTS=50 $(VENV)/bin/pytest tests/test_faults.py tests/test_lock.py tests/test_distributed.py

# The web page in Debian's Chromium, where there is one or apt-get can install it; else a line says why not.
#   SHOTS=DIR keeps screenshots; WEB_MODEL=pictures shows that model in place of a tiny one.
test-web: $(STAMP)
	@command -v chromium >/dev/null || timeout 300 apt-get install -y --no-install-recommends chromium >/dev/null 2>&1 || true
	@if ! command -v chromium >/dev/null; then \
		echo "test-web: skipped, as chromium is missing and apt-get cannot install it"; \
	elif ! timeout 300 $(VENV)/bin/pip install -q -c constraints.txt --no-deps playwright greenlet pyee >/dev/null 2>&1; then \
		echo "test-web: skipped, as pip cannot install playwright"; \
	else \
		OMP_NUM_THREADS=1 BRIDGE_WEB=1 BRIDGE_WEB_SHOTS="$(SHOTS)" BRIDGE_WEB_MODEL="$(WEB_MODEL)" \
			$(VENV)/bin/pytest tests/web; \
	fi

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(VENV)/bin/pip install -c constraints.txt -e '.[offline,train,dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
