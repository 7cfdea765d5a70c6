package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"
)

// Whoever opens thousands of connections to the metrics, and says nothing or
// half a request, neither costs memory nor keeps another from a scrape.
func TestMetricsConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, bounded := newMetricsServer(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	}), log.New(io.Discard, "", 0))
	go func() { _ = server.Serve(bounded) }()
	t.Cleanup(func() { _ = server.Close() })
	table := bounded.(*metricsListener).table

	scrape := func(from string) {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		client := http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}, Timeout: 20 * time.Second}
		defer client.CloseIdleConnections()
		resp, err := client.Get("http://" + l.Addr().String() + "/metrics")
		if err != nil {
			t.Fatalf("scrape: %v", err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ok" {
			t.Errorf("scrape: %q, %v", body, err)
		}
	}
	before := runtime.NumGoroutine()
	for _, begun := range []string{"", "GET /metrics HTTP/1.1\r\nX: "} {
		for i := range 1000 {
			c, err := net.Dial("tcp4", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, begun)
			if i%100 == 0 {
				scrape("127.0.0.1")
				scrape("127.0.0.2")
			}
		}
	}
	goroutines := func() int { return runtime.NumGoroutine() - before }
	// Those of connections that were closed take a moment to end.
	for deadline := time.Now().Add(20 * time.Second); table.Len() > metricsPerClient+1 || goroutines() > 4*metricsPerClient; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open, want %d of one address; %d goroutines more", table.Len(), metricsPerClient, goroutines())
		}
	}
}
