package assertion

import (
	"context"
	"errors"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
		"pod of the same name":                   {apierrors.NewConflict(accounts, "cart", errors.New("uid")), workload.Unavailable, "created again", 0},
		"another service account":                {apierrors.NewBadRequest("different serviceaccount"), workload.Refused, "does not run as", 0},
		"throttled":                              {apierrors.NewTooManyRequests("busy", 7), workload.Unavailable, "did not issue", 7 * time.Second},
		"server error":                           {apierrors.NewInternalError(errors.New("x")), workload.Unavailable, "did not issue", 0},
		"not reached":                            {&url.Error{Op: "Post", URL: "https://api", Err: io.EOF}, workload.Unavailable, "did not issue", 0},
		"too late":                               {context.DeadlineExceeded, workload.Unavailable, "did not issue", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(nil)
			s.err = tc.err
			_, err := Source{Accounts: s.CoreV1()}.Get(t.Context(), workload.Workload{Namespace: "shop", ServiceAccount: "cart", PodName: "web"}, time.Now())
			var e *workload.TokenError
			if !errors.As(err, &e) || e.Kind != tc.kind || !strings.Contains(e.Description, tc.mention) || e.RetryAfter != tc.retryAfter {
				t.Errorf("error %v, want kind %v that mentions %q, retry after %v", err, tc.kind, tc.mention, tc.retryAfter)
			}
			if !errors.Is(err, tc.err) {
				t.Error("the cause is lost")
			}
		})
	}
}
