package relay

import (
	"log/slog"
	"net/http"
	"testing"

	"k8s.io/utils/clock"
)

func newTestRelay(endpoint string) (*Relay, error) {
	return New(Options{Endpoint: endpoint, Limits: testLimits, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler), Panicked: func(any) {}})
}

// The environment's proxy is for Entra. net/http reads it once in a process, so
// that a proxy that counts would prove nothing here.
func TestNoProxy(t *testing.T) {
	r, err := newTestRelay("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if r.client.Transport.(*http.Transport).Proxy != nil {
		t.Error("the node's IMDS would be asked through a proxy")
	}
}

func TestEndpoint(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://169.254.169.254":  "169.254.169.254:80",
		"http://127.0.0.1:8080/":  "127.0.0.1:8080",
		"https://169.254.169.254": "",
		"169.254.169.254":         "",
		"http://":                 "",
		"http://h/path":           "",
		"http://h?q":              "",
		"http://user@h":           "",
	} {
		r, err := newTestRelay(endpoint)
		if (err != nil) != (want == "") || err == nil && r.Address() != want {
			t.Errorf("New(%q): %v, want %q", endpoint, err, want)
		}
	}
}
