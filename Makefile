# Two commands do everything: `make demo` and `make test`. Both build the environment they need.
PYTHON ?= python3
VENV ?= .venv
# Which torch to install. Plain Linux wheels bring CUDA along; name another build here to avoid it.
TORCH ?= torch==2.13.0
PRESET ?= poyo-compact
RUN ?= runs/demo
export SPIKEDATA_CACHE ?= $(CURDIR)/.spikedata

BIN := $(VENV)/bin
READY := $(VENV)/.ready

BOARD ?= runs/leaderboard
DECODERS ?= wiener,ridge,kalman,mlp,gru,poyo-compact

.PHONY: demo test check leaderboard format bench clean

demo: $(READY)  ## train a decoder on the sample recordings, score it, draw it
	$(BIN)/spikedata fetch --manifest sample
	$(BIN)/spikedata ingest --manifest sample
	$(BIN)/spikedata train --manifest sample --preset $(PRESET) --out $(RUN)
	$(BIN)/spikedata evaluate $(RUN)
	$(BIN)/spikedata report $(RUN)

leaderboard: $(READY)  ## run every decoder on the suite of the sample recordings, show the scores
	$(BIN)/spikedata fetch --manifest sample
	$(BIN)/spikedata ingest --manifest sample
	$(BIN)/spikedata leaderboard run --suite sample --decoder $(DECODERS) --out $(BOARD) $(RUN_OPTIONS)
	$(BIN)/spikedata leaderboard add $(BOARD)/sample/* --to $(BOARD)/accepted
	$(BIN)/spikedata leaderboard site --from $(BOARD)/accepted --out $(BOARD)/site

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest

check: $(READY)  ## what CI checks besides the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .spikedata runs build dist

# The stamp is written last, so that an installation that was cut off is done again.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" --editable ".[model,dev]"
	touch $@
