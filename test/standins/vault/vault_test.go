package vault

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

const (
	tenant      = "11111111-1111-4111-8111-111111111111"
	otherTenant = "22222222-2222-4222-8222-222222222222"
	owner       = "33333333-3333-4333-8333-333333333333"
	reader      = "44444444-4444-4444-8444-444444444444"
	node        = "55555555-5555-4555-8555-555555555555"
	apiVersion  = "?api-version=7.6"
)

// rig is a vault, the Entra stand-in whose keys it trusts, and its log.
type rig struct {
	*httptest.Server
	authority string
	key       *jwks.Key
	log       bytes.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	directory, err := federation.Fixed(federation.File{
		Tenants: []string{tenant, otherTenant},
		NodeIdentity: federation.NodeIdentity{
			TenantID: tenant, ClientID: "66666666-6666-4666-8666-666666666666", PrincipalID: node},
		Vaults: []federation.Vault{{Name: "tutorial", TenantID: tenant, Permissions: []federation.Permission{
			{PrincipalID: owner, Secrets: []federation.SecretsAction{federation.Get, federation.Set, federation.Delete}},
			{PrincipalID: reader, Secrets: []federation.SecretsAction{federation.Get}},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{key: newKey(t)}
	e, err := entra.New(entra.Options{Federation: directory, Key: r.key, Issuers: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	authority := httptest.NewTLSServer(e)
	t.Cleanup(authority.Close)
	r.authority = authority.URL
	s, err := New(Options{Name: "tutorial", Federation: directory, Authority: r.authority, Keys: authority.Client(), Log: &r.log})
	if err != nil {
		t.Fatal(err)
	}
	r.Server = httptest.NewTLSServer(s)
	t.Cleanup(r.Close)
	return r
}

func newKey(t *testing.T) *jwks.Key {
	t.Helper()
	k, err := jwks.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// token returns a signed token of objectID's, changed by change.
func (r *rig) token(t *testing.T, key *jwks.Key, objectID string, change func(*accesstoken.Claims)) string {
	t.Helper()
	claims := accesstoken.New(accesstoken.Identity{TenantID: tenant, ClientID: "app", ObjectID: objectID}, Resource, time.Now(), time.Hour)
	if change != nil {
		change(&claims)
	}
	token, err := key.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

type answer struct {
	Value      string `json:"value"`
	ID         string `json:"id"`
	RecoveryID string `json:"recoveryId"`
	Error      struct {
		Code  string `json:"code"`
		Inner struct {
			Code string `json:"code"`
		} `json:"innererror"`
	} `json:"error"`
}

func (r *rig) send(t *testing.T, method, path, token, body string) (int, http.Header, answer) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a answer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, a
}

func TestTokensThatProveNothing(t *testing.T) {
	r := newRig(t)
	tests := map[string]string{
		"none":              "",
		"no token":          "secret",
		"forged":            r.token(t, newKey(t), owner, nil),
		"another audience":  r.token(t, r.key, owner, func(c *accesstoken.Claims) { c.Audience = "https://management.azure.com" }),
		"audience + slash":  r.token(t, r.key, owner, func(c *accesstoken.Claims) { c.Audience += "/" }),
		"another tenant":    r.token(t, r.key, owner, func(c *accesstoken.Claims) { c.TenantID = otherTenant }),
		"another issuer":    r.token(t, r.key, owner, func(c *accesstoken.Claims) { c.Issuer = accesstoken.IssuerOf(otherTenant) }),
		"expired":           r.token(t, r.key, owner, func(c *accesstoken.Claims) { c.Expiry = time.Now().Unix() }),
		"not valid yet":     r.token(t, r.key, owner, func(c *accesstoken.Claims) { c.NotBefore = time.Now().Add(time.Hour).Unix() }),
		"without object id": r.token(t, r.key, "", nil),
	}
	for name, token := range tests {
		t.Run(name, func(t *testing.T) {
			status, header, a := r.send(t, "PUT", "/secrets/s"+apiVersion, token, `{"value":"v"}`)
			want := `Bearer authorization="` + r.authority + "/" + tenant + `", resource="https://vault.azure.net"`
			if got := header.Get("WWW-Authenticate"); got != want {
				t.Errorf("challenge %s, want %s", got, want)
			}
			if status != http.StatusUnauthorized || a.Error.Code != "Unauthorized" {
				t.Errorf("%d %s, want 401 Unauthorized", status, a.Error.Code)
			}
		})
	}
	r.Close()
	entries, err := journal.Read[Entry](&r.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Allowed || e.ObjectID != "" {
			t.Errorf("the log has a caller without a proof: %+v", e)
		}
	}
}

func TestWhoMayWhat(t *testing.T) {
	r := newRig(t)
	steps := []struct {
		caller, method, path string
		status               int
		inner                string
	}{
		{owner, "PUT", "/secrets/s", 200, ""},
		{owner, "GET", "/secrets/s/", 200, ""},
		{reader, "GET", "/secrets/s", 200, ""},
		{reader, "PUT", "/secrets/s", 403, "AccessDenied"},
		{reader, "DELETE", "/secrets/s", 403, "AccessDenied"},
		{node, "GET", "/secrets/s", 403, "AccessDenied"},
		{node, "PUT", "/secrets/s", 403, "AccessDenied"},
		{node, "GET", "/deletedsecrets/s", 403, "AccessDenied"},
		{owner, "POST", "/secrets/s/backup", 404, ""},
		{owner, "GET", "/keys/s", 404, ""},
	}
	for _, s := range steps {
		status, _, a := r.send(t, s.method, s.path+apiVersion, r.token(t, r.key, s.caller, nil), `{"value":"v"}`)
		if status != s.status || a.Error.Inner.Code != s.inner {
			t.Errorf("%s %s by %s: %d %q, want %d %q", s.method, s.path, s.caller, status, a.Error.Inner.Code, s.status, s.inner)
		}
	}
	r.Close()
	entries, err := journal.Read[Entry](&r.log)
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{Operation: Get, Secret: "s", ObjectID: node, AppID: "app", Status: 403, Code: "AccessDenied"}
	got := entries[5]
	got.Time = time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log of the node's token (-want +got):\n%s", diff)
	}
}

func TestLifeOfASecret(t *testing.T) {
	r := newRig(t)
	token := r.token(t, r.key, owner, nil)
	expect := func(method, path, body string, status int, code string) answer {
		t.Helper()
		got, _, a := r.send(t, method, path+apiVersion, token, body)
		if got != status || a.Error.Code != code {
			t.Fatalf("%s %s: %d %q, want %d %q", method, path, got, a.Error.Code, status, code)
		}
		return a
	}
	expect("GET", "/secrets/s", "", 404, "SecretNotFound")
	expect("PUT", "/secrets/s", `{}`, 400, "BadParameter")
	first := expect("PUT", "/secrets/s", `{"value":"one"}`, 200, "")
	expect("PUT", "/secrets/s", `{"value":"two"}`, 200, "")
	if got := expect("GET", "/secrets/s", "", 200, "").Value; got != "two" {
		t.Errorf("latest value %q, want two", got)
	}
	old := strings.TrimPrefix(first.ID, r.URL)
	if got := expect("GET", old, "", 200, "").Value; got != "one" {
		t.Errorf("first version's value %q, want one", got)
	}
	expect("GET", "/deletedsecrets/s", "", 404, "SecretNotFound")
	if got := expect("DELETE", "/secrets/s", "", 200, ""); got.RecoveryID != r.URL+"/deletedsecrets/s" || got.Value != "" {
		t.Errorf("deleted secret %+v", got)
	}
	expect("GET", "/secrets/s", "", 404, "SecretNotFound")
	expect("GET", "/deletedsecrets/s", "", 200, "")
	expect("PUT", "/secrets/s", `{"value":"three"}`, 409, "Conflict")
	if status, _, a := r.send(t, "GET", "/secrets/s", token, ""); status != http.StatusBadRequest {
		t.Errorf("without api-version: %d %+v, want 400", status, a)
	}
}
