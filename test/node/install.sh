#!/usr/bin/env bash
# Installs Sidestep in the node that up.sh brought up, as a user would: the
# agent's image, the settings of this cluster's Entra, and
# `kubectl apply -k manifests/base`. Returns when the agent is ready. It may be
# run again, after a change of the agent or of its manifests.
set -euo pipefail
# shellcheck source=test/node/env.sh
. "$(dirname "$0")/env.sh"

is_up || die "no node is up: make node-up"
archive=$state/agent.tar
trap 'rm -f "$archive"' EXIT
version=$(git -C "$tree" describe --tags --always --dirty 2>/dev/null || echo unknown)
(cd "$tree" && go run ./test/image --arch "$(go env GOARCH)" --version "$version" --out "$archive")

digest() {
	"$rig/exec.sh" ctr --namespace k8s.io images list | awk '$1 ~ /\/sidestep-agent:/ { print $3 }'
}
before=$(digest)
"$rig/exec.sh" ctr --namespace k8s.io images import - <"$archive" >/dev/null

# In Azure the first two are not needed by workloads that the webhook injected:
# they name their tenant, and Entra's certificate is of an authority that all
# trust. The third has tests that remove the agent go on at once.
tenant=$(sed -n '/^tenants:/{n;s/^- *//p}' "$rig/federation.yaml")
"$rig/exec.sh" kubectl apply -f "$tree/manifests/base/namespace.yaml" >/dev/null
"$rig/exec.sh" kubectl apply -f - >/dev/null <<SETTINGS
apiVersion: v1
kind: ConfigMap
metadata: {name: sidestep-agent-env, namespace: sidestep-system}
data:
  SIDESTEP_TENANT_ID: $tenant
  SSL_CERT_FILE: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
  SIDESTEP_DRAIN_TIMEOUT: 2s
SETTINGS
"$rig/exec.sh" kubectl apply -k "$tree/manifests/base" >/dev/null # the node sees the machine's files
# The same tag again: the DaemonSet does not see that there is another image.
if [ -n "$before" ] && [ "$before" != "$(digest)" ]; then
	"$rig/exec.sh" kubectl -n sidestep-system rollout restart daemonset/sidestep-agent >/dev/null
fi
if ! "$rig/exec.sh" kubectl -n sidestep-system rollout status daemonset/sidestep-agent --timeout=90s >/dev/null; then
	"$rig/exec.sh" "kubectl -n sidestep-system get pods; kubectl -n sidestep-system logs daemonset/sidestep-agent --tail=20" >&2
	die "the agent is not ready"
fi
echo "node-install: the agent is ready"
