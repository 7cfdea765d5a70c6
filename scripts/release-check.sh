#!/usr/bin/env bash
# Fails unless the tree is that of the version: in the manifests, in the Helm
# chart and in the change log.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?the version, as v1.2.3}
wrong=
want() { # file, what it has, what it should have
	[ "$2" = "$3" ] && return
	echo "release-check: $1 says '$2', want '$3'" >&2
	wrong=yes
}
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]] || want "the tag" "$version" "v1.2.3 or v1.2.3-rc.1"
while read -r file; do
	want "$file" "$(sed -n 's/^ *newTag: //p' "$file")" "$version"
done < <(grep -rl --include=kustomization.yaml newTag: manifests)
want manifests/check-job.yaml "$(sed -n 's/^ *image: sidestep-agent://p' manifests/check-job.yaml)" "$version"
want "Chart.yaml's appVersion" "$(sed -n 's/^appVersion: //p' charts/sidestep-agent/Chart.yaml)" "$version"
want "Chart.yaml's version" "$(sed -n 's/^version: //p' charts/sidestep-agent/Chart.yaml)" "${version#v}"
heading="## [${version#v}]"
want CHANGELOG.md "$(grep -F -m 1 -- "$heading" CHANGELOG.md | cut -c "1-${#heading}" || true)" "$heading"
[ -z "$wrong" ]
