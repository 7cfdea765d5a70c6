package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	notReady   = "sidestep.dev/agent-not-ready"
	otherTaint = "sidestep.test/other"
)

// taints returns the keys of the node's taints.
func taints(t *testing.T, node string) []string {
	t.Helper()
	return strings.Fields(kubectl(t, "get", "node", node, "-o", "jsonpath={.spec.taints[*].key}"))
}

func nodeName(t *testing.T) string {
	t.Helper()
	return kubectl(t, "get", "nodes", "-l", "kubernetes.io/os=linux", "-o", "jsonpath={.items[0].metadata.name}")
}

// removePermission takes back what overlays/taint and uninstall add to the
// cluster besides the base.
func removePermission(t *testing.T) {
	t.Helper()
	const name = "sidestep-agent-taint"
	kubectl(t, "delete", "--ignore-not-found", "clusterrolebinding/"+name, "clusterrole/"+name,
		"validatingadmissionpolicybinding/"+name, "validatingadmissionpolicy/"+name)
}

// On a node with the taint a labelled pod is not started before the agent is
// ready, and its first request gets it its identity. Whatever else the agent's
// token is used for on nodes is refused.
func TestTaint(t *testing.T) {
	needNode(t)
	node := nodeName(t)
	kubectl(t, "-n", system, "delete", "daemonset", "sidestep-agent")
	t.Cleanup(func() {
		removePermission(t)
		kubectl(t, "patch", "node", node, "--type=merge", "--patch", `{"spec":{"taints":null}}`)
		install(t, "base")
	})
	kubectl(t, "-n", system, "wait", "--for=delete", "pods", "-l", agentPods, "--timeout=60s")
	kubectl(t, "taint", "node", node, notReady+"=:NoSchedule", otherTaint+"=stays:PreferNoSchedule")
	p := pod{namespace: teamA, name: "early", account: "app-one", labelled: true, token: newVolume}
	apply(t, atOnce(p))
	t.Cleanup(func() { kubectl(t, "-n", teamA, "delete", "pod", p.name, "--wait=false") })
	kubectl(t, "-n", teamA, "wait", "--for=condition=PodScheduled=False", "pod/"+p.name, "--timeout=30s")

	install(t, "overlays/taint")
	kubectl(t, "-n", teamA, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+p.name, "--timeout=60s")
	var got answer
	if err := json.NewDecoder(strings.NewReader(kubectl(t, "-n", teamA, "logs", p.name, "-c", "init"))).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.whose() != "app-one" {
		t.Errorf("the pod's first request gets %q, want app-one", got.whose())
	}
	if left := taints(t, node); len(left) != 1 || left[0] != otherTaint {
		t.Errorf("taints %v, want %s alone", left, otherTaint)
	}
	t.Run("policy", func(t *testing.T) { testTaintPolicy(t, node) })
	t.Run("again", func(t *testing.T) {
		kubectl(t, "taint", "node", node, notReady+"=again:NoSchedule")
		took := eventually(t, 45*time.Second, func() error {
			if left := taints(t, node); len(left) != 1 {
				return fmt.Errorf("taints %v", left)
			}
			return nil
		})
		t.Logf("gone after %s", took.Round(time.Second))
	})
}

// testTaintPolicy sends patches of the agent's node, which has lost its taint,
// and of another.
func testTaintPolicy(t *testing.T, node string) {
	const elsewhere = "elsewhere"
	apply(t, &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: elsewhere},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: notReady, Effect: corev1.TaintEffectNoSchedule}}},
	})
	t.Cleanup(func() { kubectl(t, "delete", "node", elsewhere) })
	ofPod := tokenOfAgent(t)
	ofNobody := kubectl(t, "-n", system, "create", "token", "sidestep-agent")
	const same = `{"key":"` + otherTaint + `","value":"stays","effect":"PreferNoSchedule"}`
	for _, tt := range []struct {
		name, bearer, node, patch string
		status                    int
		says                      string
	}{
		{"what is there", ofPod, node, `{"spec":{"taints":[` + same + `]}}`, 200, ""},
		{"another taint away", ofPod, node, `{"spec":{"taints":[]}}`, 403, "the taints would not be those"},
		{"another taint changed", ofPod, node, `{"spec":{"taints":[{"key":"` + otherTaint + `","effect":"NoSchedule"}]}}`, 403, "the taints would not be those"},
		{"a taint added", ofPod, node, `{"spec":{"taints":[` + same + `,{"key":"x","effect":"NoSchedule"}]}}`, 403, "the taints would not be those"},
		{"a label", ofPod, node, `{"metadata":{"labels":{"x":"y"}}}`, 403, "metadata would change"},
		{"an annotation", ofPod, node, `{"metadata":{"annotations":{"x":"y"}}}`, 403, "metadata would change"},
		{"a finalizer", ofPod, node, `{"metadata":{"finalizers":["x.dev/y"]}}`, 403, "metadata would change"},
		{"cordoned", ofPod, node, `{"spec":{"unschedulable":true}}`, 403, "more of the node's spec"},
		{"another node", ofPod, elsewhere, `{"spec":{"taints":null}}`, 403, "does not come from a pod of the agent on this node"},
		{"no pod's token", ofNobody, node, `{"spec":{"taints":[` + same + `]}}`, 403, "does not come from a pod of the agent on this node"},
		{"an old version", ofPod, node, `{"metadata":{"resourceVersion":"1"},"spec":{"taints":[` + same + `]}}`, 409, "modified"},
	} {
		status, says := askAPI(t, tt.bearer, "PATCH", "application/merge-patch+json", "/api/v1/nodes/"+tt.node, []byte(tt.patch))
		if status != tt.status || !strings.Contains(says, tt.says) {
			t.Errorf("%s: %d %q, want %d %q", tt.name, status, says, tt.status, tt.says)
		}
		t.Logf("%s: %d %s", tt.name, status, says)
	}
	if status, _ := askAPI(t, ofPod, "PATCH", "application/merge-patch+json", "/api/v1/nodes/"+node+"/status", []byte(`{}`)); status != 403 {
		t.Errorf("the node's status: %d, want 403", status)
	}
	warnings := kubectl(t, "get", "validatingadmissionpolicy", "sidestep-agent-taint", "-o", "jsonpath={.status.typeChecking}")
	if warnings != "{}" && warnings != "" {
		t.Errorf("type checking of the policy: %s", warnings)
	}
}
