#!/usr/bin/env bash
# Makes sure that the software TPM of the tests of TPM evidence is there.
set -euo pipefail

if command -v swtpm >/dev/null && command -v swtpm_setup >/dev/null && command -v tpm2_quote >/dev/null; then
    exit 0
fi
"$(dirname "$0")/install_debian.sh" "swtpm, swtpm_setup and tpm2-tools" swtpm swtpm-tools tpm2-tools
