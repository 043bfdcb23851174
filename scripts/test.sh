#!/usr/bin/env bash
# Run the tests: bash scripts/test.sh [--python PATH] [pytest's options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
take_python_option "$@"
set_up_environment test
cd "$ROOT"
exec "$PYTHON" -m pytest ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
