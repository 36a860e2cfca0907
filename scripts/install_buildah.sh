#!/usr/bin/env bash
# Makes sure that what images are built and run with in tests is there: buildah, runc, and a Python with venv for the broker's base.
set -euo pipefail

if command -v buildah >/dev/null && [ -x /usr/sbin/runc ] && /usr/bin/python3 -c 'import ensurepip' 2>/dev/null; then
    exit 0
fi
"$(dirname "$0")/install_debian.sh" "buildah, runc, and Python with venv" buildah netavark crun runc python3 python3-venv
