package federation

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	tenant = "11111111-1111-4111-8111-111111111111"
	client = "22222222-2222-4222-8222-222222222222"
	object = "33333333-3333-4333-8333-333333333333"
	head   = `issuer: https://issuer.test
tenants: [` + tenant + `]
resources: [https://vault.azure.net]
nodeIdentity: {tenantId: ` + tenant + `, clientId: 44444444-4444-4444-8444-444444444444, principalId: 55555555-5555-4555-8555-555555555555, resourceId: /subscriptions/s/node}
`
	identity = `identities:
- {name: app, tenantId: ` + tenant + `, clientId: ` + client + `, principalId: ` + object + `, resourceId: /subscriptions/s/app, federatedCredentials: [%s]}
`
)

func credentials(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("{subject: s%d}", i))
	}
	return fmt.Sprintf(identity, strings.Join(all, ", "))
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, text string
		want       string // part of the error; empty: none
	}{
		{"good", head + credentials(1), ""},
		{"as many credentials as allowed", head + credentials(20), ""},
		{"the 21st credential", head + credentials(21), "A maximum of 20 federated identity credentials"},
		{"issuer and subject twice", head + fmt.Sprintf(identity, "{subject: s}, {subject: s, audience: other}"), "must be unique"},
		{"unknown field", head + "identites: []\n", "identites"},
		{"issuer without TLS", head + fmt.Sprintf(identity, "{subject: s, issuer: http://issuer.test}"), "https"},
		{"the node's id for an app", strings.ReplaceAll(head+credentials(1), object, "55555555-5555-4555-8555-555555555555"), "nodeIdentity's already"},
		{"unknown tenant", strings.Replace(head+credentials(1), "tenants: ["+tenant, "tenants: ["+client, 1), "tenantId"},
		{"right that no vault knows", head + "vaults: [{name: v, tenantId: " + tenant + ", permissions: [{principalId: " + object + ", secrets: [wipe]}]}]\n", "wipe"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			if tt.want == "" && err != nil {
				t.Fatal(err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestCredentialsGetTheirDefaults(t *testing.T) {
	f, err := Parse([]byte(head + credentials(1)))
	if err != nil {
		t.Fatal(err)
	}
	want := Credential{Subject: "s0", Issuer: "https://issuer.test", Audience: DefaultAudience}
	if got := f.Identities[0].FederatedCredentials[0]; got != want {
		t.Errorf("credential %+v, want %+v", got, want)
	}
}

// What clients ask for is there in every tenant; what somebody would have to
// install is there only if the file says so.
func TestResourcesOfEveryTenant(t *testing.T) {
	f, err := Parse([]byte(strings.Replace(head, "https://vault.azure.net", "api://shop", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for resource, want := range map[string]bool{
		"https://vault.azure.net": true, "https://storage.azure.com/": true, "https://management.core.windows.net/": true,
		"6dae42f8-4368-4678-94ff-3960e28e3630": true, "https://shop.blob.core.windows.net": true, "https://shop.dfs.core.windows.net/": true,
		"api://shop": true, "api://other": false, "https://nothing.test": false, "": false,
		"http://shop.blob.core.windows.net": false, "https://.blob.core.windows.net": false, "https://a.b.blob.core.windows.net": false,
		"https://storage.azure.com//": false, "https://storage.azure.com/.default": false,
	} {
		if got := f.HasResource(resource); got != want {
			t.Errorf("%q: %t, want %t", resource, got, want)
		}
	}
}

func TestFileIsRereadWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "federation.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(head)
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if f, _ := d.Current(); len(f.Identities) != 0 {
		t.Fatalf("%d identities in a file with none", len(f.Identities))
	}
	write(head + credentials(1))
	if f, err := d.Current(); err != nil || len(f.Identities) != 1 {
		t.Errorf("after the change: %d identities, error %v", len(f.Identities), err)
	}
	write("nonsense")
	if _, err := d.Current(); err == nil {
		t.Error("a wrong file was taken")
	}
}

func TestNodeFederationFile(t *testing.T) {
	d, err := Open("../../node/federation.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Current()
	if err != nil {
		t.Fatal(err)
	}
	vault, ok := f.Vault("tutorial")
	if !ok {
		t.Fatal("the vault is missing")
	}
	may := map[string]bool{}
	for _, i := range f.Identities {
		may[i.Name] = vault.Allows(i.PrincipalID, Set)
	}
	if !may["app-one"] || may["app-two"] || vault.Allows(f.NodeIdentity.PrincipalID, Get) {
		t.Errorf("rights on the vault: %v, the node %v; want app-one alone", may, vault.Allows(f.NodeIdentity.PrincipalID, Get))
	}
}
