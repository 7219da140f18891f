# Everything a newcomer needs: `make demo` and `make test` work from a fresh clone with
# Python >= 3.11. The environment lives in .venv.

PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format train-demo bench bench-domains bench-scaling bench-scaling-local bench-history bench-honesty bench-spatial bench-truth bench-amortization bench-amortized bench-stages bench-paper-form bench-ablations bench-images bench-priors bench-trained-priors bench-rivals bench-workflow bench-valued docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20

venv: $(STAMP)  ## make .venv with the pinned versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one, or say: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[bench,dev,plot]'
	@touch $@

demo: venv  ## run the main job on real data: demo/ensemble.nc, maps.png, scores.csv
	$(BIN)/apsgeo demo

test: venv  ## run the tests (no network), two at a time; ARGS are passed to pytest
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: venv  ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: venv  ## format the code and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

train-demo: venv  ## train the model that is shipped for the demo
	$(BIN)/python -m benchmarks train-demo

bench: venv  ## score all methods under protocol NCEP; writes the table in benchmarks/
	$(BIN)/python -m benchmarks ncep

bench-domains: venv  ## impute, denoise, super-resolve on every domain; writes a table and docs/figures/domains.png
	$(BIN)/python -m benchmarks domains

bench-scaling: venv  ## measure the cost of a field by number of nodes; writes the table and figure
	$(BIN)/python -m benchmarks scaling

bench-scaling-local: venv  ## measure the cost of a local posterior, up to a million nodes
	$(BIN)/python -m benchmarks scaling-local

bench-history: venv  ## fill with the histories that people have; writes tables
	$(BIN)/python -m benchmarks history

bench-honesty: venv  ## score the error bars of the default path on records of many kinds; writes the table and figure
	$(BIN)/python -m benchmarks honesty

bench-spatial: venv  ## fill one gappy field without a history (HEATON=path of heaton_modis.nc); writes tables and figures
	$(BIN)/python -m benchmarks spatial --heaton '$(HEATON)'

bench-truth: venv  ## score flows where the posterior is known exactly; writes the table and figure
	$(BIN)/python -m benchmarks truth

bench-amortization: venv  ## compare one flow for all measurements with one optimized for each
	$(BIN)/python -m benchmarks amortization

bench-amortized: venv  ## score every posterior of ncep-air on eight ways of measuring, all seconds counted
	$(BIN)/python -m benchmarks amortized

bench-stages: venv  ## train one flow by each teacher, and by several; writes the table
	$(BIN)/python -m benchmarks stages

bench-paper-form: venv  ## change the paper's form one thing at a time; writes the table
	$(BIN)/python -m benchmarks paper-form

bench-ablations: venv  ## measure what each part is worth where the posterior is known
	$(BIN)/python -m benchmarks ablations

bench-images: venv  ## denoise, fill, sharpen and refine images; writes the table and figures
	$(BIN)/python -m benchmarks images

bench-priors: venv  ## compare log-densities of priors with the truth; writes the tables and figure
	$(BIN)/python -m benchmarks priors

bench-trained-priors: venv  ## train priors on five data sets and score them; writes the tables and figures
	$(BIN)/python -m benchmarks trained-priors

bench-rivals: venv  ## every rival in one run, over a cluster of this machine: speed, climate, images, mesh, healpix, nongaussian; writes tables and figures
	$(BIN)/python -m benchmarks speed
	$(BIN)/python -m benchmarks climate
	$(BIN)/python -m benchmarks rivals-images
	$(BIN)/python -m benchmarks mesh
	$(BIN)/python -m benchmarks healpix
	$(BIN)/python -m benchmarks nongaussian

bench-workflow: venv  ## measure a fill by cells, members and workers, and one real task beside rivals
	$(BIN)/python -m benchmarks workflow

bench-valued: venv  ## fill directions, orientations and tensors; writes tables and figures
	$(BIN)/python -m benchmarks valued

docs: venv  ## build the documentation into build/docs; a warning is an error
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going docs build/docs

clean:  ## remove the environment, caches and the demo's output
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -type d -prune -exec rm -rf {} +
