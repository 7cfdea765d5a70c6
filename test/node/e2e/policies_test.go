package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const instanceName = imds + "/metadata/instance/compute/name?api-version=2021-02-01&format=text"

// Unlabelled pods, static ones among them, and skipped containers under each
// policy, by the ConfigMap, while they run.
func TestUnlabelledPods(t *testing.T) {
	needNode(t)
	legacy := pod{namespace: teamC, name: "legacy", account: "default"}
	skipping := pod{namespace: teamA, name: "skipping", account: "app-one", labelled: true, token: newVolume, change: withProxy}
	start(t, legacy, skipping)
	static := startStatic(t, pod{namespace: teamC, name: "static-legacy"})[0]
	steered := sinceStart(t)
	for _, tt := range []struct {
		policy, token string
		metadata      bool
	}{
		{"pass", nodes, true},
		{"metadata-only", notFound, true},
		{"deny", refused, false},
	} {
		t.Run(tt.policy, func(t *testing.T) {
			reload := configure(t, "unlabeled: "+tt.policy+"\n")
			took := legacy.becomes(t, tt.token)
			t.Logf("the agent has the ConfigMap after %s, the pod feels it %s later",
				reload.Round(10*time.Millisecond), took.Round(10*time.Millisecond))
			if got := legacy.who(t, "-mapped"); got != tt.token {
				t.Errorf("by an IPv6 socket it gets %q, want %q", got, tt.token)
			}
			got := legacy.get(t, instanceName)
			if (got.Status == 200 && got.Body != "") != tt.metadata {
				t.Errorf("the VM's name: %+v, want one: %t", got, tt.metadata)
			}
			static.becomes(t, tt.token)
			skipping.in("proxy").becomes(t, tt.token)
			skipping.becomes(t, "app-one")
		})
	}
	steered(t)
}

// sinceStart returns a function that fails the test if a labelled pod, alive
// all the while, has lost its identity meanwhile.
func sinceStart(t *testing.T) func(*testing.T) {
	t.Helper()
	web := pod{namespace: teamA, name: "bystander", account: "app-one", labelled: true, token: newVolume}
	start(t, web)
	return func(t *testing.T) {
		t.Helper()
		if got := web.who(t); got != "app-one" {
			t.Errorf("a labelled pod gets %q, want app-one", got)
		}
	}
}

// Exceptions reach the metadata service itself, labelled or not.
func TestExceptions(t *testing.T) {
	needNode(t)
	csi := pod{namespace: "kube-system", name: "csi", account: "default", labels: map[string]string{"kubernetes.azure.com/managedby": "aks"}}
	// aad-pod-identity's own exception, for its MIC.
	mic := pod{namespace: teamC, name: "mic", account: "default", labelled: true, labels: map[string]string{"app": "mic", "component": "mic"}}
	other := pod{namespace: teamC, name: "other", account: "default", labels: map[string]string{"app": "mic"}}
	start(t, csi, mic, other)
	configure(t, `unlabeled: deny
exceptions:
- namespaces: [kube-system]
  podSelector: {matchLabels: {kubernetes.azure.com/managedby: aks}}
- podSelector: {matchLabels: {app: mic, component: mic}}
`)
	other.becomes(t, refused)
	for _, p := range []pod{csi, mic} {
		if got := p.who(t); got != nodes {
			t.Errorf("%s gets %q, want %q", p.name, got, nodes)
		}
		if got := p.get(t, instanceName); got.Status != 200 || strings.TrimSpace(got.Body) == "" {
			t.Errorf("%s asks for the VM's name: %+v", p.name, got)
		}
	}
}

// A configuration with a mistake is refused, with an event about the node, and
// the former one stays applied.
func TestWrongConfiguration(t *testing.T) {
	needNode(t)
	legacy := pod{namespace: teamC, name: "denied", account: "default"}
	start(t, legacy)
	configure(t, "unlabeled: deny\n")
	legacy.becomes(t, refused)
	putConfig(t, configHead+"unlabelled: pass\n", refusal)
	if got := legacy.who(t); got != refused {
		t.Errorf("gets %q, want %q still", got, refused)
	}
	eventually(t, 10*time.Second, func() error {
		events := kubectl(t, "-n", "default", "get", "events", "--field-selector", "involvedObject.kind=Node",
			"-o", "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}")
		for line := range strings.Lines(events) {
			if strings.Contains(line, "unlabelled") {
				t.Log(line)
				return nil
			}
		}
		return fmt.Errorf("no event names the mistake, in %q", events)
	})
}
