package tokens

import (
	"context"
	"errors"
	"io"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// apiServer issues assertions, or answers with err, and keeps what it was
// asked.
type apiServer struct {
	*fake.Clientset
	issue func(account string) string
	err   error
	asked []*authenticationv1.TokenRequest
}

func newAPIServer(issue func(account string) string) *apiServer {
	s := &apiServer{Clientset: fake.NewClientset(), issue: issue}
	s.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		create := a.(clienttesting.CreateActionImpl)
		asked := create.GetObject().(*authenticationv1.TokenRequest)
		s.asked = append(s.asked, asked)
		if s.err != nil {
			return true, nil, s.err
		}
		answer := asked.DeepCopy()
		answer.Status.Token = s.issue(create.Name)
		return true, answer, nil
	})
	return s
}

// withRequests lets the bench's engine ask an API server that issues w's
// assertion.
func (b *bench) withRequests(w workload.Workload) *apiServer {
	s := newAPIServer(func(string) string { return b.assertion(w, nil) })
	b.engine.assertions = sources{requested: &requested{s.CoreV1()}}
	return s
}

func TestPodWithoutAVolumeGetsATokenFromTheAPIServer(t *testing.T) {
	b := newBench(t)
	w := b.pod("shop", "cart", "web")
	w.Projected, w.TokenExpiration = nil, 2*time.Hour
	s := b.withRequests(w)
	b.mustToken(w, workload.TokenRequest{Resource: vault})
	want := []*authenticationv1.TokenRequest{{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID(w.ServiceAccountUID)},
		Spec: authenticationv1.TokenRequestSpec{
			Audiences:         []string{workload.TokenAudience},
			ExpirationSeconds: new(int64(7200)),
			BoundObjectRef: &authenticationv1.BoundObjectReference{
				Kind: "Pod", APIVersion: "v1", Name: w.PodName, UID: types.UID(w.PodUID),
			},
		},
	}}
	if diff := cmp.Diff(want, s.asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	b.mustToken(w, workload.TokenRequest{Resource: vault})
	if len(s.asked) != 1 {
		t.Errorf("%d assertions for one cached token", len(s.asked))
	}
}

func TestVolumeGoesBeforeTheAPIServer(t *testing.T) {
	b := newBench(t)
	w := b.pod("shop", "cart", "web")
	read := b.engine.assertions
	s := newAPIServer(func(string) string { return "" })
	assertion, err := sources{projected: projected{pods: b.dir + "/pods"}, requested: &requested{s.CoreV1()}}.Assertion(t.Context(), w)
	if err != nil || len(s.asked) != 0 {
		t.Errorf("asked %d times, error %v", len(s.asked), err)
	}
	if direct, _ := read.Assertion(t.Context(), w); assertion != direct {
		t.Error("another assertion than the volume's")
	}
}

func TestWithoutTheFlagNobodyIsAsked(t *testing.T) {
	b := newBench(t)
	w := b.pod("shop", "cart", "web")
	w.Projected = nil
	_, err := b.token(w, workload.TokenRequest{Resource: vault})
	wantTokenError(t, err, workload.Refused, "webhook")
}

// What the API server returns is checked as what the kubelet writes.
func TestRequestedAssertionIsChecked(t *testing.T) {
	b := newBench(t)
	w := b.pod("shop", "cart", "web")
	w.Projected = nil
	s := b.withRequests(w)
	s.issue = func(string) string { return b.assertion(b.pod("shop", "admin", "v"), nil) }
	_, err := b.token(w, workload.TokenRequest{Resource: vault})
	wantTokenError(t, err, workload.Refused, "system:serviceaccount:shop:cart")
	if n := b.entra.exchanges(); n != 0 {
		t.Errorf("%d exchanges", n)
	}
}

func TestExpirationIsClamped(t *testing.T) {
	for asked, want := range map[time.Duration]int64{
		0: 3600, time.Second: 3600, time.Hour: 3600, 5000 * time.Second: 5000,
		24 * time.Hour: 86400, 24*time.Hour + time.Second: 86400, 1 << 62: 86400,
	} {
		if got := expirationSeconds(asked); got != want {
			t.Errorf("expirationSeconds(%v) = %d, want %d", asked, got, want)
		}
	}
}

func TestAnswersOfTheAPIServer(t *testing.T) {
	accounts := schema.GroupResource{Resource: "serviceaccounts"}
	for name, tc := range map[string]struct {
		err        error
		kind       workload.TokenErrorKind
		mention    string
		retryAfter time.Duration
	}{
		"no permission, or the policy's refusal": {apierrors.NewForbidden(accounts, "cart", errors.New("no")), workload.Refused, "manifests/overlays/token-request", 0},
		"another policy's refusal":               {apierrors.NewInvalid(schema.GroupKind{Kind: "TokenRequest"}, "cart", nil), workload.Refused, "manifests/overlays/token-request", 0},
		"pod gone":                               {apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "web"), workload.Unavailable, "gone", 0},
		"pod made anew":                          {apierrors.NewConflict(accounts, "cart", errors.New("uid")), workload.Unavailable, "made anew", 0},
		"another service account":                {apierrors.NewBadRequest("different serviceaccount"), workload.Refused, "does not run as", 0},
		"throttled":                              {apierrors.NewTooManyRequests("busy", 7), workload.Unavailable, "did not issue", 7 * time.Second},
		"server error":                           {apierrors.NewInternalError(errors.New("x")), workload.Unavailable, "did not issue", 0},
		"not reached":                            {&url.Error{Op: "Post", URL: "https://api", Err: io.EOF}, workload.Unavailable, "did not issue", 0},
		"too late":                               {context.DeadlineExceeded, workload.Unavailable, "did not issue", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(nil)
			s.err = tc.err
			_, err := requested{s.CoreV1()}.Assertion(t.Context(), workload.Workload{Namespace: "shop", ServiceAccount: "cart", PodName: "web"})
			wantTokenError(t, err, tc.kind, tc.mention)
			if got := asTokenError(err).RetryAfter; got != tc.retryAfter {
				t.Errorf("retry after %v, want %v", got, tc.retryAfter)
			}
			if !errors.Is(err, tc.err) {
				t.Error("the cause is lost")
			}
		})
	}
}
