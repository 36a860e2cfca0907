#!/usr/bin/env bash
# Makes sure that the OpenID provider of the tests is there: it needs Node.js (18 or newer), which it installs on Debian and Ubuntu through apt.
set -euo pipefail

here="$(cd "$(dirname "$0")/.." && pwd)/tests/support/oidc"
if [ -d "$here/node_modules/oidc-provider" ]; then
    exit 0
fi
if ! command -v npm >/dev/null; then
    if ! command -v apt-get >/dev/null; then
        echo "The tests of owners' tokens need Node.js with npm on the PATH; install it and run this again." >&2
        exit 1
    fi
    sudo=""
    if [ "$(id -u)" -ne 0 ]; then
        sudo="sudo"
    fi
    echo "installing Node.js ..." >&2
    $sudo apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends nodejs npm >&2
fi
# Exactly what package-lock.json names, by its hashes; nothing of it runs while it is installed.
npm ci --prefix "$here" --ignore-scripts --no-fund --no-audit --silent >&2
