package convert

import (
	"fmt"
	"testing"
)

// The Secrets Store CSI driver asks NMI on the node: nothing that steers pods
// can replace that.
func TestMountedSecretsAreNamed(t *testing.T) {
	const mounting = `---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: team, labels: {aadpodidbinding: s}}
spec:
  serviceAccountName: app
  volumes: [{name: v, csi: {driver: secrets-store.csi.k8s.io, volumeAttributes: {secretProviderClass: vault}}}]
`
	class := func(use string) string {
		return fmt.Sprintf("---\napiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\n"+
			"metadata: {name: vault, namespace: team}\nspec: {provider: azure, parameters: {usePodIdentity: %q, keyvaultName: kv}}\n", use)
	}
	identity := managed("team", "i", clientOne, namespaced, "s")
	for name, c := range map[string]struct {
		text  string
		words []string // of a warning; none: there is none about it
	}{
		"with the client of its pods": {identity + mounting + class("true"), []string{"team/vault", `usePodIdentity to "false"`, clientOne}},
		"in another spelling":         {identity + mounting + class("True"), []string{"team/vault", clientOne}},
		"without pods":                {identity + class("true"), []string{"team/vault", "the client id of the pods"}},
		"not by pod identity":         {identity + mounting + class("false"), nil},
		"mounted and not read":        {identity + mounting, []string{"team/vault", "was not read", "secretproviderclasses"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan(t, c.text, Options{Issuer: issuer})
			if len(c.words) == 0 && warned(p, "SecretProviderClass") || len(c.words) > 0 && !warned(p, c.words...) {
				t.Errorf("warnings %q", p.Warnings)
			}
		})
	}
}
