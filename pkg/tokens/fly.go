package tokens

import (
	"context"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// refreshTick is how often the engine looks for tokens to refresh.
const refreshTick = 5 * time.Second

// Run fetches new tokens in the background before the old ones end, for those
// that were asked for since they were issued. It returns nil when ctx ends;
// exchanges under way then end by themselves. Without it tokens are replaced
// when they are asked for with less than five minutes left.
func (e *Engine) Run(ctx context.Context) error {
	ticker := e.clocks.steady.NewTicker(refreshTick)
	defer ticker.Stop()
	for {
		for _, r := range e.cache.due() {
			go e.fly(r.key, r.flight, r.askers...)
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return nil
		}
	}
}

// fly runs one exchange with the assertion of the first of the askers that has
// one. It does so on a context of its own: it serves every caller of its key,
// whichever of them goes away.
func (e *Engine) fly(k key, f *flight, askers ...workload.Workload) {
	ctx, cancel := context.WithTimeout(context.Background(), flightLimit)
	defer cancel()
	w, assertion, err := e.assertionOfAny(ctx, askers)
	var x *entra
	if err == nil {
		x, err = e.entraFor(w, k.target)
	}
	f.ofPod = err != nil
	var issued *entry
	if err == nil {
		asked := e.clocks.now()
		spanned, span := e.startSpan(ctx, k, w, f.podUID == anyPod)
		var g grant
		g, err = x.exchange(spanned, k.target, assertion)
		endSpan(span, err)
		e.metrics.exchanged(e.clocks.steady.Since(asked.steady), err)
		if err == nil {
			issued = newEntry(g, k.clientID, asked)
		}
	}
	failed := asTokenError(err)
	if !f.ofPod {
		failed = explain(failed, factsOf(w, k.target, assertion))
	}
	if f.podUID == anyPod {
		e.metrics.refreshed(failed)
	}
	e.report(ctx, k, f, w, issued, failed)
	if e.cache.land(k, f, issued, failed) {
		e.status.forget(k.account)
	}
}

// assertionOfAny returns the first assertion that can be had and whose it is,
// or the last failure and whose that is.
func (e *Engine) assertionOfAny(ctx context.Context, askers []workload.Workload) (w workload.Workload, assertion string, err error) {
	err = unavailable("no pod is known that asked for the token")
	for _, w = range askers {
		if assertion, err = e.assertion(ctx, w); err == nil {
			break
		}
	}
	return w, assertion, err
}

func (e *Engine) assertion(ctx context.Context, w workload.Workload) (string, error) {
	assertion, err := e.assertions.Assertion(ctx, w)
	if err != nil {
		return "", err
	}
	if err := checkAssertion(assertion, w, e.clocks.earliestDate()); err != nil {
		return "", err
	}
	return assertion, nil
}
