#!/usr/bin/env bash
# Makes sure that a Java 17 (or newer) runtime and compiler are there.
set -euo pipefail

major() { "$1" -version 2>&1 | sed -nE 's/^(openjdk version "|java version "|javac )([0-9]+).*/\2/p' | head -n 1; }

if command -v java >/dev/null && command -v javac >/dev/null; then
    if [ "$(major java)" -ge 17 ] && [ "$(major javac)" -ge 17 ]; then
        exit 0
    fi
fi
# Debian 12 has 17 alone, Debian 13 has 21 and 25; the packages of 25 are four times as large.
"$(dirname "$0")/install_debian.sh" "Java 17 or newer (java and javac)" "openjdk-21-jdk-headless|openjdk-17-jdk-headless|openjdk-25-jdk-headless"
