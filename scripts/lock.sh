#!/usr/bin/env bash
# Writes requirements.lock: every runtime, Spark, demo and development package, pinned with hashes.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3.11}" -m venv "$tools/venv"
"$tools/venv/bin/pip" install --quiet pip-tools
"$tools/venv/bin/pip-compile" --quiet --extra spark --extra demo --extra measure --extra dev --generate-hashes --allow-unsafe --strip-extras \
    --no-emit-index-url --no-emit-find-links --no-header --output-file requirements.lock pyproject.toml
{
    echo "# Every package that \`make setup\` installs, pinned by version and by the hashes of its release files."
    echo "# Written by scripts/lock.sh; do not edit by hand."
    cat requirements.lock
} > "$tools/lock"
cp "$tools/lock" requirements.lock
