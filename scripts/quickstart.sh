#!/usr/bin/env bash
# From a bare machine to a context-gated German-English translator of interface strings and its BLEU.
# bash scripts/quickstart.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
take_python_option "$@"
for argument in ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}; do
    case $argument in
        -h | --help) exec "${CGC_PYTHON:-$(find_python)}" "$ROOT/scripts/quickstart.py" --help ;;
    esac
done
set_up_environment ""
exec "$PYTHON" "$ROOT/scripts/quickstart.py" ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
