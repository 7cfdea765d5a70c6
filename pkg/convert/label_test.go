package convert

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWhoseTemplateNeedsTheLabel(t *testing.T) {
	const hash = "7d9c5b6f4"
	controller := true
	for name, c := range map[string]struct {
		kind, owner string
		want        string // words of the command, or of what is said
		command     bool
	}{
		"Deployment":            {"ReplicaSet", "app-" + hash, "patch deployment app --type merge", true},
		"ReplicaSet of its own": {"ReplicaSet", "app", "replicaset app of namespace team: label its pod template", false},
		"StatefulSet":           {"StatefulSet", "db", "patch statefulset db --type merge", true},
		"DaemonSet":             {"DaemonSet", "agent", "patch daemonset agent --type merge", true},
		"Job":                   {"Job", "nightly-28000000", "job nightly-28000000 of namespace team: its template cannot be changed", false},
		"another controller":    {"Rollout", "app", "rollout app of namespace team: label its pod template", false},
		"no owner":              {"", "", "pod p of namespace team: create it again", false},
		"an owner for a shell":  {"Deployment", "$(reboot)", "pod p of namespace team: create it again", false},
		"a kind for a shell":    {"$(reboot)", "app", "pod p of namespace team: create it again", false},
	} {
		t.Run(name, func(t *testing.T) {
			pod := metav1.ObjectMeta{Namespace: "team", Name: "p", Labels: map[string]string{"pod-template-hash": hash}}
			if c.kind != "" {
				pod.OwnerReferences = []metav1.OwnerReference{{Kind: c.kind, Name: c.owner, Controller: &controller}}
			}
			got, command := labelChange{owner: ownerOf(&pod)}.command()
			if command != c.command || !strings.Contains(got, c.want) {
				t.Errorf("%q (a command: %v), want %q (%v)", got, command, c.want, c.command)
			}
		})
	}
}

// A workload is named once, and not at all when its pods have the label.
func TestLabelsAreNamedOnce(t *testing.T) {
	text := managed("team", "i", clientOne, namespaced, "s") +
		pod("team", "p", "app", "aadpodidbinding: s") + pod("team", "q", "app", "aadpodidbinding: s") +
		pod("team", "done", "app", `aadpodidbinding: s, "azure.workload.identity/use": "true"`)
	got := printed(t, plan(t, text, Options{Issuer: issuer}), "labels")
	if strings.Count(got, "pod p ") != 1 || strings.Count(got, "pod q ") != 1 || strings.Contains(got, "done") {
		t.Errorf("got:\n%s", got)
	}
}
