package metricsserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"
)

// cluster answers reviews as an API server does in which the token good is of a
// scraper, and the token known of somebody who may do nothing.
type cluster struct {
	mu      sync.Mutex
	tokens  []string // that it was asked about
	accused []authzv1.SubjectAccessReviewSpec
	down    bool
}

func (c *cluster) reviewToken(action ktesting.Action) (bool, runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	review := action.(ktesting.CreateAction).GetObject().(*authnv1.TokenReview).DeepCopy()
	c.tokens = append(c.tokens, review.Spec.Token)
	if c.down {
		return true, nil, errors.New("connection refused")
	}
	if name := map[string]string{"good": "system:serviceaccount:monitoring:scraper", "known": "nobody"}[review.Spec.Token]; name != "" {
		review.Status = authnv1.TokenReviewStatus{Authenticated: true, User: authnv1.UserInfo{
			Username: name, UID: "1", Groups: []string{"system:authenticated"}, Extra: map[string]authnv1.ExtraValue{"e": {"v"}},
		}}
	} else {
		review.Status.Error = "invalid bearer token"
	}
	return true, review, nil
}

func (c *cluster) reviewAccess(action ktesting.Action) (bool, runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	review := action.(ktesting.CreateAction).GetObject().(*authzv1.SubjectAccessReview).DeepCopy()
	c.accused = append(c.accused, review.Spec)
	review.Status.Allowed = review.Spec.User == "system:serviceaccount:monitoring:scraper" &&
		*review.Spec.NonResourceAttributes == authzv1.NonResourceAttributes{Path: "/metrics", Verb: "get"}
	return true, review, nil
}

func (c *cluster) set(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

func (c *cluster) asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.tokens)
}

// authorizing is an Authorizer in front of a handler that answers 200.
type authorizing struct {
	*testing.T
	cluster    *cluster
	clock      *clocktesting.FakePassiveClock
	authorizer *Authorizer
	handler    http.Handler
}

func newAuthorizing(t *testing.T) *authorizing {
	c, client := &cluster{}, fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", c.reviewToken)
	client.PrependReactor("create", "subjectaccessreviews", c.reviewAccess)
	clock := clocktesting.NewFakePassiveClock(time.Unix(0, 0).Add(time.Hour))
	a := NewAuthorizer(AuthorizerOptions{
		TokenReviews:         client.AuthenticationV1().TokenReviews(),
		SubjectAccessReviews: client.AuthorizationV1().SubjectAccessReviews(),
		Log:                  slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Clock: clock,
	})
	return &authorizing{t, c, clock, a, a.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))}
}

// get asks for the metrics from the address and returns the answer.
func (a *authorizing) get(from, authorization string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(a.Context(), http.MethodGet, "/metrics", http.NoBody)
	r.RemoteAddr = from + ":1"
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return w
}

func (a *authorizing) want(from, authorization string, status int) {
	a.Helper()
	if got := a.get(from, authorization); got.Code != status {
		a.Errorf("%q from %s: status %d, want %d", authorization, from, got.Code, status)
	}
}

func (a *authorizing) pass(d time.Duration) { a.clock.SetTime(a.clock.Now().Add(d)) }

func TestOnlyWhoMayGetsMetrics(t *testing.T) {
	a := newAuthorizing(t)
	for authorization, status := range map[string]int{
		"": http.StatusUnauthorized, "Bearer": http.StatusUnauthorized, "Bearer  ": http.StatusUnauthorized,
		"Basic good": http.StatusUnauthorized, "good": http.StatusUnauthorized, "Bearer bad": http.StatusUnauthorized,
		"Bearer known": http.StatusForbidden, "Bearer good": http.StatusOK, "bearer good": http.StatusOK,
	} {
		a.want("10.0.0.1", authorization, status)
	}
	if got := a.get("10.0.0.1", "").Header().Get("WWW-Authenticate"); got != "Bearer" {
		t.Errorf("WWW-Authenticate is %q", got)
	}
	// Nothing but tokens is sent, and all that is known of the user.
	if got := slices.Sorted(slices.Values(a.cluster.tokens)); !slices.Equal(got, []string{"bad", "good", "known"}) {
		t.Errorf("asked about %q", got)
	}
	for _, spec := range a.cluster.accused {
		if spec.UID != "1" || !slices.Equal(spec.Groups, []string{"system:authenticated"}) || !slices.Equal(spec.Extra["e"], []string{"v"}) || spec.ResourceAttributes != nil {
			t.Errorf("access review of %+v", spec)
		}
	}
	if n := testutil.ToFloat64(a.authorizer.requests.WithLabelValues(resultAllowed)); n != 2 {
		t.Errorf("%v counted as allowed", n)
	}
}

func TestReviewsAreKeptForAWhile(t *testing.T) {
	a := newAuthorizing(t)
	for range 3 {
		a.want("10.0.0.1", "Bearer good", http.StatusOK)
		a.want("10.0.0.1", "Bearer known", http.StatusForbidden)
	}
	if n := a.cluster.asked(); n != 2 {
		t.Errorf("asked %d times about two tokens", n)
	}
	a.pass(refusedFor)
	a.want("10.0.0.1", "Bearer known", http.StatusForbidden)
	a.want("10.0.0.1", "Bearer good", http.StatusOK)
	if n := a.cluster.asked(); n != 3 {
		t.Errorf("asked %d times, want again about the one that was refused", n)
	}
	a.pass(allowedFor)
	a.want("10.0.0.1", "Bearer good", http.StatusOK)
	if n := a.cluster.asked(); n != 4 {
		t.Errorf("asked %d times, want again about the one that was allowed", n)
	}
}

// Without an answer of the API server's nobody is let in for longer than its last
// one holds.
func TestFailsClosed(t *testing.T) {
	a := newAuthorizing(t)
	a.want("10.0.0.1", "Bearer good", http.StatusOK)
	a.cluster.set(true)
	a.want("10.0.0.1", "Bearer good", http.StatusOK)
	a.pass(allowedFor)
	for range 3 {
		a.want("10.0.0.1", "Bearer good", http.StatusServiceUnavailable)
	}
	a.cluster.set(false)
	a.want("10.0.0.1", "Bearer good", http.StatusOK)
}

// Whoever sends ever new tokens neither has the API server asked about all of
// them, nor fills the memory, nor keeps a scraper out.
func TestReviewsAreBounded(t *testing.T) {
	a := newAuthorizing(t)
	a.want("10.0.0.1", "Bearer good", http.StatusOK)
	for i := range 3 * maxAddresses {
		from := fmt.Sprintf("10.1.%d.%d", i/256, i%256)
		if i < 100 {
			from = "10.9.9.9"
		}
		a.get(from, "Bearer made up "+strings.Repeat("x", i%10)+fmt.Sprint(i))
		if i == 99 {
			if n := a.cluster.asked(); n != 1+addressReviews {
				t.Errorf("asked %d times for one address, want %d", n-1, addressReviews)
			}
			a.want("10.0.0.2", "Bearer good", http.StatusOK) // whoever has it
		}
	}
	if n := a.cluster.asked(); n > 1+allReviews {
		t.Errorf("asked %d times, want %d at most", n, 1+allReviews)
	}
	a.pass(allowedFor)
	a.want("10.0.0.1", "Bearer good", http.StatusOK)
	if len(a.authorizer.refused) > maxKept || len(a.authorizer.byClient) > maxAddresses {
		t.Errorf("%d refusals and %d addresses are kept", len(a.authorizer.refused), len(a.authorizer.byClient))
	}
}
