package tokens

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestAuditHasOneLinePerTokenAndPod(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		one, two := b.pod("shop", "cart", "web-1"), b.pod("shop", "cart", "web-2")
		r := workload.TokenRequest{Resource: vault}
		for range 3 {
			b.mustToken(one, r)
			b.mustToken(two, r)
		}
		b.mustToken(one, workload.TokenRequest{Resource: vault, BypassCache: true})
		b.mustToken(one, r)
		_, _ = b.token(one, workload.TokenRequest{Resource: vault, ObjectID: "none"})

		var pods []string
		lines := strings.Split(strings.TrimSpace(b.audit.String()), "\n")
		for _, line := range lines {
			var l map[string]any
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			pods = append(pods, fmt.Sprint(l["pod"]))
		}
		if diff := cmp.Diff([]string{"web-1", "web-2", "web-1"}, pods); diff != "" {
			t.Errorf("audited pods (-want +got):\n%s", diff)
		}
		var first map[string]string
		if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"level": "INFO", "msg": "token issued", "event": "token_issued",
			"namespace": "shop", "service_account": "cart", "pod": "web-1", "pod_uid": one.PodUID,
			"client_id": clientA, "tenant_id": tenantA, "resource": vault,
		}
		if _, err := time.Parse(time.RFC3339, first["expires_on"]); err != nil {
			t.Error(err)
		}
		delete(first, "time")
		delete(first, "expires_on")
		if diff := cmp.Diff(want, first); diff != "" {
			t.Errorf("audit line (-want +got):\n%s", diff)
		}
	})
}

func TestExchangesShowTheLastExchangeOfEachAccount(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		r := workload.TokenRequest{Resource: vault}
		till := b.mustToken(b.pod("shop", "till", "web"), r)
		b.mustToken(b.pod("shop", "cart", "web"), r)
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(400, 700016, "unauthorized_client", "AADSTS700016: gone") })
		_, _ = b.token(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault, ClientID: clientB})

		at := b.clock.Now()
		want := []Exchange{
			{Namespace: "shop", ServiceAccount: "cart", Outcome: Outcome{At: at, ErrorCode: "AADSTS700016", Error: "AADSTS700016: gone"}},
			{Namespace: "shop", ServiceAccount: "till", Outcome: Outcome{At: at, ExpiresOn: till.ExpiresOn}},
		}
		if diff := cmp.Diff(want, b.engine.Exchanges(), cmpopts.EquateApproxTime(0), cmpopts.IgnoreFields(Outcome{}, "Meaning", "Fix")); diff != "" {
			t.Errorf("Exchanges (-want +got):\n%s", diff)
		}
	})
}

// Pods of one service account are told apart: a bad request of one is not the
// other's, and an answer from the cache ends its pod's failure.
func TestLastAnswerIsThePodsOwn(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		good, bad, silent := b.pod("shop", "cart", "good"), b.pod("shop", "cart", "bad"), b.pod("shop", "cart", "silent")
		token := b.mustToken(good, workload.TokenRequest{Resource: vault})
		b.entra.set(func(f *fakeEntra) {
			f.refuse = refusing(400, 500011, "invalid_resource", "AADSTS500011: no such resource")
		})
		_, _ = b.token(bad, workload.TokenRequest{Resource: vault + "/.default"})
		at := b.clock.Now()
		got := Outcome{At: at, ExpiresOn: token.ExpiresOn}
		refused := Outcome{
			At: at, ErrorCode: "AADSTS500011", Error: "AADSTS500011: no such resource",
			Meaning: "the application asks for the scope " + vault + "/.default where a resource belongs: it must ask for " + vault,
		}
		wantAnswer(t, b, good, &Answer{Outcome: got})
		wantAnswer(t, b, bad, &Answer{Kind: workload.InvalidResource, Outcome: refused})
		wantAnswer(t, b, silent, nil)

		if _, ok := b.engine.Cached(bad, workload.TokenRequest{Resource: vault}); !ok {
			t.Fatal("the other pod's token is not served")
		}
		wantAnswer(t, b, bad, &Answer{Outcome: got})
		_, _ = b.token(bad, workload.TokenRequest{Resource: vault, ObjectID: "unmapped"})
		unmapped, _ := b.engine.LastAnswer(bad.PodUID)
		if unmapped.Kind != workload.IdentityNotFound || !unmapped.ExpiresOn.IsZero() {
			t.Errorf("an identity that is not mapped: %+v", unmapped)
		}
		if _, ok := b.engine.Cached(bad, workload.TokenRequest{Resource: vault}); !ok { // not the first time
			t.Fatal("the pod's token is not served")
		}
		wantAnswer(t, b, bad, &Answer{Outcome: got})

		b.engine.Forget(good.ServiceAccountUID)
		wantAnswer(t, b, good, nil)
		wantAnswer(t, b, bad, nil)
	})
}

func TestWhatIsExplained(t *testing.T) {
	for name, tc := range map[string]struct {
		answer Answer
		want   bool
	}{
		"known code":     {Answer{Kind: workload.Refused, Outcome: Outcome{Meaning: "the client is disabled"}}, true},
		"unknown code":   {Answer{Kind: workload.Refused, Outcome: Outcome{ErrorCode: "AADSTS1"}}, false},
		"Entra is away":  {Answer{Kind: workload.Unavailable}, false},
		"bad resource":   {Answer{Kind: workload.InvalidResource}, true},
		"bad identifier": {Answer{Kind: workload.IdentityNotFound}, true},
	} {
		if got := tc.answer.Explained(); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func wantAnswer(t *testing.T, b *bench, w workload.Workload, want *Answer) {
	t.Helper()
	var got *Answer
	if a, ok := b.engine.LastAnswer(w.PodUID); ok {
		got = &a
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApproxTime(0)); diff != "" {
		t.Errorf("last answer to %s (-want +got):\n%s", w.PodName, diff)
	}
}

// Neither a token nor an assertion shows anywhere but in the answer, even when
// Entra echoes what it was sent.
func TestSecretsStayOutOfLogsErrorsAndStatus(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		assertion := b.assertion(w, nil)
		signature := assertion[strings.LastIndex(assertion, ".")+1:]
		echo := func(status int) func(http.ResponseWriter, url.Values) bool {
			return func(rw http.ResponseWriter, form url.Values) bool {
				writeJSON(rw, status, map[string]any{
					"error": "invalid_client", "error_codes": []int{700027},
					"error_description": "bad assertion " + form.Get("client_assertion") + " for secret client",
				})
				return true
			}
		}
		answers := map[string]func(http.ResponseWriter, url.Values) bool{
			"success": nil, "echo 401": echo(401), "echo 500": echo(500), "echo 200": echo(200),
			"cut off": func(rw http.ResponseWriter, form url.Values) bool {
				rw.Header().Set("Content-Length", "4096")
				_, _ = fmt.Fprintf(rw, `{"access_token":"secret-token-0","x":%q`, form.Get("client_assertion"))
				return true
			},
			"broken": func(rw http.ResponseWriter, form url.Values) bool {
				_, _ = fmt.Fprintf(rw, `{"access_token":"secret-token-0","x":%q`, form.Get("client_assertion"))
				return true
			},
		}
		var said strings.Builder
		for name, answer := range answers {
			b.entra.set(func(f *fakeEntra) { f.refuse = answer })
			_, err := b.token(w, workload.TokenRequest{Resource: "https://" + strings.ReplaceAll(name, " ", "-")})
			for err != nil {
				fmt.Fprintf(&said, "%s: %v %+v\n", name, err, err)
				err = unwrap(err)
			}
		}
		fmt.Fprintf(&said, "%s%s%+v", b.log.String(), b.audit.String(), b.engine.Exchanges())
		families, err := b.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			said.WriteString(f.String())
		}
		if !strings.Contains(said.String(), "[redacted]") {
			t.Error("no redacted description: the test no longer tests what it should")
		}
		for _, secret := range []string{assertion, signature, "secret-token"} {
			if strings.Contains(said.String(), secret) {
				t.Errorf("%q shows in:\n%s", secret, said.String())
			}
		}
	})
}

func unwrap(err error) error {
	if u, ok := err.(interface{ Unwrap() error }); ok {
		return u.Unwrap()
	}
	return nil
}
