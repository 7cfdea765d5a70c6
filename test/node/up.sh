#!/usr/bin/env bash
# Brings up a Kubernetes node on this machine, in namespaces of its own: etcd,
# the control plane, containerd, kubelet, and the stand-ins for what exists in
# Azure only. Returns when the node is Ready, and leaves it running.
#
# Sidestep is installed in it (install.sh), unless BARE=1. IMAGES may name a
# folder whose *.tar are imported as images.
set -euo pipefail
# shellcheck source=test/node/env.sh
. "$(dirname "$0")/env.sh"

images=()
if [ -n "${IMAGES:-}" ]; then
	images=("$IMAGES"/*.tar)
	[ -e "${images[0]}" ] || die "IMAGES=$IMAGES has no *.tar"
fi

lock
! chrooted || die "does not work in a chroot: enter the folder with pivot_root (systemd-nspawn, a container), or use a machine"
! is_up || die "a node is up already; use it (node-exec), or end it first (node-down)"
# What a rig left that died without its node-down.
stop
rm -rf "$state"

"$rig/setup.sh"
bin=$("$rig/build.sh" | tail -n 1)
tools=$("$rig/tools.sh" "$bin")

# launch becomes the node. Its processes join the cgroup before the cgroup
# namespace is made, which is so rooted there; then they leave its root, which
# may have no processes if it shall have controllers.
launch() {
	exec 8<&-
	echo 0 >"$cgroup/cgroup.procs"
	# shellcheck disable=SC2016
	exec setsid env -i HOME=/root PATH="$bin:$tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
		unshare --cgroup bash -euc 'echo 0 >"$0/init/cgroup.procs"; exec unshare --mount --net --pid --ipc --uts --fork --kill-child "$@"' \
		"$cgroup" "$rig/init.sh" "$bin" "$tools" "$(readlink /proc/self/ns/net)"
}

# abandon: a node half up is of no use, but what it logged is.
abandon() {
	stop
	die "not up; the logs are in $state/log until the next node-up or node-down"
}

mkdir -m 0700 "$state" "$state/log"
mkdir "$cgroup" "$cgroup/init"
trap abandon EXIT

ready=
while read -r line; do
	if [ "$line" = READY ]; then
		ready=1
		break
	fi
	echo "$line"
done < <(launch 2>&1 </dev/null)
[ -n "$ready" ]

touch "$state/ready"
for archive in "${images[@]}"; do
	echo "node-up: importing ${archive##*/}"
	"$rig/exec.sh" ctr --namespace k8s.io images import - <"$archive" >/dev/null
done
trap - EXIT

[ -n "${BARE:-}" ] || "$rig/install.sh"
