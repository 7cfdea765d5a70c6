package tokens

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestExchangeSendsTheWorkloadsOwnAssertion(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		token := b.mustToken(w, workload.TokenRequest{Resource: vault + "/", ClientID: clientB})

		form := b.entra.forms[0]
		want := map[string]string{
			"grant_type":            "client_credentials",
			"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
			"client_id":             clientB,
		}
		for name, value := range want {
			if form.Get(name) != value {
				t.Errorf("form %s = %q, want %q", name, form.Get(name), value)
			}
		}
		if got := subjectOf(form.Get("client_assertion")); got != w.Subject() {
			t.Errorf("assertion of %q", got)
		}
		// MSAL adds OpenID's own scopes behind; Entra drops them in this grant.
		if got := strings.Fields(form.Get("scope"))[0]; got != vault+"//.default" {
			t.Errorf("scope %q", got)
		}
		wantToken := workload.Token{
			Value: "secret-token-1-for-" + w.Subject(), Type: "Bearer", ClientID: clientB,
			NotBefore: b.clock.Now(), ExpiresOn: token.ExpiresOn,
		}
		if diff := cmp.Diff(wantToken, token); diff != "" {
			t.Errorf("token (-want +got):\n%s", diff)
		}
		if left := token.ExpiresOn.Sub(b.clock.Now()).Minutes(); left < 59 || left > 61 {
			t.Errorf("token expires in %v minutes", left)
		}
	})
}

func TestDiscoveryIsDoneOncePerTenant(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := b.engine.Warm(t.Context(), workload.Workload{}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		w := b.pod("shop", "cart", "web")
		other := w
		other.TenantID = "contoso.example"
		for _, resource := range []string{"https://a", "https://b", "https://c"} {
			b.mustToken(w, workload.TokenRequest{Resource: resource})
			b.mustToken(other, workload.TokenRequest{Resource: resource})
		}
		want := map[string]int{"/" + tenantA + "/v2.0/.well-known/openid-configuration": 1, "/contoso.example" + "/v2.0/.well-known/openid-configuration": 1}
		if diff := cmp.Diff(want, b.entra.discoveries); diff != "" {
			t.Errorf("discovery requests (-want +got):\n%s", diff)
		}
		b.advance(24 * time.Hour)
		if err := b.engine.Warm(t.Context(), workload.Workload{}); err != nil {
			t.Fatal(err)
		}
		if got := b.entra.discoveries["/"+tenantA+"/v2.0/.well-known/openid-configuration"]; got != 2 {
			t.Errorf("%d discovery requests after the document's lifetime, want 2", got)
		}
	})
}

func TestUselessDiscoveryIsNotRemembered(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.endpoint = "https://elsewhere.test/token" })
		w := b.pod("shop", "cart", "web")
		_, err := b.token(w, workload.TokenRequest{Resource: vault})
		wantTokenError(t, err, workload.Refused, "another host")
		if n := b.entra.exchanges(); n != 0 {
			t.Errorf("%d exchanges: the assertion left", n)
		}

		b.entra.set(func(f *fakeEntra) { f.endpoint = "" })
		b.advance(refusalMemory)
		b.mustToken(w, workload.TokenRequest{Resource: vault})
	})
}

func TestWarmWithoutTenantAsksNothing(t *testing.T) {
	e, err := New(Options{KubeletDir: t.TempDir(), Transport: failingTransport{t}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Warm(t.Context(), workload.Workload{}); err != nil {
		t.Error(err)
	}
}

type failingTransport struct{ t *testing.T }

func (f failingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	f.t.Errorf("request to %s", r.URL.Host)
	return nil, http.ErrServerClosed
}

func TestWarmTellsOfFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.down = true })
		if err := b.engine.Warm(t.Context(), workload.Workload{}); err == nil {
			t.Error("no error though there was no answer")
		}
	})
}

func TestRedirectIsNotFollowed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.entra.set(func(f *fakeEntra) { f.refuse = redirectTo("https://elsewhere.test/x/oauth2/v2.0/token") })
		_, err := b.token(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
		wantTokenError(t, err, workload.Unavailable, "307")
		if slices.Contains(b.entra.hosts, "elsewhere.test") {
			t.Error("the assertion went to another host")
		}
	})
}

func redirectTo(u string) func(http.ResponseWriter, url.Values) bool {
	return func(w http.ResponseWriter, _ url.Values) bool {
		w.Header().Set("Location", u)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
}
