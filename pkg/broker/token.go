package broker

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// identityNotFound is the beginning of IMDS's answer to a request for an
// identity that is not there. Credential chains know it by these words.
const identityNotFound = "Identity not found"

// tokenAnswer is IMDS's token, its fields in IMDS's order, each a string:
// clients break on numbers.
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	ClientID     string `json:"client_id"`
	ExpiresIn    string `json:"expires_in"`
	ExpiresOn    string `json:"expires_on"`
	ExtExpiresIn string `json:"ext_expires_in"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	TokenType    string `json:"token_type"`
}

// token answers the token path.
func (s *Server) token(w http.ResponseWriter, r *http.Request, c *call) answer {
	if a := identityGate(r, c.access); a != nil {
		return *a
	}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return methodNotAllowed("GET, POST")
	}
	request, err := tokenParams(w, r)
	if err != nil {
		c.err = err
		return invalidRequest(err.Error())
	}
	c.clientID, c.resource = request.ClientID, request.Resource
	ctx, cancel := context.WithTimeout(r.Context(), max(hold-c.peer.held, exchangeTime))
	defer cancel()
	c.peer.held = 0 // requests of a connection come one after another
	if a := s.awaitAccount(ctx, c); a != nil {
		return *a
	}
	token, err := s.tokens.Token(ctx, c.workload, request)
	if err != nil {
		c.err = err
		return tokenFailure(err, request)
	}
	// The pod may have ended, or changed sides, while Entra was asked.
	if a := s.refresh(c); a != nil {
		return *a
	}
	if c.access != workload.Identity {
		return invalidRequest(identityNotFound)
	}
	c.clientID = token.ClientID
	return answerJSON(http.StatusOK, renderToken(token, request.Resource, s.clock.Now()))
}

// accountInterval is how often a pod's service account is looked for that is
// not known yet.
const accountInterval = 100 * time.Millisecond

// awaitAccount waits, as long as ctx holds, until the caller's service account
// is known: without it nobody can say which identity is meant. What is not
// known in the end is the token engine's to answer.
func (s *Server) awaitAccount(ctx context.Context, c *call) *answer {
	if c.workload.ServiceAccountSeen {
		return nil
	}
	tick := s.clock.NewTicker(accountInterval)
	defer tick.Stop()
	for !c.workload.ServiceAccountSeen {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C():
		}
		if a := s.refresh(c); a != nil {
			return a
		}
	}
	return nil
}

// renderToken returns the token as IMDS gives it at that time.
func renderToken(t workload.Token, resource string, now time.Time) tokenAnswer {
	left := strconv.FormatInt(int64(max(t.ExpiresOn.Sub(now), 0)/time.Second), 10)
	return tokenAnswer{
		AccessToken:  t.Value,
		ClientID:     t.ClientID,
		ExpiresIn:    left,
		ExpiresOn:    strconv.FormatInt(t.ExpiresOn.Unix(), 10),
		ExtExpiresIn: left,
		NotBefore:    strconv.FormatInt(t.NotBefore.Unix(), 10),
		Resource:     resource,
		TokenType:    t.Type,
	}
}

// tokenFailure returns the answer that makes clients do what the failure
// calls for: give up at once on a wrong set-up, else come again.
func tokenFailure(err error, r workload.TokenRequest) answer {
	var te *workload.TokenError
	if !errors.As(err, &te) {
		return throttled(0)
	}
	description := te.Description
	if te.Meaning != "" {
		description = te.Code + ": " + te.Meaning + ". (" + te.Description + ")"
	}
	if te.Mend != "" {
		description += " Mend: " + te.Mend
	}
	if te.Code != "" && !strings.HasPrefix(description, te.Code) {
		description = te.Code + ": " + description
	}
	switch te.Kind {
	case workload.IdentityNotFound:
		return invalidRequest(identityNotFound + ": " + description)
	case workload.InvalidResource:
		return problem(http.StatusBadRequest, "invalid_resource", description)
	case workload.Refused:
		if r.Selects() {
			description = identityNotFound + ": " + description
		}
		return invalidRequest(description)
	default:
		return throttled(te.RetryAfter)
	}
}
