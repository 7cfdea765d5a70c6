#!/usr/bin/env bash
# Installs the Debian packages that building, testing and the demo need, those
# that are missing only. Elsewhere than on Debian, or without root, it names
# them and goes on: what needs one will say so.
set -euo pipefail

packages=(
	ca-certificates # the Go module proxy
	git             # versions
	gcc libc6-dev   # the race detector
	curl            # a client in the demo
	shellcheck      # lint
	clang-"${CLANG_VERSION:?set by the Makefile}" llvm-"$CLANG_VERSION" libbpf-dev linux-libc-dev # BPF objects
)

missing=()
for package in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
	echo "setup: not installed, and not to be installed from here (needs apt-get and root): ${missing[*]}" >&2
	exit 0
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
