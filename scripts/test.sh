#!/usr/bin/env bash
# Lint, format and types, then the tests: bash scripts/test.sh [--python PATH] [pytest's options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
take_python_option "$@"
set_up_environment test
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# Each file on one core: its tests share what they train.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$PYTHON" -m pytest -n auto --maxprocesses 4 --dist loadfile ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
