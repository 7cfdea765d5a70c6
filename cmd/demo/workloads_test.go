package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

func TestWriteProjected(t *testing.T) {
	dir := t.TempDir()
	if err := writeProjected(dir, "uid", "assertion"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pods/uid/volumes/kubernetes.io~projected/azure-identity-token/azure-identity-token")
	got, err := os.ReadFile(file)
	if err != nil || string(got) != "assertion" {
		t.Errorf("read %q, error %v", got, err)
	}
	if target, err := os.Readlink(file); err != nil || target != "..data/azure-identity-token" {
		t.Errorf("the file links to %q, error %v", target, err)
	}
}

// TestFederationFile keeps the file and the constants in Go together.
func TestFederationFile(t *testing.T) {
	f, err := federation.Parse(federationYAML)
	if err != nil {
		t.Fatal(err)
	}
	if f.Issuer != apiURL || !f.HasTenant(tenantID) || f.NodeIdentity.TenantID != tenantID {
		t.Errorf("issuer %s, tenants %v", f.Issuer, f.Tenants)
	}
	if _, ok := f.Vault(vaultName); !ok {
		t.Errorf("there is no vault %s", vaultName)
	}
	subjects := map[string]string{}
	for _, i := range f.Identities {
		subjects[i.Name] = i.FederatedCredentials[0].Subject
	}
	for _, w := range newCast().all() {
		if want := "system:serviceaccount:" + w.namespace + ":" + w.account; w.identity != "" && subjects[w.identity] != want {
			t.Errorf("%s is federated to %q, not to %s", w.identity, subjects[w.identity], want)
		}
	}
}
