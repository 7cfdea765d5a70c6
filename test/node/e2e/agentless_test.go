package e2e

import (
	"strings"
	"testing"
)

// With the DaemonSet gone its programs stay: who was steered is refused, also
// a pod that was not seen yet, and who passed passes.
func TestWithoutTheAgent(t *testing.T) {
	needNode(t)
	web := pod{namespace: teamA, name: "orphan", account: "app-one", labelled: true, token: newVolume}
	exempt := pod{namespace: "kube-system", name: "exempt", account: "default", labels: map[string]string{"kubernetes.azure.com/managedby": "aks"}}
	late := web
	late.name = "late-orphan"
	start(t, web, exempt)
	if got := web.who(t); got != "app-one" {
		t.Fatalf("before: %q, want app-one", got)
	}
	kubectl(t, "-n", system, "delete", "daemonset", "sidestep-agent")
	t.Cleanup(func() { install(t, "base") })
	kubectl(t, "-n", system, "wait", "--for=delete", "pods", "-l", agentPods, "--timeout=60s")
	start(t, late)
	if got, want := web.explain(t, plugin(t)), "agent: no agent runs on node "; !strings.HasPrefix(got, want) {
		t.Errorf("explain says %q, want %q", got, want)
	}
	for _, p := range []pod{web, late} {
		got := p.who(t)
		if got != refused && !strings.Contains(got, "connection refused") {
			t.Errorf("%s gets %q, want to be refused", p.name, got)
		}
		t.Logf("%s: %s", p.name, got)
	}
	if got := exempt.who(t); got != nodes {
		t.Errorf("the exempt pod gets %q, want %q", got, nodes)
	}
	install(t, "base")
	for _, p := range []pod{web, late} {
		p.becomes(t, "app-one")
	}
}
