#!/usr/bin/env bash
# Runs every fuzz test of the repository in turn, each for $FUZZTIME, and stops
# at the first finding: its input is then in the package's testdata/fuzz, where
# go test runs it from then on.
set -euo pipefail

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Not a finding: as the time ends, Go before 1.27 may call that a failure
# (go.dev/issue/75804). A finding has an input that is written down.
only_time_is_up() {
	grep -qx ' *context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"
}

mapfile -t dirs < <(grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -rn1 dirname | sort -u)
count=0
for dir in "${dirs[@]}"; do
	listed=$(go -C "$dir" test -list '^Fuzz' .)
	targets=$(grep '^Fuzz' <<<"$listed" || true)
	for target in $targets; do
		echo "fuzz: $target in $dir for ${FUZZTIME:?set by the Makefile}"
		if ! go -C "$dir" test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 10s -timeout 0 . >"$log" 2>&1 &&
			! only_time_is_up; then
			cat "$log"
			echo "fuzz: $target in $dir has failed" >&2
			exit 1
		fi
		grep '^fuzz: elapsed' "$log" | tail -n 1 || true
		count=$((count + 1))
	done
done

[ "$count" -gt 0 ] || { echo "fuzz: no fuzz test was found" >&2; exit 1; }
echo "fuzz: $count fuzz tests, no finding"
