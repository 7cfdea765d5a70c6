#!/usr/bin/env bash
# Compiles the BPF programs again and compares them with the committed ones. It
# can only do so with the pinned clang, since another compiles differently;
# without it the check says so and, in CI, fails.
set -euo pipefail

clang="clang-${CLANG_VERSION:?set by the Makefile}"
installed=$("$clang" -dumpversion 2>/dev/null || true)
if [ "$installed" != "${CLANG_RELEASE:?set by the Makefile}" ]; then
	echo "generate-check: cannot run: needs $clang $CLANG_RELEASE, found ${installed:-none}" >&2
	[ -z "${CI:-}" ]
	exit
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/pkg"
cp -r go.mod go.sum bpf "$scratch/"
cp -r pkg/intercept pkg/workload "$scratch/pkg/"
rm -f "$scratch"/pkg/intercept/kernel_*_bpfel.*
(cd "$scratch" && go generate ./pkg/intercept >/dev/null)

status=0
for file in "$scratch"/pkg/intercept/kernel_*_bpfel.*; do
	cmp "$file" "pkg/intercept/${file##*/}" || status=1
done
[ "$status" -eq 0 ] || { echo "generate-check: the committed BPF objects are not those of the sources: run make generate" >&2; exit 1; }
echo "generate-check: the committed BPF objects are those of the sources"
