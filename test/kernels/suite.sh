#!/bin/sh
# Runs the test binaries in folder $1 one after another, with the flags that
# follow. Lines that begin with SYN, as those of the test binaries do, say
# which runs and how it ended: a test that prints can forge neither.
set -u
folder=$1
shift

say() { printf '\n\026=== %s\n' "$*"; }

export SIDESTEP_SUITES=1 # these are no unit tests
cd /tmp || exit
say KERNEL "$(uname -r)"
for binary in "$folder"/*.test; do
	suite=$(basename "$binary" .test)
	agent=
	if [ "$suite" = kernel ]; then agent=-attack.agent=$folder/agent; fi
	say SUITE "$suite"
	"$binary" -test.v=test2json -test.timeout=30m ${agent:+"$agent"} "$@"
	say EXIT $?
done
say END
