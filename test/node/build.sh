#!/usr/bin/env bash
# Builds the Kubernetes and etcd of the node rig from pinned Go modules (k8s/)
# into a cache outside the tree and prints the cache's path as its last line.
# It takes some 12 minutes on two cores the first time and a second afterwards.
# It may be stopped and started again, run in the background and run twice at
# once: a finished binary is never built again, and the second run waits.
set -euo pipefail
cd "$(dirname "$0")/k8s"
# shellcheck source=test/node/env.sh
. ../env.sh

binaries=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)
# Another pin, Go or processor is another folder, so that a cache is never
# stale and an interrupted build is taken up where it stopped.
key=$({ cat go.mod go.sum && go env GOVERSION GOARCH; } | sha256sum | cut -c -12)
bin=${XDG_CACHE_HOME:-$HOME/.cache}/sidestep/node/$key
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)

# The binaries call themselves by the release that they are. client-go says so
# in the user agent, the apiserver at /version.
ldflags="-s -w"
minor=${version#v1.}
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	ldflags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*} -X $package.gitTreeState=clean"
done

# progress shortens go build -v, which prints a line per package, to one line
# per hundred, and passes on what is no package: errors.
progress() {
	awk -v name="$1" '
		/^go: downloading / { if (++fetched % 50 == 0) say(fetched " modules fetched"); next }
		/^[a-z0-9.\/_-]+$/i { if (++compiled % 100 == 0) say(compiled " packages compiled"); next }
		{ print; fflush() }
		function say(what) { print "node-build: " name ": " what; fflush() }' >&2
}

build() {
	local package=k8s.io/kubernetes/cmd/$1
	[ "$1" != etcd ] || package=go.etcd.io/etcd/server/v3
	CGO_ENABLED=0 nice -n 19 go build -v -trimpath -ldflags "$ldflags" -o "$bin/$1.part" "$package" 2>&1 | progress "$1"
	mv "$bin/$1.part" "$bin/$1"
}

mkdir -p "$bin"
exec 9>"$bin/.lock"
flock --nonblock 9 || { echo "node-build: another build is under way, waiting for it" >&2; flock 9; }

for i in "${!binaries[@]}"; do
	name=${binaries[i]}
	[ ! -x "$bin/$name" ] || continue
	echo "node-build: $name ($((i + 1)) of ${#binaries[@]})" >&2
	started=$SECONDS
	build "$name"
	echo "node-build: $name done in $((SECONDS - started)) s" >&2
done
echo "$bin"
