package entra

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	defaultScope  = "/.default"
	maxForm       = 64 << 10
)

// signInScopes are asked for by some clients with every flow, and mean nothing
// where no user signs in.
var signInScopes = []string{"openid", "offline_access", "profile"}

// issued is the answer of the token endpoint. All times are seconds.
type issued struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	ExtExpiresIn int64  `json:"ext_expires_in"`
	RefreshIn    int64  `json:"refresh_in,omitempty"`
	AccessToken  string `json:"access_token"`
}

func (s *Server) token(w http.ResponseWriter, r *http.Request, entry *Entry) (any, *refusal) {
	wait(r.Context(), s.o.Delay)
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	directory, err := s.o.Federation.Current()
	if err != nil {
		return nil, unavailable(err)
	}
	claims, why := s.authorize(r, directory, entry)
	if why != nil {
		return nil, why
	}
	token, err := s.o.Key.Sign(claims)
	if err != nil {
		return nil, unavailable(err)
	}
	entry.ObjectID = claims.ObjectID
	lifetime := int64(s.o.Lifetime / time.Second)
	return issued{
		TokenType: "Bearer", ExpiresIn: lifetime, ExtExpiresIn: lifetime, AccessToken: token,
		RefreshIn: int64(s.o.RefreshIn / time.Second),
	}, nil
}

// authorize decides on a token request and returns the claims of the token
// that it deserves.
func (s *Server) authorize(r *http.Request, directory federation.File, entry *Entry) (accesstoken.Claims, *refusal) {
	if r.Method != http.MethodPost {
		return accesstoken.Claims{}, notPost(r.Method)
	}
	form := r.PostFormValue
	entry.ClientID, entry.Scope = form("client_id"), form("scope")
	if !directory.HasTenant(entry.Tenant) {
		return accesstoken.Claims{}, unknownTenant(entry.Tenant)
	}
	if why := complete(form); why != nil {
		return accesstoken.Claims{}, why
	}
	client, ok := directory.Identity(entry.Tenant, entry.ClientID)
	if !ok {
		return accesstoken.Claims{}, unknownClient(entry.ClientID, entry.Tenant)
	}
	claimed, why := s.verify(r.Context(), form("client_assertion"), client)
	entry.Subject = claimed.Subject
	if why != nil {
		return accesstoken.Claims{}, why
	}
	entry.Verified = true
	resource, why := resourceOf(entry.Scope)
	if why != nil {
		return accesstoken.Claims{}, why
	}
	if !directory.HasResource(resource) {
		return accesstoken.Claims{}, unknownResource(resource, entry.Tenant)
	}
	return accesstoken.New(accesstoken.Identity{
		TenantID: client.TenantID, ClientID: client.ClientID,
		ObjectID: client.PrincipalID, ResourceID: client.ResourceID,
	}, resource, s.now(), s.o.Lifetime), nil
}

// complete reports the first parameter that is missing or wrong in itself.
func complete(form func(string) string) *refusal {
	for _, parameter := range []string{"grant_type", "client_id", "scope"} {
		if form(parameter) == "" {
			return missing(parameter)
		}
	}
	if grant := form("grant_type"); grant != "client_credentials" {
		return unknownGrant(grant)
	}
	if form("client_assertion") == "" {
		return noAssertion()
	}
	if form("client_assertion_type") != assertionType {
		return missing("client_assertion_type")
	}
	return nil
}

// resourceOf returns the resource of a scope: what stands before /.default,
// byte for byte, so that a slash at its end stays.
func resourceOf(scope string) (string, *refusal) {
	scopes := slices.DeleteFunc(strings.Fields(scope), func(s string) bool {
		return slices.Contains(signInScopes, s)
	})
	if len(scopes) != 1 {
		return "", badScope(scope)
	}
	resource, ok := strings.CutSuffix(scopes[0], defaultScope)
	if !ok || resource == "" {
		return "", badScope(scope)
	}
	return resource, nil
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
