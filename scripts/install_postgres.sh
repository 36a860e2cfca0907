#!/usr/bin/env bash
# Makes sure that a PostgreSQL server is there, without making or starting a cluster: tests run their own, in their own folder.
set -euo pipefail

server() { ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null; }
if [ -n "$(server)" ]; then
    exit 0
fi
if command -v apt-get >/dev/null; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
"$(dirname "$0")/install_debian.sh" "a PostgreSQL server (14 or newer)" postgresql
server >/dev/null
