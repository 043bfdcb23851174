#!/usr/bin/env bash
# IWSLT'14 German-English, from the archive to binarised data: prepare.sh [--archive PATH] [--out DIR]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
run_command prepare-iwslt14 "$@"
