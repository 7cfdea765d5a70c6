#!/usr/bin/env bash
# Ends the node that up.sh left running, or what is left of one that died.
# Afterwards nothing of it is on the machine but the cache of its programs.
set -euo pipefail
# shellcheck source=test/node/env.sh
. "$(dirname "$0")/env.sh"

lock
if [ ! -d "$cgroup" ] && [ ! -e "$state" ]; then
	echo "node-down: no node is up"
	exit
fi
stop
rm -rf "$state"
echo "node-down: nothing of the node is left"
