#!/usr/bin/env bash
# Installs one of Debian's servers for the tests that start it for themselves: debian.sh BINARY PACKAGE WHAT-ELSE.
# Without it those tests are skipped, each with the reason.
set -euo pipefail

binary=$1 package=$2 elsewhere=$3
export PATH="$PATH:/usr/sbin:/usr/local/sbin"
if command -v "$binary" >/dev/null; then
  echo "$binary is there"
  exit 0
fi

cannot() {
  echo "$binary: $1: install it so that $binary is on the PATH or in /usr/sbin" >&2
  echo "$binary: ($elsewhere). Without it its tests are skipped." >&2
  exit 1
}

command -v apt-get >/dev/null || cannot "no apt-get here"
as_root=(env DEBIAN_FRONTEND=noninteractive)
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || cannot "neither root nor sudo without a password"
  as_root=(sudo -n "${as_root[@]}")
fi
# Another installation may be under way.
install=(apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$package")
# The lists of packages may be missing, or older than what the mirrors hold.
"${as_root[@]}" "${install[@]}" >/dev/null 2>&1 ||
  { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" "${install[@]}" >/dev/null; } ||
  cannot "apt-get could not install $package"
echo "installed: $("$binary" --version)"
