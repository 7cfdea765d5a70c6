package entra

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"

	"github.com/sidestep-agent/sidestep/pkg/tokens/clocks"
)

const (
	// requestLimit bounds one request to Entra. A slow answer comes within it,
	// and a lost one leaves its caller time for another try.
	requestLimit = 10 * time.Second
	// maxToken is far above any access token, and bounds what the cache holds.
	maxToken = 64 << 10
)

var errForeignEndpoint = errors.New("the authority names a token endpoint at another host")

// Target is what is asked for, and where.
type Target struct {
	Authority string // "https://host"
	Tenant    string
	ClientID  string
	Scope     string
}

// Client exchanges assertions for access tokens. Its methods may be called at
// the same time.
type Client struct {
	http      *http.Client
	discovery *discovery // of http
	clocks    clocks.Clocks
}

// Grant is what Entra issued. Its times are spans: Entra's answer has no dates
// in it, so the node's clock cannot spoil them.
type Grant struct {
	Token     string // secret
	Lifetime  time.Duration
	RefreshIn time.Duration // 0: Entra did not say
}

// NewClient returns a client that sends through transport. Redirects are not followed: one would
// carry the assertion to a host that was not configured.
func NewClient(transport http.RoundTripper, c clocks.Clocks) *Client {
	d := newDiscovery(transport, c.Steady)
	return &Client{
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

// Exchange asks Entra for the target's token. The error is a
// *workload.TokenError.
//
// Each exchange has an MSAL client of its own: MSAL's token cache knows the
// client id and the tenant but not the service account, so a shared one would
// hand one service account's token to another. What may be shared, the
// discovery and the connections, lives in the HTTP client.
func (x *Client) Exchange(ctx context.Context, t Target, assertion string) (Grant, error) {
	sent := false
	credential := confidential.NewCredFromAssertionCallback(
		func(_ context.Context, o confidential.AssertionRequestOptions) (string, error) {
			if !mayReceive(t.Authority, o.TokenEndpoint) {
				return "", errForeignEndpoint
			}
			sent = true
			return assertion, nil
		})
	client, err := confidential.New(t.Authority+"/"+t.Tenant, t.ClientID, credential,
		confidential.WithHTTPClient(x.http),
		// Instance discovery would ask login.microsoftonline.com whether it
		// knows the authority: it refuses a private one, and says nothing new
		// about its own.
		confidential.WithInstanceDiscovery(false),
		// Keeps MSAL_FORCE_REGION from making MSAL ask the node's IMDS.
		confidential.WithAzureRegion("DisableMsalForceRegion"),
	)
	if err != nil {
		e := refused("the authority %s cannot be used with the tenant %s", t.Authority, t.Tenant)
		e.Err = err
		return Grant{}, e
	}
	result, err := client.AcquireTokenByCredential(ctx, []string{t.Scope})
	if err != nil {
		return Grant{}, exchangeError(err, sent, x.clocks.Now().Date)
	}
	return newGrant(result)
}

// newGrant returns MSAL's result. MSAL has added the spans of the answer to
// the real clock's time, just now: the same clock takes them off again.
func newGrant(result confidential.AuthResult) (Grant, error) {
	g := Grant{Token: result.AccessToken, Lifetime: time.Until(result.ExpiresOn).Round(time.Second)}
	switch {
	case g.Lifetime <= 0:
		return Grant{}, unavailable("Entra's token has ended when it comes")
	case len(g.Token) > maxToken:
		return Grant{}, unavailable("Entra's token is too long to be one")
	}
	if on := result.Metadata.RefreshOn; !on.IsZero() {
		g.RefreshIn = time.Until(on).Round(time.Second)
	}
	return g, nil
}

// Warm asks for the tenant's discovery document, remembered or not, and leaves
// an open connection to the authority behind.
func (x *Client) Warm(ctx context.Context, authority, tenant string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, authority+"/"+tenant+discoveryPath, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask %s for its discovery document: %w", authority, err)
	}
	doc, err := x.discovery.ask(req, false)
	if err != nil {
		return fmt.Errorf("ask %s for its discovery document: %w", authority, err)
	}
	if doc.status != http.StatusOK {
		return fmt.Errorf("ask %s for its discovery document of the tenant %s: status %d", authority, tenant, doc.status)
	}
	return nil
}
