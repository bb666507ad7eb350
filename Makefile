# Every target makes `.venv` when it is missing and re-uses it afterwards.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
LOCK   := tests/env/requirements.lock

# The Ascend stack wants other versions, so it has an environment of its own.
ASCEND      := .venv-ascend
ASCEND_BIN  := $(ASCEND)/bin
ASCEND_PIP  := $(ASCEND_BIN)/python -m pip --disable-pip-version-check
ASCEND_LOCK := tests/ascend/env/requirements.lock
ASCEND_PARTS := ./tests/ascend/env/vllm-shim -e ./tests/fakecann/python -e .

# A vLLM server imports vLLM and torch in three processes: from source that takes it minutes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv venv-ascend demo test test-unit test-e2e test-web test-ascend check docs docs-serve flaky format soak soak-ascend sim sim-day fuzz clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*##/\1:/p' $(MAKEFILE_LIST)

venv: $(VENV)/.ready  ## make the pinned environment, vLLM for CPU included

$(VENV)/.ready: $(LOCK) pyproject.toml tests/env/vllm-shim/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q --no-deps --no-compile -r $(LOCK)
	$(PIP) install -q --no-deps --no-build-isolation ./tests/env/vllm-shim
	$(PIP) install -q --no-deps --no-build-isolation -e .
	-$(call compile,$(BIN))
	touch $@

# What servers import first. Otherwise several processes of the first test compile the same files.
COMPILED := torch transformers vllm
compile = cd $(1)/../lib/python3.*/site-packages && $(abspath $(1))/python -m compileall -q $(COMPILED) $(2) > /dev/null

venv-ascend: $(ASCEND)/.ready  ## make the pinned Ascend environment, over an emulated CANN
	$(ASCEND_BIN)/python tests/fakecann/build.py

$(ASCEND)/.ready: $(ASCEND_LOCK) pyproject.toml tests/ascend/env/vllm-shim/pyproject.toml tests/fakecann/python/pyproject.toml
	test -x $(ASCEND_BIN)/python || $(PYTHON) -m venv $(ASCEND)
	$(ASCEND_PIP) install -q --no-deps --no-compile -r $(ASCEND_LOCK) || $(NO_WHEEL)
	rm -f $(ASCEND)/lib/python3.*/site-packages/vllm/_C*.so
	$(ASCEND_PIP) install -q --no-deps --no-build-isolation $(ASCEND_PARTS)
	-$(call compile,$(ASCEND_BIN),torch_npu vllm_ascend)
	touch $@

NO_WHEEL = { echo "test-ascend: pip could not get every package of $(ASCEND_LOCK): its last line above \
	names the one. The wheels are for Linux on x86-64 with Python 3.11." >&2; exit 1; }

demo: venv  ## two real vLLM servers: the second takes its weights from the first
	$(BIN)/python -m tests.e2e.demo

# Unit tests wait for half of their time: the types are checked meanwhile.
test: venv  ## what CI runs first: lint, types, unit tests, real servers
	$(MAKE) -j2 --output-sync=target check test-unit
	$(MAKE) test-e2e

# To collect tests/e2e, and run none of it, imports transformers: 8 s in each process. Most of its time
# a unit test waits for threads, sockets and processes, so two cores have room for four files.
test-unit: venv  ## every part without vLLM, four files at a time, in random order
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder \
		--ignore=tests/e2e -m "not e2e and not bench and not soak and not browser"

test-web: venv  ## the page of the live map in Chromium; skipped where there is none, unless NETLOADER_TEST_BROWSER=required
	$(BIN)/python -m pytest -p no:randomly -n 2 --dist loadfile -m "browser and not soak" tests/tools/mesh_inspect/web

test-e2e: venv  ## vLLM itself, real `vllm serve` processes among it, two files at a time: each keeps one core busy
	$(BIN)/python -m pytest -p no:randomly -n 2 --dist loadfile --no-loadscope-reorder -m "e2e and not soak" tests/e2e

# Two files at a time, and those that need vLLM one after the other: they share one import of it.
test-ascend: venv-ascend  ## the Ascend stack (torch_npu, vLLM 0.23, vllm-ascend) over an emulated CANN
	$(ASCEND_BIN)/python -m pytest -p no:randomly -n 2 --dist loadfile --no-loadscope-reorder -m "not soak" -k "ascend or hccl" \
		tests/ascend tests/loader/transport/conformance

soak-ascend: venv-ascend  ## the same over the emulated CANN: peers killed at 20 random moments of each kind, and what the marker soak names
	$(ASCEND_BIN)/python -m pytest -p no:randomly -m soak tests/ascend
	NETLOADER_TEST_MOMENTS=20 $(ASCEND_BIN)/python -m pytest -p no:randomly tests/ascend/test_kill.py

flaky: venv  ## the unit tests ten times in random order, ten times beside a busy machine, ten times on one core (hours)
	$(BIN)/python -m tests.flaky

check: venv  ## ruff and strict mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# In `make test` processes of these servers are forked, so that vLLM is imported once.
SERVERS := $(addprefix tests/e2e/test_,failures.py mixture.py serve.py tensor_parallel.py)

soak: venv  ## what make test has no time for: strangers for ten minutes, 1,000 sessions and wrong bytes, 100 killed sources, benchmarks in small (about an hour)
	$(BIN)/python -m pytest -m "bench or e2e" tests/tools/netbench
	$(BIN)/python -m pytest -p no:randomly --timeout 1800 -m "soak and not ascend" tests
	NETLOADER_TEST_SOAK_S=600 $(BIN)/python -m pytest -s tests/loader/source/test_soak.py
	NETLOADER_TEST_SPAWN=1 $(BIN)/python -m pytest -p no:randomly -m "e2e and not soak" $(SERVERS)
	NETLOADER_TEST_SESSIONS=1000 $(BIN)/python -m pytest -s tests/loader/source/test_many_sessions.py
	$(BIN)/python -m tests.loader.wrong_bytes --trials 1000
	$(BIN)/python -m netbench kill --trials 100

sim: venv  ## the targets of the mesh, each beside memberlist's figure, and of fan-outs, at full size (over an hour)
	$(BIN)/python -m netsim.evidence
	$(BIN)/python -m netsim.dataplane.evidence

sim-day: venv  ## 256 members lose 5 % of all messages for 24 virtual hours (several hours)
	$(BIN)/python -m netsim loss --members 256 --duration 86400 --json

fuzz: venv  ## a million inputs to whatever reads what others send (an hour or two)
	$(BIN)/python -m tests.fuzz --runs 1000000

SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

docs: venv  ## build the site of docs/ into build/site; dead links and pages outside the nav are errors
	$(SITE) build --strict --config-file docs/site/mkdocs.yml

docs-serve: venv  ## show the site at http://127.0.0.1:8001, and again after each change
	$(SITE) serve --strict --config-file docs/site/mkdocs.yml --dev-addr 127.0.0.1:8001

format: venv  ## apply ruff's formatting and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the targets made
	rm -rf $(VENV) $(ASCEND) .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .flaky
