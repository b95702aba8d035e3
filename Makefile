# make demo    fit the handwritten digits and draw what was learned, into runs/
# make test    the test suite, on the CPU
# make lint    style and types
# make install the package alone, into $(VENV)
# make clean   remove the environment and the caches; runs/ is kept

VENV        ?= .venv
TORCH_INDEX ?=
PYTHON      ?=
PYTEST_ARGS ?=

# TORCH_INDEX names a further package index, for instance one that serves torch built for the CPU.
# The constraints go through the environment so that pip's own build environments obey them too.
PIP_INSTALL = PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
              $(VENV)/bin/python -m pip install -q \
              $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

PYTHONS = $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3)

.PHONY: demo test lint install clean
.DELETE_ON_ERROR:

demo: install
	$(VENV)/bin/unveil fit digits -o runs/digits --overwrite
	$(VENV)/bin/unveil sample runs/digits -n 64 -o runs/samples.png
	$(VENV)/bin/unveil reconstruct runs/digits digits -o runs/reconstructions.png
	$(VENV)/bin/unveil interpolate runs/digits digits --from 0 --to 1 --steps 10 \
	    -o runs/interpolation.png
	@echo
	@echo "The model is in runs/digits (its README.md says how far to trust it)."
	@echo "Look at runs/samples.png, runs/reconstructions.png and runs/interpolation.png."

# The suite is the same everywhere: an accelerator, where there is one, is hidden from it, and each
# of a few processes has one thread (what threads change, tests set for themselves).
test: $(VENV)/.installed-test
	@CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q \
	    -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

# Types are checked against the packages that some of the code needs only where it is called.
lint: $(VENV)/.installed-dev $(VENV)/.installed-test
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python

install: $(VENV)/.installed

# Only a folder that is an environment is removed, whatever VENV was set to.
clean:
	@if [ -f $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi
	@rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	@find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing unveil into $(VENV) (a few minutes the first time)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "Installing what '$*' needs into $(VENV)"
	@$(PIP_INSTALL) -e ".[$*]"
	@touch $@

# A name on the PATH may be a shim that only fails, so a candidate is believed once it has run.
# The environment's pip is what venv makes last: where it stands, the environment is whole.
$(VENV)/bin/pip:
	@recent=; \
	for python in $(PYTHONS); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    recent=$$python; \
	    $$python -c 'import ensurepip' 2>/dev/null || continue; \
	    exec $$python -m venv $(VENV); \
	done; \
	if [ -n "$$recent" ]; then \
	    echo "$$recent cannot make environments (it has no ensurepip):" \
	         "install python3-venv, then run make again." >&2; \
	else \
	    echo "unveil needs Python 3.11 or newer, and none of these runs: $(PYTHONS)." \
	         "Install one, or name it: make PYTHON=/path/to/python3." >&2; \
	fi; \
	exit 1
