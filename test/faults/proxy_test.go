package faults

import (
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// forwardProxy is an HTTP proxy that carries whatever it is asked to, to
// wherever, and counts it by host.
type forwardProxy struct {
	mu    sync.Mutex
	hosts map[string]int
}

// serve serves it on the node, and returns its URL.
func (p *forwardProxy) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	check(t, err)
	server := &http.Server{Handler: p, ReadHeaderTimeout: patience}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }() // until Close
	return "http://" + l.Addr().String()
}

func (p *forwardProxy) count(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hosts == nil {
		p.hosts = make(map[string]int)
	}
	p.hosts[host]++
}

func (p *forwardProxy) asked() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.hosts)
}

func (p *forwardProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := r.URL.Hostname()
	if r.Method == http.MethodConnect {
		host, _, _ = net.SplitHostPort(r.Host)
	}
	p.count(host)
	if r.Method != http.MethodConnect {
		p.forward(w, r)
		return
	}
	up, err := net.Dial("tcp4", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer up.Close()
	w.WriteHeader(http.StatusOK)
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	go func() { _, _ = io.Copy(up, buffered); up.Close() }()
	_, _ = io.Copy(down, up)
}

// forward answers a request for a URL without TLS.
func (p *forwardProxy) forward(w http.ResponseWriter, r *http.Request) {
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, response.Body)
}

func init() { lab.Register("metadata", readMetadata) }

// readMetadata asks for the instance metadata of the node, which the agent
// relays, and returns the status of the answer.
func readMetadata(struct{}) (int, error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+lab.IMDS+"/metadata/instance?api-version=2021-02-01", http.NoBody)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Metadata", "true")
	response, err := (&http.Client{Timeout: patience}).Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// A proxy is for Entra: one that knows neither the cluster nor the node would
// keep the agent from both.
func TestProxyIsForEntraAlone(t *testing.T) {
	proxy := &forwardProxy{}
	at := proxy.serve(t)
	r := open(t, "HTTP_PROXY and HTTPS_PROXY are set, NO_PROXY is not", "Entra through the proxy; the API server and the node's IMDS never",
		func(o *scene.Options) {
			for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
				o.Env = append(o.Env, name+"="+at)
			}
		})
	r.want(r.steered, ownToken)
	status, err := lab.Run[struct{}, int](t.Context(), r.steered.Pod, "metadata", struct{}{})
	check(t, err)
	if status != http.StatusOK {
		t.Errorf("the node's metadata: answer %d", status)
	}
	entra, err := url.Parse(scene.EntraURL)
	check(t, err)
	asked := slices.Sorted(maps.Keys(proxy.asked()))
	if !slices.Equal(asked, []string{entra.Hostname()}) {
		t.Errorf("asked through the proxy: %v, want %s alone", asked, entra.Hostname())
	}
	r.see("ready, its own token, the node's metadata; through the proxy: %s", strings.ReplaceAll(strings.Join(asked, ", "), entra.Hostname(), "Entra"))
}
