package tokens

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/sidestep-agent/sidestep/pkg/tokens/assertion"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// apiServer issues assertions, and keeps what it was
// asked.
type apiServer struct {
	*fake.Clientset
	issue func(account string) string
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
	b.engine.assertions.Accounts = s.CoreV1()
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
	got, err := assertion.Source{Audience: workload.TokenAudience, Pods: read.Pods, Accounts: s.CoreV1()}.Get(t.Context(), w, b.clock.Now())
	if err != nil || len(s.asked) != 0 {
		t.Errorf("asked %d times, error %v", len(s.asked), err)
	}
	if direct, _ := read.Get(t.Context(), w, b.clock.Now()); got != direct {
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
