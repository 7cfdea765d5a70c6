package tokens

import (
	"context"
	"errors"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// flightLimit bounds one exchange, discovery included.
const flightLimit = 30 * time.Second

// Token returns the access token that the request means for the workload: a
// cached one with at least five minutes left, or one fresh from Entra. An
// older one that still holds is served while Entra is unavailable or when ctx
// ends first. The error is a *workload.TokenError, or ctx's own.
//
// The caller must have proven that w is who asks.
func (e *Engine) Token(ctx context.Context, w workload.Workload, r workload.TokenRequest) (workload.Token, error) {
	t, err := e.defaults.target(w, r)
	if err != nil {
		return workload.Token{}, err
	}
	k := key{account: w.ServiceAccountUID, target: t}
	issued, how, err := e.obtain(ctx, k, w, r.BypassCache && e.cache.mayBypass(k))
	e.metrics.requests.WithLabelValues(string(how)).Inc()
	if err != nil {
		return workload.Token{}, err
	}
	if e.cache.firstIssue(issued, w.PodUID) {
		e.auditIssue(ctx, w, t, issued.token)
	}
	return issued.token, nil
}

// Warm fetches the discovery document of the default tenant, so that the first
// pod need not wait for it, and leaves an open connection to Entra. Without a
// default tenant there is nothing to fetch. A failure harms nothing: the first
// exchange fetches the document itself.
func (e *Engine) Warm(ctx context.Context) error {
	if e.defaults.tenant == "" {
		return nil
	}
	return e.entra.warm(ctx, e.defaults.authority, e.defaults.tenant)
}

// Forget erases the tokens and refusals of the service account with this UID.
func (e *Engine) Forget(serviceAccountUID string) {
	e.cache.forget(serviceAccountUID)
}

func (e *Engine) obtain(ctx context.Context, k key, w workload.Workload, bypass bool) (*entry, outcome, error) {
	for {
		l := e.cache.look(k, w, bypass)
		switch {
		case l.err != nil:
			return nil, l.outcome, l.err
		case l.flight == nil:
			return l.entry, l.outcome, nil
		case l.lead:
			go e.fly(k, l.flight, w)
		}
		select {
		case <-l.flight.done:
		case <-ctx.Done():
			if l.entry.left(e.clock.Now()) > 0 {
				return l.entry, stale, nil
			}
			return nil, l.outcome, ctx.Err()
		}
		if l.flight.ofPod && l.flight.podUID != w.PodUID {
			continue // this pod's own assertion may be in order
		}
		return e.landed(l, w)
	}
}

// landed returns the result of a flight as it holds for the workload.
func (e *Engine) landed(l lookup, w workload.Workload) (*entry, outcome, error) {
	if l.flight.err == nil {
		return l.flight.entry, l.outcome, nil
	}
	now := e.clock.Now()
	err := forCaller(l.flight.err, w, now)
	if err.Kind == workload.Unavailable && l.entry.left(now) > 0 {
		return l.entry, stale, nil
	}
	return nil, l.outcome, err
}

// fly runs one exchange, on a context of its own: it serves every caller of
// its key, whichever of them goes away.
func (e *Engine) fly(k key, f *flight, w workload.Workload) {
	ctx, cancel := context.WithTimeout(context.Background(), flightLimit)
	defer cancel()
	assertion, err := e.assertion(ctx, w)
	f.ofPod = err != nil
	var token workload.Token
	if err == nil {
		start := e.clock.Now()
		token, err = e.entra.exchange(ctx, k.target, assertion)
		e.metrics.exchanged(e.clock.Since(start), err)
	}
	failed := asTokenError(err)
	e.report(ctx, k, f, w, token, failed)
	e.cache.land(k, f, token, failed)
}

func (e *Engine) assertion(ctx context.Context, w workload.Workload) (string, error) {
	assertion, err := e.assertions.Assertion(ctx, w)
	if err != nil {
		return "", err
	}
	if err := checkAssertion(assertion, w, e.clock.Now()); err != nil {
		return "", err
	}
	return assertion, nil
}

// asTokenError returns nil for nil.
func asTokenError(err error) *workload.TokenError {
	if err == nil {
		return nil
	}
	var t *workload.TokenError
	if errors.As(err, &t) {
		return t
	}
	return &workload.TokenError{Kind: workload.Unavailable, Description: "the exchange failed", Err: err}
}
