#!/usr/bin/env bash
# make image: the image on a base that is pinned by its digest, pushed to IMAGE (REPOSITORY:TAG); its own digest is
# written to dist/image.txt, as REPOSITORY@sha256:…, for whatever deploys it. Takes PLATFORM and BASE.
set -euo pipefail
cd "$(dirname "$0")/.."
platform=${PLATFORM:-linux/arm64}
base=${BASE:-$(sed -n 's/^ARG BASE=//p' Dockerfile)}
digest_form='^sha256:[0-9a-f]{64}$'

docker buildx version >/dev/null 2>&1 || { echo "image: there is no docker buildx: install Docker with its buildx plugin" >&2; exit 2; }
case ${IMAGE:-} in
  *[!a-zA-Z0-9._:/-]* | '' | *: | */) IMAGE= ;;
esac
repository=${IMAGE%:*}
if [ -z "${IMAGE:-}" ] || [ "$repository" = "$IMAGE" ] || [ "${IMAGE##*:}" != "${IMAGE##*[:/]}" ]; then
  echo "image: say where the image goes, with a tag: make image IMAGE=registry.example/ingest-engine:0.1.0" >&2
  exit 2
fi
# What the tag means now. A digest that BASE names already is taken as it is.
case $base in
  *@*) ;;
  *) base=$base@$(docker buildx imagetools inspect "$base" | sed -n 's/^Digest: *//p' | head -n 1) ;;
esac
[[ ${base##*@} =~ $digest_form ]] || { echo "image: no digest of the base is known: $base" >&2; exit 1; }

mkdir -p dist
rm -f dist/image.json dist/image.txt
docker buildx build --platform "$platform" --build-arg "BASE=$base" --provenance=mode=max --sbom=true --pull \
  --metadata-file dist/image.json --tag "$IMAGE" --push .
digest=$(sed -n 's/.*"containerimage\.digest": *"\([^"]*\)".*/\1/p' dist/image.json | head -n 1)
[[ $digest =~ $digest_form ]] || { echo "image: the build names no digest in dist/image.json" >&2; exit 1; }
echo "$repository@$digest" >dist/image.txt
echo "on $base"
cat dist/image.txt
