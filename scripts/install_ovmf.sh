#!/usr/bin/env bash
# Makes sure that a real firmware image for TDX and SEV-SNP guests is there for the tests: Debian's and Ubuntu's package ovmf.
set -euo pipefail

if [ -f /usr/share/ovmf/OVMF.fd ] || ! command -v apt-get >/dev/null; then
    exit 0
fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then
    sudo="sudo"
fi
echo "installing ovmf ..." >&2
$sudo apt-get update -qq >&2
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends ovmf >&2
