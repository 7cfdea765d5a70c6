#!/usr/bin/env bash
# Fetches the kernel of Debian's release $1, of series $2, into a folder in $3
# and prints that folder: vmlinuz, and root.cpio, an initramfs with its modules
# and the few programs that a guest needs. It is fetched once. The machine's own
# apt lends its mirror and is not changed; root is not needed.
set -euo pipefail

suite=$1 series=$2
# Another list of programs, in this script, is another folder.
folder=$3/$series-$(sha256sum "$0" | cut -c -12)
packages=(
	busybox-static coreutils util-linux libcap-ng0 libselinux1 libpcre2-8-0 libc6
	nftables libnftables1 libnftnl11 libmnl0 libxtables12 libjansson4 libedit2 libtinfo6 libbsd0 libmd0 libgmp10
)
# What is taken of them and of the kernel's package: busybox, those programs
# that tests call and that busybox does not have or cannot be (cat, called by
# another name), with their libraries, the kernel and its modules.
wanted=(
	'*/bin/busybox' '*/bin/cat' '*/bin/setpriv' '*/bin/nsenter'
	'*/sbin/nft' '*/libnftables.so.1*' '*/libnftnl.so.11*' '*/libmnl.so.0*' '*/libxtables.so.12*' '*/libjansson.so.4*'
	'*/libgmp.so.10*' '*/libedit.so.2*' '*/libtinfo.so.6*' '*/libbsd.so.0*' '*/libmd.so.0*'
	'*/libcap-ng.so.0*' '*/libselinux.so.1' '*/libpcre2-8.so.0*' '*/libc.so.6' '*/ld-linux-x86-64.so.2'
	'./boot/vmlinuz-*' '*/lib/modules/*'
)

die() {
	echo "kernels-fetch: $suite: $*" >&2
	exit 1
}

# use_own_apt points apt at lists, a cache and an empty machine in folder $1.
# It is amd64, whatever the machine is: so is the guest.
use_own_apt() {
	local mirror
	# shellcheck disable=SC2016 # the variable is apt's
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | awk 'NR == 1')
	[ -n "$mirror" ] || die "apt has no lists of a Debian mirror: is this Debian, and has apt-get update been run?"
	mkdir -p "$1/lists/partial" "$1/archives/partial"
	: >"$1/status"
	echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$1/sources.list"
	cat >"$1/apt.conf" <<-END
		Dir::State "$1";
		Dir::State::status "$1/status";
		Dir::Cache "$1";
		Dir::Etc::SourceList "$1/sources.list";
		Dir::Etc::SourceParts "-";
		APT::Architecture "amd64";
		APT::Sandbox::User "root";
	END
	export APT_CONFIG=$1/apt.conf
	apt-get update -qq
}

# kernel_package prints the name of the release's newest kernel. The cloud
# flavour leaves out drivers of hardware that a guest does not have.
kernel_package() {
	apt-cache show --no-all-versions linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2 }'
}

# unpack unpacks what is wanted of the packages in folder $1 into folder $2;
# it fails if something is in none of them.
unpack() {
	mkdir -p "$2"/usr/{bin,sbin,lib,lib64} "$2"/{boot,dev,proc,run,sys,tmp}
	ln -s usr/bin usr/sbin usr/lib usr/lib64 "$2"
	local package
	for package in "$1"/*.deb; do dpkg-deb --fsys-tarfile "$package"; done |
		tar --extract --ignore-zeros --keep-directory-symlink --directory "$2" --wildcards "${wanted[@]}"
}

# finish makes the folder $1 a root: with modules that busybox can read and
# that the kernel can ask for.
finish() {
	local release
	ln -s ../bin/busybox "$1/usr/sbin/modprobe"
	release=$(ls "$1/usr/lib/modules")
	[[ $release == "$series".* ]] || die "the kernel is $release, not $series"
	find "$1/usr/lib/modules" -name '*.ko.xz' -exec xz --decompress {} +
	depmod --basedir "$1" "$release"
}

fetch() {
	local scratch=$1
	echo "kernels-fetch: fetching the kernel of $suite" >&2
	use_own_apt "$scratch/apt"
	mkdir "$scratch/packages" "$scratch/done"
	(cd "$scratch/packages" && apt-get download -qq "$(kernel_package)" "${packages[@]}")
	unpack "$scratch/packages" "$scratch/root"
	finish "$scratch/root"
	mv "$scratch"/root/boot/vmlinuz-* "$scratch/done/vmlinuz"
	(cd "$scratch/root" && find . -print0 | cpio --quiet --null --create --format newc --owner +0:+0) >"$scratch/done/root.cpio"
	mv "$scratch/done" "$folder"
}

mkdir -p "$3"
exec 9>"$folder.lock"
flock 9
if [ ! -e "$folder" ]; then
	scratch=$(mktemp -d "$folder.XXXXXX")
	trap 'rm -rf "$scratch"' EXIT
	fetch "$scratch"
fi
echo "$folder"
