#!/usr/bin/env bash
# Fetches prometheus and promtool of Debian's package into a folder, for the tests of the alerts: prometheus.sh FOLDER.
# The package is unpacked, not installed: installed, it would start a server. Without it those tests are skipped.
set -euo pipefail

folder=$1
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
  echo "prometheus is there"
  exit 0
fi
if [ -x "$folder/prometheus" ] && [ -x "$folder/promtool" ]; then
  echo "$folder/prometheus is there"
  exit 0
fi

cannot() {
  echo "prometheus: $1: install it so that prometheus and promtool are on the PATH" >&2
  echo "prometheus: (2.42 or later; Fedora: dnf install golang-github-prometheus; macOS: brew install prometheus)." >&2
  echo "prometheus: Without it its tests are skipped." >&2
  exit 1
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || cannot "no apt-get here"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
download() { apt-get download -qq prometheus >/dev/null 2>&1; }
update() {
  if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo -n apt-get update -qq; fi >/dev/null 2>&1
}
# The lists of packages may be missing, or older than what the mirrors hold.
download || { update && download; } || cannot "apt-get could not download prometheus"
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/prometheus ./usr/bin/promtool
cd - >/dev/null
# In one step each: a test that runs meanwhile finds a whole program or none.
for name in promtool prometheus; do
  cp "$scratch/usr/bin/$name" "$folder/$name.new"
  mv "$folder/$name.new" "$folder/$name"
done
echo "fetched: $("$folder/prometheus" --version 2>&1 | head -n 1)"
