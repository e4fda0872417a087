# `make` lists the targets. Environments are made from the lock files in requirements/ (see `make lock`).

# Python 3.11 or newer to build the environment with; the first of these that fits when it is not given.
PYTHON ?=
# Options for the installation of torch and torchvision alone, whose versions are in requirements/torch.txt.
TORCH_PIP_ARGS ?=
# Size of the experiments: smoke, study or paper; the default of params.yaml when it is not given.
PROFILE ?=
# For `make study` and `make verify`: processes (one per core when not given), and seconds after which no further run is
# started.
JOBS ?=
BUDGET ?=
# For `make lab`: options of JupyterLab, for example LAB_ARGS='--no-browser --port 8890'.
LAB_ARGS ?=
# Folder of the environment, relative to this file.
VENV ?= .venv

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
DVC := $(VENV)/bin/python -m dvc
REPRO := $(DVC) repro
SIZE := $(or $(PROFILE),study)
CONTROLS := pipelines/$(SIZE)/controls/dvc.yaml
# The learning rates that runs wait for, beside whose records controls are drawn: before all others.
RATES := $(CONTROLS):rates-e2 $(CONTROLS):rates-lb

ifneq ($(PROFILE),)
ifeq ($(wildcard pipelines/$(PROFILE)/dvc.yaml),)
$(error PROFILE=$(PROFILE): smoke, study or paper was expected)
endif
endif

# Stages call `python`, which must be the environment's.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help reproduce study verify rebuild controls smoke data env lab test lint lock bench status

help: ## list these targets
	@echo "usage: make TARGET [PROFILE=smoke|study|paper] [JOBS=2] [BUDGET=3600] [PYTHON=python3.12] [TORCH_PIP_ARGS='...']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo "torch on Linux comes with CUDA (some GB). Without a GPU, name PyTorch's CPU wheel index once:"
	@echo "  make reproduce TORCH_PIP_ARGS='--index-url ADDRESS_OF_THE_CPU_WHEEL_INDEX'"

reproduce: data ## install, get the data, recompute whatever is not up to date
	@[ $(SIZE) != paper ] || { echo "== reproduce: at full scale nothing is committed, so learning rates and controls come first"; \
		$(REPRO) $(RATES); $(REPRO) --keep-going $(CONTROLS) || echo "== reproduce: not all of them could be made; going on with what does not need them" >&2; }
	@echo "== reproduce: dvc repro (says 'up to date' where results belong to the code)"
	$(REPRO) --keep-going $(if $(PROFILE),pipelines/$(PROFILE)/dvc.yaml)
	@echo "== reproduce: what came out"
	@$(VENV)/bin/python -m repro summary --profile $(SIZE)

study: data ## compute what is left of the study, group by group; stop and go on at any time
	@echo "== study: what is left, in the order of data/study.yaml (cost: python -m repro plan)"
	$(VENV)/bin/python -m repro sweep --profile study --in-order $(if $(JOBS),--jobs $(JOBS)) $(if $(BUDGET),--time-budget $(BUDGET)) \
		|| echo "== study: not every run is done (see above); going on with those that are" >&2
	$(VENV)/bin/python -m repro render --group control --profile study
	$(REPRO) --keep-going

verify: data ## check within 25 minutes: laws, arithmetic, verdicts, and the quickest run of every statement, computed again
	@echo "== verify: what can be computed again within $(or $(BUDGET),1500) seconds, and compared with what is committed"
	@$(VENV)/bin/python -m repro verify --profile study --time-budget $(or $(BUDGET),1500) $(if $(JOBS),--jobs $(JOBS))

rebuild: data ## compute again what is committed (controls apart); git shows any difference
	@[ $(SIZE) != paper ] || { echo "make rebuild: records of the paper profile take GPU days; repeat single ones with 'python -m repro rerun RUN --profile paper'" >&2; exit 1; }
	@echo "== rebuild: removing the records of profile $(SIZE), then computing them again; git keeps the committed ones"
	@for folder in data/records/$(SIZE)/*/; do \
		case $$folder in *_controls/) ;; *) rm -rf "$$folder" ;; esac; \
	done
	$(REPRO) --keep-going --force --no-run-cache $(if $(PROFILE),pipelines/$(PROFILE)/dvc.yaml)
	@[ ! -e .git ] || git -c safe.directory="$(CURDIR)" status --short -- README.md book data/records figures ':!book/provenance.html' \
		|| echo "== rebuild: git could not be asked what differs (see above); compare with another copy" >&2
	@echo "== rebuild: done; every result that differs from the committed one is listed above"

# Stages of controls that are drawn beside a source's own runs have these runs' stage before them.
controls: data ## the second group of runs: learning-rate grids and controls
	@echo "== controls: learning-rate grids and control runs at profile $(SIZE)"
	-$(REPRO) $(RATES)
	$(REPRO) --keep-going $(CONTROLS)

smoke: data ## the whole pipeline at its smallest size; its numbers mean nothing
	@echo "== smoke: the whole pipeline at its smallest size"
	$(REPRO) pipelines/smoke/controls/dvc.yaml:rates-e2 pipelines/smoke/controls/dvc.yaml:rates-lb
	$(REPRO) pipelines/smoke/controls/dvc.yaml
	$(REPRO) pipelines/smoke/dvc.yaml

# A profile that was never run has no dvc.lock; all that its stages would need is no news.
status: $(VENV)/.stamp-main ## what is not up to date, of the profiles that were run
	@$(DVC) status $(patsubst %.lock,%.yaml,$(wildcard dvc.lock pipelines/*/dvc.lock pipelines/*/controls/dvc.lock))

data: $(VENV)/.stamp-main ## fetch and prepare the data sets
	@echo "== data: fetching and preparing what is not there yet"
	$(VENV)/bin/python -m repro data

env: $(VENV)/.stamp-main ## make the environment that experiments need

lab: $(VENV)/.stamp-main ## open the notebooks in JupyterLab
	@echo "== lab: JupyterLab on the folder notebooks/; end it with Ctrl-C"
	@$(VENV)/bin/python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(LAB_ARGS)

test: $(VENV)/.stamp-test ## install what tests need and run them
	@echo "== test: pytest, one process per core, four at most; the tests of a file stay together"
	@$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.stamp-test ## ruff and mypy
	@echo "== lint: ruff check, ruff format --check, mypy"
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

bench: data ## speed against pfl, Flower and plain loops; needs PFL_PYTHON, FLOWER_PYTHON (benchmarks/README.md)
	$(VENV)/bin/python benchmarks/speed.py --minutes $(or $(MINUTES),20)

lock: $(VENV)/.stamp-main ## for maintainers, needs uv: lock files and environment.yml from pyproject.toml
	@command -v uv >/dev/null || { echo "make lock: needs the program uv on the PATH" >&2; exit 1; }
	$(VENV)/bin/python requirements/compile.py

$(VENV)/.stamp-main: requirements/build.lock requirements/main.lock requirements/torch.txt
	@[ ! -e $(VENV) ] || [ -f $(VENV)/pyvenv.cfg ] || \
		{ echo "make: VENV=$(VENV) exists and is not a Python environment; name another folder" >&2; exit 1; }
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
		command -v $$python >/dev/null || continue; \
		if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "== environment: $(VENV) with $$python ($$($$python --version))"; \
			exec $$python -m venv --clear $(VENV); \
		fi; \
		found="$$found $$python: $$($$python --version 2>&1 | head -n 1);"; \
	done; \
	echo "make: needs Python 3.11 or newer with its venv module, found:$${found:- none;} install one or name it, as in PYTHON=/path/to/python3.12" >&2; exit 1
	@echo "== environment: installing $$(grep -c '^[a-z].*==' requirements/main.lock) packages of requirements/main.lock (a minute or two)"
	@$(PIP) install --quiet --require-hashes -r requirements/build.lock
	@$(PIP) install --quiet --require-hashes --no-build-isolation -r requirements/main.lock
	@echo "== environment: installing $$(tr '\n' ' ' < requirements/torch.txt)(not hash-locked: their CPU and CUDA builds differ)"
	@$(PIP) install $(TORCH_PIP_ARGS) -r requirements/torch.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-main requirements/test.lock
	@echo "== environment: installing $$(grep -c '^[a-z].*==' requirements/test.lock) packages of requirements/test.lock"
	@$(PIP) install --quiet --require-hashes --no-build-isolation -r requirements/test.lock
	@touch $@
