package outages

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"

	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/suite"
)

// jwtLike finds any JWT, known to the test or not: its header begins so.
var jwtLike = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*`)

// leaks says where a secret shows: a JWT of any kind, or the claims or the
// signature of one that is known, also in base64 once more.
func leaks(where, said string, secrets []string) (found []string) {
	for _, jwt := range jwtLike.FindAllString(said, -1) {
		found = append(found, fmt.Sprintf("%s: a JWT, %.12s…", where, jwt))
	}
	for _, secret := range secrets {
		for i, part := range append(strings.Split(secret, ".")[1:], secret) {
			again := base64.StdEncoding.EncodeToString([]byte(part))
			if strings.Contains(said, part) || strings.Contains(said, again[:len(again)-4]) {
				found = append(found, fmt.Sprintf("%s: part %d of a known token", where, i+1))
			}
		}
	}
	return found
}

// load has applications ask through faults of all kinds, and returns the
// tokens that they got.
func (r *rig) load(lasts time.Duration) []string {
	var mu sync.Mutex
	var all sync.WaitGroup
	tokens := make(map[string]bool)
	ends := time.Now().Add(lasts)
	for i := range 10 {
		a := r.app(i, "web")
		a.client.Timeout = time.Second
		if i == 0 {
			a.url += "&client_id=" + clientOf(777) // which Entra refuses
		}
		all.Go(func() {
			for time.Now().Before(ends) {
				if got := a.ask(); got.status == 200 {
					mu.Lock()
					tokens[got.token] = true
					mu.Unlock()
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	wrong := []entra.Fault{
		{}, {Status: 500, Share: .5}, {NotJSON: true}, {Reset: true}, {BadTLS: true}, {ClockSeconds: -600},
		{}, {Status: 429, RetryAfter: "1"}, {Hang: true}, {ClockSeconds: 3600 * 24}, {},
	}
	for _, fault := range wrong {
		r.setFault(fault)
		time.Sleep(lasts / time.Duration(len(wrong)))
	}
	all.Wait()
	return slices.Collect(maps.Keys(tokens))
}

// said returns all that the agent tells anyone but the applications.
func (r *rig) said(t *testing.T) map[string]string {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var metrics strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&metrics, f); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]string{
		"log": r.log.String(), "events": r.noticed.String(), "metrics": metrics.String(), "status": r.statusOutput(t),
		"spans": r.sentSpans(),
	}
}

// statusOutput returns what `agent status` prints of tokens, in each form.
func (r *rig) statusOutput(t *testing.T) string {
	t.Helper()
	report := status.Report{Version: "test", Node: "node"}
	for _, e := range r.engine.Exchanges() {
		report.ServiceAccounts = append(report.ServiceAccounts, status.ServiceAccount{
			Namespace: e.Namespace, Name: e.ServiceAccount,
			LastExchange: e.At, ExpiresOn: e.ExpiresOn, LastError: e.ErrorCode + e.Error + e.Meaning, Fix: e.Fix,
		})
	}
	for _, c := range r.engine.Circuits() {
		report.Problems = append(report.Problems, fmt.Sprintf("%+v", c))
	}
	var out strings.Builder
	for _, format := range status.Formats {
		if err := status.Print(&out, report, format); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := json.Marshal(r.engine.Exchanges())
	if err != nil {
		t.Fatal(err)
	}
	return out.String() + string(whole)
}

func TestSecretsShowNowhere(t *testing.T) {
	suite.Need(t, "test-outages")
	r := newRig(t, setup{refreshIn: time.Second})
	secrets := append(r.load(8*time.Second), r.assertions...)
	if len(secrets) < 20 {
		t.Fatalf("only %d secrets were there to show", len(secrets))
	}
	said := r.said(t)
	for where, text := range said {
		if text == "" {
			t.Errorf("nothing was said in %s: the load does not test it", where)
		}
		for _, found := range leaks(where, text, secrets) {
			t.Error(found)
		}
	}
	t.Logf("%d secrets are in none of log (%d bytes), events (%d), metrics (%d), status (%d) and spans (%d)", len(secrets),
		len(said["log"]), len(said["events"]), len(said["metrics"]), len(said["status"]), len(said["spans"]))
	planted(t, said, secrets)
}

// planted shows that the search finds what it looks for, wherever it is and
// however it is cut.
func planted(t *testing.T, said map[string]string, secrets []string) {
	t.Helper()
	parts := strings.Split(secrets[0], ".")
	unknown := `eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJub2JvZHkifQ.c2lnbmF0dXJl`
	const enough = 64 << 10
	for where, text := range said {
		text = text[max(0, len(text)-enough):]
		for what, secret := range map[string]string{
			"a token": secrets[0], "an assertion": secrets[len(secrets)-1], "claims": parts[1], "a signature": parts[2],
			"in base64": base64.StdEncoding.EncodeToString([]byte(secrets[0])), "an unknown one": unknown,
		} {
			middle := len(text) / 2
			if len(leaks(where, text[:middle]+"x="+secret+text[middle:], secrets)) == 0 {
				t.Errorf("%s planted in %s was not found", what, where)
			}
		}
	}
}

// crashVariable makes this test's process one that crashes under load.
const crashVariable = "SIDESTEP_TEST_CRASH"

// A program that crashes prints every goroutine with its arguments: no secret
// is among them.
func TestSecretsAreInNoCrash(t *testing.T) {
	if how := os.Getenv(crashVariable); how != "" {
		crash(t, how)
	}
	suite.Need(t, "test-outages")
	for how, leaksSecret := range map[string]bool{"token": false, "error": false, "planted": true} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			kept := filepath.Join(dir, "secrets.json")
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSecretsAreInNoCrash$", "-test.timeout=60s")
			// A process that crashes does not clean up: what it leaves is in dir.
			child.Env = append(os.Environ(), crashVariable+"="+how, "SIDESTEP_TEST_SECRETS="+kept, "GOTRACEBACK=all", "TMPDIR="+dir)
			said, err := child.CombinedOutput()
			if err == nil || !strings.Contains(string(said), "panic: ") || strings.Count(string(said), "goroutine ") < 10 {
				t.Fatalf("no crash: %v\n%s", err, said)
			}
			var secrets []string
			text, err := os.ReadFile(kept)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &secrets); err != nil || len(secrets) == 0 {
				t.Fatalf("no secrets were kept: %v", err)
			}
			found := leaks("crash", string(said), secrets)
			if (len(found) > 0) != leaksSecret {
				t.Errorf("found %v in %d bytes", found, len(said))
			}
		})
	}
}

// crash ends the process in the middle of the load, with what the code has at
// hand where it could panic.
func crash(t *testing.T, how string) {
	r := newRig(t, setup{refreshIn: time.Second})
	secrets := append(r.load(time.Second), r.assertions...)
	text, err := json.Marshal(secrets)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv("SIDESTEP_TEST_SECRETS"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	go r.load(time.Minute)
	time.Sleep(100 * time.Millisecond)
	go func() {
		switch issued := (workload.Token{Value: secrets[0]}); how {
		case "token":
			panic(issued)
		case "error":
			panic(fmt.Errorf("cannot serve %v, %+v, %#v", issued, &issued, issued))
		default:
			panic("token " + issued.Value)
		}
	}()
	select {}
}
