package entra

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/pki"
)

// Fault is what is wrong with a Server. The zero Fault is none.
type Fault struct {
	// Refuse: there is no listener. Only a Site can do that.
	Refuse bool `json:"refuse,omitempty"`
	// Hang: handshakes and requests are taken and never answered.
	Hang bool `json:"hang,omitempty"`
	// Reset: the connection is reset in place of an answer.
	Reset bool `json:"reset,omitempty"`
	// BadTLS: the certificate is of an authority that is not trusted.
	BadTLS bool `json:"badTLS,omitempty"`
	// NotJSON: the answer's status is 200, its body a page of a proxy's.
	NotJSON bool `json:"notJSON,omitempty"`
	// Status is answered to a Share of the token requests, 0 for all of them,
	// with RetryAfter as the header of that name.
	Status     int     `json:"status,omitempty"`
	Share      float64 `json:"share,omitempty"`
	RetryAfter string  `json:"retryAfter,omitempty"`
	// Code is an AADSTS code that a Share of the token requests, 0 for all of
	// them, is refused with, as Entra sends it.
	Code int `json:"code,omitempty"`
	// DelaySeconds goes before each answer.
	DelaySeconds float64 `json:"delaySeconds,omitempty"`
	// ClockSeconds is how far the clock is ahead; behind, if it is negative.
	ClockSeconds float64 `json:"clockSeconds,omitempty"`
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// faults holds a Server's fault.
type faults struct {
	mu      sync.Mutex
	fault   Fault
	changed chan struct{} // closed when the fault is replaced

	untrusted func() (*tls.Certificate, error)
}

func newFaults() *faults {
	return &faults{changed: make(chan struct{}), untrusted: sync.OnceValues(untrusted)}
}

// untrusted returns a certificate of an authority made for it alone.
func untrusted() (*tls.Certificate, error) {
	authority, err := pki.New()
	if err != nil {
		return nil, err
	}
	issued, err := authority.Issue()
	if err != nil {
		return nil, err
	}
	pair, err := issued.TLS()
	return &pair, err
}

func (f *faults) current() (Fault, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fault, f.changed
}

// SetFault breaks the Server, or with the zero Fault repairs it. Requests that
// hang are dropped then.
func (s *Server) SetFault(fault Fault) {
	f := s.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
	close(f.changed)
	f.changed = make(chan struct{})
}

// TLS returns how the Server wants its connections: with the certificate,
// unless its fault says otherwise. They are HTTP/1.1's.
func (s *Server) TLS(certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			fault, changed := s.faults.current()
			switch {
			case fault.Hang:
				select {
				case <-changed:
				case <-hello.Context().Done():
				}
				return nil, fmt.Errorf("the handshake hung")
			case fault.BadTLS:
				return s.faults.untrusted()
			}
			return &certificate, nil
		},
	}
}

// now returns the time by the Server's clock.
func (s *Server) now() time.Time {
	fault, _ := s.faults.current()
	return s.o.Clock.Now().Add(seconds(fault.ClockSeconds))
}

// spoils reports whether there is no true answer to a request of the kind.
func (f Fault) spoils(kind Kind) bool {
	hit := (f.Status != 0 || f.Code != 0) && kind == Token && (f.Share == 0 || rand.Float64() < f.Share)
	return f.Hang || f.Reset || f.BadTLS || f.Refuse || f.NotJSON || hit
}

// spoil gives the answer that the fault has in place of a true one.
func (s *Server) spoil(w http.ResponseWriter, r *http.Request, fault Fault, changed <-chan struct{}) {
	switch {
	case fault.Hang:
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		drop(w, false)
	case fault.NotJSON:
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprint(w, "<html><body>Please sign in to the network</body></html>")
	case fault.Code != 0:
		why := tabled(fault.Code, "A fault of the stand-in.")
		answer(w, why.status, s.bodyOf(why, r))
	case fault.Status != 0:
		if fault.RetryAfter != "" {
			w.Header().Set("Retry-After", fault.RetryAfter)
		}
		answer(w, fault.Status, map[string]string{"error": "temporarily_unavailable"})
	default:
		drop(w, true)
	}
}

// drop ends the connection of a request that gets no answer.
func drop(w http.ResponseWriter, reset bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // the server closes it
	}
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn() // without TLS's own farewell
	}
	if plain, ok := conn.(*net.TCPConn); ok && reset {
		_ = plain.SetLinger(0) // a close is a reset then
	}
	_ = conn.Close()
}
