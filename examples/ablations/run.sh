#!/usr/bin/env bash
# Train, translate and table variants of the gate on a prepared corpus: run.sh --data DIR [--rows ...] [--seeds 1,2] ...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
run_command experiment "$@"
