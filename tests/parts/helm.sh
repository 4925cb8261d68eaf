#!/usr/bin/env bash
# Builds Helm from its module into a folder, for the tests that render the chart: helm.sh FOLDER. No distribution has a
# package. It takes two to three minutes of CPU, once; without it those tests are skipped.
set -euo pipefail

folder=$1 module=helm.sh/helm/v3/cmd/helm@v3.19.5 limit_s=900
if command -v helm >/dev/null; then
  echo "helm is there"
  exit 0
fi
if [ -x "$folder/helm" ]; then
  echo "$folder/helm is there"
  exit 0
fi

cannot() {
  echo "helm: $1: install it so that helm is on the PATH (https://helm.sh; macOS: brew install helm)." >&2
  echo "helm: Without it its tests are skipped." >&2
  exit 1
}

export PATH="$PATH:/usr/local/go/bin"
command -v go >/dev/null || cannot "no Go here to build it with"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Of the Go that is here: another one would be downloaded.
GOBIN=$scratch GOTOOLCHAIN=local GOFLAGS=-trimpath timeout "$limit_s" nice go install "$module" 2>"$scratch/log" ||
  cannot "go install $module failed, or took longer than $limit_s s ($(tail -n 1 "$scratch/log" | cut -c 1-200))"
# In one step: a test that runs meanwhile finds a whole program or none.
cp "$scratch/helm" "$folder/helm.new"
mv "$folder/helm.new" "$folder/helm"
echo "built: $("$folder/helm" version --short)"
