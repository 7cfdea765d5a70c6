package tokens

import (
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Cloud names one of Microsoft's clouds by the name that Azure's own tools use.
type Cloud = entra.Cloud

// The clouds. The empty Cloud is AzurePublic.
const (
	AzurePublic       = entra.AzurePublic
	AzureUSGovernment = entra.AzureUSGovernment
	AzureChina        = entra.AzureChina
)

// Options configure an Engine. The zero value of each field but KubeletDir is
// usable.
type Options struct {
	// KubeletDir is the kubelet's directory, as /var/lib/kubelet.
	KubeletDir string
	// TenantID is the tenant of workloads that name none; empty: such
	// workloads are refused.
	TenantID string
	// TokenAudience is the audience of the service account tokens that Entra
	// takes. Empty: workload.TokenAudience.
	TokenAudience string
	// Cloud chooses the authority of workloads that name none.
	Cloud Cloud
	// AuthorityHost, an https URL of a host alone, overrides Cloud.
	AuthorityHost string
	// CAFile names a PEM file of certificates that are trusted besides the
	// system's, such as those of a proxy that opens TLS. It is read again when
	// it changes; a bad new version is logged, and the old one stays. Empty:
	// none.
	CAFile string
	// ServiceAccounts issues assertions to pods that have no volume with one.
	// Nil: such pods are refused.
	ServiceAccounts corev1.ServiceAccountsGetter
	// APIServer is the host and port of the cluster's API server, at which the
	// proxy of AKS identity bindings is. Empty: no pod is served by that one.
	APIServer string
	// TokenProxy is the https URL of another proxy that pods with an identity
	// binding may name. Empty: none.
	TokenProxy string
	// Notify gets failures that a pod's owner can fix, the same one once in a
	// quarter of an hour for each pod; one of kind Unavailable is retried until
	// its RetriedUntil. It must not block. Nil: there is no one to notify.
	Notify func(workload.Workload, *workload.TokenError)
	// Transport carries the requests to Entra, and CAFile is not used. Nil: one
	// that honours HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE, and is not held up
	// by an address that does not answer.
	Transport http.RoundTripper
	// Log gets failed exchanges, one line each. Nil: slog.Default().
	Log *slog.Logger
	// Audit gets one line for each first issue of a token to a pod. Nil: Log.
	Audit *slog.Logger
	// Registerer gets the metrics. Nil: they are kept but not shown.
	Registerer prometheus.Registerer
	// Tracer gets one span for each exchange that is sent, with no secret in it.
	// Nil: there are none.
	Tracer trace.Tracer
	// Clock measures what elapses, and Date tells the date, which may be set
	// meanwhile. Nil: the real ones.
	Clock clock.WithTicker
	Date  clock.PassiveClock
}

func (o *Options) fill() {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.TokenAudience == "" {
		o.TokenAudience = workload.TokenAudience
	}
	if o.Audit == nil {
		o.Audit = o.Log
	}
	if o.Tracer == nil {
		o.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Date == nil {
		o.Date = o.Clock
	}
}

func (o Options) defaults() (defaults, error) {
	authority, err := o.Cloud.Authority()
	if err != nil {
		return defaults{}, err
	}
	if o.AuthorityHost != "" {
		if authority, err = entra.ParseAuthority(o.AuthorityHost); err != nil {
			return defaults{}, fmt.Errorf("authority host %q: %w", o.AuthorityHost, err)
		}
	}
	if o.TenantID != "" && !entra.ValidTenant(o.TenantID) {
		return defaults{}, fmt.Errorf("tenant %q: neither a GUID nor a domain name", o.TenantID)
	}
	d := defaults{authority: authority, tenant: o.TenantID, proxies: entra.AllowedProxies{APIServer: o.APIServer}}
	if o.TokenProxy != "" {
		proxy, err := entra.ParseProxy(o.TokenProxy)
		if err != nil {
			return defaults{}, fmt.Errorf("token proxy %q: %w", o.TokenProxy, err)
		}
		d.proxies.Other = proxy.String()
	}
	return d, nil
}
