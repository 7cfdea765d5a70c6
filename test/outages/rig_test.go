package outages

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/broker"
	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/pki"
)

const (
	tenant    = "11111111-1111-4111-8111-111111111111"
	namespace = "shop"
	vault     = "https://vault.azure.net"
)

// text takes writes from many goroutines.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *text) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *text) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// nodeClock is a node's clock that can be set. What elapses stays true.
type nodeClock struct {
	clock.RealClock
	mu  sync.Mutex
	off time.Duration
}

func (c *nodeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *nodeClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

func (c *nodeClock) set(off time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
}

// setup says how a rig differs from the usual one.
type setup struct {
	at            netip.Addr // of Entra; zero: 127.0.0.1
	authorityHost string     // zero: where the site is
	cloud         tokens.Cloud
	refreshIn     time.Duration
	delay         time.Duration
	hosts         []string // for Entra's certificate
	collector     string   // URL that spans are sent to; zero: the rig's
}

// rig is one node's engine and broker, its cluster, and its Entra.
type rig struct {
	t        *testing.T
	ca       *pki.Authority
	caFile   string
	server   *entra.Server
	site     *entra.Site
	issuer   string
	entraLog text

	dir      string // kubelet's
	clock    *nodeClock
	engine   *tokens.Engine
	broker   *broker.Server
	attester *attester
	registry *prometheus.Registry
	log      text
	noticed  text // by pods' owners
	spans    text // the collector's log
	spansRaw text // and what it was sent
	flush    func()

	mu         sync.Mutex
	assertions []string
}

func newRig(t *testing.T, s setup) *rig {
	t.Helper()
	r := &rig{
		t: t, dir: t.TempDir(), clock: &nodeClock{}, registry: prometheus.NewRegistry(),
		attester: &attester{pods: make(map[uint64]workload.Workload)},
	}
	if !s.at.IsValid() {
		s.at = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	var err error
	if r.ca, err = pki.New(); err != nil {
		t.Fatal(err)
	}
	r.makeEntra(s)
	r.site = r.openSite(r.ca, s.at, s.hosts...)
	r.caFile = filepath.Join(t.TempDir(), "ca.pem")
	r.trust(r.ca)
	if s.authorityHost == "" && s.cloud == "" {
		s.authorityHost = r.site.URL()
	}
	r.makeAgent(s)
	return r
}

func (r *rig) makeAgent(s setup) {
	r.t.Helper()
	log := slog.New(slog.NewJSONHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	traces := r.openTraces(s, log)
	var err error
	r.engine, err = tokens.New(tokens.Options{
		KubeletDir: r.dir, TenantID: tenant, CAFile: r.caFile, AuthorityHost: s.authorityHost, Cloud: s.cloud,
		Log: log, Registerer: r.registry, Date: r.clock, Tracer: traces.Tracer(),
		Notify: func(w workload.Workload, e *workload.TokenError) {
			fmt.Fprintf(&r.noticed, "%+v %+v %v %v\n", w, *e, e, e.Err)
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.broker, err = broker.New(broker.Options{
		Attester: r.attester, Tokens: r.engine, Paths: ownListener{}, TenantID: tenant,
		Settings:     broker.Settings{Limits: broker.Limits{RequestsPerSecond: 200, Concurrent: 64}},
		IMDSEndpoint: "http://127.0.0.1:1", Log: log, Registerer: r.registry, Clock: r.clock,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{r.engine.Run, r.broker.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				r.t.Errorf("Run: %v", err)
			}
		})
	}
	r.t.Cleanup(func() { stop(); running.Wait() })
}

// exchanges returns how many exchanges the engine sent, answered or not.
func (r *rig) exchanges() (n uint64) {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "sidestep_token_exchange_duration_seconds" {
			for _, m := range f.GetMetric() {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}
