#!/usr/bin/env bash
# Builds the broker's image: build.sh BASE@sha256:DIGEST TAG [EXTRAS].  BASE has Python 3.11 or newer with venv, and coreutils.
# BUILDER is buildah (by default) or podman; words after -- go to it.
set -euo pipefail

usage() { echo "usage: build.sh BASE@sha256:DIGEST TAG [EXTRAS] [-- WORDS]" >&2; exit 2; }
[ $# -ge 2 ] || usage
base=$1 tag=$2 extras=postgres
shift 2
if [ $# -gt 0 ] && [ "$1" != -- ]; then extras=$1; shift; fi
[ $# -eq 0 ] || shift
if ! [[ $base =~ @sha256:[0-9a-f]{64}$ ]]; then
    echo "the base is named by its digest: a tag can be moved to another image" >&2
    exit 2
fi
cd "$(dirname "$0")/../.."
exec "${BUILDER:-buildah}" build --file deploy/container/Containerfile --ignorefile deploy/container/.containerignore \
    --build-arg "PYTHON_IMAGE=$base" --build-arg "EXTRAS=$extras" --tag "$tag" "$@" .
