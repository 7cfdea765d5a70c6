package tokens

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// entrasAnswers has, for each code that is diagnosed, the status and the name
// that Entra gives it, and the kind that follows.
var entrasAnswers = map[string]struct {
	status int
	oauth  string
	kind   workload.TokenErrorKind
}{
	"AADSTS70021":   {400, "invalid_request", workload.Refused},
	"AADSTS700213":  {401, "invalid_client", workload.Refused},
	"AADSTS700211":  {401, "invalid_client", workload.Refused},
	"AADSTS700212":  {401, "invalid_client", workload.Refused},
	"AADSTS700024":  {401, "invalid_client", workload.Refused},
	"AADSTS700016":  {400, "unauthorized_client", workload.Refused},
	"AADSTS7000112": {401, "unauthorized_client", workload.Refused},
	"AADSTS7000215": {401, "invalid_client", workload.Refused},
	"AADSTS90002":   {400, "invalid_request", workload.Refused},
	"AADSTS50001":   {400, "invalid_resource", workload.InvalidResource},
	"AADSTS500011":  {400, "invalid_resource", workload.InvalidResource},
	"AADSTS53003":   {400, "invalid_grant", workload.Refused},
	"AADSTS50196":   {400, "invalid_grant", workload.Unavailable},
	"AADSTS90033":   {400, "temporarily_unavailable", workload.Unavailable},
}

func TestEachDiagnosisHasItsKindAndItsRowInTheDocs(t *testing.T) {
	docs, err := os.ReadFile("../../docs/diagnosis.md")
	if err != nil {
		t.Fatal(err)
	}
	for code := range diagnoses {
		answer, ok := entrasAnswers[code]
		if !ok {
			t.Errorf("%s is not in this test's table", code)
			continue
		}
		if got := kindOf(answer.status, entraError{name: answer.oauth, code: code}); got != answer.kind {
			t.Errorf("%s is %v, want %v", code, got, answer.kind)
		}
		action := map[workload.TokenErrorKind]string{workload.Unavailable: "held"}[answer.kind]
		if action == "" {
			action = "400"
		}
		if !strings.Contains(string(docs), "\n| "+code+" | "+action) {
			t.Errorf("docs/diagnosis.md has no row for %s with %q", code, action)
		}
	}
}

var someFacts = facts{
	issuer: "https://oidc.example/tenant/cluster/", subject: "system:serviceaccount:shop:cart", audience: workload.TokenAudience,
	namespace: "shop", account: "cart", clientID: clientA, tenant: tenantA, resource: vault,
}

func TestCommandsAreFilledIn(t *testing.T) {
	known := someFacts
	known.resourceID = "/subscriptions/58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06/resourcegroups/apps/providers/Microsoft.ManagedIdentity/userAssignedIdentities/cart identity"
	api := someFacts
	api.resource = "api://shop's"
	lookUp := `read -r name group <<<"$(az identity list --query "[?clientId=='` + clientA + `'].[name,resourceGroup]" --output tsv)" && `
	credential := ` --issuer https://oidc.example/tenant/cluster/ --subject system:serviceaccount:shop:cart --audiences api://AzureADTokenExchange`
	for _, tc := range []struct {
		code  string
		facts facts
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
		{"AADSTS90033", someFacts, ""},
		{"AADSTS123", someFacts, ""},
	} {
		got := explain(&workload.TokenError{Code: tc.code, Description: "Entra's words"}, tc.facts)
		if diff := cmp.Diff(tc.want, got.Mend); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.code, diff)
		}
	}
}

// A command is what an administrator pastes: nothing in it may be run that a
// caller, a pod's author or an issuer made up.
func TestCommandsRunNothingOfTheFacts(t *testing.T) {
	evil := "x'y\"z`touch pwned`$(touch pwned);touch pwned\n|touch pwned&\u202e"
	f := facts{issuer: evil, subject: evil, audience: evil, namespace: evil, account: evil, clientID: evil, tenant: evil, resource: evil}
	withID := f
	withID.resourceID = "/subscriptions/" + strings.ReplaceAll(evil, "/", "") + "/resourceGroups/g" + evil + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + evil
	withGUID := f
	withGUID.clientID = clientA
	// az, kubectl and timedatectl that do nothing, and no other program.
	const harmless = "set -e; PATH=/usr/bin:/bin; az() { printf 'a b\\n'; }; kubectl() { :; }; timedatectl() { :; }; "
	for code := range diagnoses {
		for name, f := range map[string]facts{"plain": f, "known": withID, "guid": withGUID} {
			e := explain(&workload.TokenError{Code: code}, f)
			if strings.ContainsAny(e.Mend+e.Meaning, "\n\u202e") {
				t.Errorf("%s, %s: %q", code, name, e.Mend)
			}
			dir := t.TempDir()
			cmd := exec.Command("bash", "-c", harmless+e.Mend)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s, %s: %v: %s\n%s", code, name, err, out, e.Mend)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%s, %s ran what it should have quoted: %s", code, name, e.Mend)
			}
		}
	}
}

func TestRefusalIsExplained(t *testing.T) {
	b := newBench(t)
	w := b.pod("shop", "cart", "web")
	b.write(w, b.assertion(w, func(c jwt.MapClaims) { c["iss"] = "https://oidc.example/" }))
	b.entra.set(func(f *fakeEntra) {
		f.refuse = refusing(http.StatusUnauthorized, 700211, "invalid_client", "AADSTS700211: No matching federated identity record found."+supportPart)
	})
	_, err := b.token(w, workload.TokenRequest{Resource: vault})
	wantTokenError(t, err, workload.Refused, "No matching federated identity record found.")
	got := asTokenError(err)
	if want := "no federated credential of the identity " + clientA + " is for the issuer https://oidc.example/, character for character"; got.Meaning != want {
		t.Errorf("meaning %q, want %q", got.Meaning, want)
	}
	if !strings.Contains(got.Mend, "--issuer https://oidc.example/ --subject system:serviceaccount:shop:cart") {
		t.Errorf("mend %q", got.Mend)
	}
	if last := b.engine.Exchanges()[0]; last.Meaning != got.Meaning || last.Mend != got.Mend {
		t.Errorf("status %+v", last)
	}
	for _, want := range []string{"No matching federated identity record found.", got.Meaning, "az identity federated-credential create"} {
		if n := strings.Count(b.log.String(), want); n != 1 {
			t.Errorf("%d times %q in the log:\n%s", n, want, b.log.String())
		}
	}
}
