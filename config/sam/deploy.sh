#!/usr/bin/env bash
# make deploy: the functions' zips and the host's software into a bucket, then the template as a stack.
# Wants BUCKET; takes STACK, ARCHITECTURE and PARAMETERS ("Name=value …", the template's own).
set -euo pipefail
cd "$(dirname "$0")/../.."
stack=${STACK:-ingest-engine}
architecture=${ARCHITECTURE:-arm64}
bin=${BIN:-.venv/bin}

for tool in sam aws; do
  command -v "$tool" >/dev/null || {
    echo "deploy: there is no $tool: install AWS's $([ "$tool" = sam ] && echo 'SAM CLI' || echo CLI)" >&2
    exit 2
  }
done
if [ -z "${BUCKET:-}" ]; then
  echo "deploy: say which bucket holds what is deployed, in the stack's region: make deploy BUCKET=name" >&2
  exit 2
fi
aws sts get-caller-identity >/dev/null || { echo "deploy: AWS takes no credentials: see the line above" >&2; exit 1; }

"$bin/python" -m lambdas.package
config/sam/bundle.sh "$architecture" "$bin/python" >/dev/null
bundle=dist/host-$architecture.tar.gz
key=ingest-engine/host-$(sha256sum "$bundle" | cut -c1-16)-$architecture.tar.gz
aws s3 cp --only-show-errors "$bundle" "s3://$BUCKET/$key"
type=c7g.xlarge
if [ "$architecture" = x86_64 ]; then type=c7i.xlarge; fi
# What stands later counts: PARAMETERS may name another type. Unquoted, as it holds several words.
# shellcheck disable=SC2086
sam deploy --template-file config/sam/template.yaml --stack-name "$stack" --s3-bucket "$BUCKET" \
  --s3-prefix ingest-engine --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset --parameter-overrides \
  "Architecture=$architecture" "InstanceType=$type" "ArtifactBucket=$BUCKET" "ArtifactKey=$key" ${PARAMETERS:-}
