# Each target sets up what it needs, in .venv; `make help` lists those with two number signs.
SHELL  := /bin/bash
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
            $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
PORT   ?= 8080
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What is installed: what serving needs, and the rest.
venv   := .venv/.ready
dev    := .venv/.ready-dev

.PHONY: help setup compiled serve serve-fast quick lint test test-tools test-image image bench soak bench-full \
  fuzz train test-spark clean

help: ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(venv) ## install what serving needs into .venv

# A folder that another Python made, or that was left half made, is made again.
$(venv): requirements.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.10-3.13 found; name one: make PYTHON=/path/to/python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 10) <= v < (3, 14) or sys.exit(f"make: expected Python 3.10 to 3.13, PYTHON=$(PYTHON) is {v[0]}.{v[1]}")'
	@minor='import sys; print(sys.version_info[:2])'; \
	  .venv/bin/pip --version >/dev/null 2>&1 && test "$$(.venv/bin/python -c "$$minor")" = "$$($(PYTHON) -c "$$minor")" || \
	  $(PYTHON) -m venv --clear .venv
	@echo "make: installing what serving needs into .venv: TensorFlow and what it brings along, about 1.6 GB on the disk"
	@.venv/bin/pip install -r requirements.txt
	@touch $@

$(dev): $(venv) $(addprefix requirements/,dev.txt evaluate.txt light.txt observe.txt constraints.txt)
	@echo "make: installing what training, tests and benchmarks need besides, about 1 GB on the disk"
	@.venv/bin/pip install -r requirements/dev.txt
	@touch $@

# Bytecode is compiled as the cloud build does it: without it every import takes twice as long.
compile := .venv/bin/python -m compileall -q main.py serving fallback tools
compiled: $(dev)
	@$(compile)

# The native codec (docs/performance.md) is compiled once, where there is a C++ compiler. What is made for a server is made
# before its shell is started: the server counts its start from there.
define codec
@mkdir -p .cache && printf 'ACCELERATOR=%q\n' "$${ACCELERATOR-$$(.venv/bin/python -m serving.pipeline.native.build --cached)}" > .cache/$@.env
endef

# TensorFlow's library is bound once (docs/image.md) and what the model reads of it is listed, in some seconds, where that can be.
define library
@[ "$$(uname -sm)" != "Linux x86_64" ] || \
  printf 'TENSORFLOW_LIBRARY_DIR=%q\n' "$${TENSORFLOW_LIBRARY_DIR-$$(.venv/bin/python -m tools.image.cached --model "$${MODEL_DIR-model}")}" >> .cache/$@.env
endef

# The banner comes when the server listens; it looks while this make runs.
serve: $(venv) ## serve model/ at localhost:8080 (PORT) behind functions-framework
	@$(compile)
	$(codec)
	$(library)
	@.venv/bin/python -m serving banner --port $(PORT) --while $$PPID
	@set -a; . .cache/$@.env; exec .venv/bin/functions-framework --target predict --port $(PORT)

serve-fast: $(venv) ## the same on the standalone server, with dynamic batching
	@$(compile)
	$(codec)
	$(library)
	@printf 'BATCH_ROWS=%q\n' "$${BATCH_ROWS-auto}" >> .cache/$@.env
	@.venv/bin/python -m serving banner --port $(PORT) --while $$PPID
	@set -a; . .cache/$@.env; PORT=$(PORT) exec .venv/bin/python -m serving.servers.standalone

# Says why a test was skipped. A worker that crashed, or that the time limit ended, isn't replaced: it would run the same again.
# The files that take longest come first (tests/conftest.py).
# One process more than there are cores, since some tests wait.
pytest := .venv/bin/python -m pytest -rs --numprocesses=$(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
  --max-worker-restart=0

lint: compiled ## style, types and the imports between modules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

# Tests that need no other model than the embedded one, and few processes.
fast_tests := $(addprefix tests/,protocols deploy core/test_files.py core/test_settings.py core/test_storage.py \
  events/test_cloud_events.py product/test_answers.py repository/test_architecture.py repository/test_dependencies.py \
  repository/test_version.py savedmodel/test_graph.py servers/test_wsgi.py tools/plan/test_queueing.py)
quick: lint ## what a change needs: lint and a fast part of the tests, in less than two minutes on two cores
	$(pytest) $(fast_tests)

test: lint ## lint and every test, in about twelve minutes on two cores
	$(pytest)

# The programs that tests need and pip doesn't install; a test without its program is skipped.
test-tools: ## install the programs that optional tests need: Debian's packages, as root, Spark and Beam
	@tests/tools.sh
	@$(MAKE) --no-print-directory -j2 $(spark)/.ready $(beam)/.ready

# Spark and pyarrow for their tests: 400 MB of download, 800 MB in .cache/spark. Beam: 150 MB in .cache/beam.
spark := .cache/spark/packages
beam := .cache/beam
$(spark)/.ready: requirements/spark.txt
$(beam)/.ready: requirements/beam.txt
$(spark)/.ready $(beam)/.ready: $(dev) requirements/constraints.txt
	@rm -rf $(@D)
	@.venv/bin/pip install --quiet --no-deps --target $(@D) -r $(filter-out %constraints.txt,$(filter %.txt,$^))
	@touch $@

# The same tests with another version of Spark, whose driver and workers have one Python.
SPARK ?= 3.5.9
test-spark: compiled ## the tests of scoring on Spark with another version: SPARK=3.5.9
	@test -d .cache/spark/$(SPARK) || { .venv/bin/pip install --quiet --no-deps --target .cache/spark/$(SPARK).part \
	  -c requirements/constraints.txt py4j pyarrow && .venv/bin/pip install --quiet --no-deps --upgrade \
	  --target .cache/spark/$(SPARK).part pyspark==$(SPARK) && mv .cache/spark/$(SPARK).part .cache/spark/$(SPARK); }
	SPARK_PACKAGES=$(CURDIR)/.cache/spark/$(SPARK) .venv/bin/python -m pytest -rs tests/scoring/test_spark.py

# Minutes: every test of serving, with the packages of the image instead of the environment's.
test-image: compiled ## the tests of serving with the packages of the image: minutes
	TEST_IMAGE=1 .venv/bin/python -m pytest tests/tools/image
	.venv/bin/python -m tests.tools.image.suite

# The image's own files, in a folder: what deploy/Dockerfile builds, without Docker.
image: compiled ## the image's files in a folder (OUT), without Docker
	.venv/bin/python -m tools.image.build $(or $(OUT),.cache/function)

# Minutes: docs/benchmarks/results.md. Each subject has an environment of its own, made once: 5 GB in .cache/bench.
bench: compiled ## the figures of docs/benchmarks/results.md: minutes
	.venv/bin/python -m bench --quick --models mlp

# Instances killed, ended and started under load, behind nginx where there is one: docs/benchmarks/soak.md.
soak: compiled ## kill, end and start instances under load for SECONDS
	.venv/bin/python -m tests.harness.soak --seconds $(or $(SECONDS),600)
	KILLS=40 .venv/bin/python -m pytest tests/events/test_chain.py -k kills

# Hours: every page of docs/benchmarks.
bench-full: compiled ## every page of docs/benchmarks: hours
	.venv/bin/python -m bench --minutes 120 --models mlp,digits,mobilenet,dense,transformer
	.venv/bin/python -m bench.cold
	.venv/bin/python -m bench.settings
	.venv/bin/python -m bench.codecs
	.venv/bin/python -m bench.million
	.venv/bin/python -m bench.memory
	.venv/bin/python -m bench.score --largest 1024
	.venv/bin/python -m bench.plan_check
	.venv/bin/python -m bench.bake
	.venv/bin/python -m bench.pictures
	.venv/bin/python -m bench.overload

# Every parser for SECONDS each, guided by coverage where atheris and clang++ can be had; the native code under
# ThreadSanitizer and the static analyzer in depth; 12 times as many random requests as `make test` sends; every operation
# that trusts a request. What breaks a parser stays in tests/fuzz/corpus/; what cannot run is named.
atheris := .cache/atheris
fuzz: compiled ## fuzz every parser for SECONDS each
	@test $(atheris)/.ready -nt requirements/constraints.txt || { rm -rf $(atheris) && \
	  .venv/bin/pip install --quiet --no-deps --target $(atheris) -r requirements/fuzz.txt && touch $(atheris)/.ready; } || \
	  echo "make: atheris cannot be installed here: mutation alone" >&2
	PYTHONPATH=$(atheris) .venv/bin/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(TARGETS)
	FUZZ_ROUNDS=12 .venv/bin/python -m pytest tests/fuzz tests/pipeline/native -k "over_http or bounds_check or random or test_memory or test_tidy"
	FUZZ_ROUNDS=12 .venv/bin/python -m pytest tests/protocols tests/savedmodel/test_images.py tests/savedmodel/test_guarding.py

train: $(dev) ## train and export the embedded model
	.venv/bin/python -m examples.digits

clean: ## remove what these targets made
	rm -rf .venv .cache
