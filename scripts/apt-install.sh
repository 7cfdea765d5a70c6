#!/usr/bin/env bash
# Installs Debian packages: apt-install.sh NAME PACKAGE..., where NAME says in
# the log who wants them. Elsewhere than on Debian, or without root, it names
# them and goes on: what needs one will say so.
set -euo pipefail

name=${1:?usage: apt-install.sh NAME PACKAGE...}
shift
[ "$#" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
	echo "$name: not installed, and not to be installed from here (needs apt-get and root): $*" >&2
	exit 0
fi
echo "$name: installing $*" >&2

# Tests start daemons of their own in their own namespaces; a package's service
# must not start on the machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
# A machine that is new may be upgrading itself: its turn ends.
wait=(-o DPkg::Lock::Timeout=600)
apt-get update -qq
apt-get "${wait[@]}" install -y -qq --no-install-recommends "$@" >/dev/null
