#!/usr/bin/env bash
# One row of Table 6: train.sh {transformer|lightconv|dynamic|cgc|cgc-constant|gct|cgc-gct|cgc-dynamic|cgc-rdrop} [--seed N] ...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
run_script train_row.py "$@"
