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
// older one that still holds is served while Entra is unavailable. With none,
// a failure that passes by itself is tried again until ctx ends, so ctx should
// have a deadline. The error is a *workload.TokenError, or ctx's own when the
// caller has gone; one of kind Unavailable says in RetryAfter when to come
// again.
//
// The caller must have proven that w is who asks.
func (e *Engine) Token(ctx context.Context, w workload.Workload, r workload.TokenRequest) (workload.Token, error) {
	t, err := e.defaults.target(w, r)
	if err != nil {
		e.owners.tell(w, r, err, e.clocks.now().steady)
		return workload.Token{}, err
	}
	k := key{account: w.ServiceAccountUID, target: t}
	issued, how, err := e.obtain(ctx, k, w, r.BypassCache && e.cache.mayBypass(k))
	e.metrics.requests.WithLabelValues(string(how)).Inc()
	if err != nil {
		e.owners.tell(w, r, err, e.clocks.now().steady)
		return workload.Token{}, err
	}
	token, first := e.cache.serve(issued, w)
	if first {
		e.auditIssue(ctx, w, t, token)
	}
	return token, nil
}

// Cached returns the token that Token would return, if that is one from the
// cache which is not about to end. It waits for nothing. Where it returns
// false the caller asks Token, which knows why.
func (e *Engine) Cached(w workload.Workload, r workload.TokenRequest) (workload.Token, bool) {
	if r.BypassCache {
		return workload.Token{}, false
	}
	t, err := e.defaults.target(w, r)
	if err != nil {
		return workload.Token{}, false
	}
	token, first, ok := e.cache.hit(key{account: w.ServiceAccountUID, target: t}, w)
	if !ok {
		return workload.Token{}, false
	}
	e.metrics.hits.Inc()
	if first {
		e.auditIssue(context.Background(), w, t, token)
	}
	return token, true
}

// Forget erases all that is kept for the service account with this UID. Call
// it when the service account is gone from the cluster or the node.
func (e *Engine) Forget(serviceAccountUID string) {
	e.cache.forget(serviceAccountUID)
	e.status.forget(serviceAccountUID)
}

// obtain looks, and waits for what it is told to wait for, until there is a
// token, a refusal, or ctx ends.
func (e *Engine) obtain(ctx context.Context, k key, w workload.Workload, bypass bool) (*entry, outcome, error) {
	var failed *workload.TokenError // the last failure that passes by itself
	for {
		l := e.cache.look(k, w, bypass)
		switch {
		case l.wait != nil:
			if failed == nil {
				failed = l.err
			}
			if !e.await(ctx, l.wait) {
				return nil, l.outcome, e.gaveUp(ctx, k, w, failed)
			}
			continue
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
			if l.entry.left(e.clocks.now()) > 0 {
				return l.entry, stale, nil
			}
			return nil, l.outcome, e.gaveUp(ctx, k, w, failed)
		}
		if l.flight.ofPod && l.flight.podUID != w.PodUID {
			continue // this pod's own assertion may be in order
		}
		issued, how, err := e.landed(l, w)
		if err == nil || err.Kind != workload.Unavailable {
			return issued, how, asError(err)
		}
		failed = err
	}
}

// landed returns the result of a flight as it holds for the workload.
func (e *Engine) landed(l lookup, w workload.Workload) (*entry, outcome, *workload.TokenError) {
	if l.flight.err == nil {
		return l.flight.entry, l.outcome, nil
	}
	now := e.clocks.now()
	err := forCaller(l.flight.err, w, now.date)
	if err.Kind == workload.Unavailable && l.entry.left(now) > 0 {
		return l.entry, stale, nil
	}
	return nil, l.outcome, err
}

// await waits for what the lookup says; false if ctx ended first.
func (e *Engine) await(ctx context.Context, on *wait) bool {
	timer := e.clocks.steady.NewTimer(on.until.Sub(e.clocks.steady.Now()))
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-on.changed:
		return true
	case <-ctx.Done():
		return false
	}
}

// gaveUp returns what a caller is told whose ctx has ended.
func (e *Engine) gaveUp(ctx context.Context, k key, w workload.Workload, failed *workload.TokenError) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	if failed == nil {
		failed = unavailable("Entra did not answer in time")
		failed.Err = context.DeadlineExceeded
	}
	told := *failed
	told.RetryAfter = e.cache.retryAfter(k, w)
	return &told
}

// asError keeps a nil *TokenError from becoming an error that is not nil.
func asError(err *workload.TokenError) error {
	if err == nil {
		return nil
	}
	return err
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
