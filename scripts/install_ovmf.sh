#!/usr/bin/env bash
# Makes sure that a real firmware image for TDX and SEV-SNP guests is there for the tests, on Debian and Ubuntu.
set -euo pipefail

if [ -f /usr/share/ovmf/OVMF.fd ] || ! command -v apt-get >/dev/null; then
    exit 0
fi
"$(dirname "$0")/install_debian.sh" "ovmf" ovmf
