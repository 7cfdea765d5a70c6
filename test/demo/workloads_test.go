package main

import (
	"testing"

	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// TestFederationFile keeps the file and the constants in Go together.
func TestFederationFile(t *testing.T) {
	f, err := federation.Parse(federationYAML)
	if err != nil {
		t.Fatal(err)
	}
	if f.Issuer != scene.IssuerURL || len(f.Tenants) != 1 {
		t.Errorf("issuer %s, tenants %v", f.Issuer, f.Tenants)
	}
	if _, ok := f.Vault(vaultName); !ok {
		t.Errorf("there is no vault %s", vaultName)
	}
	subjects := map[string]string{}
	for _, i := range f.Identities {
		subjects[i.Name] = i.FederatedCredentials[0].Subject
	}
	for _, w := range newPods(f).all() {
		if want := "system:serviceaccount:" + w.Namespace + ":" + w.Account; w.identity != "" && subjects[w.identity] != want {
			t.Errorf("%s is federated to %q, not to %s", w.identity, subjects[w.identity], want)
		}
	}
}
