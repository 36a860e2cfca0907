#!/usr/bin/env bash
# Makes sure that a Java 17 (or newer) runtime and compiler are there.
set -euo pipefail

major() { "$1" -version 2>&1 | sed -nE 's/^(openjdk version "|java version "|javac )([0-9]+).*/\2/p' | head -n 1; }

if command -v java >/dev/null && command -v javac >/dev/null; then
    if [ "$(major java)" -ge 17 ] && [ "$(major javac)" -ge 17 ]; then
        exit 0
    fi
fi
"$(dirname "$0")/install_debian.sh" "Java 17 (java and javac)" openjdk-17-jdk-headless
