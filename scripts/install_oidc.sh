#!/usr/bin/env bash
# Makes sure that the OpenID provider of the tests is there: it needs Node.js (18 or newer).
set -euo pipefail

here="$(cd "$(dirname "$0")/.." && pwd)/tests/support/oidc"
if [ -d "$here/node_modules/oidc-provider" ]; then
    exit 0
fi
if ! command -v npm >/dev/null; then
    "$(dirname "$0")/install_debian.sh" "Node.js (18 or newer) with npm" nodejs npm
fi
# Exactly what package-lock.json names, by its hashes; nothing of it runs while it is installed.
npm ci --prefix "$here" --ignore-scripts --no-fund --no-audit --silent >&2
