package entra

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

const (
	tenant      = "11111111-1111-4111-8111-111111111111"
	otherTenant = "22222222-2222-4222-8222-222222222222"
	client      = "33333333-3333-4333-8333-333333333333"
	object      = "44444444-4444-4444-8444-444444444444"
	resourceID  = "/subscriptions/s/app"
	bareClient  = "55555555-5555-4555-8555-555555555555" // has no federated credential
	subject     = "system:serviceaccount:team-a:app-one"
	vault       = "https://vault.azure.net"
)

// rig is an Entra stand-in, the cluster that it trusts, and its log.
type rig struct {
	*httptest.Server
	server  *Server
	cluster *httptest.Server
	key     *jwks.Key // the cluster's
	clock   *clocktesting.FakePassiveClock
	log     bytes.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{key: newKey(t), clock: clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))}
	r.cluster = newCluster(t, r.key)
	directory, err := federation.Fixed(federation.File{
		Issuer:    r.cluster.URL,
		Tenants:   []string{tenant, otherTenant},
		Resources: []string{vault},
		NodeIdentity: federation.NodeIdentity{
			TenantID: tenant, ClientID: "66666666-6666-4666-8666-666666666666", PrincipalID: "77777777-7777-4777-8777-777777777777",
		},
		Identities: []federation.Identity{
			{Name: "app-one", TenantID: tenant, ClientID: client, PrincipalID: object, ResourceID: resourceID,
				FederatedCredentials: []federation.Credential{{Subject: subject}}},
			{Name: "bare", TenantID: tenant, ClientID: bareClient, PrincipalID: "88888888-8888-4888-8888-888888888888", ResourceID: resourceID},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Federation: directory, Key: newKey(t), Issuers: r.cluster.Client(), Log: &r.log, Clock: r.clock})
	if err != nil {
		t.Fatal(err)
	}
	r.server = s
	r.Server = httptest.NewTLSServer(s)
	t.Cleanup(r.Close)
	return r
}

// newCluster publishes a key as a cluster's issuer does.
func newCluster(t *testing.T, key *jwks.Key) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"jwks_uri": s.URL + "/openid/v1/jwks"})
	})
	mux.HandleFunc("/openid/v1/jwks", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, key.Public())
	})
	return s
}

func newKey(t *testing.T) *jwks.Key {
	t.Helper()
	k, err := jwks.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// claims returns those of a good service account token, with change over them.
func (r *rig) claims(change map[string]any) map[string]any {
	now := r.clock.Now()
	c := map[string]any{
		"iss": r.cluster.URL, "sub": subject, "aud": []string{federation.DefaultAudience},
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for k, v := range change {
		c[k] = v
	}
	return c
}

func sign(t *testing.T, k *jwks.Key, claims any) string {
	t.Helper()
	token, err := k.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func form(assertion string) url.Values {
	return url.Values{
		"grant_type":            {"client_credentials"},
		"client_id":             {client},
		"client_assertion_type": {assertionType},
		"client_assertion":      {assertion},
		"scope":                 {vault + "/.default"},
	}
}

// post sends a token request and returns status and body.
func (r *rig) post(t *testing.T, tenant string, form url.Values) (int, map[string]any) {
	t.Helper()
	resp, err := r.Client().Post(r.URL+"/"+tenant+"/oauth2/v2.0/token", "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func (r *rig) entries(t *testing.T) []Entry {
	t.Helper()
	// Close waits for the handlers, which write the log after they answer.
	r.Close()
	entries, err := journal.Read[Entry](&r.log)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}
