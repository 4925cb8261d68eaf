#!/usr/bin/env bash
# Installs the MariaDB server (the binary alone, no service) that the tests of lambdas/aurora_mysql start for themselves.
# Without it those tests are skipped, each with the reason.
set -euo pipefail

export PATH="$PATH:/usr/sbin:/usr/local/sbin"
if command -v mariadbd >/dev/null; then
  echo "mariadbd is there"
  exit 0
fi

cannot() {
  echo "mariadb: $1: install MariaDB's server, 10.6 or later, so that mariadbd is on the PATH or in /usr/sbin" >&2
  echo "mariadb: (Fedora: dnf install mariadb-server; macOS: brew install mariadb). Without it its tests are skipped." >&2
  exit 1
}

command -v apt-get >/dev/null || cannot "no apt-get here"
as_root=(env DEBIAN_FRONTEND=noninteractive)
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || cannot "neither root nor sudo without a password"
  as_root=(sudo -n "${as_root[@]}")
fi
# Another installation may be under way.
install=(apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends mariadb-server-core)
# The lists of packages may be missing, or older than what the mirrors hold.
"${as_root[@]}" "${install[@]}" >/dev/null 2>&1 ||
  { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" "${install[@]}" >/dev/null; } ||
  cannot "apt-get could not install mariadb-server-core"
echo "installed: $(mariadbd --version)"
