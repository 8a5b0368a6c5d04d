#!/usr/bin/env bash
# Installs what the tests need and runs them; arguments go to pytest: bash launch/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
prepare_env requirements-test.txt
ruff check .
ruff format --check .
pyrefly check
python -m tests.typed
[ $# -gt 0 ] || set -- -m 'not slow'
# Two processes, a file of tests at a time, in the order of tests/conftest.py: most of the time is
# XLA compiling on one core.
exec python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@"
