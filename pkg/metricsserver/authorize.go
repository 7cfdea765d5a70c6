package metricsserver

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authnclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authzclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/utils/clock"
)

// How long an answer of the API server's holds, and how many are kept. What has
// to be fast is that a token which was good stays so between scrapes; a refusal
// is remembered so that a scraper that was refused does not ask at each try.
const (
	allowedFor = time.Minute
	refusedFor = 10 * time.Second
	maxKept    = 64 // of each kind
	// reviewTime is how long the API server may take.
	reviewTime = 5 * time.Second
	// warnEvery is how often the log says that the API server does not answer.
	warnEvery = time.Minute
)

// How many tokens the API server is asked about that are not known to be good:
// so many at once, and so many in each second after that. The agent's client
// has other requests to make.
const (
	addressReviews    = 5
	addressReviewRate = 0.1
	allReviews        = 20
	allReviewRate     = 5
	maxAddresses      = 1024
)

// AuthorizerOptions are what NewAuthorizer needs. All fields are required.
type AuthorizerOptions struct {
	TokenReviews         authnclient.TokenReviewInterface
	SubjectAccessReviews authzclient.SubjectAccessReviewInterface
	Log                  *slog.Logger
	Registerer           prometheus.Registerer
	Clock                clock.PassiveClock
}

// Authorizer answers for whom the API server allows to get a path: the caller's
// bearer token is authenticated by a TokenReview, and its user by a
// SubjectAccessReview. While the API server does not answer, nobody is.
type Authorizer struct {
	AuthorizerOptions
	requests *prometheus.CounterVec
	flights  singleflight.Group // by what is asked

	mu       sync.Mutex
	allowed  map[asked]time.Time // until when
	refused  map[asked]refusal
	all      *rate.Limiter
	byClient map[string]*rate.Limiter
	warned   time.Time
}

// asked is a token, by its digest, and the path that it is to open.
type asked struct {
	token [sha256.Size]byte
	path  string
}

// refusal is what the API server said to that.
type refusal struct {
	status int
	until  time.Time
}

// How a request came out, for the metric.
const (
	resultAllowed         = "allowed"
	resultUnauthenticated = "unauthenticated"
	resultForbidden       = "forbidden"
	resultLimited         = "limited"
	resultError           = "error"
)

// NewAuthorizer returns an Authorizer.
func NewAuthorizer(o AuthorizerOptions) *Authorizer {
	a := &Authorizer{
		AuthorizerOptions: o,
		requests: promauto.With(o.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "sidestep_metrics_requests_total",
			Help: "Requests for metrics by what became of their bearer token.",
		}, []string{"result"}),
		allowed: map[asked]time.Time{}, refused: map[asked]refusal{},
		all: rate.NewLimiter(allReviewRate, allReviews), byClient: map[string]*rate.Limiter{},
	}
	for _, result := range []string{resultAllowed, resultUnauthenticated, resultForbidden, resultLimited, resultError} {
		a.requests.WithLabelValues(result)
	}
	return a
}

// Handler returns a handler that passes on to h what the API server allows. It
// answers others 401, 403, 429 if the API server has been asked too often, and 503
// if that does not answer.
func (a *Authorizer) Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, result := a.judge(r)
		a.requests.WithLabelValues(result).Inc()
		switch status {
		case http.StatusOK:
			h.ServeHTTP(w, r)
			return
		case http.StatusUnauthorized:
			w.Header().Set("WWW-Authenticate", "Bearer")
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", "10")
		}
		http.Error(w, http.StatusText(status), status)
	})
}

// judge returns how to answer the request.
func (a *Authorizer) judge(r *http.Request) (status int, result string) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return http.StatusUnauthorized, resultUnauthenticated
	}
	k := asked{sha256.Sum256([]byte(token)), r.URL.Path}
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	status, known := a.known(k, client)
	if !known {
		// One review serves all who come with the token, whoever goes away.
		v, _, _ := a.flights.Do(string(k.token[:])+k.path, func() (any, error) {
			return a.review(context.WithoutCancel(r.Context()), k, token), nil
		})
		status = v.(int)
	}
	return status, map[int]string{
		http.StatusOK: resultAllowed, http.StatusUnauthorized: resultUnauthenticated, http.StatusForbidden: resultForbidden,
		http.StatusTooManyRequests: resultLimited, http.StatusServiceUnavailable: resultError,
	}[status]
}

// known returns how to answer without the API server, if that may not be asked
// or has been.
func (a *Authorizer) known(k asked, client string) (status int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Clock.Now()
	if until, good := a.allowed[k]; good {
		// One that was good is reviewed again whatever others do.
		return http.StatusOK, now.Before(until)
	}
	if no, ok := a.refused[k]; ok && now.Before(no.until) {
		return no.status, true
	}
	if !a.limiter(client, now).AllowN(now, 1) || !a.all.AllowN(now, 1) {
		return http.StatusTooManyRequests, true
	}
	return 0, false
}

// limiter returns the client's. The caller holds the lock.
func (a *Authorizer) limiter(client string, now time.Time) *rate.Limiter {
	l, ok := a.byClient[client]
	if ok {
		return l
	}
	if len(a.byClient) >= maxAddresses {
		for other, l := range a.byClient {
			if l.TokensAt(now) >= addressReviews {
				delete(a.byClient, other)
			}
		}
	}
	l = rate.NewLimiter(addressReviewRate, addressReviews)
	if len(a.byClient) < maxAddresses {
		a.byClient[client] = l
	}
	return l
}

// review asks the API server and keeps what it says.
func (a *Authorizer) review(ctx context.Context, k asked, token string) (status int) {
	ctx, cancel := context.WithTimeout(ctx, reviewTime)
	defer cancel()
	status, err := a.ask(ctx, k.path, token)
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Clock.Now()
	if err != nil {
		if now.Sub(a.warned) >= warnEvery {
			a.warned = now
			a.Log.Warn("cannot review who asks for metrics, and refuse them", "err", err)
		}
		return http.StatusServiceUnavailable
	}
	if status == http.StatusOK {
		delete(a.refused, k)
		keep(a.allowed, k, now.Add(allowedFor), func(until time.Time) time.Time { return until })
		return status
	}
	delete(a.allowed, k)
	keep(a.refused, k, refusal{status, now.Add(refusedFor)}, func(r refusal) time.Time { return r.until })
	return status
}

// keep puts v at k, and removes what ends first if there are too many.
func keep[V any](all map[asked]V, k asked, v V, until func(V) time.Time) {
	if _, ok := all[k]; !ok && len(all) >= maxKept {
		var first asked
		var ends time.Time
		for k, v := range all {
			if at := until(v); ends.IsZero() || at.Before(ends) {
				first, ends = k, at
			}
		}
		delete(all, first)
	}
	all[k] = v
}

// ask returns 200, 401 or 403 as the API server says.
func (a *Authorizer) ask(ctx context.Context, path, token string) (status int, err error) {
	who, err := a.TokenReviews.Create(ctx, &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	if !who.Status.Authenticated || who.Status.User.Username == "" {
		return http.StatusUnauthorized, nil
	}
	extra := make(map[string]authzv1.ExtraValue, len(who.Status.User.Extra))
	for k, v := range who.Status.User.Extra {
		extra[k] = authzv1.ExtraValue(v)
	}
	may, err := a.SubjectAccessReviews.Create(ctx, &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{
		User: who.Status.User.Username, UID: who.Status.User.UID, Groups: who.Status.User.Groups, Extra: extra,
		NonResourceAttributes: &authzv1.NonResourceAttributes{Path: path, Verb: "get"},
	}}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return 0, err
	case may.Status.Allowed && !may.Status.Denied:
		return http.StatusOK, nil
	case may.Status.EvaluationError != "":
		return 0, errors.New("authorize: " + may.Status.EvaluationError)
	}
	return http.StatusForbidden, nil
}
