package convert

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// twoIdentities gives selector cart one identity and selector mail another.
var twoIdentities = managed("shop", "cart", clientOne, namespaced, "cart") + managed("shop", "mail", clientTwo, namespaced, "mail")

// owned returns a pod of a workload, in YAML. An owner of kind ReplicaSet is
// one of the Deployment of that name.
func owned(name, selector, kind, ownerName, account string) string {
	ref := ownerName
	if kind == "ReplicaSet" {
		ref += "-7d9c5b6f4"
	}
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: shop\n"+
		"  labels: {aadpodidbinding: %s, pod-template-hash: 7d9c5b6f4}\n"+
		"  ownerReferences: [{apiVersion: apps/v1, kind: %s, name: %s, controller: true}]\nspec: {serviceAccountName: %s}\n",
		name, selector, kind, ref, account)
}

// Workloads that shared a service account and had different identities get an
// account each, and their templates name it.
func TestSharedAccountsAreSplit(t *testing.T) {
	p := plan(t, twoIdentities+
		owned("cart-1", "cart", "ReplicaSet", "cart", "default")+owned("cart-2", "cart", "ReplicaSet", "cart", "default")+
		owned("mail-1", "mail", "StatefulSet", "mail", "default")+owned("news-1", "mail", "DaemonSet", "news", "default"), Options{Issuer: issuer})
	got := map[string]string{}
	for _, a := range p.accounts {
		got[a.name] = a.identities[0].clientID
	}
	want := map[string]string{"cart-identity": clientOne, "mail-identity": clientTwo, "news-identity": clientTwo}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("accounts %v, want %v", got, want)
	}
	labels := printed(t, p, "labels")
	for _, words := range []string{
		`patch deployment cart --type merge --patch '{"spec":{"template":{"metadata":{"labels":{"azure.workload.identity/use":"true"}},"spec":{"serviceAccountName":"cart-identity"}}}}'`,
		`"serviceAccountName":"mail-identity"`, `"serviceAccountName":"news-identity"`,
	} {
		if strings.Count(labels, words) != 1 {
			t.Errorf("not once %s in:\n%s", words, labels)
		}
	}
	if accounts := printed(t, p, "accounts"); strings.Contains(accounts, "name: default") || !strings.Contains(accounts, "in place of default") {
		t.Errorf("accounts:\n%s", accounts)
	}
	if credentials := printed(t, p, "credentials"); strings.Contains(credentials, "shop:default") {
		t.Errorf("the shared account gets a credential:\n%s", credentials)
	}
	if !warned(p, "shop/default", "cart, mail", "imagePullSecrets", "RoleBindings") {
		t.Errorf("warnings %q", p.Warnings)
	}
}

// Who has the label already still needs the account.
func TestLabelledPodsAreMovedToo(t *testing.T) {
	labelled := strings.Replace(owned("mail-1", "mail", "ReplicaSet", "mail", "app"), "{aadpodidbinding", `{"azure.workload.identity/use": "true", aadpodidbinding`, 1)
	p := plan(t, twoIdentities+labelled+owned("cart-1", "cart", "ReplicaSet", "cart", "app"), Options{Issuer: issuer})
	if labels := printed(t, p, "labels"); !strings.Contains(labels, `"serviceAccountName":"mail-identity"`) {
		t.Errorf("labels:\n%s", labels)
	}
}

// Selectors that lead to one identity need no accounts of their own.
func TestOneIdentityNeedsNoSplit(t *testing.T) {
	p := plan(t, managed("shop", "one", clientOne, namespaced, "cart")+managed("shop", "same", clientOne, namespaced, "mail")+
		owned("cart-1", "cart", "ReplicaSet", "cart", "app")+owned("mail-1", "mail", "ReplicaSet", "mail", "app"), Options{Issuer: issuer})
	if len(p.accounts) != 1 || p.accounts[0].name != "app" {
		t.Errorf("accounts %v", p.accounts)
	}
}

// A second name is taken where pods run as the first.
func TestNewAccountsAreNobodys(t *testing.T) {
	p := plan(t, twoIdentities+owned("cart-1", "cart", "ReplicaSet", "cart", "app")+owned("mail-1", "mail", "ReplicaSet", "mail", "app")+
		pod("shop", "other", "mail-identity", "a: b"), Options{Issuer: issuer})
	for _, a := range p.accounts {
		if a.name == "mail-identity" {
			t.Errorf("%s is another pod's account", a.name)
		}
	}
	if labels := printed(t, p, "labels"); !strings.Contains(labels, `"serviceAccountName":"mail-deployment-identity"`) {
		t.Errorf("labels:\n%s", labels)
	}
}

// What cannot be split is refused whole, by name.
func TestWhatCannotBeSplitIsRefused(t *testing.T) {
	cart := owned("cart-1", "cart", "ReplicaSet", "cart", "app")
	for name, c := range map[string]struct {
		pods  string
		words []string
	}{
		"a bare pod":                       {cart + pod("shop", "mail", "app", "aadpodidbinding: mail"), []string{"shop/app", "cart, mail", "pod mail of namespace shop"}},
		"a Job":                            {cart + owned("mail-1", "mail", "Job", "mail-2800", "app"), []string{"job mail-2800"}},
		"a controller of another kind":     {cart + owned("mail-1", "mail", "Rollout", "mail", "app"), []string{"rollout mail"}},
		"two selectors of one template":    {cart + owned("cart-2", "mail", "ReplicaSet", "cart", "app"), []string{"deployment cart", "both cart and mail"}},
		"two accounts, both named at once": {cart + pod("shop", "m", "app", "aadpodidbinding: mail") + pod("shop", "a", "b", "aadpodidbinding: mail") + pod("shop", "c", "b", "aadpodidbinding: cart"), []string{"shop/app", "shop/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var o Objects
			if err := o.Read(strings.NewReader(twoIdentities + c.pods)); err != nil {
				t.Fatal(err)
			}
			p, err := New(&o, Options{Issuer: issuer})
			if p != nil || !errors.Is(err, ErrSharedAccount) {
				t.Fatalf("plan %v, error %v", p, err)
			}
			for _, word := range append(c.words, "serviceAccountName") {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q is not in: %v", word, err)
				}
			}
		})
	}
}

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
