#!/usr/bin/env bash
# From a bare machine to a context-gated German-English translator of interface strings and its BLEU.
# bash scripts/quickstart.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
EXTRA=plots run_command quickstart "$@"  # for the plots of its report
