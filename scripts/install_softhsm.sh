#!/usr/bin/env bash
# Makes sure that the software HSM of the tests of custody by PKCS#11 is there.
set -euo pipefail

if command -v softhsm2-util >/dev/null; then
    exit 0
fi
"$(dirname "$0")/install_debian.sh" "SoftHSM2 (softhsm2-util)" softhsm2
