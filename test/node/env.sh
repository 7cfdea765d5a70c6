# What the scripts of the node rig have in common; sourced by them.
# shellcheck shell=bash disable=SC2034

rig=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(cd "$rig/../.." && pwd)

# All that the rig has on the machine while it runs: a cgroup, in which every
# process of its own is, and a folder with logs. The rest is in its namespaces
# and in file systems that end with them.
cgroup2=$(findmnt --noheadings --output TARGET --types cgroup2 | head -n 1)
cgroup=$cgroup2/sidestep-node
state=/run/sidestep-node

# Addresses in the node's network namespace. Nothing leads out of it.
node_name=node1
node_address=10.224.0.4
service_address=10.0.0.1 # the kubernetes Service
imds_address=169.254.169.254
entra_address=10.224.0.10
vault_address=10.224.0.11
entra_host=login.microsoftonline.com
vault_host=tutorial.vault.azure.net

# The issuer has to be the one that the federated credentials name.
issuer=$(sed -n 's/^issuer: *//p' "$rig/federation.yaml")

die() {
	local name=${0##*/}
	echo "node-${name%.sh}: $*" >&2
	exit 1
}

# chrooted: the root is not that of the mount namespace. runc exec would find
# itself in the namespace's root, the machine's, and not in the container's.
chrooted() {
	[ "$(stat -c %d:%i /)" != "$(nsenter --mount=/proc/self/ns/mnt stat -c %d:%i /)" ]
}

# is_up: a rig runs, and its node-up got to the end.
is_up() {
	[ -e "$state/ready" ] && grep -qsx 'populated 1' "$cgroup/cgroup.events"
}

# lock keeps a second node-up or node-down away until this one ends. It locks
# the cgroup mount's folder, which is one for all and has not to be cleaned up.
lock() {
	[ "$(id -u)" -eq 0 ] || die "needs root"
	[ -n "$cgroup2" ] || die "needs a cgroup v2 mount, found none in /proc/mounts"
	exec 8<"$cgroup2"
	flock --nonblock 8 || die "another node-up or node-down is under way"
}

# stop ends every process of the rig and removes its cgroups. Namespaces,
# mounts, links and BPF programs end with the last process.
stop() {
	[ -d "$cgroup" ] || return 0
	echo 1 >"$cgroup/cgroup.kill"
	until grep -qx 'populated 0' "$cgroup/cgroup.events"; do sleep 0.05; done
	find "$cgroup" -depth -type d -exec rmdir {} +
}

# node_pid prints the process ID, as the caller sees it, of the node's PID 1.
node_pid() {
	local pid
	while read -r pid; do
		if awk '$1 == "NSpid:" { exit !($NF == 1) }' "/proc/$pid/status"; then
			echo "$pid"
			return
		fi
	done <"$cgroup/init/cgroup.procs"
	die "the node's PID 1 is gone"
}

# check_netns fails if the network namespace of process $1 is $2, the machine's
# ("net:[inode]").
check_netns() {
	[ "$(readlink "/proc/$1/ns/net")" != "$2" ] || die "this is the machine's network namespace"
}

# check_isolated fails unless, besides, 169.254.169.254 is an address of that
# namespace: the machine's must never be sent anything. It sends nothing.
check_isolated() {
	check_netns "$1" "$2"
	nsenter --target "$1" --net ip route get "$imds_address" 2>&1 | grep -q "^local $imds_address dev lo " ||
		die "$imds_address is not known to be the node's own"
}
