#!/usr/bin/env bash
# Makes sure that a Java 17 (or newer) runtime and compiler are there: on Debian and Ubuntu it installs OpenJDK 17 through apt.
set -euo pipefail

major() { "$1" -version 2>&1 | sed -nE 's/^(openjdk version "|java version "|javac )([0-9]+).*/\2/p' | head -n 1; }

if command -v java >/dev/null && command -v javac >/dev/null; then
    if [ "$(major java)" -ge 17 ] && [ "$(major javac)" -ge 17 ]; then
        exit 0
    fi
fi
if ! command -v apt-get >/dev/null; then
    echo "Java 17 is needed (java and javac on the PATH); install OpenJDK 17 and run this again." >&2
    exit 1
fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then
    sudo="sudo"
fi
echo "installing OpenJDK 17 ..." >&2
$sudo apt-get update -qq >&2
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends openjdk-17-jdk-headless >&2
