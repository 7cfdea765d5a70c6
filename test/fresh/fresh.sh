#!/usr/bin/env bash
# Follows the README on a Debian 12 that has nothing yet: debootstrap makes it,
# with git, make and the authorities of certificates; Go is this machine's; the
# tree is a clone of this one's last commit. What runs there is the blocks of
# docs/demo.md and below "Quickstart without a cloud", as they are. A token in the demo and one on
# the node, or it fails.
#
# The node's Kubernetes is taken from this machine's cache if it is there, as it
# would be a quarter of an hour otherwise; EMPTY=1: it is not. Root; a node must
# not be up.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=test/node/env.sh
. test/node/env.sh

[ "$(id -u)" -eq 0 ] || die "needs root"
! is_up || die "a node is up: end it first (node-down)"

command -v debootstrap >/dev/null || scripts/apt-install.sh fresh debootstrap
# The mirror that this machine's apt has Debian from.
# shellcheck disable=SC2016 # apt's own names
mirror=$(apt-get indextargets --format '$(SITE) $(ORIGIN)' | awk '$2 == "Debian" { print $1; exit }')

root=$(mktemp -d "${FRESH_DIR:-/var/tmp}/sidestep-fresh.XXXXXX")
chmod 0755 "$root" # apt fetches as another user
# Its mounts are in a namespace of their own and end with it.
trap 'rm -rf --one-file-system "$root"' EXIT
echo "fresh: Debian in $root"
debootstrap --variant=minbase --include=ca-certificates,git,make bookworm "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 || {
	tail -n 5 "$root.log" >&2
	die "debootstrap failed"
}
rm "$root.log"
git clone --quiet . "$root/root/sidestep"
{
	go run ./test/docs/script docs/demo.md "The demo"
	go run ./test/docs/script README.md "Quickstart without a cloud"
} >"$root/root/commands.sh"

# So that names are found, and certificates that only this machine trusts.
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
	[ ! -e "$file" ] || cp --dereference "$file" "$root$file"
done
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sidestep/node
mkdir -p "$root/usr/local/go" "$root/root/.cache/sidestep/node" "$root/old"
[ -n "${EMPTY:-}" ] || [ ! -d "$cache" ] || cached=$cache

# A root that was entered by chroot would not do: see test/node/README.md.
# shellcheck disable=SC2016
root=$root goroot=$(go env GOROOT) cached=${cached:-} unshare --mount --propagation private bash -euc '
	mount --bind "$root" "$root"
	mount --bind -o ro "$goroot" "$root/usr/local/go"
	[ -z "$cached" ] || mount --bind "$cached" "$root/root/.cache/sidestep/node"
	mount -t proc proc "$root/proc"
	mount --rbind /sys "$root/sys"
	mount --rbind /dev "$root/dev"
	cd "$root"
	pivot_root . old
	umount --lazy /old
	cd /root/sidestep
	clean=(env --ignore-environment HOME=/root TERM=dumb PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
		http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}" no_proxy="${no_proxy:-}" GOPROXY='"$(go env GOPROXY)"' GOTOOLCHAIN=local)
	trap "\"\${clean[@]}\" make --silent node-down >/dev/null" EXIT
	"${clean[@]}" bash /root/commands.sh
' | tee "$root/printed"

# A line of the demo, and what the client on the node says of the vault.
grep -q '^demo: [0-9]* checks passed, 0 failed$' "$root/printed" || die "the demo got no token"
grep -q '"vault":"ok"' "$root/printed" || die "the pod on the node got no token"
echo "fresh: a first token in the demo, and one on the node"
