#!/usr/bin/env bash
# Builds what of the node rig is in this tree, the programs of cmd/ and the
# stand-ins, and the images that every node has: the sandbox's, a shell, and
# the clients of the tests.
# Prints the folder that they are in, beside the Kubernetes in folder $1.
set -euo pipefail
# shellcheck source=test/node/env.sh
. "$(dirname "$0")/env.sh"

tools=${1%/*}/tools
mkdir -p "$tools"
CGO_ENABLED=0 go -C "$tree" build -trimpath -o "$tools/" ./test/node/cmd/... ./test/standins/cmd/standins ./test/standins/cmd/tokenproxy
for client in vaultclient bindingclient; do
	CGO_ENABLED=0 go -C "$tree/test/clients/$client" build -trimpath -o "$tools/" .
done

"$tools/image" -o "$tools/pause.tar" -name sidestep.test/pause:1 \
	-file "$tools/pause:/pause" -entrypoint /pause -user 65535:65535

busybox=$(command -v busybox)
links=()
for applet in $("$busybox" --list); do
	[ "$applet" = busybox ] || links+=(-link "/bin/$applet=busybox")
done
"$tools/image" -o "$tools/busybox.tar" -name sidestep.test/busybox:1 \
	-file "$busybox:/bin/busybox" "${links[@]}" -dir /tmp:1777 -env PATH=/bin -entrypoint /bin/sh -user 65534:65534

"$tools/image" -o "$tools/clients.tar" -name sidestep.test/clients:1 \
	-file "$tools/probe:/probe" -file "$tools/vaultclient:/vaultclient" -file "$tools/bindingclient:/bindingclient" -entrypoint /probe -user 65534:65534
echo "$tools"
