package aadsts

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	clientA = "cccccccc-0000-4000-8000-00000000000a"
	tenantA = "aaaaaaaa-0000-4000-8000-00000000000a"
	vault   = "https://vault.azure.net"
)

var someFacts = Facts{
	Issuer: "https://oidc.example/tenant/cluster/", Subject: "system:serviceaccount:shop:cart", Audience: workload.TokenAudience,
	Namespace: "shop", Account: "cart", ClientID: clientA, Tenant: tenantA, Resource: vault,
}

func TestCommandsAreFilledIn(t *testing.T) {
	known := someFacts
	known.ResourceID = "/subscriptions/58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06/resourcegroups/apps/providers/Microsoft.ManagedIdentity/userAssignedIdentities/cart identity"
	api := someFacts
	api.Resource = "api://shop's"
	scope := someFacts
	scope.Resource += "/.default"
	lookUp := `read -r name group <<<"$(az identity list --query "[?clientId=='` + clientA + `'].[name,resourceGroup]" --output tsv)" && `
	credential := ` --issuer https://oidc.example/tenant/cluster/ --subject system:serviceaccount:shop:cart --audiences api://AzureADTokenExchange`
	for _, tc := range []struct {
		code  string
		facts Facts
		want  string
	}{
		{"AADSTS700213", someFacts, lookUp + `az identity federated-credential create --name shop-cart-55d43868 --identity-name "$name" --resource-group "$group"` + credential},
		{"AADSTS70021", known, `az identity federated-credential create --name shop-cart-55d43868 --identity-name 'cart identity' --resource-group apps --subscription 58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06` + credential},
		{"AADSTS700212", someFacts, lookUp + `az identity federated-credential update --name "$(az identity federated-credential list --identity-name "$name" --resource-group "$group" --query '[?issuer=='\''https://oidc.example/tenant/cluster/'\'' && subject=='\''system:serviceaccount:shop:cart'\''].name' --output tsv)" --identity-name "$name" --resource-group "$group"` + credential},
		{"AADSTS700016", someFacts, `kubectl annotate serviceaccount --overwrite --namespace shop cart azure.workload.identity/tenant-id="$(az identity list --query "[?clientId=='` + clientA + `'].tenantId" --output tsv)"`},
		{"AADSTS90002", someFacts, `kubectl annotate serviceaccount --overwrite --namespace shop cart azure.workload.identity/tenant-id="$(az account show --query tenantId --output tsv)"`},
		{"AADSTS500011", api, `az ad sp create --id 'api://shop'\''s'`},
		{"AADSTS7000112", someFacts, `az ad sp update --id ` + clientA + ` --set accountEnabled=true`},
		{"AADSTS53003", someFacts, `az rest --method get --url 'https://graph.microsoft.com/v1.0/identity/conditionalAccess/policies?$select=displayName,state,conditions'`},
		{"AADSTS7000229", someFacts, `az ad sp create --id ` + clientA},
		{"AADSTS500011", scope, ""}, // no command installs a scope
		{"AADSTS50166", someFacts, ""},
		{"AADSTS90033", someFacts, ""},
		{"AADSTS123", someFacts, ""},
	} {
		got := Explain(&workload.TokenError{Code: tc.code, Description: "Entra's words"}, tc.facts)
		if diff := cmp.Diff(tc.want, got.Fix); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.code, diff)
		}
	}
}

// A command is what an administrator pastes: nothing in it may be run that a
// caller, a pod's author or an issuer made up.
func TestCommandsRunNothingOfTheFacts(t *testing.T) {
	evil := "x'y\"z`touch pwned`$(touch pwned);touch pwned\n|touch pwned&\u202e"
	f := Facts{Issuer: evil, Subject: evil, Audience: evil, Namespace: evil, Account: evil, ClientID: evil, Tenant: evil, Resource: evil}
	withID := f
	withID.ResourceID = "/subscriptions/" + strings.ReplaceAll(evil, "/", "") + "/resourceGroups/g" + evil + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + evil
	withGUID := f
	withGUID.ClientID = clientA
	// az, kubectl and timedatectl that do nothing, and no other program.
	const harmless = "set -e; PATH=/usr/bin:/bin; az() { printf 'a b\\n'; }; kubectl() { :; }; timedatectl() { :; }; "
	for row := range All() {
		code := row.Code
		for name, f := range map[string]Facts{"plain": f, "known": withID, "guid": withGUID} {
			e := Explain(&workload.TokenError{Code: code}, f)
			if strings.ContainsAny(e.Fix+e.Meaning, "\n\u202e") {
				t.Errorf("%s, %s: %q", code, name, e.Fix)
			}
			dir := t.TempDir()
			cmd := exec.Command("bash", "-c", harmless+e.Fix)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s, %s: %v: %s\n%s", code, name, err, out, e.Fix)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%s, %s ran what it should have quoted: %s", code, name, e.Fix)
			}
		}
	}
}
