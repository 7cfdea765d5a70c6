#!/usr/bin/env bash
# Puts promtool at the path given: the one that is installed, or Debian's. The
# latter is taken out of its package, which would start a Prometheus if it were
# installed.
set -euo pipefail

target=${1:?says where promtool goes}
mkdir -p "$(dirname "$target")"

if installed=$(command -v promtool); then
	ln -sf "$installed" "$target"
	exit
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
	echo "promtool: not installed, and only Debian's package is known to this script" >&2
	exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch" # apt downloads as a user of its own
cd "$scratch"
echo "promtool: taking it out of Debian's package prometheus, once"
apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
install usr/bin/promtool "$target"
