#!/usr/bin/env bash
# Installs the Debian packages that building, testing and the demo need, those
# that are missing only.
set -euo pipefail

packages=(
	ca-certificates # the Go module proxy
	git             # versions
	gcc libc6-dev   # the race detector
	curl            # a client in the demo
	shellcheck      # lint
	nftables iptables # rules of others beside the second line
	systemd         # runs the boot guard's unit in a test
	clang-"${CLANG_VERSION:?set by the Makefile}" llvm-"$CLANG_VERSION" libbpf-dev linux-libc-dev # BPF objects
)

missing=()
for package in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
exec "$(dirname "$0")/apt-install.sh" setup "${missing[@]}"
