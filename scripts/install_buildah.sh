#!/usr/bin/env bash
# Installs what the broker's image is built with in tests (Debian or Ubuntu): buildah, and a Python with venv for the image's base.
set -euo pipefail

if command -v buildah > /dev/null && /usr/bin/python3 -c 'import ensurepip' 2> /dev/null; then
    exit 0
fi
if ! command -v apt-get > /dev/null; then
    echo "install buildah and python3-venv by hand: there is no apt-get here" >&2
    exit 1
fi
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends buildah crun python3 python3-venv > /dev/null
