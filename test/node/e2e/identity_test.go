package e2e

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	standin "github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

func deployment(p pod) *appsv1.Deployment {
	selector := map[string]string{"app.kubernetes.io/name": p.name}
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: selector},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.allLabels()}, Spec: p.spec()},
		},
	}
}

// The main job: Deployments of two service accounts on one node get each its
// own identity through an unmodified SDK, and the vault lets in who may.
func TestDeploymentsUseTheVault(t *testing.T) {
	needNode(t)
	web := pod{namespace: teamA, name: "web", account: "app-one", labelled: true, token: newVolume}
	report := pod{namespace: teamB, name: "report", account: "app-two", labelled: true, token: oldVolume}
	asked := sinceNow[entra.Entry](t, "entra")
	opened := sinceNow[vault.Entry](t, "vault")
	leaked := sinceNow[standin.Entry](t, "imds")
	apply(t, deployment(web), deployment(report))
	t.Cleanup(func() {
		kubectl(t, "-n", teamA, "delete", "deployment", web.name, "--wait=false")
		kubectl(t, "-n", teamB, "delete", "deployment", report.name, "--wait=false")
	})
	for _, tt := range []struct {
		pod      pod
		identity string
		vault    string
	}{{web, "app-one", "ok"}, {report, "app-two", "AccessDenied"}} {
		p := tt.pod
		kubectl(t, "-n", p.namespace, "rollout", "status", "deployment", p.name, "--timeout=60s")
		got := useVault(t, p.namespace, "deployment/"+p.name)
		if named(got.ObjectID) != tt.identity || got.Vault != tt.vault {
			t.Errorf("%s/%s is %s and the vault says %q, want %s and %q (%s)",
				p.namespace, p.name, named(got.ObjectID), got.Vault, tt.identity, tt.vault, got.Error)
		}
		t.Logf("%s/%s: %s, a token after %d ms, the vault: %s", p.namespace, p.name, named(got.ObjectID), got.TokenMS, got.Vault)
	}
	checkSubjects(t, asked())
	checkAudit(t)
	for _, e := range opened() {
		if e.ObjectID != "" && (named(e.ObjectID) == "app-one") != e.Allowed {
			t.Errorf("the vault: %+v", e)
		}
	}
	for _, e := range leaked() {
		if e.Identity {
			t.Errorf("the node's metadata service was asked for an identity: %+v", e)
		}
	}
}

// checkAudit makes sure that the agent's log says who got a token, and holds
// none.
func checkAudit(t *testing.T) {
	t.Helper()
	log := kubectl(t, "-n", system, "logs", "daemonset/sidestep-agent")
	if strings.Contains(log, "eyJ") {
		t.Error("the agent's log has a token in it")
	}
	for _, account := range []string{"app-one", "app-two"} {
		if !slices.ContainsFunc(strings.Split(log, "\n"), func(line string) bool {
			return strings.Contains(line, `"event":"token_issued"`) && strings.Contains(line, `"service_account":"`+account+`"`)
		}) {
			t.Errorf("the agent's log does not say that %s got a token", account)
		}
	}
}

// checkSubjects makes sure that each service account asked for its own client
// alone, with an assertion that held.
func checkSubjects(t *testing.T, asked []entra.Entry) {
	t.Helper()
	clients := map[string]string{}
	for _, e := range asked {
		if e.Kind != entra.Token {
			continue
		}
		clients[e.Subject] = e.ClientID
		for _, i := range known.Identities {
			if i.ClientID == e.ClientID && (e.Subject != i.FederatedCredentials[0].Subject || !e.Verified) {
				t.Errorf("Entra was asked for %s: %+v", i.Name, e)
			}
		}
	}
	for _, name := range []string{"app-one", "app-two"} {
		if i := identity(name); clients[i.FederatedCredentials[0].Subject] != i.ClientID {
			t.Errorf("Entra was not asked for %s by %s", name, i.FederatedCredentials[0].Subject)
		}
	}
}

// Where the token is found, who the pod is, and through which socket it asks.
func TestTokensOfPods(t *testing.T) {
	needNode(t)
	one := identity("app-one")
	injected := map[string]string{ // by the webhook
		"AZURE_CLIENT_ID": one.ClientID, "AZURE_TENANT_ID": one.TenantID,
		"AZURE_FEDERATED_TOKEN_FILE": newVolume.mount + "/" + newVolume.file,
		"AZURE_AUTHORITY_HOST":       "https://login.microsoftonline.com/",
	}
	// The account has no annotation, but an identity trusts it.
	apply(t, account(teamA, "app-one", nil))
	t.Cleanup(func() { apply(t, account(teamA, "app-one", map[string]string{annotationClient: one.ClientID})) })
	old := pod{namespace: teamB, name: "old-volume", account: "app-two", labelled: true, token: oldVolume}
	recent := pod{namespace: teamB, name: "new-volume", account: "app-two", labelled: true, token: newVolume}
	environment := pod{namespace: teamA, name: "injected", account: "app-one", labelled: true, token: newVolume, env: injected}
	// Another pod's token is another account's: the cache is by account.
	without := pod{namespace: teamB, name: "no-volume", account: "bare", labelled: true}
	start(t, old, recent, environment, without)
	for _, tt := range []struct {
		name string
		pod  pod
		flag string
		want string
	}{
		{"volume as of webhook 1.5", old, "-bare=false", "app-two"},
		{"volume as of webhook 1.6", recent, "-bare=false", "app-two"},
		{"IPv6 socket", recent, "-mapped", "app-two"},
		{"no annotation, the webhook's environment", environment, "-bare=false", "app-one"},
		{"no header", recent, "-bare", "400 Required metadata header not specified"},
		{"no volume", without, "-bare=false", "400 the pod has no projected service account token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.pod.who(t, tt.flag); !strings.HasPrefix(got, tt.want) {
				t.Errorf("gets %q, want %q", got, tt.want)
			}
		})
	}
}

// A container's own AZURE_CLIENT_ID is its default identity, also of one that asks
// in its first moment, when its name is not known yet; never is it the default of
// another container of the pod.
func TestContainersHaveTheirOwnClientID(t *testing.T) {
	needNode(t)
	const name, heldMS = "own-client-ids", 20_000
	one := identity("app-one")
	apply(t, account(teamA, "app-one", nil))
	t.Cleanup(func() { apply(t, account(teamA, "app-one", map[string]string{annotationClient: one.ClientID})) })
	object := atOnce(pod{namespace: teamA, name: name, account: "app-one", labelled: true, token: newVolume})
	without := *object.Spec.Containers[0].DeepCopy()
	without.Name = "without"
	own := corev1.EnvVar{Name: "AZURE_CLIENT_ID", Value: one.ClientID}
	for _, c := range []*corev1.Container{&object.Spec.InitContainers[0], &object.Spec.Containers[0]} {
		c.Env = append(c.Env, own)
	}
	object.Spec.Containers = append(object.Spec.Containers, without)
	apply(t, object)
	t.Cleanup(func() { kubectl(t, "-n", teamA, "delete", "pod", name, "--wait=false") })
	kubectl(t, "-n", teamA, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+name, "--timeout=120s")
	for container, want := range map[string]string{"init": "app-one", "app": "app-one", "without": notFound} {
		got := answers(t, kubectl(t, "-n", teamA, "logs", name, "-c", container))
		if len(got) != 1 || got[0].whose() != want || got[0].MS > heldMS {
			t.Errorf("%s: %+v, want %q within %d ms", container, got, want, heldMS)
			continue
		}
		t.Logf("%s: %s after %d ms", container, got[0].whose(), got[0].MS)
	}
}

// A pod on the node's network shares its addresses, and not its identity.
func TestHostNetwork(t *testing.T) {
	needNode(t)
	labelled := pod{namespace: hostNamespace, name: "labelled", account: "app-two", labelled: true, token: newVolume, hostNetwork: true}
	plain := pod{namespace: hostNamespace, name: "plain", account: "default", hostNetwork: true}
	start(t, labelled, plain)
	if got := labelled.who(t); got != "app-two" {
		t.Errorf("the labelled pod gets %q, want app-two", got)
	}
	if got := plain.who(t); got != nodes {
		t.Errorf("the unlabelled pod gets %q, want %q", got, nodes)
	}
}
