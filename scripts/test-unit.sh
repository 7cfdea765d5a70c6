#!/usr/bin/env bash
# Runs `go test ./...` in every module that has tests, all of them whatever
# becomes of the others: the root's with the race detector. Its status is 1 if
# one failed.
set -euo pipefail
cd "$(dirname "$0")/.."

status=0
# Two images are compressed in some, which takes minutes with the race detector.
go test -race -timeout 10m ./... || status=1
while read -r module; do
	if [ -n "$(find "$module" -name '*_test.go' -print -quit)" ]; then
		# Not from the cache: some of their inputs lie outside of the module, where
		# Go does not look for changes.
		go -C "$module" test -count=1 -timeout 10m ./... || status=1
	fi
done < <(find . -mindepth 2 \( -name out -o -name node_modules -o -name testdata \) -prune -o -name go.mod -printf '%h\n' | sort)
exit "$status"
