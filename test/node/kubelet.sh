#!/usr/bin/env bash
# Runs kubelet with the arguments that it is given. One that is started again
# sets the CPU weight of the cgroup for best-effort pods, and ends if it cannot:
# so it does where the machine has that controller in cgroup v1. It is made to
# take the cgroup for one that it has yet to make, where that is no reason to
# end, by a list of the cgroup's controllers that cannot be read.
set -euo pipefail

if ! grep -qw cpu /sys/fs/cgroup/cgroup.controllers && [ -z "${OWN_MOUNTS:-}" ]; then
	# The others are not to see it. Kubelet's own mounts they do.
	OWN_MOUNTS=1 exec unshare --mount --propagation unchanged "$0" "$@"
fi
list=/sys/fs/cgroup/kubepods/besteffort/cgroup.controllers
if [ -n "${OWN_MOUNTS:-}" ] && [ -e "$list" ]; then
	mount --bind /run/containerd/containerd.sock "$list" # a socket cannot be opened
fi
exec kubelet "$@"
