package e2e

import (
	"fmt"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	exceptionGroup = "aadpodidentity.k8s.io"
	exceptionName  = "azurepodidentityexceptions"
)

// exceptionKind is aad-pod-identity's, as far as it matters.
func exceptionKind() map[string]any {
	labels := map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}}
	schema := map[string]any{"type": "object", "properties": map[string]any{
		"spec": map[string]any{"type": "object", "properties": map[string]any{"podLabels": labels}},
	}}
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{
			"name": exceptionName + "." + exceptionGroup,
			// The API server keeps the group for those who were reviewed.
			"annotations": map[string]any{"api-approved.kubernetes.io": "unapproved, a test"},
		},
		"spec": map[string]any{
			"group": exceptionGroup, "scope": "Namespaced",
			"names": map[string]any{"kind": "AzurePodIdentityException", "plural": exceptionName, "singular": "azurepodidentityexception"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": schema},
			}},
		},
	}
}

func exception(namespace, name, key, value string) map[string]any {
	return map[string]any{
		"apiVersion": exceptionGroup + "/v1", "kind": "AzurePodIdentityException",
		"metadata": map[string]any{"namespace": namespace, "name": name},
		"spec":     map[string]any{"podLabels": map[string]any{key: value}},
	}
}

// tenant may make exceptions in its namespace, as a tenant of a cluster with
// aad-pod-identity might.
const tenant = "system:serviceaccount:" + edge + ":app-one"

func tenantsRole() []any {
	role := metav1.ObjectMeta{Namespace: edge, Name: "exceptions"}
	return []any{
		&rbacv1.Role{
			TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"}, ObjectMeta: role,
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{exceptionGroup}, Resources: []string{exceptionName}, Verbs: []string{"*"}}},
		},
		&rbacv1.RoleBinding{
			TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "RoleBinding"}, ObjectMeta: role,
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "exceptions"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: edge, Name: "app-one"}},
		},
	}
}

// AzurePodIdentityException objects exempt the pods of their namespace where
// the configuration honours them, from the moment that the cluster knows them;
// and no pod can be exempted where it does not, as it is by default.
func TestAzurePodIdentityExceptions(t *testing.T) {
	needNode(t)
	p := pod{namespace: edge, name: "exempt", account: "app-one", labelled: true, token: newVolume, labels: map[string]string{"app": "nmi"}}
	elsewhere := pod{namespace: teamA, name: "exempt", account: "app-one", labelled: true, token: newVolume, labels: map[string]string{"app": "nmi"}}
	start(t, p, elsewhere)
	apply(t, tenantsRole()...)
	put := func(key, value string) func() {
		return func() { mustList(t, []any{exception(edge, "mine", key, value)}, "apply", "--as="+tenant) }
	}
	remove := func() { kubectl(t, "-n", edge, "delete", exceptionName, "mine", "--as="+tenant) }
	for _, step := range []struct {
		name   string
		change func()
		want   string
	}{
		{"ignored, as by default", func() {}, "app-one"},
		{"honoured, in a cluster without the kind", func() { configure(t, "azurePodIdentityExceptions: honour\n") }, "app-one"},
		{"the kind and an exception come", func() { installExceptions(t); put("app", "NMI")() }, nodes},
		{"the exception changes", put("app", "mic"), "app-one"},
		{"and back", put("app", "nmi"), nodes},
		{"the exception goes", remove, "app-one"},
		{"it is back", put("app", "nmi"), nodes},
		{"ignored: its maker cannot exempt himself", func() { configure(t, "azurePodIdentityExceptions: ignore\n") }, "app-one"},
		{"honoured again", func() { configure(t, "azurePodIdentityExceptions: honour\n") }, nodes},
	} {
		step.change()
		took := p.becomes(t, step.want)
		if !agentStatus(t).Ready {
			t.Errorf("%s: the agent is not ready", step.name)
		}
		t.Logf("%s: %s, %s after it", step.name, step.want, took.Round(10*time.Millisecond))
	}
	if r, _ := p.reported(t); r.Reason != "AzurePodIdentityException "+edge+"/mine" {
		t.Errorf("the reason is %q", r.Reason)
	}
	if got := elsewhere.who(t); got != "app-one" {
		t.Errorf("a pod of another namespace gets %q, want app-one", got)
	}
}

func installExceptions(t *testing.T) {
	t.Helper()
	kind := "crd/" + exceptionName + "." + exceptionGroup
	apply(t, exceptionKind())
	t.Cleanup(func() { kubectl(t, "delete", kind, "--timeout=30s") })
	kubectl(t, "wait", "--for=condition=Established", kind, "--timeout=30s")
	eventually(t, 30*time.Second, func() error {
		// The API server serves it a moment after it says so.
		if _, err := tryInNode(nil, "kubectl", "get", exceptionName, "-A"); err != nil {
			return fmt.Errorf("not served: %w", err)
		}
		return nil
	})
}
