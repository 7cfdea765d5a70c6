package entra

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

// clockSkew is how far an issuer's clock may be off.
const clockSkew = 5 * time.Minute

// assertion holds the claims of a client assertion that decide.
type assertion struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  audience `json:"aud"`
	NotBefore int64    `json:"nbf"`
	Expiry    int64    `json:"exp"`
}

// audience is the one audience of an assertion. The claim may be a string or a
// list (RFC 7519, 4.1.3); a list of several is kept as a whole, so that it
// matches no credential: a token that others may use as well is no proof.
type audience string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audience(one)
		return nil
	}
	var list []string
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*a = audience(strings.Join(list, ", "))
	return nil
}

// verify returns the claims of a client's assertion. The claims are returned
// with a refusal too, as far as they are known, for the log.
func (s *Server) verify(ctx context.Context, token string, client federation.Identity) (assertion, *refusal) {
	var claimed assertion
	payload, err := jwks.Payload(token)
	if err != nil || json.Unmarshal(payload, &claimed) != nil {
		return assertion{}, malformedAssertion()
	}
	// The credential is looked up first, so that keys are fetched from no host
	// but an issuer that the client trusts.
	if why := match(claimed, client.FederatedCredentials); why != nil {
		return claimed, why
	}
	_, err = s.keys.Verify(ctx, jwks.ConfigurationOf(claimed.Issuer), token)
	switch {
	case errors.Is(err, jwks.ErrUnreachable):
		return claimed, unreachableIssuer(claimed.Issuer, err)
	case err != nil:
		return claimed, badSignature(err)
	}
	now := s.now()
	if now.Before(time.Unix(claimed.NotBefore, 0).Add(-clockSkew)) || !now.Before(time.Unix(claimed.Expiry, 0)) {
		return claimed, outOfTime(now, claimed)
	}
	return claimed, nil
}

// match finds the federated credential with the assertion's issuer, audience
// and subject, or says which of them no credential has. All are compared with
// case.
func match(a assertion, credentials []federation.Credential) *refusal {
	if len(credentials) == 0 {
		return noCredentials(a)
	}
	left := keep(credentials, func(c federation.Credential) bool { return c.Issuer == a.Issuer })
	if len(left) == 0 {
		return mismatch(700211, "issuer", a.Issuer)
	}
	left = keep(left, func(c federation.Credential) bool { return c.Audience == string(a.Audience) })
	if len(left) == 0 {
		return mismatch(700212, "audience", string(a.Audience))
	}
	if !slices.ContainsFunc(left, func(c federation.Credential) bool { return c.Subject == a.Subject }) {
		return mismatch(700213, "subject", a.Subject)
	}
	return nil
}

func keep(all []federation.Credential, wanted func(federation.Credential) bool) []federation.Credential {
	var kept []federation.Credential
	for _, c := range all {
		if wanted(c) {
			kept = append(kept, c)
		}
	}
	return kept
}
