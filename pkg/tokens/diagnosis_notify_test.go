package tokens

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// listen returns a function that returns what owners were told since its last
// call: codes, or the kind where there is none.
func listen(b *bench) func() []string {
	var heard []string
	b.engine.owners.notify = func(w workload.Workload, failed *workload.TokenError) {
		what := failed.Code
		if what == "" {
			what = failed.Kind.String()
		}
		heard = append(heard, w.PodName+": "+what)
	}
	return func() []string {
		told := heard
		heard = nil
		return told
	}
}

func TestOwnersAreToldOfWhatTheyCanMend(t *testing.T) {
	refuse := func(status, code int, name string) func(*bench, *workload.Workload) {
		return func(b *bench, _ *workload.Workload) {
			b.entra.set(func(f *fakeEntra) { f.refuse = refusing(status, code, name, "no") })
		}
	}
	for name, tc := range map[string]struct {
		spoil   func(*bench, *workload.Workload)
		request workload.TokenRequest
		want    []string
	}{
		"nothing is wrong":    {func(*bench, *workload.Workload) {}, workload.TokenRequest{Resource: vault}, nil},
		"unknown client":      {refuse(400, 700016, "unauthorized_client"), workload.TokenRequest{Resource: vault}, []string{"web: AADSTS700016"}},
		"unknown resource":    {refuse(400, 500011, "invalid_resource"), workload.TokenRequest{Resource: vault}, []string{"web: AADSTS500011"}},
		"no resource":         {func(*bench, *workload.Workload) {}, workload.TokenRequest{}, nil},
		"no volume":           {func(_ *bench, w *workload.Workload) { w.Projected = nil }, workload.TokenRequest{Resource: vault}, []string{"web: refused"}},
		"no tenant":           {func(_ *bench, w *workload.Workload) { w.TenantID = "common" }, workload.TokenRequest{Resource: vault}, []string{"web: refused"}},
		"no client id":        {func(_ *bench, w *workload.Workload) { w.ClientID = "" }, workload.TokenRequest{Resource: vault}, []string{"web: identity_not_found"}},
		"a guess of a client": {func(*bench, *workload.Workload) {}, workload.TokenRequest{Resource: vault, ObjectID: "x"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			heard := listen(b)
			w := b.pod("shop", "cart", "web")
			tc.spoil(b, &w)
			_, _ = b.token(w, tc.request)
			if diff := cmp.Diff(tc.want, heard()); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOwnersAreToldOnceInAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		heard := listen(b)
		b.entra.set(func(f *fakeEntra) {
			f.refuse = refusing(http.StatusBadRequest, 700016, "unauthorized_client", "AADSTS700016: gone")
		})
		one, two := b.pod("shop", "cart", "web-1"), b.pod("shop", "cart", "web-2")
		ask := func(client string) {
			for range 3 {
				for _, w := range []workload.Workload{one, two} {
					_, _ = b.token(w, workload.TokenRequest{Resource: vault, ClientID: client})
				}
			}
		}
		ask(clientA)
		ask(clientB) // the same trouble, whichever client a pod names
		if diff := cmp.Diff([]string{"web-1: AADSTS700016", "web-2: AADSTS700016"}, heard()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		b.advance(remindAfter)
		ask(clientA)
		if diff := cmp.Diff([]string{"web-1: AADSTS700016", "web-2: AADSTS700016"}, heard()); diff != "" {
			t.Errorf("told later (-want +got):\n%s", diff)
		}
	})
}

func TestTransientFailuresAreNobodysToMend(t *testing.T) {
	for _, err := range []error{unavailable("down"), errors.New("gone"), nil} {
		o := newOwners(func(workload.Workload, *workload.TokenError) { t.Errorf("told of %v", err) })
		o.tell(workload.Workload{}, workload.TokenRequest{}, err, time.Now())
	}
}
