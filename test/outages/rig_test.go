package outages

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
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
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
	"github.com/sidestep-agent/sidestep/test/standins/pki"
)

const (
	tenant    = "11111111-1111-4111-8111-111111111111"
	namespace = "shop"
	vault     = "https://vault.azure.net"
)

// keys are the cluster's and Entra's: making them takes longer than most tests.
var keys = sync.OnceValue(func() (k struct{ cluster, entra *jwks.Key }) {
	var err error
	if k.cluster, err = jwks.NewKey(); err != nil {
		panic(err)
	}
	if k.entra, err = jwks.NewKey(); err != nil {
		panic(err)
	}
	return k
})

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

const identities = 20

func clientOf(i int) string  { return fmt.Sprintf("33333333-3333-4333-8333-%012d", i) }
func accountOf(i int) string { return fmt.Sprintf("app-%d", i) }

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

func (r *rig) makeEntra(s setup) {
	r.t.Helper()
	r.issuer = r.cluster()
	file := federation.File{
		Issuer: r.issuer, Tenants: []string{tenant}, Resources: []string{vault},
		NodeIdentity: federation.NodeIdentity{TenantID: tenant, ClientID: clientOf(999), PrincipalID: clientOf(998)},
	}
	for i := range identities {
		file.Identities = append(file.Identities, federation.Identity{
			Name: accountOf(i), TenantID: tenant, ClientID: clientOf(i), PrincipalID: fmt.Sprintf("44444444-4444-4444-8444-%012d", i),
			ResourceID:           "/subscriptions/s/" + accountOf(i),
			FederatedCredentials: []federation.Credential{{Subject: "system:serviceaccount:" + namespace + ":" + accountOf(i)}},
		})
	}
	directory, err := federation.Fixed(file)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server, err = entra.New(entra.Options{
		Federation: directory, Key: keys().entra, Log: &r.entraLog, RefreshIn: s.refreshIn, Delay: s.delay,
		Issuers: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.ca.Pool(), MinVersion: tls.VersionTLS12}}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// cluster publishes the cluster's key and returns its issuer.
func (r *rig) cluster() string {
	r.t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{r.certificate(r.ca)}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	r.t.Cleanup(server.Close)
	publish := func(path string, v any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
	}
	publish("/.well-known/openid-configuration", map[string]string{"jwks_uri": server.URL + "/openid/v1/jwks"})
	publish("/openid/v1/jwks", keys().cluster.Public())
	return server.URL
}

func (r *rig) certificate(ca *pki.Authority, hosts ...string) tls.Certificate {
	r.t.Helper()
	issued, err := ca.Issue(hosts...)
	if err != nil {
		r.t.Fatal(err)
	}
	pair, err := issued.TLS()
	if err != nil {
		r.t.Fatal(err)
	}
	return pair
}

// openSite serves the rig's Entra with a certificate of the authority.
func (r *rig) openSite(ca *pki.Authority, at netip.Addr, hosts ...string) *entra.Site {
	r.t.Helper()
	site, err := entra.OpenSite(at, r.server, r.certificate(ca, append(hosts, at.String())...))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(site.Close)
	return site
}

// trust writes the authority's certificate in the agent's CA file, in one step
// as the kubelet does.
func (r *rig) trust(ca *pki.Authority) {
	r.t.Helper()
	next := r.caFile + ".next"
	if err := os.WriteFile(next, ca.PEM(), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(next, r.caFile); err != nil {
		r.t.Fatal(err)
	}
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
		Attester: r.attester, Tokens: r.engine, TenantID: tenant,
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

func (r *rig) setFault(fault entra.Fault) {
	r.t.Helper()
	if err := r.site.SetFault(fault); err != nil {
		r.t.Error(err)
	}
}

// asked returns what Entra was asked for so far.
func (r *rig) asked(kind entra.Kind) []entra.Entry {
	r.t.Helper()
	entries, err := journal.Read[entra.Entry](bytes.NewReader([]byte(r.entraLog.String())))
	if err != nil {
		r.t.Fatal(err)
	}
	var all []entra.Entry
	for _, e := range entries {
		if e.Kind == kind {
			all = append(all, e)
		}
	}
	return all
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
