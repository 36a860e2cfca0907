#!/usr/bin/env bash
# Makes sure that what the broker's image is built with in tests is there: buildah, and a Python with venv for the image's base.
set -euo pipefail

if command -v buildah >/dev/null && /usr/bin/python3 -c 'import ensurepip' 2>/dev/null; then
    exit 0
fi
"$(dirname "$0")/install_debian.sh" "buildah, and Python with venv" buildah crun python3 python3-venv
