#!/usr/bin/env bash
# Pushes the images of out/ as one of both architectures, without a container
# engine, and prints its name with the digest. Whoever needs to log in has done
# so: crane reads what `docker login` and `crane auth login` write.
#
#   scripts/push-image.sh <crane> <registry>/<name>:<tag>
set -euo pipefail
cd "$(dirname "$0")/.."

crane=${1:?where crane is}
image=${2:?the name to push as, with a tag}
repository=${image%:*}
case ${image##*/} in
*@* | *[!A-Za-z0-9._:-]* | :* | *:) wrong=yes ;;
*:*) wrong= ;;
*) wrong=yes ;;
esac
if [ -n "$wrong" ]; then
	echo "push-image: $image is not a name with a tag, as registry.example.org/sidestep-agent:v1" >&2
	exit 1
fi

layouts=$(mktemp -d)
trap 'rm -rf "$layouts"' EXIT
manifests=()
for arch in amd64 arm64; do
	mkdir "$layouts/$arch"
	tar -xf "out/sidestep-agent-$arch.tar" -C "$layouts/$arch"
	digest=$(grep -o '"manifests":\[{[^}]*' "$layouts/$arch/index.json" | grep -o 'sha256:[0-9a-f]*')
	"$crane" push "$layouts/$arch" "$repository@$digest" >/dev/null
	manifests+=(-m "$repository@$digest")
done
"$crane" index append "${manifests[@]}" -t "$image" >/dev/null
echo "$image@$("$crane" digest "$image")"
