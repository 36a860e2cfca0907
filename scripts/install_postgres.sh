#!/usr/bin/env bash
# Installs a PostgreSQL server (Debian or Ubuntu), without making or starting a cluster: tests run their own, in their own folder.
set -euo pipefail

server() { ls -d /usr/lib/postgresql/*/bin/postgres 2> /dev/null; }
if [ -n "$(server)" ]; then
    exit 0
fi
if ! command -v apt-get > /dev/null; then
    echo "install a PostgreSQL server (14 or newer) by hand: there is no apt-get here" >&2
    exit 1
fi
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
"${as_root[@]}" mkdir -p /etc/postgresql-common
echo "create_main_cluster = false" | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf > /dev/null
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends postgresql > /dev/null
server > /dev/null
