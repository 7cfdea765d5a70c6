package tokens

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// apiServerName is the Service of the API server, where AKS has its proxy.
	apiServerName = "kubernetes.default"
	maxBindings   = 256
)

// audienceFor returns the audience that the workload's assertion must have.
func audienceFor(w workload.Workload) string {
	if w.Binding != nil {
		return workload.BindingAudience
	}
	return workload.TokenAudience
}

// through says by way of which proxy a target's tokens come, and whom to take
// for it. The zero value is Entra itself.
type through struct {
	proxy  string // "https://host/path"
	sni    string
	caData string // PEM; it goes before ca
	ca     workload.VolumeFile
}

// selectThrough returns the workload's proxy. Its error is a
// *workload.TokenError.
func (d defaults) selectThrough(w workload.Workload) (through, error) {
	b := w.Binding
	if b == nil {
		return through{}, nil
	}
	proxy, err := parseTokenProxy(b.TokenProxy)
	if err != nil {
		return through{}, refused("AZURE_KUBERNETES_TOKEN_PROXY in the pod's spec is %v: it must look like https://kubernetes.default.svc.cluster.local", err)
	}
	// The agent posts from the node's own network, where a pod's author must
	// not be able to send it.
	if proxy.String() != d.tokenProxy && !isAPIServer(proxy, d.apiServer) {
		return through{}, refused("AZURE_KUBERNETES_TOKEN_PROXY in the pod's spec is not the cluster's API server: remove it, or start the agent with --token-proxy %s", proxy)
	}
	t := through{proxy: proxy.String(), sni: b.SNIName, caData: b.CAData}
	switch {
	case b.CAData != "":
		// The webhook names a file in any case, and writes none then.
	case b.CA != nil:
		t.ca = *b.CA
	case b.CAFile != "":
		return through{}, refused("AZURE_KUBERNETES_CA_FILE in the pod's spec is no file of a projected or ConfigMap volume of the pod: mount the certificate by one, or set AZURE_KUBERNETES_CA_DATA")
	}
	return t, nil
}

// parseTokenProxy takes what the SDKs take: an https URL, perhaps with a path.
func parseTokenProxy(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("not a URL")
	case u.Scheme != "https" || u.Hostname() == "":
		return nil, errors.New("not an https URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("a URL with more in it than a host and a path")
	}
	return &url.URL{Scheme: "https", Host: strings.ToLower(u.Host), Path: strings.TrimSuffix(u.Path, "/")}, nil
}

// isAPIServer reports whether the proxy is at the API server: by its address
// or by a name of its Service, whatever the cluster's domain is.
func isAPIServer(proxy *url.URL, address string) bool {
	return address != "" && (hasServiceName(proxy.Hostname()) || withPort(proxy) == address)
}

func hasServiceName(host string) bool {
	return host == apiServerName || host == apiServerName+".svc" || strings.HasPrefix(host, apiServerName+".svc.")
}

func withPort(u *url.URL) string {
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

// bindings has a way to each proxy, so that connections and discovery are kept
// between exchanges.
type bindings struct {
	files     projected
	apiServer string // "host:port"
	clocks    clocks

	mu   sync.Mutex
	ways *bounded[way, *entra]
}

// way is a proxy as one of its certificates' content makes it.
type way struct {
	through
	ca string // PEM; empty: the system's
}

func newBindings(files projected, apiServer string, c clocks) *bindings {
	never := func(*entra, time.Time) bool { return false }
	return &bindings{files: files, apiServer: apiServer, clocks: c, ways: newBounded[way](maxBindings, never)}
}

// entra returns what exchanges the workload's assertions by way of the proxy.
// The certificate is read each time, since the cluster renews it. The error is
// a *workload.TokenError.
func (b *bindings) entra(w workload.Workload, t through) (*entra, error) {
	pem, err := b.certificate(w, t)
	if err != nil {
		return nil, err
	}
	k := way{t, pem}
	now := b.clocks.now().steady
	b.mu.Lock()
	defer b.mu.Unlock()
	if x, ok := b.ways.get(k, now); ok {
		return x, nil
	}
	carrier, err := b.transport(k)
	if err != nil {
		return nil, err
	}
	x := newEntra(carrier, b.clocks)
	b.ways.put(k, x, now)
	return x, nil
}

// certificate returns the PEM of whom to trust, or "" for the system's CAs.
func (b *bindings) certificate(w workload.Workload, t through) (string, error) {
	if t.ca == (workload.VolumeFile{}) {
		return t.caData, nil
	}
	name, ok := volumePath(t.ca)
	if !ok || !validComponent(w.PodUID) {
		return "", refused("AZURE_KUBERNETES_CA_FILE in the pod's spec has a path that cannot be used")
	}
	raw, err := b.files.read(w.PodUID, name)
	if err == nil && len(raw) > 0 && len(raw) <= maxAssertion {
		return string(raw), nil
	}
	var e *workload.TokenError
	switch {
	case isElsewhere(err), len(raw) > maxAssertion:
		e = refused("the certificate that AZURE_KUBERNETES_CA_FILE in the pod's spec names is not a file in the pod's own directory")
	default: // an empty one is about to be renewed
		e = unavailable("the kubelet has not written the certificate that AZURE_KUBERNETES_CA_FILE in the pod's spec names yet")
	}
	e.Err = err
	return "", e
}

// transport carries requests for Entra to the proxy. No other proxy is asked:
// this one is in the cluster.
func (b *bindings) transport(k way) (http.RoundTripper, error) {
	to, err := url.Parse(k.proxy)
	if err != nil {
		return nil, refused("AZURE_KUBERNETES_TOKEN_PROXY in the pod's spec is not a URL")
	}
	if to.Path == "" {
		to.Path = "/" // what is joined to an empty path has no slash before it
	}
	var pool *x509.CertPool
	if k.ca != "" {
		if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM([]byte(k.ca)) {
			return nil, refused("the certificate of the identity binding's proxy, by AZURE_KUBERNETES_CA_FILE or AZURE_KUBERNETES_CA_DATA in the pod's spec, is not PEM")
		}
	}
	t := transportTrusting(pool)
	t.Proxy = nil
	t.TLSClientConfig = &tls.Config{RootCAs: pool, ServerName: k.sni, MinVersion: tls.VersionTLS12}
	if hasServiceName(to.Hostname()) {
		// The node's resolver does not know the cluster's names.
		dial := t.DialContext
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, b.apiServer)
		}
	}
	return redirecting{to, t}, nil
}

// redirecting sends every request to the proxy, below the proxy's own path. The
// Host header stays Entra's, as the SDKs send it.
type redirecting struct {
	to   *url.URL
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r redirecting) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.Host = req.URL.Host
	out.URL = r.to.JoinPath(req.URL.EscapedPath())
	out.URL.RawQuery = req.URL.RawQuery
	return r.next.RoundTrip(out)
}

// entraFor returns what exchanges the workload's assertions for the target.
// The error is a *workload.TokenError.
func (e *Engine) entraFor(w workload.Workload, t target) (*entra, error) {
	if t.through == (through{}) {
		return e.entra, nil
	}
	return e.bindings.entra(w, t.through)
}
