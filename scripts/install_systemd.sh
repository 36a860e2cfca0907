#!/usr/bin/env bash
# Makes sure that what the broker's systemd units are checked with is there: systemd's own analyser, and strace.  No service is started.
set -euo pipefail

if command -v systemd-analyze >/dev/null && command -v systemd-socket-activate >/dev/null && command -v strace >/dev/null; then
    exit 0
fi
"$(dirname "$0")/install_debian.sh" "systemd (systemd-analyze), and strace" systemd strace
