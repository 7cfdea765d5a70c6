package broker

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// identityNotFound is the beginning of IMDS's answer to a request for an
// identity that is not there. Credential chains know it by these words.
const identityNotFound = "Identity not found"

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
	token, ok := s.tokens.Cached(c.workload, request)
	if !ok {
		var refusal *answer
		if token, refusal = s.exchange(r.Context(), c, request); refusal != nil {
			return *refusal
		}
	}
	// The pod may have ended, or changed sides, while Entra was asked.
	if a := s.refresh(c); a != nil {
		return *a
	}
	if c.access != workload.Identity {
		return invalidRequest(identityNotFound)
	}
	c.clientID = token.ClientID
	return answer{
		status: http.StatusOK, contentType: contentJSON,
		body: issuedAs(token, request.Resource).at(s.clock.Now()).body,
	}
}

// exchange gets a token that is not in the cache, or the answer to say why it
// cannot be had.
func (s *Server) exchange(ctx context.Context, c *call, request workload.TokenRequest) (workload.Token, *answer) {
	ctx, cancel := context.WithTimeout(ctx, max(hold-c.peer.held, exchangeTime))
	defer cancel()
	c.peer.held = 0 // requests of a connection come one after another
	if a := s.awaitAccount(ctx, c); a != nil {
		return workload.Token{}, a
	}
	token, err := s.tokens.Token(ctx, c.workload, request)
	if err != nil {
		c.err = err
		a := tokenFailure(err, request)
		return workload.Token{}, &a
	}
	return token, nil
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
	if te.Fix != "" {
		description += " Fix: " + te.Fix
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
