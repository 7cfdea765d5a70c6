package tokens

import (
	"context"
	"errors"
	"net/http"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var errForeignEndpoint = errors.New("the authority names a token endpoint at another host")

// entra exchanges assertions for access tokens.
type entra struct {
	http  *http.Client
	clock clock.PassiveClock
}

// newEntra sends through transport. Redirects are not followed: one would
// carry the assertion to a host that nobody chose.
func newEntra(transport http.RoundTripper, c clock.PassiveClock) *entra {
	return &entra{
		http: &http.Client{
			Transport: newDiscovery(transport, c),
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
		clock: c,
	}
}

// exchange asks Entra for the target's token. The error is a
// *workload.TokenError.
//
// Each exchange has an MSAL client of its own: MSAL's token cache knows the
// client id and the tenant but not the service account, so a shared one would
// hand one service account's token to another. What may be shared, the
// discovery and the connections, lives in the HTTP client.
func (x *entra) exchange(ctx context.Context, t target, assertion string) (workload.Token, error) {
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
		return workload.Token{}, e
	}
	issued := x.clock.Now()
	result, err := client.AcquireTokenByCredential(ctx, []string{t.scope()})
	if err != nil {
		return workload.Token{}, exchangeError(err, sent, issued)
	}
	if !result.ExpiresOn.After(issued) {
		return workload.Token{}, unavailable("Entra's token has expired already: check the node's clock")
	}
	return workload.Token{
		Value:     result.AccessToken,
		Type:      "Bearer",
		ClientID:  t.clientID,
		NotBefore: issued,
		ExpiresOn: result.ExpiresOn,
	}, nil
}
