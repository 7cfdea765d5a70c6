#!/usr/bin/env bash
# Installs the Debian packages that the kernel matrix needs, those that are
# missing only.
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
exec "$(dirname "$0")/../../scripts/apt-install.sh" kernels-setup "${missing[@]}"
