package tokens

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// listen returns a function that returns what owners were notified of since its last
// call: codes, or the kind where there is none.
func listen(b *bench) func() []string {
	var heard []string
	b.engine.reporter.owners = func(w workload.Workload, failed *workload.TokenError) {
		what := failed.Code
		if what == "" {
			what = failed.Kind.String()
		}
		heard = append(heard, w.PodName+": "+what)
	}
	return func() []string {
		events := heard
		heard = nil
		return events
	}
}

func TestOwnersAreNotifiedOfWhatTheyCanFix(t *testing.T) {
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
				t.Errorf("notified of (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOwnersAreNotifiedOnceInAWhile(t *testing.T) {
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
			t.Errorf("notified of (-want +got):\n%s", diff)
		}
		b.advance(remindAfter)
		ask(clientA)
		if diff := cmp.Diff([]string{"web-1: AADSTS700016", "web-2: AADSTS700016"}, heard()); diff != "" {
			t.Errorf("notified of later (-want +got):\n%s", diff)
		}
	})
}

func TestTransientFailuresAreNobodysToFix(t *testing.T) {
	b := newBench(t)
	for _, err := range []error{unavailable("down"), errors.New("gone"), nil} {
		b.engine.reporter.owners = func(workload.Workload, *workload.TokenError) { t.Errorf("notified of %v", err) }
		b.engine.reporter.notify(workload.Workload{}, workload.TokenRequest{}, err)
	}
}

func TestRefusalIsExplained(t *testing.T) {
	b := newBench(t)
	w := b.pod("shop", "cart", "web")
	b.write(w, b.assertion(w, func(c jwt.MapClaims) { c["iss"] = "https://oidc.example/" }))
	b.entra.set(func(f *fakeEntra) {
		f.refuse = refusing(http.StatusUnauthorized, 700211, "invalid_client", "AADSTS700211: No matching federated identity record found."+supportPart)
	})
	_, err := b.token(w, workload.TokenRequest{Resource: vault})
	wantTokenError(t, err, workload.Refused, "No matching federated identity record found.")
	got := asTokenError(err)
	if want := "no federated credential of the identity " + clientA + " is for the issuer https://oidc.example/, character for character"; got.Meaning != want {
		t.Errorf("meaning %q, want %q", got.Meaning, want)
	}
	if !strings.Contains(got.Fix, "--issuer https://oidc.example/ --subject system:serviceaccount:shop:cart") {
		t.Errorf("fix %q", got.Fix)
	}
	if last := b.engine.Exchanges()[0]; last.Meaning != got.Meaning || last.Fix != got.Fix {
		t.Errorf("status %+v", last)
	}
	for _, want := range []string{"No matching federated identity record found.", got.Meaning, "az identity federated-credential create"} {
		if n := strings.Count(b.log.String(), want); n != 1 {
			t.Errorf("%d times %q in the log:\n%s", n, want, b.log.String())
		}
	}
}
