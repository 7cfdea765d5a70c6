package e2e

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
)

// installTokenRequest applies the overlay, and takes it back when the test
// ends.
func installTokenRequest(t *testing.T) {
	t.Helper()
	const name = "sidestep-agent-token-request"
	t.Cleanup(func() {
		kubectl(t, "delete", "--ignore-not-found", "clusterrolebinding/"+name, "clusterrole/"+name,
			"validatingadmissionpolicybinding/"+name, "validatingadmissionpolicy/"+name)
		install(t, "base")
	})
	install(t, "overlays/token-request")
}

// With the overlay a pod to which no webhook added a volume gets its token all
// the same; and what the agent may ask the API server for is that and no more.
func TestTokenRequest(t *testing.T) {
	needNode(t)
	web := pod{namespace: teamA, name: "no-webhook", account: "app-one", labelled: true}
	other := pod{namespace: teamA, name: "of-nobody", account: "nobody"}
	start(t, web, other)
	// For a resource of its own: the account's token for the vault may be cached,
	// and one agent hands it to the next.
	own := tokenPath + url.QueryEscape("https://graph.microsoft.com")
	got := web.get(t, own)
	if got.Status != 400 || !strings.Contains(got.Body, "the pod has no projected service account token") {
		t.Errorf("without the overlay: %+v", got)
	}
	installTokenRequest(t)
	asked := sinceNow[entra.Entry](t, "entra")
	web.becomes(t, "app-one")
	if got := web.get(t, own).whose(); got != "app-one" {
		t.Errorf("for a resource of its own: %q, want app-one", got)
	}
	if got := useVault(t, teamA, web.name); got.Vault != "ok" {
		t.Errorf("the vault: %+v", got)
	}
	if !slices.ContainsFunc(asked(), func(e entra.Entry) bool {
		return e.Subject == "system:serviceaccount:team-a:app-one" && e.Verified
	}) {
		t.Error("Entra verified no assertion of the pod's")
	}
	t.Run("policy", func(t *testing.T) { testPolicy(t, web, other) })
}

// tokenRequest is one request to the API server.
type tokenRequest struct {
	audiences []string
	seconds   int64
	bound     *authenticationv1.BoundObjectReference
}

// ask sends it for app-one, with the bearer's token, and returns the status and
// what the API server says.
func (r tokenRequest) ask(t *testing.T, bearer string) (int, string) {
	t.Helper()
	body, err := json.Marshal(authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: r.audiences, ExpirationSeconds: ptr.To(r.seconds), BoundObjectRef: r.bound,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return askAPI(t, bearer, "POST", "application/json", "/api/v1/namespaces/"+teamA+"/serviceaccounts/app-one/token", body)
}

// askAPI sends a request to the API server with the bearer's token, and returns
// the status and what the API server says.
func askAPI(t *testing.T, bearer, method, contentType, path string, body []byte) (int, string) {
	t.Helper()
	out, err := tryInNode(body, "curl", "--silent", "--cacert", "/run/node/pki/ca.crt", "--request", method,
		"--header", "Authorization: Bearer "+bearer, "--header", "Content-Type: "+contentType,
		"--data-binary", "@-", "--write-out", "\n%{http_code}", "https://127.0.0.1:6443"+path)
	if err != nil {
		t.Fatal("the API server cannot be asked") // the error has the bearer's token in it
	}
	end := max(strings.LastIndex(out, "\n"), 0)
	status, err := strconv.Atoi(strings.TrimSpace(out[end:]))
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Message string }
	_ = json.Unmarshal([]byte(out[:end]), &said)
	return status, said.Message
}

// tokenOfAgent returns a token for the API server like that of the agent's pod.
func tokenOfAgent(t *testing.T) string {
	t.Helper()
	agent := strings.Fields(kubectl(t, "-n", system, "get", "pods", "-l", agentPods, "-o", "name"))[0]
	return kubectl(t, "-n", system, "create", "token", "sidestep-agent",
		"--bound-object-kind", "Pod", "--bound-object-name", strings.TrimPrefix(agent, "pod/"))
}

func testPolicy(t *testing.T, web, other pod) {
	ofPod := tokenOfAgent(t)
	bound := &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: web.name, UID: types.UID(web.uid(t))}
	good := tokenRequest{audiences: []string{"api://AzureADTokenExchange"}, seconds: 3600, bound: bound}
	with := func(change func(*tokenRequest)) tokenRequest {
		r, b := good, *bound
		r.bound = &b
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name    string
		request tokenRequest
		status  int
		says    string
	}{
		{"as the agent asks", good, 201, ""},
		{"for a day", with(func(r *tokenRequest) { r.seconds = 86400 }), 201, ""},
		{"another audience", with(func(r *tokenRequest) { r.audiences = []string{"https://vault"} }), 403, "the audience is not api://AzureADTokenExchange alone, but https://vault"},
		{"several audiences", with(func(r *tokenRequest) { r.audiences = append(r.audiences, "x") }), 403, "but api://AzureADTokenExchange and x"},
		{"no audience", with(func(r *tokenRequest) { r.audiences = nil }), 403, "the audience is not api://AzureADTokenExchange alone, but https://kubernetes.default.svc.cluster.local"},
		{"not bound", with(func(r *tokenRequest) { r.bound = nil }), 403, "the token is not bound to a pod by name and UID, but to nothing"},
		{"bound to a secret", with(func(r *tokenRequest) { r.bound.Kind = "Secret" }), 403, "but to Secret " + web.name},
		{"bound to the node", with(func(r *tokenRequest) { r.bound.Kind, r.bound.Name = "Node", "node1" }), 403, "but to Node node1"},
		{"bound to a pod without its UID", with(func(r *tokenRequest) { r.bound.UID = "" }), 403, "but to Pod " + web.name + " without a UID"},
		{"bound to a pod that was", with(func(r *tokenRequest) { r.bound.UID = "0b8b2c55-7d36-44d8-a0a4-6f2e3c1d9e00" }), 409, "UID"},
		{"bound to another account's pod", with(func(r *tokenRequest) { r.bound.Name, r.bound.UID = other.name, types.UID(other.uid(t)) }), 400, "different serviceaccount"},
		{"ten minutes", with(func(r *tokenRequest) { r.seconds = 600 }), 403, "the expiration is not between 3600 and 86400 seconds, but 600"},
		{"a year", with(func(r *tokenRequest) { r.seconds = 31536000 }), 403, "but 31536000"},
		{"centuries", with(func(r *tokenRequest) { r.seconds = 1 << 33 }), 422, "larger than 2^32"},
	} {
		status, says := tt.request.ask(t, ofPod)
		if status != tt.status || !strings.Contains(says, tt.says) {
			t.Errorf("%s: %d %q, want %d %q", tt.name, status, says, tt.status, tt.says)
		}
		t.Logf("%s: %d %s", tt.name, status, says)
	}
	ofNobody := kubectl(t, "-n", system, "create", "token", "sidestep-agent")
	status, says := good.ask(t, ofNobody)
	if status != 403 || !strings.Contains(says, "does not come from a pod of the agent") {
		t.Errorf("with a token of the account's alone: %d %q", status, says)
	}
	t.Logf("with a token of the account's alone: %d %s", status, says)
	// Others are not concerned.
	if got := kubectl(t, "-n", teamA, "create", "token", "app-one", "--audience", "x", "--duration", "10m"); !strings.HasPrefix(got, "eyJ") {
		t.Errorf("an administrator gets %q", got)
	}
	warnings := kubectl(t, "get", "validatingadmissionpolicy", "sidestep-agent-token-request", "-o", "jsonpath={.status.typeChecking}")
	if warnings != "{}" && warnings != "" {
		t.Errorf("type checking of the policy: %s", warnings)
	}
}
