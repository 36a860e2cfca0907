#!/usr/bin/env bash
# Installs what the broker's systemd units are checked with (Debian or Ubuntu): systemd's own analyser, and strace.  No service is started.
set -euo pipefail

if command -v systemd-analyze > /dev/null && command -v systemd-socket-activate > /dev/null && command -v strace > /dev/null; then
    exit 0
fi
if ! command -v apt-get > /dev/null; then
    echo "install systemd (systemd-analyze) and strace by hand: there is no apt-get here" >&2
    exit 1
fi
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends systemd strace > /dev/null
