#!/usr/bin/env bash
# Installs the Debian packages that the node rig needs, those that are missing
# only. What counts is the program, not the package: another vendor's
# containerd does as well.
set -euo pipefail

# Program and the package that brings it.
needed=(
	containerd containerd
	runc runc
	/usr/lib/cni/portmap containernetworking-plugins
	iptables iptables       # the kubernetes Service's address, and what tests drop
	busybox busybox-static  # a shell for pods
	ip iproute2
	unshare util-linux
	openssl openssl
	curl curl
	bpftool bpftool         # a command of docs/troubleshooting.md
)

missing=()
for ((i = 0; i < ${#needed[@]}; i += 2)); do
	command -v "${needed[i]}" >/dev/null || missing+=("${needed[i + 1]}")
done
exec "$(dirname "$0")/../../scripts/apt-install.sh" node-setup "${missing[@]}"
