# make demo       the whole chain on a small real data set: train, evaluate, predict, export, infer
# make test       the tests;  make test-all  also the slow ones
# make lint       ruff and mypy
# Each sets up .venv first, with the first Python of 3.11 to 3.13 that it finds; PYTHON=... chooses another.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
REQUIREMENTS = $(wildcard requirements*.txt)
# More than two cores: the tests wait for a part of their time.
TEST_PROCESSES ?= 3

.PHONY: demo test test-all lint browser

demo: .venv/ready
	.venv/bin/python demo/run.py

test: .venv/ready browser
	.venv/bin/python -m pytest -n $(TEST_PROCESSES) --dist worksteal --durations=10

test-all: .venv/ready browser
	.venv/bin/python -m pytest -n $(TEST_PROCESSES) --dist worksteal --durations=10 -m ''

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The browser in which the page of serve.py is tested. Without it these tests are skipped; nothing else needs it.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null && export DEBIAN_FRONTEND=noninteractive && \
	apt="apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60" && \
	{ timeout 300 $$apt update && timeout 900 $$apt install --no-install-recommends -y chromium chromium-driver; } \
	>/dev/null 2>&1; } || echo "no Chromium here: tests that need one are skipped (apt install chromium chromium-driver)"

# `ready` is written last: an installation that was interrupted is started again.
.venv/ready: $(REQUIREMENTS)
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 with venv is needed" \
	"(Debian, Ubuntu: apt install python3-venv); PYTHON=/path/to/python3 names one" >&2; exit 2; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
