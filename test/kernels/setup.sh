#!/usr/bin/env bash
# Installs the Debian packages that the kernel matrix needs, those that are
# missing only. Elsewhere than on Debian, or without root, it names them and
# goes on: what needs one will say so.
set -euo pipefail

# Program and the package that brings it.
needed=(
	qemu-system-x86_64 qemu-system-x86
	cpio cpio
	depmod kmod
	xz xz-utils
)

missing=()
for ((i = 0; i < ${#needed[@]}; i += 2)); do
	command -v "${needed[i]}" >/dev/null || missing+=("${needed[i + 1]}")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
	echo "kernels-setup: not installed, and not to be installed from here (needs apt-get and root): ${missing[*]}" >&2
	exit 0
fi
echo "kernels-setup: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
