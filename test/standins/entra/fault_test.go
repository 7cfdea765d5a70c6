package entra

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/pki"
)

// site is the rig's Entra at a site of its own.
type site struct {
	*Site
	rig    *rig
	client *http.Client
}

func newSite(t *testing.T, r *rig) *site {
	t.Helper()
	authority, err := pki.New()
	if err != nil {
		t.Fatal(err)
	}
	issued, err := authority.Issue()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := issued.TLS()
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenSite(netip.MustParseAddr("127.0.0.1"), r.server, pair)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(opened.Close)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &site{opened, r, &http.Client{Transport: transport, Timeout: 10 * time.Second}}
}

// reply is what a test looks at.
type reply struct {
	status     int
	retryAfter string
	body       string
}

// post sends a good token request.
func (s *site) post(t *testing.T) (reply, error) {
	t.Helper()
	f := form(sign(t, s.rig.key, s.rig.claims(nil)))
	resp, err := s.client.Post(s.URL()+"/"+tenant+"/oauth2/v2.0/token", "application/x-www-form-urlencoded", strings.NewReader(f.Encode()))
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header.Get("Retry-After"), string(body)}, nil
}

func (s *site) mustPost(t *testing.T) reply {
	t.Helper()
	got, err := s.post(t)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Each fault shows on a connection that was open before, and is gone when it
// is taken back.
func TestFaults(t *testing.T) {
	status := func(want int, header string) func(*testing.T, *site) {
		return func(t *testing.T, s *site) {
			if got := s.mustPost(t); got.status != want || got.retryAfter != header {
				t.Errorf("%+v", got)
			}
		}
	}
	fails := func(how func(error) bool) func(*testing.T, *site) {
		return func(t *testing.T, s *site) {
			if _, err := s.post(t); err == nil || !how(err) {
				t.Errorf("error %v", err)
			}
		}
	}
	r := newRig(t)
	for name, tt := range map[string]struct {
		fault Fault
		see   func(*testing.T, *site)
	}{
		"refuse": {Fault{Refuse: true}, func(t *testing.T, s *site) {
			// The end of the open connection may not have been noticed yet.
			s.client.CloseIdleConnections()
			if _, err := s.post(t); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("error %v", err)
			}
		}},
		"reset":    {Fault{Reset: true}, fails(func(err error) bool { return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) })},
		"throttle": {Fault{Status: 429, RetryAfter: "7"}, status(429, "7")},
		"500":      {Fault{Status: 500}, status(500, "")},
		"code": {Fault{Code: 7000229}, func(t *testing.T, s *site) {
			if got := s.mustPost(t); got.status != 401 || !strings.Contains(got.body, `"error":"unauthorized_client"`) || !strings.Contains(got.body, "AADSTS7000229") {
				t.Errorf("%+v", got)
			}
		}},
		"TLS": {Fault{BadTLS: true}, func(t *testing.T, s *site) {
			s.client.CloseIdleConnections()
			_, err := s.post(t)
			if unknown := new(x509.UnknownAuthorityError); !errors.As(err, unknown) {
				t.Errorf("error %v", err)
			}
		}},
		"not JSON": {Fault{NotJSON: true}, func(t *testing.T, s *site) {
			if got := s.mustPost(t); got.status != 200 || json.Valid([]byte(got.body)) {
				t.Errorf("%+v", got)
			}
		}},
		"slow": {Fault{DelaySeconds: .3}, func(t *testing.T, s *site) {
			began := time.Now()
			if got := s.mustPost(t); got.status != 200 || time.Since(began) < 300*time.Millisecond {
				t.Errorf("%+v after %v", got, time.Since(began))
			}
		}},
		"clock": {Fault{ClockSeconds: -600}, func(t *testing.T, s *site) {
			if got := s.mustPost(t); got.status != 401 || !strings.Contains(got.body, "AADSTS700024") {
				t.Errorf("%+v", got)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, r)
			s.mustPost(t)
			if err := s.SetFault(tt.fault); err != nil {
				t.Fatal(err)
			}
			tt.see(t, s)
			if err := s.SetFault(Fault{}); err != nil {
				t.Fatal(err)
			}
			if got := s.mustPost(t); got.status != 200 {
				t.Errorf("after the fault: %+v", got)
			}
		})
	}
}

func TestHungRequestsEndWithTheFault(t *testing.T) {
	s := newSite(t, newRig(t))
	s.mustPost(t)
	if err := s.SetFault(Fault{Hang: true}); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := s.post(t)
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("a request that should hang ended: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := s.SetFault(Fault{}); err != nil {
		t.Fatal(err)
	}
	<-got // with an error, or with an answer on a new connection
	s.mustPost(t)
}

func TestShareOfFailures(t *testing.T) {
	s := newSite(t, newRig(t))
	if err := s.SetFault(Fault{Status: 500, Share: .5}); err != nil {
		t.Fatal(err)
	}
	seen := map[int]int{}
	for range 40 {
		seen[s.mustPost(t).status]++
	}
	if seen[200] == 0 || seen[500] == 0 || seen[200]+seen[500] != 40 {
		t.Errorf("answers by status: %v", seen)
	}
	entries, err := journal.Read[Entry](bytes.NewReader(s.rig.log.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Kind == Token && (e.Fault == nil || e.Fault.Status != 500) {
			t.Errorf("the log does not say what was wrong: %+v", e)
		}
	}
}
