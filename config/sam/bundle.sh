#!/usr/bin/env bash
# Makes dist/host-ARCHITECTURE.tar.gz: all that a host without internet needs besides Amazon Linux's own packages.
# Usage: bundle.sh arm64|x86_64 [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/../.."
architecture=${1:-arm64}
python=${2:-python3}
case $architecture in
  arm64) machine=aarch64 ;;
  x86_64) machine=x86_64 ;;
  *) echo "bundle: $architecture is neither arm64 nor x86_64" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p dist "$work/wheels"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/wheels" .
# Amazon Linux 2023 has Python 3.11 and glibc 2.34.
platforms=()
for version in 34 28 17; do platforms+=(--platform "manylinux_2_${version}_$machine"); done
"$python" -m pip download --quiet --disable-pip-version-check --dest "$work/wheels" --only-binary=:all: \
  --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
  "${platforms[@]}" --platform "manylinux2014_$machine" "$work"/wheels/ingest_engine-*.whl
cp config/systemd/*.service config/sam/install.sh config/sam/*.conf config/sam/cloudwatch-agent.json "$work"
tar --sort=name --mtime='1980-01-01 UTC' --owner=0 --group=0 --numeric-owner -C "$work" -cf - . | gzip -n \
  >"dist/host-$architecture.tar.gz"
echo "dist/host-$architecture.tar.gz"
