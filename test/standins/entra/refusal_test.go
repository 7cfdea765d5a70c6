package entra

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRefusals(t *testing.T) {
	r := newRig(t)
	good := sign(t, r.key, r.claims(nil))
	with := func(change map[string]any) url.Values { return form(sign(t, r.key, r.claims(change))) }
	changed := func(parameter, value string) url.Values {
		f := form(good)
		f.Set(parameter, value)
		return f
	}
	now := r.clock.Now()
	tests := []struct {
		name   string
		tenant string
		form   url.Values
		code   float64
		error  string
		status int
	}{
		{"unknown tenant", client, form(good), 90002, "invalid_request", 400},
		{"unknown client", tenant, changed("client_id", object), 700016, "unauthorized_client", 400},
		{"client of another tenant", otherTenant, form(good), 700016, "unauthorized_client", 400},
		{"client without credentials", tenant, changed("client_id", bareClient), 70021, "invalid_request", 400},
		{"another subject", tenant, with(map[string]any{"sub": "system:serviceaccount:team-b:app-two"}), 700213, "invalid_client", 401},
		{"subject in another case", tenant, with(map[string]any{"sub": strings.ToUpper(subject)}), 700213, "invalid_client", 401},
		{"another issuer", tenant, with(map[string]any{"iss": "https://other.test"}), 700211, "invalid_client", 401},
		{"issuer with a slash more", tenant, with(map[string]any{"iss": r.cluster.URL + "/"}), 700211, "invalid_client", 401},
		{"another audience", tenant, with(map[string]any{"aud": []string{"https://kubernetes.default.svc"}}), 700212, "invalid_client", 401},
		{"an audience more", tenant, with(map[string]any{"aud": []string{"api://AzureADTokenExchange", "other"}}), 700212, "invalid_client", 401},
		{"no audience", tenant, with(map[string]any{"aud": nil}), 700212, "invalid_client", 401},
		{"forged signature", tenant, form(sign(t, newKey(t), r.claims(nil))), 700027, "invalid_client", 401},
		{"signature of other claims", tenant, form(mixed(good, sign(t, r.key, r.claims(map[string]any{"jti": "x"})))), 700027, "invalid_client", 401},
		{"expired", tenant, with(map[string]any{"exp": now.Unix()}), 700024, "invalid_client", 401},
		{"without an expiry", tenant, with(map[string]any{"exp": nil}), 700024, "invalid_client", 401},
		{"not valid yet", tenant, with(map[string]any{"nbf": now.Add(6 * time.Minute).Unix()}), 700024, "invalid_client", 401},
		{"no JWT", tenant, form("secret"), 50027, "invalid_request", 400},
		{"no assertion", tenant, changed("client_assertion", ""), 7000218, "invalid_client", 401},
		{"assertion of another type", tenant, changed("client_assertion_type", "saml"), 900144, "invalid_request", 400},
		{"another grant", tenant, changed("grant_type", "password"), 70003, "unsupported_grant_type", 400},
		{"unknown resource", tenant, changed("scope", "https://nothing.test/.default"), 500011, "invalid_resource", 400},
		{"scope of a user", tenant, changed("scope", vault+"/user_impersonation"), 1002012, "invalid_scope", 400},
		{"two resources", tenant, changed("scope", vault+"/.default https://other.test/.default"), 1002012, "invalid_scope", 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := r.post(t, tt.tenant, tt.form)
			if _, leaked := body["access_token"]; leaked {
				t.Fatal("a token was issued")
			}
			got := map[string]any{"status": status, "error": body["error"], "codes": body["error_codes"]}
			want := map[string]any{"status": tt.status, "error": tt.error, "codes": []any{tt.code}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if d, _ := body["error_description"].(string); !strings.Contains(d, "\r\nTrace ID: ") {
				t.Errorf("description %q has no trace id", d)
			}
		})
	}
	for _, e := range r.entries(t) {
		if e.ObjectID != "" || e.Error == "" {
			t.Errorf("the log has a token where all were refused: %+v", e)
		}
	}
}

// mixed returns the claims of one token under the signature of another.
func mixed(claims, signature string) string {
	return claims[:strings.LastIndex(claims, ".")] + signature[strings.LastIndex(signature, "."):]
}

func TestUnreachableIssuerIsNoProof(t *testing.T) {
	r := newRig(t)
	f := form(sign(t, r.key, r.claims(nil)))
	r.cluster.Close()
	if status, body := r.post(t, tenant, f); status != 400 || !cmp.Equal(body["error_codes"], []any{50166.0}) {
		t.Errorf("status %d, body %v; want 400 with AADSTS50166", status, body)
	}
}
