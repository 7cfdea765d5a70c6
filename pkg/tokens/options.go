package tokens

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
)

// Options configure an Engine. The zero value of each field but KubeletDir is
// usable.
type Options struct {
	// KubeletDir is the kubelet's directory, as /var/lib/kubelet.
	KubeletDir string
	// TenantID is the tenant of workloads that name none; empty: such
	// workloads are refused.
	TenantID string
	// Cloud chooses the authority of workloads that name none.
	Cloud Cloud
	// AuthorityHost, an https URL of a host alone, overrides Cloud.
	AuthorityHost string
	// Transport carries the requests to Entra. Nil: one like
	// http.DefaultTransport, which honours HTTPS_PROXY, NO_PROXY and
	// SSL_CERT_FILE.
	Transport http.RoundTripper
	// Log gets failed exchanges, one line each. Nil: slog.Default().
	Log *slog.Logger
	// Audit gets one line for each first issue of a token to a pod. Nil: Log.
	Audit *slog.Logger
	// Registerer gets the metrics. Nil: they are kept but not shown.
	Registerer prometheus.Registerer
	// Clock is nil for the real one.
	Clock clock.PassiveClock
}

// Engine issues tokens to workloads. Its methods may be called at the same
// time.
type Engine struct {
	defaults   defaults
	assertions AssertionSource
	entra      *entra
	cache      *cache
	status     *status
	metrics    *metrics
	log        *slog.Logger
	audit      *slog.Logger
	clock      clock.PassiveClock
}

// New returns an engine, or an error that names the option to mend.
func New(o Options) (*Engine, error) {
	d, err := o.defaults()
	if err != nil {
		return nil, err
	}
	if o.KubeletDir == "" {
		return nil, errors.New("the kubelet's directory is not set")
	}
	if o.Transport == nil {
		o.Transport = defaultTransport()
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Audit == nil {
		o.Audit = o.Log
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Engine{
		defaults:   d,
		assertions: projected{pods: filepath.Join(o.KubeletDir, "pods")},
		entra:      newEntra(o.Transport, o.Clock),
		cache:      newCache(o.Clock),
		status:     newStatus(),
		metrics:    newMetrics(o.Registerer),
		log:        o.Log,
		audit:      o.Audit,
		clock:      o.Clock,
	}, nil
}

func (o Options) defaults() (defaults, error) {
	authority, err := o.Cloud.authority()
	if err != nil {
		return defaults{}, err
	}
	if o.AuthorityHost != "" {
		if authority, err = parseAuthority(o.AuthorityHost); err != nil {
			return defaults{}, fmt.Errorf("authority host %q: %w", o.AuthorityHost, err)
		}
	}
	if o.TenantID != "" && !validTenant(o.TenantID) {
		return defaults{}, fmt.Errorf("tenant %q: neither a GUID nor a domain name", o.TenantID)
	}
	return defaults{authority: authority, tenant: o.TenantID}, nil
}

func defaultTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	// All pods of the node ask the same host: after a node's start, dozens at
	// once.
	t.MaxIdleConnsPerHost = 16
	return t
}
