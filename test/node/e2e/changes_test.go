package e2e

import (
	"testing"
	"time"
)

// What an administrator changes holds for pods that run already.
func TestChangesReachLivingPods(t *testing.T) {
	needNode(t)
	one := identity("app-one")
	living := pod{namespace: teamA, name: "living", account: "app-one", token: newVolume}
	start(t, living)
	uid := living.uid(t)
	label := func(change string) func() {
		return func() { kubectl(t, "-n", teamA, "label", "pod", living.name, "--overwrite", labelUse+change) }
	}
	annotate := func(change string) func() {
		return func() {
			kubectl(t, "-n", teamA, "annotate", "serviceaccount", "app-one", "--overwrite", annotationClient+change)
		}
	}
	skip := func(change string) func() {
		return func() { kubectl(t, "-n", teamA, "annotate", "pod", living.name, "--overwrite", annotationSkip+change) }
	}
	labelAccount := func(change string) func() {
		return func() { kubectl(t, "-n", teamA, "label", "serviceaccount", "app-one", "--overwrite", labelUse+change) }
	}
	t.Cleanup(annotate("=" + one.ClientID))
	t.Cleanup(labelAccount("-"))
	for _, step := range []struct {
		name   string
		change func()
		want   string
	}{
		{"without the label", func() {}, nodes},
		{"the label comes", label("=true"), "app-one"},
		{"the annotation goes", annotate("-"), notFound},
		{"the annotation comes", annotate("=" + one.ClientID), "app-one"},
		{"an exception comes", func() {
			configure(t, "exceptions: [{namespaces: ["+teamA+"], podSelector: {matchLabels: {app.kubernetes.io/name: living}}}]\n")
		}, nodes},
		{"the exception goes", func() { configure(t, "exceptions: []\n") }, "app-one"},
		{"audit: the kill switch", func() { configure(t, "mode: audit\n") }, nodes},
		{"enforce again", func() { configure(t, "mode: enforce\n") }, "app-one"},
		{"its one container is skipped", skip("=app"), nodes},
		{"and is not", skip("-"), "app-one"},
		{"out of scope", func() { configure(t, "scope: {namespaces: ["+teamB+"]}\n") }, nodes},
		{"in scope, and either label counts", func() { configure(t, "scope: {namespaces: ["+teamA+"]}\nselect: either\n") }, "app-one"},
		{"the account's label comes and the pod's goes", func() { labelAccount("=true")(); label("-")() }, "app-one"},
		{"the account's label goes", labelAccount("-"), nodes},
		{"the pod's label is back", label("=true"), "app-one"},
		{"the label goes", label("-"), nodes},
	} {
		step.change()
		took := living.becomes(t, step.want)
		t.Logf("%s: %s, %s after it", step.name, step.want, took.Round(10*time.Millisecond))
	}
	if living.uid(t) != uid {
		t.Error("the pod is another one")
	}
}
