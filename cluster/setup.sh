#!/usr/bin/env bash
# Makes a machine a node: the project's locked environment. Run in the project's folder, once, by `ray up` or by hand.
#   EXTRA=gpu bash cluster/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."
make setup EXTRA="${EXTRA:-cpu}"
