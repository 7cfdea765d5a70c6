package e2e

import (
	"os"
	"strings"
	"testing"
)

// What the README shows as the first token: its manifest, in a namespace of
// the test's own, and its commands.
func TestFirstToken(t *testing.T) {
	needNode(t)
	const namespace = "team-first"
	text, err := os.ReadFile("../first-token.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.ReplaceAll(string(text), teamA, namespace))
	if _, err := tryInNode(text, "kubectl", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kubectl(t, "delete", "namespace", namespace, "--wait=false") })
	kubectl(t, "-n", namespace, "wait", "--for=condition=Ready", "pod/app", "--timeout=60s")
	if got := useVault(t, namespace, "app"); named(got.ObjectID) != "app-one" || got.Vault != "ok" {
		t.Errorf("app is %s: %+v", named(got.ObjectID), got)
	}
}
