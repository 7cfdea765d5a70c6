package convert

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	clientOne  = "11111111-1111-1111-1111-111111111111"
	clientTwo  = "22222222-2222-2222-2222-222222222222"
	namespaced = `"aadpodidentity.k8s.io/Behavior": namespaced`
)

func TestMoreCredentialsThanEntraTakes(t *testing.T) {
	for accounts, want := range map[int]bool{20: false, 21: true} {
		text := managed("team", "wide", clientOne, namespaced, "s")
		for i := range accounts {
			text += pod("team", fmt.Sprint("p", i), fmt.Sprint("account-", i), "aadpodidbinding: s")
		}
		p := plan(t, text, Options{Issuer: issuer})
		if got := warned(p, "team/wide", "would have 21", "20 is the most"); got != want {
			t.Errorf("%d accounts: warned %v, want %v: %q", accounts, got, want, p.Warnings)
		}
		if got := strings.Count(printed(t, p, "credentials"), "\naz identity federated-credential create"); got != accounts {
			t.Errorf("%d accounts, %d commands", accounts, got)
		}
	}
}

// Who gets which identity is what aad-pod-identity did: names of identities in
// the binding's namespace, values with case, other namespaces unless kept out.
func TestWhoGetsWhichIdentity(t *testing.T) {
	other := pod("other", "p", "app", "aadpodidbinding: s")
	own := pod("team", "p", "app", "aadpodidbinding: s")
	for name, c := range map[string]struct {
		text       string
		namespaced bool
		want       string // the subject; empty: none
	}{
		"own namespace":            {managed("team", "i", clientOne, namespaced, "s") + own, false, "system:serviceaccount:team:app"},
		"another namespace":        {managed("team", "i", clientOne, "", "s") + other, false, "system:serviceaccount:other:app"},
		"kept to its namespace":    {managed("team", "i", clientOne, namespaced, "s") + other, false, ""},
		"all kept":                 {managed("team", "i", clientOne, "", "s") + other, true, ""},
		"another case":             {managed("team", "i", clientOne, namespaced, "S") + own, false, ""},
		"annotation of other case": {managed("team", "i", clientOne, `"aadpodidentity.k8s.io/Behavior": Namespaced`, "s") + other, false, "system:serviceaccount:other:app"},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan(t, c.text, Options{Issuer: issuer, Namespaced: c.namespaced})
			var got []string
			for _, a := range p.accounts {
				if a.filledIn {
					got = append(got, a.subject())
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("subjects %q, want %q (%q)", got, c.want, p.Warnings)
			}
		})
	}
}

func TestDefaultIsOfThePodsOwnNamespace(t *testing.T) {
	text := managed("a-first", "theirs", clientOne, "", "s") + managed("team", "ours", clientTwo, "", "s") +
		pod("team", "p", "app", "aadpodidbinding: s")
	got := printed(t, plan(t, text, Options{Issuer: issuer}), "accounts")
	if !strings.Contains(got, "azure.workload.identity/client-id: "+clientTwo) {
		t.Errorf("the default is not the own namespace's:\n%s", got)
	}
	if !strings.Contains(got, `[{"clientId":"`+clientTwo) || !strings.Contains(got, `{"clientId":"`+clientOne) {
		t.Errorf("not both are mapped:\n%s", got)
	}
}

func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		words []string
	}{
		"cross-namespace use": {managed("team", "i", clientOne, "", "s") + pod("other", "p", "app", "aadpodidbinding: s"),
			[]string{"team/i", "every namespace", "other: remove"}},
		"the default account": {managed("team", "i", clientOne, namespaced, "s") + pod("team", "p", "default", "aadpodidbinding: s"),
			[]string{"team/default", "every pod"}},
		"two bindings of one selector": {managed("team", "one", clientOne, namespaced, "s") + managed("team", "two", clientTwo, namespaced, "s"),
			[]string{"team/one, team/two", "weight"}},
		"no pod now":                     {managed("team", "i", clientOne, namespaced, "s") + pod("team", "p", "app", "a: b"), []string{"no pod", "aadpodidbinding=s"}},
		"regions not known":              {managed("team", "i", clientOne, namespaced, "s"), []string{"regions were not checked"}},
		"a label of nothing":             {pod("team", "p", "app", "aadpodidbinding: s"), []string{"team/app", "no binding"}},
		"what is none of our business":   {"apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n", []string{`"v1 Secret"`}},
		"an identity in another version": {"apiVersion: aadpodidentity.k8s.io/v2\nkind: AzureIdentity\nmetadata: {name: a}\n", []string{"v2 AzureIdentity"}},
	} {
		t.Run(name, func(t *testing.T) {
			if p := plan(t, c.text, Options{Issuer: issuer}); !warned(p, c.words...) {
				t.Errorf("no warning with %q among %q", c.words, p.Warnings)
			}
		})
	}
}

// Strings that a cluster's users choose freely end up in a shell, in YAML and
// on a terminal: they stay strings there.
func TestHostileStrings(t *testing.T) {
	const evil = "x'; touch /tmp/owned #\\n- {a: b}\\n\\u001b[2J`id`$(id)"
	text := fmt.Sprintf(`
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentity
metadata: {name: client, namespace: team}
spec: {clientID: "%[1]s"}
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentity
metadata: {name: resource, namespace: team}
spec: {clientID: %[2]s, tenantID: "%[1]s", resourceID: "/subscriptions/%[1]s/resourceGroups/rg"}
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: selector, namespace: team}
spec: {azureIdentity: resource, selector: "%[1]s"}
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: identity, namespace: team}
spec: {azureIdentity: "%[1]s", selector: s}
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: good, namespace: team}
spec: {azureIdentity: resource, selector: s}
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzurePodIdentityException
metadata: {name: labels, namespace: team}
spec: {podLabels: {"%[1]s": "%[1]s", app: "%[1]s"}}
---
apiVersion: "%[1]s"
kind: "%[1]s"
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: team, labels: {aadpodidbinding: "%[1]s"}}
---
apiVersion: v1
kind: Pod
metadata:
  name: q
  namespace: team
  labels: {aadpodidbinding: s}
  ownerReferences: [{apiVersion: v1, kind: "%[1]s", name: "%[1]s", controller: true}]
`, evil, clientOne)
	p := plan(t, text, Options{Issuer: "https://oidc.example/it's"})
	for _, warning := range p.Warnings {
		if strings.ContainsAny(warning, "\n\x1b") {
			t.Errorf("a warning has control characters: %q", warning)
		}
	}
	if all := printed(t, p, "all"); strings.Contains(all, "\x1b") {
		t.Errorf("the output has control characters:\n%q", all)
	}
	checkShell(t, printed(t, p, "credentials"))
	checkShell(t, printed(t, p, "labels"))
	for _, document := range strings.Split(printed(t, p, "accounts"), "---\n") {
		var account map[string]any
		if err := yaml.UnmarshalStrict([]byte(document), &account); err != nil {
			t.Errorf("%v:\n%s", err, document)
		}
	}
}

// checkShell runs the script with az and kubectl that print their arguments,
// and nothing else on the path.
func checkShell(t *testing.T, script string) {
	t.Helper()
	const stubs = "PATH=/nonexistent\naz() { printf '<%s>' \"$@\"; }\nkubectl() { printf '<%s>' \"$@\"; }\n"
	out, err := exec.Command("/bin/sh", "-euc", stubs+script).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s\n%s", err, out, script)
	}
}

// What a shell makes of the command is what Entra is to compare with the token.
func TestShellSeesExactWords(t *testing.T) {
	const odd = "https://oidc.example/it's&$HOME/"
	text := managed("team", "i", clientOne, namespaced, "s") + pod("team", "p", "app.v1", "aadpodidbinding: s")
	script := "PATH=/nonexistent\naz() { for word; do printf '%s\\n' \"$word\"; done; }\n" +
		printed(t, plan(t, text, Options{Issuer: odd}), "credentials")
	out, err := exec.Command("/bin/sh", "-euc", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	words := strings.Split(strings.TrimSpace(string(out)), "\n")
	want := map[string]string{
		"--issuer": odd, "--subject": "system:serviceaccount:team:app.v1", "--audiences": "api://AzureADTokenExchange",
		"--identity-name": "i", "--resource-group": "rg", "--subscription": "aaaaaaaa-0000-0000-0000-000000000001",
	}
	for i, word := range words {
		if value, ok := want[word]; ok && words[i+1] == value {
			delete(want, word)
		}
	}
	if len(want) > 0 {
		t.Errorf("missing %q in %q", want, words)
	}
}
