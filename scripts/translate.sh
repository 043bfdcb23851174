#!/usr/bin/env bash
# Raw sentences in, raw translations out: bash scripts/translate.sh MODEL_FOLDER < source > target
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
take_python_option "$@"
set_up_environment "" >&2
exec "$PYTHON" -m fairseq_cgc.recipe.translate ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
