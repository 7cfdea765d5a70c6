#!/usr/bin/env bash
# Boots the kernel in folder $1 (fetch.sh) in a guest that runs the tests in
# folder $2, and prints what they print. The kernel's console is written to
# file $3. Ends when the guest does; the guest has no network.
set -euo pipefail

kernel=$1 tests=$2 console=$3
here=$(cd "$(dirname "$0")" && pwd)

command -v qemu-system-x86_64 >/dev/null || {
	echo "kernels-guest: needs qemu-system-x86_64, which setup.sh installs on Debian" >&2
	exit 1
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/root"
cp -r "$tests" "$scratch/root/tests"
cp "$here/init" "$here/suite.sh" "$scratch/root"
# The kernel unpacks one archive after the other.
cp "$kernel/root.cpio" "$scratch/initramfs"
(cd "$scratch/root" && find . -mindepth 1 -print0 |
	cpio --quiet --null --create --format newc --owner +0:+0) >>"$scratch/initramfs"

# Without cx16, since TCG of QEMU 7.2 loses the flags now and then when a
# guest's kernel uses cmpxchg16b, and the kernel dies of that.
machine=(
	-nodefaults -no-user-config -display none -nic none -no-reboot
	-cpu 'max,-cx16' -m 1024 -kernel "$kernel/vmlinuz"
)

# works_with finds out whether a kernel boots with accelerator $1 until it
# panics, since it has no root, and ends. That there is a /dev/kvm says little:
# where it is nested it may stop at instructions that it cannot emulate.
works_with() {
	timeout --foreground 20 qemu-system-x86_64 "${machine[@]}" -accel "$1" -append panic=-1 </dev/null >/dev/null 2>&1
}

if works_with kvm; then
	accelerator=(-accel kvm -smp 2)
else
	# The guest's time is that of its instructions and not the machine's, so
	# that nothing in it is late, however busy the machine is. 6.1 does not get
	# a second processor up that way.
	accelerator=(-accel tcg -smp 1 -icount 'shift=1,sleep=off')
fi
echo "booting with ${accelerator[1]}"
# The first serial port is the kernel's console, the second the tests'.
qemu-system-x86_64 "${machine[@]}" "${accelerator[@]}" -initrd "$scratch/initramfs" \
	-append 'console=ttyS0 panic=-1 oops=panic' -serial "file:$console" -serial stdio </dev/null
