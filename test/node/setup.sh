#!/usr/bin/env bash
# Installs the Debian packages that the node rig needs, those that are missing
# only. What counts is the program, not the package: another vendor's
# containerd does as well. Elsewhere than on Debian, or without root, it names
# them and goes on: what needs one will say so.
set -euo pipefail

# Program and the package that brings it.
needed=(
	containerd containerd
	runc runc
	/usr/lib/cni/bridge containernetworking-plugins
	iptables iptables       # the kubernetes Service's address, and what tests drop
	busybox busybox-static  # a shell for pods
	ip iproute2
	unshare util-linux
	openssl openssl
	curl curl
)

missing=()
for ((i = 0; i < ${#needed[@]}; i += 2)); do
	command -v "${needed[i]}" >/dev/null || missing+=("${needed[i + 1]}")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
	echo "node-setup: not installed, and not to be installed from here (needs apt-get and root): ${missing[*]}" >&2
	exit 0
fi
echo "node-setup: installing ${missing[*]}" >&2

# The rig starts a containerd of its own in its namespaces; the package's
# service must not start one on the machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
