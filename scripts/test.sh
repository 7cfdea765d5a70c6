#!/usr/bin/env bash
# Runs the parts of `make test`, which are make targets, each to its end whatever
# becomes of the others, and prints how each ended and how long it took:
# test.sh PART.... Its status is 1 if one failed.
#
# node-build, which is niced, runs beside the others; its output is shown before
# test-node. Nothing else runs at the same time as another: most parts keep all
# cores busy, and the node's are bound in time.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=("${@:?usage: test.sh PART...}")
logs=out/test
rm -rf "$logs"
mkdir -p "$logs"
unset MAKEFLAGS MFLAGS MAKELEVEL # the parts are no jobs of the make that runs this

# why_not prints why a part cannot be run here; nothing if it can.
why_not() {
	if [ "$(id -u)" -ne 0 ] && grep -qE "^$1:.*## .*\(root" Makefile; then
		echo "needs root"
	elif [ "$1" = test-node ] && (. test/node/env.sh && chrooted) 2>/dev/null; then
		echo "a node does not work in a chroot"
	elif [ "$1" = test-node ] && grep -qs '^FAILED' "$logs/node-build.result"; then
		echo "node-build has failed"
	fi
}

# run runs one part, and writes down its result.
run() {
	local part=$1 started=$SECONDS reason result=passed
	reason=$(why_not "$part")
	if [ -n "$reason" ]; then
		printf 'left out\t-\t%s\n' "$reason" >"$logs/$part.result"
		echo "make test: $part is left out: $reason"
		return
	fi
	echo "make test: $part"
	make --no-print-directory "$part" 2>&1 || result=FAILED
	printf '%s\t%s s\t\n' "$result" $((SECONDS - started)) >"$logs/$part.result"
	echo "make test: $part: $result after $((SECONDS - started)) s"
}

before=() after=() build=
for part in "${parts[@]}"; do
	case $part in
	node-build) build=$part ;;
	test-node) after+=("$part") ;;
	*) before+=("$part") ;;
	esac
done

# In a process group of its own, to be ended with all that it has started.
set -m
([ -z "$build" ] || run "$build") >"$logs/beside.log" 2>&1 </dev/null &
besides=$!
set +m
trap 'kill -- -"$besides" 2>/dev/null || true' EXIT

for part in "${before[@]}"; do
	run "$part" | tee "$logs/$part.log"
done
tail --lines=+1 --follow --pid="$besides" "$logs/beside.log"
wait "$besides"
for part in "${after[@]}"; do
	run "$part" | tee "$logs/$part.log"
done

status=0
echo
for part in "${parts[@]}"; do
	IFS=$'\t' read -r result took reason <"$logs/$part.result" || result=FAILED took=- reason="it has come to no end"
	printf '%-18s %-9s %8s  %s\n' "$part" "$result" "$took" "$reason"
	[ "$result" != FAILED ] || status=1
done
exit "$status"
