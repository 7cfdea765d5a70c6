package entra

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

	"github.com/sidestep-agent/sidestep/pkg/tokens/bounded"
	"github.com/sidestep-agent/sidestep/pkg/tokens/clocks"
	"github.com/sidestep-agent/sidestep/pkg/tokens/podfile"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// apiServerName is the Service of the API server, where AKS has its proxy.
	apiServerName = "kubernetes.default"
	maxProxies    = 256
)

// Proxy says by way of which proxy tokens come, and whom to take for it. The
// zero Proxy is none: tokens come from Entra itself.
type Proxy struct {
	URL    string // "https://host/path"
	SNI    string
	CAData string // PEM; it goes before CA
	CA     workload.VolumeFile
}

// AllowedProxies are those that the agent posts assertions to.
type AllowedProxies struct {
	APIServer string // "host:port"; empty: not known
	Other     string // the URL of one more proxy; empty: none
}

// Select returns the workload's proxy, or the zero Proxy if it has none. Its
// error is a *workload.TokenError.
func (a AllowedProxies) Select(w workload.Workload) (Proxy, error) {
	b := w.Binding
	if b == nil {
		return Proxy{}, nil
	}
	proxy, err := ParseProxy(b.TokenProxy)
	if err != nil {
		return Proxy{}, refused("AZURE_KUBERNETES_TOKEN_PROXY in the pod's spec is %v: it must look like https://kubernetes.default.svc.cluster.local", err)
	}
	// The agent posts from the node's own network, where a pod's author must
	// not be able to send it.
	if proxy.String() != a.Other && !isAPIServer(proxy, a.APIServer) {
		return Proxy{}, refused("AZURE_KUBERNETES_TOKEN_PROXY in the pod's spec is not the cluster's API server: remove it, or start the agent with --token-proxy %s", proxy)
	}
	p := Proxy{URL: proxy.String(), SNI: b.SNIName, CAData: b.CAData}
	switch {
	case b.CAData != "":
		// The webhook names a file in any case, and writes none then.
	case b.CA != nil:
		p.CA = *b.CA
	case b.CAFile != "":
		return Proxy{}, refused("AZURE_KUBERNETES_CA_FILE in the pod's spec is no file of a projected or ConfigMap volume of the pod: mount the certificate by one, or set AZURE_KUBERNETES_CA_DATA")
	}
	return p, nil
}

// ParseProxy takes what the SDKs take: an https URL, perhaps with a path.
func ParseProxy(raw string) (*url.URL, error) {
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

// Proxies has a client for each proxy, so that connections and discovery
// documents are kept between exchanges.
type Proxies struct {
	pods      podfile.Dir
	apiServer string // "host:port"
	clocks    clocks.Clocks

	mu      sync.Mutex
	clients *bounded.Map[trustedProxy, *Client]
}

// trustedProxy is a proxy with the content of its certificate.
type trustedProxy struct {
	Proxy
	ca string // PEM; empty: the system's
}

// NewProxies returns Proxies that read certificates in the pods' directories
// and reach the API server at its "host:port".
func NewProxies(pods podfile.Dir, apiServer string, c clocks.Clocks) *Proxies {
	never := func(*Client, time.Time) bool { return false }
	return &Proxies{pods: pods, apiServer: apiServer, clocks: c, clients: bounded.New[trustedProxy](maxProxies, never)}
}

// Client returns what exchanges the workload's assertions at the proxy. The
// certificate is read each time, since the cluster renews it. The error is a
// *workload.TokenError.
func (b *Proxies) Client(w workload.Workload, p Proxy) (*Client, error) {
	pem, err := b.certificate(w, p)
	if err != nil {
		return nil, err
	}
	k := trustedProxy{p, pem}
	now := b.clocks.Now().Steady
	b.mu.Lock()
	defer b.mu.Unlock()
	if x, ok := b.clients.Get(k, now); ok {
		return x, nil
	}
	carrier, err := b.transport(k)
	if err != nil {
		return nil, err
	}
	x := NewClient(carrier, b.clocks)
	b.clients.Put(k, x, now)
	return x, nil
}

// certificate returns the PEM of whom to trust, or "" for the system's CAs.
func (b *Proxies) certificate(w workload.Workload, p Proxy) (string, error) {
	if p.CA == (workload.VolumeFile{}) {
		return p.CAData, nil
	}
	raw, err := b.pods.Read(w.PodUID, p.CA)
	if err == nil && len(raw) > 0 {
		return string(raw), nil
	}
	var e *workload.TokenError
	switch {
	case errors.Is(err, podfile.ErrPath):
		e = refused("AZURE_KUBERNETES_CA_FILE in the pod's spec has a path that cannot be used")
	case errors.Is(err, podfile.ErrElsewhere), errors.Is(err, podfile.ErrTooLong):
		e = refused("the certificate that AZURE_KUBERNETES_CA_FILE in the pod's spec names is not a file in the pod's own directory")
	default: // an empty one is about to be renewed
		e = unavailable("the kubelet has not written the certificate that AZURE_KUBERNETES_CA_FILE in the pod's spec names yet")
	}
	e.Err = err
	return "", e
}

// transport carries requests for Entra to the proxy. No other proxy is asked:
// this one is in the cluster.
func (b *Proxies) transport(k trustedProxy) (http.RoundTripper, error) {
	to, err := url.Parse(k.URL)
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
	t.TLSClientConfig = &tls.Config{RootCAs: pool, ServerName: k.SNI, MinVersion: tls.VersionTLS12}
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
