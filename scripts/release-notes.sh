#!/usr/bin/env bash
# Prints what the change log has under the version, as v1.2.3.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?the version, as v1.2.3}
notes=$(awk -v heading="## [${version#v}]" '
	index($0, heading) == 1 { inside = 1; next }
	/^## / || /^\[/ { inside = 0 }
	inside { print }' CHANGELOG.md)
[ -n "$notes" ] || { echo "release-notes: CHANGELOG.md has nothing about $version" >&2; exit 1; }
printf '%s\n' "$notes"
