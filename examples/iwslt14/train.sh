#!/usr/bin/env bash
# One row of Table 6, or of ours: train.sh {transformer|lightconv|dynamic|cgc|cgc-constant|gct|...} [--seed N] ...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
run_command train "$@"
