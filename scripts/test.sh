#!/usr/bin/env bash
# Lint, format and types, then the tests: bash scripts/test.sh [--quick] [--python PATH] [pytest's options]
# --quick leaves out tests that train a model or need a trained one, a compiler, an installed wheel or Triton's interpreter.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
take_python_option "$@"
set_up_environment test
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
options=()
for argument in ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}; do
    if [ "$argument" = --quick ]; then argument="-mnot slow"; fi
    options+=("$argument")
done
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # a core for each process
# worksteal: neighbours stay together, for their tests share what they train, and no core waits at the end.
exec "$PYTHON" -m pytest -n auto --maxprocesses 4 --dist worksteal ${options[@]+"${options[@]}"}
