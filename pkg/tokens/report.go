package tokens

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
	"github.com/sidestep-agent/sidestep/pkg/tokens/bounded"
	"github.com/sidestep-agent/sidestep/pkg/tokens/clocks"
	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// logAgainAfter is how often a failure that lasts is logged.
	logAgainAfter = time.Minute
	maxLogged     = 4096
	// One service account's failures are logLines lines at once and then one
	// every logEvery; how many more there were is in the next one.
	logLines = 20
	logEvery = 10 * time.Second
	// remindAfter is how often a pod's owner is notified of a failure that
	// lasts. It is long enough for client-go's events to take it for a new one:
	// an older one would have to be patched.
	remindAfter  = 15 * time.Minute
	maxReminders = 4096
)

// reporter tells log, audit, metrics, status, spans and the owners of pods what
// became of exchanges.
type reporter struct {
	log     *slog.Logger
	audit   *slog.Logger
	metrics *metrics
	status  *status
	tracer  trace.Tracer
	owners  func(workload.Workload, *workload.TokenError) // nil: none
	cache   *cache
	clocks  clocks.Clocks

	mu        sync.Mutex
	logged    *bounded.Map[key, logged]
	lines     *bounded.Map[string, *logBudget] // by service account UID
	reminders *bounded.Map[reminder, time.Time]
}

// logged is a failure that is in the log.
type logged struct {
	kind              workload.TokenErrorKind
	code, description string
	at                time.Time
}

// logBudget bounds one service account's lines.
type logBudget struct {
	*rate.Limiter
	left int // lines left out since the last one
}

// reminder is what a pod's owner was notified of. It has the code and not the
// description: in that a pod could name ever new clients.
type reminder struct {
	podUID string
	kind   workload.TokenErrorKind
	code   string
}

func newReporter(o Options, c *cache, clocks clocks.Clocks) *reporter {
	return &reporter{
		log: o.Log, audit: o.Audit, metrics: newMetrics(o.Registerer, c), status: newStatus(),
		tracer: o.Tracer, owners: o.Notify, cache: c, clocks: clocks,
		logged: bounded.New[key](maxLogged, func(l logged, now time.Time) bool { return now.Sub(l.at) >= logAgainAfter }),
		lines: bounded.New[string](maxAccounts, func(b *logBudget, now time.Time) bool {
			return b.left == 0 && b.TokensAt(now) >= logLines
		}),
		reminders: bounded.New[reminder](maxReminders, func(at, now time.Time) bool { return now.Sub(at) >= remindAfter }),
	}
}

// answered counts how a token request was answered.
func (r *reporter) answered(how outcome) {
	r.metrics.requests.WithLabelValues(string(how)).Inc()
}

// sent counts an exchange that was sent.
func (r *reporter) sent(took time.Duration, failed *workload.TokenError) {
	r.metrics.duration.WithLabelValues(resultLabel(failed)).Observe(took.Seconds())
}

// served notes that the pod got the token. first: it is the pod's first time
// for this one, which is written to the audit.
func (r *reporter) served(ctx context.Context, w workload.Workload, t target, token workload.Token, first bool) {
	r.status.served(w, token, first, r.clocks.Now().Date)
	if first {
		r.issued(ctx, w, t, token)
	}
}

// failed notes that a request failed, and notifies the pod's owner if that is
// theirs to fix.
func (r *reporter) failed(w workload.Workload, asked workload.TokenRequest, err error) {
	r.status.failed(w, err, r.clocks.Now().Date)
	r.notify(w, asked, err)
}

// issued writes to the audit that the pod got the token, for the first time.
func (r *reporter) issued(ctx context.Context, w workload.Workload, t target, token workload.Token) {
	r.audit.LogAttrs(ctx, slog.LevelInfo, "token issued",
		slog.String("event", "token_issued"),
		slog.String("namespace", w.Namespace),
		slog.String("service_account", w.ServiceAccount),
		slog.String("pod", w.PodName),
		slog.String("pod_uid", w.PodUID),
		slog.String("client_id", t.clientID),
		slog.String("tenant_id", t.tenant),
		slog.String("resource", t.resource),
		slog.String("expires_on", token.ExpiresOn.UTC().Format(time.RFC3339)),
	)
}

// exchanged reports how a call ended.
func (r *reporter) exchanged(k key, p *call, end result) {
	now := r.clocks.Now()
	r.status.record(k, end, now.Date)
	if p.ahead {
		r.metrics.ahead.WithLabelValues(resultLabel(end.err)).Inc()
	}
	if end.err == nil {
		r.mu.Lock()
		r.logged.Remove(k) // the next failure is news
		r.mu.Unlock()
		return
	}
	r.metrics.errors.WithLabelValues(codeLabel(end.err, end.unsent)).Inc()
	failed := end.err
	if !end.unsent {
		failed = r.cache.asOf(failed, k, end.from)
	}
	if left, ok := r.mayLog(k, failed, now.Steady); ok {
		r.logFailure(k, end.from, failed, left)
	}
}

// mayLog reports whether a failure of the key goes to the log: if it is another
// one than the last time, or was logged some time ago, since held requests try
// again and again, and if the service account has lines left. It returns how
// many of its lines were left out before.
func (r *reporter) mayLog(k key, failed *workload.TokenError, now time.Time) (left int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.logged.Get(k, now)
	if ok && last.kind == failed.Kind && last.code == failed.Code && last.description == failed.Description {
		return 0, false
	}
	r.logged.Put(k, logged{failed.Kind, failed.Code, failed.Description, now}, now)
	budget, ok := r.lines.Get(k.account, now)
	if !ok {
		budget = &logBudget{Limiter: rate.NewLimiter(rate.Every(logEvery), logLines)}
		r.lines.Put(k.account, budget, now)
	}
	if !budget.AllowN(now, 1) {
		budget.left++
		return 0, false
	}
	left, budget.left = budget.left, 0
	return left, true
}

func (r *reporter) logFailure(k key, w workload.Workload, failed *workload.TokenError, left int) {
	attrs := []slog.Attr{
		slog.String("namespace", w.Namespace),
		slog.String("service_account", w.ServiceAccount),
		slog.String("pod", w.PodName),
		slog.String("client_id", k.clientID),
		slog.String("tenant_id", k.tenant),
		slog.String("authority", k.authority),
		slog.String("resource", k.resource),
		slog.String("kind", failed.Kind.String()),
		slog.String("code", failed.Code),
		slog.String("description", failed.Description),
	}
	if !failed.RetriedUntil.IsZero() {
		attrs = append(attrs, slog.String("retried_until", failed.RetriedUntil.UTC().Format(time.RFC3339)))
	}
	if failed.Meaning != "" {
		attrs = append(attrs, slog.String("meaning", failed.Meaning))
	}
	switch {
	case failed.Fix != "" && !failed.RetriedUntil.IsZero():
		attrs = append(attrs, slog.String("fix_if_it_stays", failed.Fix))
	case failed.Fix != "":
		attrs = append(attrs, slog.String("fix", failed.Fix))
	}
	if failed.Err != nil {
		// One line of it: MSAL adds the whole of a document that it cannot read.
		attrs = append(attrs, slog.String("cause", entra.OneLine(failed.Err.Error())))
	}
	if left > 0 {
		attrs = append(attrs, slog.Int("left_out", left))
	}
	if failed.RetriedUntil.IsZero() {
		r.log.LogAttrs(context.Background(), slog.LevelWarn, "token exchange failed", attrs...)
	} else {
		r.log.LogAttrs(context.Background(), slog.LevelWarn, "token exchange not accepted yet, retried", attrs...)
	}
}

// panicked logs a panic. Go prints arguments in a stack as numbers,
// so there is no secret in it.
func (r *reporter) panicked(k key, where string, cause any, stack []byte) {
	r.log.LogAttrs(context.Background(), slog.LevelError, "panic, which ended nothing but the token exchange",
		slog.String("where", where),
		slog.String("client_id", k.clientID),
		slog.String("tenant_id", k.tenant),
		slog.String("cause", entra.OneLine(fmt.Sprint(cause))),
		slog.String("stack", string(stack)),
	)
}

// notify tells a pod's owner why a request failed, if that is his to fix and he
// was not notified of late.
func (r *reporter) notify(w workload.Workload, asked workload.TokenRequest, err error) {
	var failed *workload.TokenError
	if r.owners == nil || !errors.As(err, &failed) || !ownersToFix(failed, asked) {
		return
	}
	k := reminder{w.PodUID, failed.Kind, failed.Code}
	now := r.clocks.Now().Steady
	r.mu.Lock()
	_, lately := r.reminders.Get(k, now)
	if !lately {
		r.reminders.Put(k, now, now)
	}
	r.mu.Unlock()
	if !lately {
		r.owners(w, failed)
	}
}

// ownersToFix reports whether the failure lies in how the workload is set up,
// and not in the one request: some clients ask for an identity by one kind of
// id after the other, until one is known.
func ownersToFix(failed *workload.TokenError, r workload.TokenRequest) bool {
	switch failed.Kind {
	case workload.Refused:
		return true
	case workload.IdentityNotFound:
		return !r.Selects()
	case workload.InvalidResource:
		return failed.Code != ""
	case workload.Unavailable:
		// Of what worked before there is nothing to fix until it lasts.
		return !failed.RetriedUntil.IsZero() && failed.Fix != ""
	}
	return false
}

// forget erases what is kept for the service account.
func (r *reporter) forget(account string) {
	r.status.forget(account)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logged.RemoveIf(func(k key, _ logged) bool { return k.account == account })
	r.lines.Remove(account)
}

// startSpan begins the span of an exchange with the workload's assertion. It
// has no parent: the exchange is for every caller of its key.
func (r *reporter) startSpan(ctx context.Context, k key, w workload.Workload, ahead bool) (context.Context, trace.Span) {
	return r.tracer.Start(ctx, "token exchange", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("k8s.namespace.name", w.Namespace),
		attribute.String("k8s.pod.name", w.PodName),
		attribute.String("k8s.pod.uid", w.PodUID),
		attribute.String("sidestep.service_account", w.ServiceAccount),
		attribute.String("sidestep.client_id", k.clientID),
		attribute.String("sidestep.tenant_id", k.tenant),
		attribute.String("sidestep.authority", k.authority),
		attribute.String("sidestep.resource", k.resource),
		attribute.Bool("sidestep.refresh", ahead),
	))
}

// endSpan ends it with how the exchange ended: nil is a token.
func endSpan(s trace.Span, failed *workload.TokenError) {
	s.SetAttributes(attribute.String("sidestep.result", resultLabel(failed)))
	if failed != nil {
		s.SetAttributes(attribute.String("error.type", codeLabel(failed, false)))
		s.SetStatus(codes.Error, failed.Description)
	}
	s.End()
}

// factsOf returns what is known of an exchange with the assertion. The issuer's
// name is learnt from it; its claims were checked before.
func factsOf(w workload.Workload, t target, assertion, audience string) aadsts.Facts {
	var c jwt.RegisteredClaims
	// A claim that cannot be read leaves its fact empty.
	_, _, _ = jwt.NewParser().ParseUnverified(assertion, &c)
	f := aadsts.Facts{
		Issuer: c.Issuer, Subject: w.Subject(), Audience: audience,
		Namespace: w.Namespace, Account: w.ServiceAccount,
		ClientID: t.clientID, Tenant: t.tenant, Resource: t.resource,
	}
	for _, m := range w.Identities {
		if strings.EqualFold(m.ClientID, t.clientID) {
			f.ResourceID = m.ResourceID
		}
	}
	return f
}
