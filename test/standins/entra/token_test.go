package entra

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

func TestIssuedToken(t *testing.T) {
	for _, resource := range []string{vault, vault + "/"} {
		t.Run(resource, func(t *testing.T) {
			r := newRig(t)
			f := form(sign(t, r.key, r.claims(nil)))
			f.Set("scope", resource+"/.default openid offline_access profile")
			status, body := r.post(t, tenant, f)
			if status != 200 || body["expires_in"] != 86400.0 || body["ext_expires_in"] != 86400.0 || body["token_type"] != "Bearer" {
				t.Fatalf("status %d, body %v", status, body)
			}
			token, _ := body["access_token"].(string)
			payload, err := jwks.NewRemote(r.Client()).Verify(t.Context(), jwks.ConfigurationOf(r.URL+"/"+tenant+"/v2.0"), token)
			if err != nil {
				t.Fatal(err)
			}
			var got accesstoken.Claims
			if err := json.Unmarshal(payload, &got); err != nil {
				t.Fatal(err)
			}
			now := r.clock.Now()
			want := accesstoken.Claims{
				Audience: resource, Issuer: "https://sts.windows.net/" + tenant + "/",
				IssuedAt: now.Add(-5 * time.Minute).Unix(), NotBefore: now.Add(-5 * time.Minute).Unix(), Expiry: now.Add(24 * time.Hour).Unix(),
				AppID: client, AppIDACR: "2", IdentityProvider: "https://sts.windows.net/" + tenant + "/", IDType: "app",
				ObjectID: object, Subject: object, TenantID: tenant, Version: "1.0", ResourceID: resourceID,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}

// MSAL is what the agent exchanges with: discovery and token request must
// suit it with its checks of the authority left on.
func TestMSALGetsItsToken(t *testing.T) {
	r := newRig(t)
	cred := confidential.NewCredFromAssertionCallback(func(context.Context, confidential.AssertionRequestOptions) (string, error) {
		return sign(t, r.key, r.claims(nil)), nil
	})
	c, err := confidential.New(r.URL+"/"+tenant, client, cred,
		confidential.WithHTTPClient(r.Client()), confidential.WithInstanceDiscovery(false))
	if err != nil {
		t.Fatal(err)
	}
	result, err := c.AcquireTokenByCredential(t.Context(), []string{vault + "/.default"})
	if err != nil {
		t.Fatal(err)
	}
	if result.AccessToken == "" {
		t.Error("no token")
	}
	want := []Entry{
		{Kind: OpenIDConfiguration, Tenant: tenant},
		{Kind: Token, Tenant: tenant, ClientID: client, Scope: vault + "/.default openid offline_access profile", Subject: subject, Verified: true, ObjectID: object},
	}
	ignoreTime := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Time" }, cmp.Ignore())
	if diff := cmp.Diff(want, r.entries(t), ignoreTime); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestInstanceDiscovery(t *testing.T) {
	r := newRig(t)
	for query, want := range map[string]int{
		"authorization_endpoint=" + r.URL + "/" + tenant + "/oauth2/v2.0/authorize":     200,
		"authorization_endpoint=https://evil.test/" + tenant + "/oauth2/v2.0/authorize": 400,
		"": 400,
	} {
		resp, err := r.Client().Get(r.URL + "/common/discovery/instance?api-version=1.1&" + query)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%q: status %d, want %d", query, resp.StatusCode, want)
		}
	}
}
