#!/usr/bin/env bash
# Makes sure that the software HSM of the tests is there: on Debian and Ubuntu it installs SoftHSM2 through apt.
set -euo pipefail

if command -v softhsm2-util >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "The tests of custody by PKCS#11 need SoftHSM2 (softhsm2-util on the PATH); install it and run this again." >&2
    exit 1
fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then
    sudo="sudo"
fi
echo "installing SoftHSM2 ..." >&2
$sudo apt-get update -qq >&2
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends softhsm2 >&2
