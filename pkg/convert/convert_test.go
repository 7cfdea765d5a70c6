package convert

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const issuer = "https://westeurope.oic.prod-aks.azure.com/99999999-9999-9999-9999-999999999999/88888888-8888-8888-8888-888888888888/"

var regions = []string{"Malaysia South", "newzealandnorth"}

// Each folder of testdata is one cluster: its objects, and the dumps of pods
// and managed identities where somebody made them.
func TestWholeClusters(t *testing.T) {
	for _, name := range []string{"shop", "open"} {
		t.Run(name, func(t *testing.T) {
			got := printed(t, planOf(t, filepath.Join("testdata", name)), "all")
			golden := filepath.Join("testdata", name, "plan.golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Every configuration that is printed is one that the agent takes, and it is
// in audit mode.
func TestPrintedConfigurationsAreValid(t *testing.T) {
	for _, name := range []string{"shop", "open"} {
		text := printed(t, planOf(t, filepath.Join("testdata", name)), "configuration")
		c, err := config.Parse([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if c.Mode != config.ModeAudit {
			t.Errorf("%s: mode %s", name, c.Mode)
		}
		if len(c.Exceptions) < 2 || c.Exceptions[0].Namespaces[0] != "kube-system" {
			t.Errorf("%s: exceptions %v, want the default and those of the objects", name, c.Exceptions)
		}
	}
}

func TestSameObjectsInOtherForms(t *testing.T) {
	const list = `{"apiVersion":"aadpodidentity.k8s.io/v1","kind":"AzureIdentityList","items":[{"metadata":{"name":"a","namespace":"team"},
		"spec":{"type":1,"clientID":"11111111-1111-1111-1111-111111111111","tenantID":"contoso.example"}}]}
		{"apiVersion":"aadpodidentity.k8s.io/v1","kind":"AzureIdentityBinding","metadata":{"name":"b","namespace":"team"},
		"spec":{"azureIdentity":"a","selector":"s"}}`
	const documents = `
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentity
metadata: {name: a, namespace: team}
spec: {type: 1, clientID: 11111111-1111-1111-1111-111111111111, tenantID: contoso.example}
---
# nothing
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: b, namespace: team}
spec: {azureIdentity: a, selector: s}
`
	var texts []string
	for _, in := range []string{list, documents} {
		texts = append(texts, printed(t, plan(t, in, Options{Issuer: issuer}), "all"))
	}
	if diff := cmp.Diff(texts[0], texts[1]); diff != "" {
		t.Errorf("(-JSON +YAML):\n%s", diff)
	}
	if !strings.Contains(texts[0], "contoso.example") {
		t.Errorf("the tenant is missing:\n%s", texts[0])
	}
}

func TestWhatCannotBeReadIsAnError(t *testing.T) {
	const twice = "apiVersion: aadpodidentity.k8s.io/v1\nkind: AzureIdentity\nmetadata: {name: a, namespace: team}\n"
	for name, in := range map[string]struct {
		text string
		want error // nil: any
	}{
		"not YAML":           {"{", nil},
		"a scalar":           {"7", nil},
		"a type that is not": {"apiVersion: aadpodidentity.k8s.io/v1\nkind: AzureIdentity\nmetadata: {name: a}\nspec: {type: MSI}", nil},
		"no name":            {"apiVersion: aadpodidentity.k8s.io/v1\nkind: AzureIdentity\n", ErrObject},
		"a name for a shell": {"apiVersion: v1\nkind: Pod\nmetadata: {name: '$(reboot)', namespace: team}\n", ErrObject},
		"a namespace likewise": {"apiVersion: aadpodidentity.k8s.io/v1\nkind: AzureIdentityBinding\n" +
			"metadata: {name: a, namespace: \"n\\n- evil\"}\n", ErrObject},
		"an object twice": {twice + "---\n" + twice, ErrObject},
	} {
		t.Run(name, func(t *testing.T) {
			var o Objects
			err := o.Read(strings.NewReader(in.text))
			if err == nil || in.want != nil && !errors.Is(err, in.want) {
				t.Errorf("error %v, want %v", err, in.want)
			}
		})
	}
}

func TestIssuerMustBeOne(t *testing.T) {
	for _, bad := range []string{"", "oidc.example", "http://oidc.example/", "https://", "https://oidc.example/?a=b", "https://oidc.example/\n"} {
		if _, err := New(&Objects{}, Options{Issuer: bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// planOf returns the plan for one folder of testdata.
func planOf(t *testing.T, folder string) *Plan {
	t.Helper()
	var o Objects
	for _, name := range []string{"objects.yaml", "pods.yaml", "identities.json"} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if name != "objects.yaml" && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		read := o.Read
		if name == "identities.json" {
			read = o.ReadIdentities
		}
		if err := read(bytes.NewReader(text)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	p, err := New(&o, Options{Issuer: issuer, UnsupportedRegions: regions})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// plan returns that for one text.
func plan(t *testing.T, text string, options Options) *Plan {
	t.Helper()
	var o Objects
	if err := o.Read(strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	p, err := New(&o, options)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func printed(t *testing.T, p *Plan, part string) string {
	t.Helper()
	var out bytes.Buffer
	if err := p.Print(&out, part); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// warned reports whether one of the warnings has all the words.
func warned(p *Plan, words ...string) bool {
	for _, w := range p.Warnings {
		missing := false
		for _, word := range words {
			missing = missing || !strings.Contains(w, word)
		}
		if !missing {
			return true
		}
	}
	return false
}

// managed returns an AzureIdentity and its binding in YAML.
func managed(namespace, name, client, annotations, selector string) string {
	return fmt.Sprintf(`---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentity
metadata: {name: %[2]s, namespace: %[1]s, annotations: {%[4]s}}
spec:
  clientID: %[3]s
  resourceID: /subscriptions/aaaaaaaa-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/%[2]s
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: %[2]s, namespace: %[1]s}
spec: {azureIdentity: %[2]s, selector: %[5]s}
`, namespace, name, client, annotations, selector)
}

// pod returns one in YAML.
func pod(namespace, name, account, labels string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: {%s}}\nspec: {serviceAccountName: %s}\n",
		name, namespace, labels, account)
}

// What Azure says goes before what an object says, and the lists of several
// subscriptions may follow each other.
func TestAzureKnowsBetter(t *testing.T) {
	const id = "/subscriptions/aaaaaaaa-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i"
	text := managed("team", "i", clientOne, namespaced, "s") + pod("team", "p", "app", "aadpodidbinding: s")
	for name, c := range map[string]struct {
		azure    string
		words    []string
		clientID string
		refused  bool
	}{
		"another client id": {`[] [{"clientId":"` + clientTwo + `","id":"` + strings.ToUpper(id) + `","location":"westeurope"}]`,
			[]string{clientOne, "Azure has", clientTwo}, clientTwo, false},
		"no such identity": {`[]`, []string{"team/i", "does it still exist"}, clientOne, false},
		"a region without": {`[{"clientId":"` + clientOne + `","id":"` + id + `","location":"malaysiasouth"}]`,
			[]string{"team/i", "malaysiasouth"}, clientOne, true},
	} {
		t.Run(name, func(t *testing.T) {
			var o Objects
			if err := errors.Join(o.Read(strings.NewReader(text)), o.ReadIdentities(strings.NewReader(c.azure))); err != nil {
				t.Fatal(err)
			}
			p, err := New(&o, Options{Issuer: issuer, UnsupportedRegions: regions})
			if err != nil {
				t.Fatal(err)
			}
			if !warned(p, c.words...) {
				t.Errorf("no warning with %q among %q", c.words, p.Warnings)
			}
			if got := printed(t, p, "accounts"); !strings.Contains(got, "client-id: "+c.clientID) {
				t.Errorf("not the client id %s:\n%s", c.clientID, got)
			}
			if got := strings.Contains(printed(t, p, "credentials"), "\naz identity"); got == c.refused {
				t.Errorf("a command that can be run: %v", got)
			}
		})
	}
}
