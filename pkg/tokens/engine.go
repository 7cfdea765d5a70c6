package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
	"github.com/sidestep-agent/sidestep/pkg/tokens/assertion"
	"github.com/sidestep-agent/sidestep/pkg/tokens/clocks"
	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/tokens/podfile"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// exchangeLimit bounds one exchange, discovery included.
	exchangeLimit = 30 * time.Second
	// refreshTick is how often the engine looks for tokens to refresh.
	refreshTick = 5 * time.Second
)

// Engine issues tokens to workloads. Its methods may be called at the same
// time.
type Engine struct {
	defaults   defaults
	assertions assertion.Source
	entra      *entra.Client
	proxies    *entra.Proxies
	cache      *cache
	reporter   *reporter
	clocks     clocks.Clocks
}

// New returns an engine, or an error that names the option to fix.
func New(o Options) (*Engine, error) {
	d, err := o.defaults()
	if err != nil {
		return nil, err
	}
	if o.KubeletDir == "" {
		return nil, errors.New("the kubelet's directory is not set")
	}
	o.fill()
	if o.Transport == nil {
		if o.Transport, err = entra.NewTransport(o.CAFile, o.Log); err != nil {
			return nil, err
		}
	}
	clocks := clocks.New(o.Clock, o.Date)
	cache := newCache(clocks)
	pods := podfile.Dir(filepath.Join(o.KubeletDir, "pods"))
	return &Engine{
		defaults:   d,
		assertions: assertion.Source{Audience: o.TokenAudience, Pods: pods, Accounts: o.ServiceAccounts},
		entra:      entra.NewClient(o.Transport, clocks),
		proxies:    entra.NewProxies(pods, o.APIServer, clocks),
		cache:      cache,
		reporter:   newReporter(o, cache, clocks),
		clocks:     clocks,
	}, nil
}

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
		e.reporter.failed(w, r, err)
		return workload.Token{}, err
	}
	k := key{account: w.ServiceAccountUID, target: t}
	issued, how, err := e.obtain(ctx, k, w, r)
	e.reporter.answered(how)
	if err != nil {
		e.reporter.failed(w, r, err)
		return workload.Token{}, err
	}
	token, first := e.cache.serve(issued, w)
	e.reporter.served(ctx, w, t, token, first)
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
	e.reporter.metrics.hits.Inc()
	e.reporter.served(context.Background(), w, t, token, first)
	return token, true
}

// Run fetches new tokens in the background before the old ones end, for those
// that were asked for since they were issued. It returns nil when ctx ends;
// exchanges under way then end by themselves. Without it tokens are replaced
// when they are asked for with less than five minutes left.
func (e *Engine) Run(ctx context.Context) error {
	for {
		due, again := e.cache.due()
		for _, r := range due {
			go e.run(r.key, r.call, r.askers...)
		}
		if !e.sleep(ctx, again, nil) {
			return nil
		}
	}
}

// Warm makes ready for the workload's first token, before it asks: it fetches
// its tenant's discovery document and leaves an open connection to its
// authority, but not twice within half a minute. The zero workload stands for
// those that name no tenant. A failure harms nothing: the first exchange does
// both itself. Of a workload that could get no token, or gets it by way of a
// proxy, nothing is asked.
func (e *Engine) Warm(ctx context.Context, w workload.Workload) error {
	tenant, err := e.defaults.selectTenant(w)
	if err != nil || w.Binding != nil {
		return nil
	}
	authority, err := e.defaults.selectAuthority(w)
	if err != nil {
		return nil
	}
	r := realm{authority: authority, tenant: tenant}
	if !e.cache.beginWarm(r) {
		return nil
	}
	if err := e.entra.Warm(ctx, authority, tenant); err != nil {
		e.cache.warmFailed(r)
		return err
	}
	return nil
}

// Forget erases all that is kept for the service account with this UID. Call
// it when the service account is gone from the cluster or the node.
func (e *Engine) Forget(serviceAccountUID string) {
	e.cache.forget(serviceAccountUID)
	e.reporter.forget(serviceAccountUID)
}

// Exchanges returns the last exchange of each service account, by namespace and
// name. There is no token in it.
func (e *Engine) Exchanges() []Exchange { return e.reporter.status.all() }

// LastAnswer returns how the pod's last request for a token was answered, or
// false if it has made none. There is no token in it.
func (e *Engine) LastAnswer(podUID string) (Answer, bool) { return e.reporter.status.answer(podUID) }

// Circuits returns whom Entra does not answer for at the moment.
func (e *Engine) Circuits() []Circuit { return e.cache.openCircuits() }

// Export returns the cached tokens that still hold, the oldest first, and the
// circuits that are not closed, for another Engine's Import. They are secret,
// and shall stay in memory.
func (e *Engine) Export() ([][]byte, error) {
	var all [][]byte
	for _, r := range e.cache.export() {
		text, err := json.Marshal(r)
		if err != nil {
			return nil, errors.New("encode the cached tokens") // the cause may quote one
		}
		all = append(all, text)
	}
	return all, nil
}

// Import puts in the cache what another Engine exported a moment ago, but for
// the tokens of service accounts that known, given their UIDs, does not know,
// and where there is a token already. It returns how many tokens it took.
func (e *Engine) Import(all [][]byte, known func(serviceAccountUID string) bool) (taken int, err error) {
	for _, text := range all {
		var r record
		if json.Unmarshal(text, &r) != nil {
			return taken, errors.New("decode a cached token") // the cause may quote it
		}
		if e.cache.take(r, known) {
			taken++
		}
	}
	return taken, nil
}

// obtain looks, and waits for what it finds to wait for, until there is a
// token, a refusal, or ctx ends.
func (e *Engine) obtain(ctx context.Context, k key, w workload.Workload, r workload.TokenRequest) (*entry, outcome, error) {
	bypass := r.BypassCache && e.cache.mayBypass(k)
	var failed *workload.TokenError // the last failure that passes by itself
	for {
		switch f := e.cache.look(k, w, bypass).(type) {
		case served:
			return f.entry, f.how, nil
		case denied:
			return nil, refusedBefore, f.err
		case held:
			if failed == nil {
				failed = f.err
			}
			waited := e.sleep(ctx, f.wait.until, f.wait.changed)
			e.cache.waited(k, f, !waited)
			if !waited {
				return nil, f.how, e.gaveUp(ctx, k, w, failed)
			}
		case pending:
			if f.lead {
				go e.run(k, f.call, w)
			}
			issued, how, err := e.join(ctx, k, w, f)
			var passing *workload.TokenError
			switch {
			case err == nil:
				return issued, how, nil
			case ctx.Err() != nil && errors.Is(err, ctx.Err()):
				return nil, how, e.gaveUp(ctx, k, w, failed)
			case errors.Is(err, errOtherPod):
				continue
			case !errors.As(err, &passing) || passing.Kind != workload.Unavailable:
				return nil, how, err
			}
			if failed = passing; !failed.RetriedUntil.IsZero() {
				e.reporter.notify(w, r, failed)
			}
		}
	}
}

// errOtherPod says that an exchange failed for lack of another pod's assertion.
var errOtherPod = errors.New("the assertion of another pod of the service account could not be had")

// join waits for an exchange under way and returns its result as it holds for
// the workload. The error may be ctx's own.
func (e *Engine) join(ctx context.Context, k key, w workload.Workload, f pending) (*entry, outcome, error) {
	select {
	case <-f.call.done:
	case <-ctx.Done():
		if e.cache.left(f.old) > 0 {
			return f.old, stale, nil
		}
		return nil, f.outcome(), ctx.Err()
	}
	switch {
	case f.call.err == nil:
		return f.call.entry, f.outcome(), nil
	case f.call.unsent && f.call.podUID != w.PodUID:
		return nil, f.outcome(), errOtherPod // this pod's own may be in order
	}
	err := f.call.err
	if !f.call.unsent {
		err = e.cache.asOf(err, k, w)
	}
	if err.Kind == workload.Unavailable && e.cache.left(f.old) > 0 {
		return f.old, stale, nil
	}
	return nil, f.outcome(), err
}

// sleep waits until the steady time or for the change, which may be nil; false
// if ctx ended first.
func (e *Engine) sleep(ctx context.Context, until time.Time, changed <-chan struct{}) bool {
	timer := e.clocks.Steady.NewTimer(until.Sub(e.clocks.Steady.Now()))
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-changed:
		return true
	case <-ctx.Done():
		return false
	}
}

// gaveUp returns the error for a caller once its ctx has ended.
func (e *Engine) gaveUp(ctx context.Context, k key, w workload.Workload, failed *workload.TokenError) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	if failed == nil {
		failed = unavailable("Entra did not answer in time")
		failed.Err = context.DeadlineExceeded
	}
	answer := *failed
	answer.RetryAfter = e.cache.retryAfter(k, w)
	return &answer
}

// errPanic says that the agent itself failed.
var errPanic = errors.New("panic")

// run runs one call with the assertion of the first of the askers that has one.
// It does so on a context of its own: it serves every caller of its key,
// whichever of them goes away. A panic is the failure of this call
// alone.
func (e *Engine) run(k key, p *call, askers ...workload.Workload) {
	r := result{unsent: true, err: unavailable("the agent failed: its log says how"), from: askers[0]}
	r.err.Err = errPanic
	func() {
		defer e.recovered(k, "exchange")
		ctx, cancel := context.WithTimeout(context.Background(), exchangeLimit)
		defer cancel()
		r = e.exchange(ctx, k, p.ahead, askers)
	}()
	forgotten := e.cache.finish(k, p, r)
	func() {
		defer e.recovered(k, "report of an exchange")
		if !forgotten {
			e.reporter.exchanged(k, p, r)
		}
	}()
	close(p.done)
}

// recovered ends a panic and logs it with its stack.
func (e *Engine) recovered(k key, where string) {
	cause := recover()
	switch shared, ok := cause.(*entra.PanicError); {
	case ok:
		e.reporter.panicked(k, where, shared.Cause, shared.Stack)
	case cause != nil:
		e.reporter.panicked(k, where, cause, debug.Stack())
	}
}

// exchange sends the first assertion that can be had.
func (e *Engine) exchange(ctx context.Context, k key, ahead bool, askers []workload.Workload) (r result) {
	r.unsent = true
	proof, w, err := e.assertionOfAny(ctx, askers)
	r.from = w
	client := e.entra
	if err == nil && k.proxy != (entra.Proxy{}) {
		client, err = e.proxies.Client(w, k.proxy)
	}
	if err != nil {
		r.err = asTokenError(err)
		return r
	}
	r.unsent = false
	asked := e.clocks.Now()
	ctx, span := e.reporter.startSpan(ctx, k, w, ahead)
	grant, err := client.Exchange(ctx, entra.Target{
		Authority: k.authority, Tenant: k.tenant, ClientID: k.clientID, Scope: k.scope(),
	}, proof)
	if shared := (*entra.PanicError)(nil); errors.As(err, &shared) {
		panic(shared)
	}
	r.err = asTokenError(err)
	endSpan(span, r.err)
	e.reporter.sent(e.clocks.Steady.Since(asked.Steady), r.err)
	if err == nil {
		r.entry = newEntry(grant, k.clientID, asked)
		return r
	}
	r.err = aadsts.Explain(r.err, factsOf(w, k.target, proof, e.assertions.AudienceFor(w)))
	return r
}

// assertionOfAny returns the first assertion that can be had and whose it is,
// or the last failure and whose that is.
func (e *Engine) assertionOfAny(ctx context.Context, askers []workload.Workload) (proof string, w workload.Workload, err error) {
	err = unavailable("no pod is known that asked for the token")
	for _, w = range askers {
		if proof, err = e.assertions.Get(ctx, w, e.clocks.EarliestDate()); err == nil {
			break
		}
	}
	return proof, w, err
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
