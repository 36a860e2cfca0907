#!/usr/bin/env bash
# Makes sure that the software TPM of the tests is there: on Debian and Ubuntu it installs swtpm and tpm2-tools through apt.
set -euo pipefail

if command -v swtpm >/dev/null && command -v swtpm_setup >/dev/null && command -v tpm2_quote >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "The tests of TPM evidence need swtpm, swtpm_setup and tpm2-tools on the PATH; install them and run this again." >&2
    exit 1
fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then
    sudo="sudo"
fi
echo "installing swtpm and tpm2-tools ..." >&2
$sudo apt-get update -qq >&2
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends swtpm swtpm-tools tpm2-tools >&2
