#!/usr/bin/env bash
# Raw sentences in, raw translations out: bash scripts/translate.sh MODEL_FOLDER < source > target
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
run_command translate "$@"
