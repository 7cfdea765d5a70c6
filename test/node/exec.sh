#!/usr/bin/env bash
# Runs a command in the node's namespaces, with kubectl, ctr and KUBECONFIG at
# hand. A single argument is a line for the shell; without one, it is a shell.
set -euo pipefail
# shellcheck source=test/node/env.sh
. "$(dirname "$0")/env.sh"

is_up || die "no node is up: make node-up"
pid=$(node_pid)
check_isolated "$pid" "$(readlink /proc/self/ns/net)"

case $# in
0) set -- bash ;;
1) set -- bash -c "$1" ;;
esac
# So that node-down ends it too. The caller's proxy leads nowhere in there.
echo 0 >"$cgroup/init/cgroup.procs"
exec nsenter --target "$pid" --mount --net --pid --ipc --uts --cgroup --wdns="$PWD" \
	env --unset=http_proxy --unset=https_proxy --unset=HTTP_PROXY --unset=HTTPS_PROXY \
	PATH="/run/node/bin:/run/node/tools:$PATH" KUBECONFIG=/run/node/pki/admin.kubeconfig KUBECACHEDIR=/run/node/kubectl "$@"
