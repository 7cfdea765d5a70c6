package metricsserver

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// bench is a server on the loopback device.
type bench struct {
	*testing.T
	address string
	table   interface{ Len() int }
}

func newBench(t *testing.T, h http.Handler) *bench {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, bounded := New(l, h, log.New(io.Discard, "", 0))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(bounded)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return &bench{T: t, address: l.Addr().String(), table: bounded.(*listener).table}
}

// dial connects from the address and sends the text.
func (b *bench) dial(from, text string) net.Conn {
	b.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(b.Context(), "tcp4", b.address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
	_, _ = io.WriteString(c, text)
	return c
}

// scrape asks once, on a connection of its own, and returns the body.
func (b *bench) scrape(from string) string {
	b.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	client := http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + b.address + "/metrics")
	if err != nil {
		b.Fatalf("scrape: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Errorf("scrape: status %d, %v", resp.StatusCode, err)
	}
	return string(body)
}

// until waits for what happens by itself.
func (b *bench) until(what string, ok func() bool) {
	b.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("not so in 20 s: %s", what)
		}
	}
}

// Whoever opens thousands of connections to the metrics, and says nothing or
// half a request, neither costs memory nor keeps another from a scrape.
func TestConnectionsAreBounded(t *testing.T) {
	b := newBench(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	before := runtime.NumGoroutine()
	for _, begun := range []string{"", "GET /metrics HTTP/1.1\r\nX: "} {
		for i := range 1000 {
			b.dial("127.0.0.1", begun)
			if i%100 == 0 {
				for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
					if got := b.scrape(from); got != "ok" {
						t.Errorf("from %s: %q", from, got)
					}
				}
			}
		}
	}
	// The goroutines of connections that were closed take a moment to end.
	b.until("connections and goroutines as bounded", func() bool {
		return b.table.Len() <= perAddress+1 && runtime.NumGoroutine()-before <= 4*perAddress
	})
}

// Clients that ask and never read their answers, from more addresses than there
// are connections, keep nobody from a scrape.
func TestSlowReadersAreBounded(t *testing.T) {
	large := strings.Repeat("x", 16<<20) // more than the kernel takes
	b := newBench(t, Scrapes(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, large) })))
	for i := range 10 {
		for range perAddress {
			b.dial("127.0.1."+string(rune('0'+i)), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
		}
	}
	if got := b.scrape("127.0.0.2"); got != large {
		t.Errorf("a scrape got %d bytes", len(got))
	}
	b.until("connections as bounded", func() bool { return b.table.Len() <= bounds.Total })
}

// However many scrape at a time, the metrics are gathered as often as the budget
// says, and who comes within it gets what was gathered after it came.
func TestScrapesShareAnswers(t *testing.T) {
	gathered := 0
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gathered++
		if r.Header.Get("Authorization") != "" {
			t.Error("a header of one client's is behind the answer of all")
		}
		w.Header().Set("Content-Encoding", r.Header.Get("Accept-Encoding"))
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "body")
	})
	a := &answers{handler: h, encoding: "gzip", budget: rate.NewLimiter(0, 3)}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer x")
	for i := range 5 {
		a.get(r)
		if want := min(i+1, 3); gathered != want {
			t.Errorf("after %d scrapes: gathered %d times, want %d", i+1, gathered, want)
		}
	}
	got := &answer{header: http.Header{}}
	a.get(r).send(got)
	if got.status != http.StatusTeapot || !bytes.Equal(got.body.Bytes(), []byte("body")) || got.header.Get("Content-Encoding") != "gzip" {
		t.Errorf("status %d, header %v, body %q", got.status, got.header, &got.body)
	}
}
