#!/usr/bin/env bash
# Installs what the tests need and runs them; arguments go to pytest: bash launch/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
prepare_env requirements-test.txt
ruff check .
ruff format --check .
[ $# -gt 0 ] || set -- -m 'not slow'
exec python -m pytest -q "$@"
