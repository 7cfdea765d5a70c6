#!/usr/bin/env bash
# Builds the images of out/ once more, from a copy of the sources in another
# place, with an empty build cache, another umask, time zone and language, and
# compares the digests.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?the version that the images in out/ were built as}
elsewhere=$(mktemp -d)
trap 'chmod -R u+w "$elsewhere"; rm -rf "$elsewhere"' EXIT

mkdir "$elsewhere/sources"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$elsewhere/sources"
cd "$elsewhere/sources"
umask 077
for arch in amd64 arm64; do
	GOCACHE=$elsewhere/cache TZ=Asia/Tokyo LC_ALL=C.UTF-8 \
		go run ./test/image --arch "$arch" --version "$version" --out "$elsewhere/$arch.tar"
	first=$(sha256sum <"$OLDPWD/out/sidestep-agent-$arch.tar")
	second=$(sha256sum <"$elsewhere/$arch.tar")
	if [ "$first" != "$second" ]; then
		echo "image-check: $arch: the first build has the digest ${first%% *}, the second ${second%% *}" >&2
		exit 1
	fi
	echo "image-check: $arch: built twice, ${first%% *}"
done
