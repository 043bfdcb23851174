#!/usr/bin/env bash
# Average, translate with beam 6, score: generate.sh CHECKPOINT_DIR
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
run_command generate "$@"
