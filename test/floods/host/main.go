// Command host is a broker with nothing around it but what a flood needs: pods
// are distinguished by the loopback address that they connect from, the token of
// each is in the cache, and the node's IMDS counts what it is asked. Its metrics
// are served as the agent's are. It prints the broker's address, that of the
// metrics, that of its figures, and one of the broker's that is a single pod's, as
// the agent has one for each.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/broker"
	"github.com/sidestep-agent/sidestep/pkg/metricsserver"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/floods/figures"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "host:", err)
		os.Exit(1) //nolint:gocritic // nothing is to be cleaned up
	}
}

func run(ctx context.Context) error {
	h := &host{registry: prometheus.NewRegistry()}
	imds := httptest.NewServer(http.HandlerFunc(h.answerAsIMDS))
	s, err := broker.New(broker.Options{
		Attester: pods{}, Tokens: tokens{}, Paths: pods{}, IMDSEndpoint: imds.URL, Clock: clock.RealClock{},
		Settings: broker.Settings{
			Relay: broker.RelaySettings{Instance: true}, Limits: broker.Limits{RequestsPerSecond: 200, Concurrent: 64},
		},
		Log: slog.New(slog.NewJSONHandler(h, nil)), Registerer: h.registry,
	})
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	own, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	metrics, err := h.serveMetrics(ctx)
	if err != nil {
		return err
	}
	figures := httptest.NewServer(http.HandlerFunc(h.tell))
	fmt.Println(l.Addr().String(), metrics, figures.URL, own.Addr().String())
	go accept(l, s, func() {})
	wait := s.Pace()
	go accept(own, s, func() { wait(); h.accepts() })
	return s.Run(ctx)
}

// accept hands connections to the broker, as the agent's listeners do.
func accept(l net.Listener, s *broker.Server, wait func()) {
	for {
		wait()
		c, err := l.Accept()
		if err != nil {
			return
		}
		go s.HandleConn(c, 0)
	}
}

// host counts what the floods are judged by.
type host struct {
	registry *prometheus.Registry
	scraping atomic.Int32 // connections to the metrics' port
	gathered atomic.Int32 // how often the metrics were

	mu       sync.Mutex
	lines    int
	asked    []time.Time // requests at IMDS
	accepted accepted    // at the pod's own listener
}

// accepted counts what is accepted beyond podPace.
type accepted struct {
	last           time.Time
	beyond, atMost float64
}

// podPace is how many connections a second a pod's may be for long
// (docs/bounds.md).
const podPace = 400

// accepts notes that a connection is accepted.
func (h *host) accepts() {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, now := &h.accepted, time.Now()
	if !a.last.IsZero() {
		a.beyond = max(0, a.beyond-podPace*now.Sub(a.last).Seconds())
	}
	a.last = now
	a.beyond++
	a.atMost = max(a.atMost, a.beyond)
}

// serveMetrics serves the metrics as the agent does, as many as a large node has,
// and returns where.
func (h *host) serveMetrics(ctx context.Context) (address string, err error) {
	filler := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sidestep_floods_filler", Help: "Makes the metrics many."}, []string{"n"})
	for i := range 300 {
		filler.WithLabelValues(strings.Repeat("x", 200) + strconv.Itoa(i))
	}
	more := prometheus.NewRegistry()
	more.MustRegister(filler, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_floods_gathered", Help: "How often the metrics were gathered.",
	}, func() float64 { return float64(h.gathered.Add(1)) }))
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	handler := metricsserver.Scrapes(promhttp.HandlerFor(prometheus.Gatherers{h.registry, more}, promhttp.HandlerOpts{}))
	server, bounded := metricsserver.New(&countingListener{l, &h.scraping}, handler, log.New(io.Discard, "", 0))
	go func() { _ = server.Serve(bounded) }()
	return l.Addr().String(), nil
}

// countingListener counts the connections that are open.
type countingListener struct {
	net.Listener
	open *atomic.Int32
}

// Accept implements net.Listener.
func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &countedConn{Conn: c, open: l.open}, nil
}

type countedConn struct {
	net.Conn
	open *atomic.Int32
	once sync.Once
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// Write counts log lines.
func (h *host) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

func (h *host) answerAsIMDS(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.asked = append(h.asked, time.Now())
	h.mu.Unlock()
	if strings.Contains(r.RequestURI, "throttled") {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, "{}")
}

func (h *host) tell(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := figures.Figures{Gathered: int(h.gathered.Load()), Goroutines: runtime.NumGoroutine(), Lines: h.lines, Asked: len(h.asked), Scraping: int(h.scraping.Load()), AcceptedAtOnce: int(h.accepted.atMost)}
	for i, at := range h.asked {
		n := 0
		for _, other := range h.asked[i:] {
			if other.Sub(at) < time.Second {
				n++
			}
		}
		f.AskedPerSecond = max(f.AskedPerSecond, n)
	}
	families, _ := h.registry.Gather()
	for _, family := range families {
		switch family.GetName() {
		case "sidestep_imds_connections":
			f.Connections = int(family.GetMetric()[0].GetGauge().GetValue())
		case "sidestep_imds_panics_total":
			f.Panics = int(family.GetMetric()[0].GetCounter().GetValue())
		}
	}
	_ = json.NewEncoder(w).Encode(f)
}

// pods knows pods by their address: 127.0.0.x is pod x, from 200 on it is not
// known who that is.
type pods struct{}

func (pods) Inspect(c net.Conn, _ uint64) (workload.Connection, error) {
	return workload.Connection{Client: c.RemoteAddr().(*net.TCPAddr).AddrPort()}, nil
}

func (pods) Attest(c workload.Connection) (workload.Caller, workload.Verdict, error) {
	verdict := workload.Steer
	if c.Client.Addr().As4()[3] >= 200 {
		verdict = workload.Unknown
	}
	return workload.Caller{PodUID: c.Client.Addr().String()}, verdict, nil
}

func (pods) Await(ctx context.Context, _ workload.Connection, _ workload.Caller) (workload.Verdict, error) {
	<-ctx.Done()
	return workload.Unknown, ctx.Err()
}

func (pods) Current(c workload.Caller) (workload.Workload, workload.Decision, error) {
	return workload.Workload{PodUID: c.PodUID, ClientID: "c", TenantID: "t", ServiceAccountSeen: true},
		workload.Decision{Verdict: workload.Steer, Access: workload.Identity}, nil
}

// Dial connects as if the pod's network were this process's.
func (pods) Dial(ctx context.Context, _ workload.Caller, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

func (pods) Readable(workload.Connection) (bool, string) { return false, "" }

func (pods) AwaitListener(context.Context, workload.Caller) bool { return true }

// tokens has every token, but for a resource that is a bug.
type tokens struct{}

func (tokens) Token(context.Context, workload.Workload, workload.TokenRequest) (workload.Token, error) {
	return workload.Token{}, &workload.TokenError{Kind: workload.Refused, Description: "no"}
}

func (tokens) Cached(_ workload.Workload, r workload.TokenRequest) (workload.Token, bool) {
	if r.Resource == "bug" {
		panic("a bug")
	}
	return token, r.Resource == "good"
}

var token = workload.Token{
	Value: strings.Repeat("t", 1500), Type: "Bearer", ClientID: "c",
	ExpiresOn: time.Now().Add(time.Hour), Made: new(workload.Memo),
}
