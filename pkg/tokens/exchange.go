package tokens

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
)

const (
	// requestLimit bounds one request to Entra. A slow answer comes within it,
	// and a lost one leaves its caller time for another try.
	requestLimit = 10 * time.Second
	// maxToken is far above any access token, and bounds what the cache holds.
	maxToken = 64 << 10
)

var errForeignEndpoint = errors.New("the authority names a token endpoint at another host")

// entra exchanges assertions for access tokens.
type entra struct {
	http      *http.Client
	discovery *discovery // of http
	clocks    clocks
}

// grant is what Entra issued. Its times are spans: Entra's answer has no dates
// in it, so the node's clock cannot spoil them.
type grant struct {
	token     string // secret
	lifetime  time.Duration
	refreshIn time.Duration // 0: Entra did not say
}

// newEntra sends through transport. Redirects are not followed: one would
// carry the assertion to a host that nobody chose.
func newEntra(transport http.RoundTripper, c clocks) *entra {
	d := newDiscovery(transport, c.steady)
	return &entra{
		http: &http.Client{
			Timeout:   requestLimit,
			Transport: d,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
		discovery: d,
		clocks:    c,
	}
}

// exchange asks Entra for the target's token. The error is a
// *workload.TokenError.
//
// Each exchange has an MSAL client of its own: MSAL's token cache knows the
// client id and the tenant but not the service account, so a shared one would
// hand one service account's token to another. What may be shared, the
// discovery and the connections, lives in the HTTP client.
func (x *entra) exchange(ctx context.Context, t target, assertion string) (grant, error) {
	sent := false
	credential := confidential.NewCredFromAssertionCallback(
		func(_ context.Context, o confidential.AssertionRequestOptions) (string, error) {
			if !mayReceive(t.authority, o.TokenEndpoint) {
				return "", errForeignEndpoint
			}
			sent = true
			return assertion, nil
		})
	client, err := confidential.New(t.authority+"/"+t.tenant, t.clientID, credential,
		confidential.WithHTTPClient(x.http),
		// Instance discovery would ask login.microsoftonline.com whether it
		// knows the authority: it refuses a private one, and says nothing new
		// about its own.
		confidential.WithInstanceDiscovery(false),
		// Keeps MSAL_FORCE_REGION from making MSAL ask the node's IMDS.
		confidential.WithAzureRegion("DisableMsalForceRegion"),
	)
	if err != nil {
		e := refused("the authority %s cannot be used with the tenant %s", t.authority, t.tenant)
		e.Err = err
		return grant{}, e
	}
	result, err := client.AcquireTokenByCredential(ctx, []string{t.scope()})
	if err != nil {
		return grant{}, exchangeError(err, sent, x.clocks.now().date)
	}
	return newGrant(result)
}

// newGrant returns MSAL's result. MSAL has added the spans of the answer to
// the real clock's time, just now: the same clock takes them off again.
func newGrant(result confidential.AuthResult) (grant, error) {
	g := grant{token: result.AccessToken, lifetime: time.Until(result.ExpiresOn).Round(time.Second)}
	switch {
	case g.lifetime <= 0:
		return grant{}, unavailable("Entra's token has ended when it comes")
	case len(g.token) > maxToken:
		return grant{}, unavailable("Entra's token is too long to be one")
	}
	if on := result.Metadata.RefreshOn; !on.IsZero() {
		g.refreshIn = time.Until(on).Round(time.Second)
	}
	return g, nil
}
