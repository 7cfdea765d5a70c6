package e2e

import (
	"fmt"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// Namespaces of the tests. All are restricted but two: the pods of
// hostNamespace are on the node's network, and those of edge are of unusual
// forms.
const (
	teamA         = "team-a"
	teamB         = "team-b"
	teamC         = "team-c"
	hostNamespace = "team-host"
	edge          = "team-edge"
)

const (
	labelUse         = "azure.workload.identity/use"
	annotationClient = "azure.workload.identity/client-id"
	annotationTenant = "azure.workload.identity/tenant-id"
)

func identity(name string) federation.Identity {
	i := slices.IndexFunc(known.Identities, func(i federation.Identity) bool { return i.Name == name })
	return known.Identities[i]
}

// stranger is labelled, and its account is annotated with an identity that does
// not trust it. It is made before the tests, so that it is two minutes old when
// TestMissingFederation checks the answer to it then.
var stranger = pod{namespace: teamB, name: "stranger", account: "stranger", labelled: true, token: newVolume}

// furnish makes what more than one test uses.
func furnish() error {
	one, two := identity("app-one"), identity("app-two")
	objects := []any{
		namespace(teamA, "restricted"), namespace(teamB, "restricted"), namespace(teamC, "restricted"),
		namespace(hostNamespace, "privileged"), namespace(edge, "privileged"),
		account(teamA, "app-one", map[string]string{annotationClient: one.ClientID}),
		account(teamB, "app-two", map[string]string{annotationClient: two.ClientID}),
		account(teamA, "nobody", nil),
		account(teamB, "stranger", map[string]string{annotationClient: one.ClientID}),
		account(teamB, "abroad", map[string]string{annotationClient: two.ClientID, annotationTenant: known.Tenants[1]}),
		account(teamB, "bare", map[string]string{annotationClient: two.ClientID}),
		account(hostNamespace, "app-two", map[string]string{annotationClient: two.ClientID}),
		account(edge, "app-one", map[string]string{annotationClient: one.ClientID}),
		account(edge, "app-two", map[string]string{annotationClient: two.ClientID}),
	}
	if _, err := tryApply(objects...); err != nil {
		return err
	}
	// The API server makes no pod before its account is there.
	for _, namespace := range []string{teamC, hostNamespace, edge} {
		if _, err := tryInNode(nil, "kubectl", "-n", namespace, "wait", "--for=create", "serviceaccount/default", "--timeout=30s"); err != nil {
			return err
		}
	}
	_, err := tryApply(stranger.object())
	return err
}

// clearUp waits until all is gone, so that the tests may be run again at once.
func clearUp() {
	_, err := tryInNode(nil, "kubectl", "delete", "namespace", teamA, teamB, teamC, hostNamespace, edge)
	if err != nil {
		fmt.Fprintln(os.Stderr, "node tests: clear up:", err)
	}
}

func namespace(name, level string) *corev1.Namespace {
	return &corev1.Namespace{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			"pod-security.kubernetes.io/enforce": level,
		}},
	}
}

func account(namespace, name string, annotations map[string]string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: annotations},
	}
}
