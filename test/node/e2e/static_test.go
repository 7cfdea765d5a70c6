package e2e

import (
	"encoding/json"
	"testing"
)

// staticPods is where the node's kubelet looks for them (config/kubelet.yaml).
const staticPods = "/run/node/static/"

// startStatic has the kubelet make the pods by itself, and returns them by the
// names that they have in the API. They end with the test. Static pods have
// neither a service account nor a volume with its token.
func startStatic(t *testing.T, pods ...pod) []pod {
	t.Helper()
	var mirrors []pod
	for _, p := range pods {
		object := p.object()
		object.Spec.ServiceAccountName = ""
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		file := staticPods + p.name + ".json"
		if _, err := tryInNode(text, "bash", "-c", `cat >"$0"`, file); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { inNode(t, "rm", "-f", file) })
		p.name += "-node1"
		mirrors = append(mirrors, p)
	}
	for _, p := range mirrors {
		kubectl(t, "-n", p.namespace, "wait", "--for=create", "pod/"+p.name, "--timeout=60s")
		kubectl(t, "-n", p.namespace, "wait", "--for=condition=Ready", "pod/"+p.name, "--timeout=60s")
	}
	return mirrors
}

// A static pod's cgroup bears another name than the pod that the API has. It
// has no service account, so labelled it has no identity, and not the node's.
func TestStaticPods(t *testing.T) {
	needNode(t)
	t.Parallel()
	pods := startStatic(t,
		pod{namespace: edge, name: "static-labelled", labelled: true},
		pod{namespace: edge, name: "static-host-labelled", labelled: true, hostNetwork: true},
		pod{namespace: edge, name: "static-plain"})
	for _, p := range pods[:2] {
		p.listener(t)
		p.becomes(t, notFound)
	}
	pods[2].becomes(t, nodes)
}
