#!/usr/bin/env bash
# PID 1 of the node's namespaces, started by up.sh with the folders of its
# programs ($1, $2) and the name of the machine's network namespace ($3). It
# sets the namespaces up and starts the node's daemons in their order. What it
# prints up.sh shows, up to the line READY; everything ends when it ends.
set -euo pipefail
# shellcheck source=test/node/env.sh
. "$(dirname "$0")/env.sh"
# shellcheck disable=SC2034 # init-mounts.sh uses them
bin=$1 tools=$2
machine_netns=$3

began=${EPOCHREALTIME/./}
step() {
	local tenths=$(((${EPOCHREALTIME/./} - began) / 100000))
	echo "node-up: $((tenths / 10)).$((tenths % 10)) s  $*"
}

declare -A daemons # name to process ID

# start runs a daemon: start NAME COMMAND... By /run/node/daemons/NAME it can be
# started again when it has ended; its process ID is in NAME.pid beside it.
start() {
	local name=$1 script=/run/node/daemons/$1
	shift
	cat >"$script" <<-SCRIPT
		#!/usr/bin/env bash
		exec </dev/null >>/run/node/log/$name.log 2>&1
		echo \$\$ >$script.pid
		exec ${*@Q}
	SCRIPT
	chmod +x "$script"
	"$script" &
	daemons[$name]=$!
}

# await waits until a command succeeds, or a daemon that it needs has ended:
# await DAEMON COMMAND...
await() {
	local name=$1 tries=600
	shift
	until "$@" >/dev/null 2>&1; do
		if ! kill -0 "${daemons[$name]}" 2>/dev/null || ((tries-- == 0)); then
			echo "node-up: $name is not ready, or has ended. The last lines of its log:"
			tail -n 15 "/run/node/log/$name.log" | cut -c -400
			exit 1
		fi
		sleep 0.1
	done
}

check_netns self "$machine_netns" # /proc is the machine's still
# shellcheck source=test/node/init-mounts.sh
. "$rig/init-mounts.sh"
# shellcheck source=test/node/init-network.sh
. "$rig/init-network.sh"
check_isolated 1 "$machine_netns"

"$rig/pki.sh" /run/node/pki
# shellcheck source=test/node/init-cluster.sh
. "$rig/init-cluster.sh"

echo READY
exec >/run/node/log/init.log 2>&1
while ((${#daemons[@]})); do
	code=0
	wait -n -p ended "${daemons[@]}" || code=$?
	for name in "${!daemons[@]}"; do
		[ "${daemons[$name]}" = "$ended" ] || continue
		echo "$(date -Is) $name ended with $code"
		unset "daemons[$name]"
	done
done
sleep infinity
