#!/usr/bin/env bash
# Installs Debian's or Ubuntu's packages for a script beside it: install_debian.sh WHAT PACKAGE...  Fails, saying WHAT is needed, without apt.
# Of A|B|C the first that this release of the system has.
set -euo pipefail

what=$1
shift
if ! command -v apt-get >/dev/null; then
    echo "$what is needed, and there is no apt-get here: install it and run this again." >&2
    exit 1
fi
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
exec 9<"$0"
flock 9  # one at a time: apt-get does not wait for another of its kind.  What it starts, a service perhaps, does not hold the lock.
echo "installing $what ..." >&2
"${as_root[@]}" apt-get update -qq >&2 9<&-
packages=()
for wanted in "$@"; do
    IFS='|' read -ra alternatives <<<"$wanted"
    for package in "${alternatives[@]}"; do
        if [ -n "$(apt-cache madison "$package" 2>/dev/null)" ]; then break; fi
    done
    packages+=("$package")
done
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2 9<&-
