package outages

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/test/faults/row"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/pki"
	"github.com/sidestep-agent/sidestep/test/suite"
)

// proxy is the HTTPS proxy of this process. Go reads HTTPS_PROXY once, and
// never uses it for loopback addresses: the tests that need it ask for names
// that exist nowhere else.
var proxy *connectProxy

func TestMain(m *testing.M) {
	if os.Getenv(crashVariable) != "" {
		os.Exit(m.Run()) // a child, which needs no proxy
	}
	var err error
	if proxy, err = newConnectProxy(); err != nil {
		panic(err)
	}
	for name, value := range map[string]string{
		"HTTPS_PROXY": "http://" + proxy.listener.Addr().String(), "NO_PROXY": "", "https_proxy": "", "no_proxy": "",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// connectProxy is an HTTP proxy that opens tunnels (CONNECT) to where the test
// says that a host is, and keeps what went through it.
type connectProxy struct {
	listener net.Listener

	mu      sync.Mutex
	sites   map[string]netip.AddrPort // by "host:port"
	opened  map[string]int
	carried bytes.Buffer // from the clients
}

func newConnectProxy() (*connectProxy, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &connectProxy{listener: l, sites: make(map[string]netip.AddrPort), opened: make(map[string]int)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p, nil
}

// lead sends tunnels for the host to the site from now on.
func (p *connectProxy) lead(host string, site *entra.Site) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sites[host] = site.Address()
}

func (p *connectProxy) tunnels(host string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened[host]
}

func (p *connectProxy) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	reader := bufio.NewReader(c)
	req, err := http.ReadRequest(reader)
	if err != nil {
		return
	}
	p.mu.Lock()
	site, ok := p.sites[req.Host]
	p.opened[req.Host]++
	p.mu.Unlock()
	if req.Method != http.MethodConnect || !ok {
		_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		return
	}
	server, err := net.Dial("tcp", site.String())
	if err != nil {
		_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer func() { _ = server.Close() }()
	_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(c, server)
		_ = c.Close()
	}()
	_, _ = io.Copy(io.MultiWriter(server, p), reader)
}

// Write keeps what a client sent.
func (p *connectProxy) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.carried.Write(b)
}

func TestExchangeGoesThroughTheHTTPSProxy(t *testing.T) {
	suite.Need(t, "test-outages")
	const host = "entra-behind-a-proxy.test"
	r := newRig(t, setup{authorityHost: "https://" + host, hosts: []string{host}})
	proxy.lead(host+":443", r.site)
	r.app(0, "web").mustAsk()
	if n := proxy.tunnels(host + ":443"); n == 0 {
		t.Error("the proxy was not asked")
	}
	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	if bytes.Contains(proxy.carried.Bytes(), []byte("client_assertion")) {
		t.Error("the proxy can read what goes through it")
	}
}

// Each cloud's Entra by its own name, with TLS and discovery.
func TestCloudsAreAskedByTheirNames(t *testing.T) {
	suite.Need(t, "test-outages")
	for cloud, host := range map[tokens.Cloud]string{
		tokens.AzurePublic:       "login.microsoftonline.com",
		tokens.AzureUSGovernment: "login.microsoftonline.us",
		tokens.AzureChina:        "login.chinacloudapi.cn",
	} {
		t.Run(string(cloud), func(t *testing.T) {
			r := newRig(t, setup{cloud: cloud, hosts: []string{host}})
			proxy.lead(host+":443", r.site)
			r.app(0, "web").mustAsk()
			if n := len(r.asked(entra.Token)); n != 1 {
				t.Errorf("%d exchanges, want 1", n)
			}
		})
	}
}

// A pod in AzurePublic's cluster may name another cloud by AZURE_AUTHORITY_HOST.
func TestPodsOwnAuthority(t *testing.T) {
	suite.Need(t, "test-outages")
	const host = "login.microsoftonline.us"
	r := newRig(t, setup{hosts: []string{host}})
	proxy.lead(host+":443", r.site)
	before := proxy.tunnels(host + ":443")
	a := r.app(0, "web")
	r.attester.mu.Lock()
	w := r.attester.pods[1]
	w.AuthorityHost = "https://" + host + "/"
	r.attester.pods[1] = w
	r.attester.mu.Unlock()
	a.mustAsk()
	if proxy.tunnels(host+":443") == before {
		t.Error("the pod's own authority was not asked")
	}
}

// Entra's certificate, or that of a proxy that opens TLS, is of a new
// authority. The CA file follows, a little late; the agent is not restarted,
// and no application sees it.
func TestRotatedCAIsTrustedWithoutARestart(t *testing.T) {
	suite.Need(t, "test-outages")
	const host = "entra-with-a-new-ca.test"
	r := newRig(t, setup{authorityHost: "https://" + host, hosts: []string{host}})
	proxy.lead(host+":443", r.site)
	r.app(0, "web").mustAsk()

	next, err := pki.New()
	if err != nil {
		t.Fatal(err)
	}
	proxy.lead(host+":443", r.openSite(next, netip.AddrFrom4([4]byte{127, 0, 0, 1}), host))
	r.site.Close()
	got := make(chan answer, 1)
	go func() { got <- r.app(1, "web").ask() }()
	time.Sleep(2 * time.Second)
	select {
	case early := <-got:
		t.Fatalf("%v, though the new authority is not trusted", early)
	default:
	}
	r.trust(next)
	late := <-got
	if late.status != http.StatusOK {
		t.Errorf("%v", late)
	}
	r.app(2, "web").mustAsk()
	t.Log(row.Row{
		Fault: "Entra's CA rotated, the CA file 2 s late", Expected: "who asks is held and served; no restart",
		Seen: fmt.Sprintf("held: %v", late),
	})
}

func TestEntraOverIPv6Alone(t *testing.T) {
	suite.Need(t, "test-outages")
	r := newRig(t, setup{at: netip.IPv6Loopback()})
	r.app(0, "web").mustAsk()
	if n := len(r.asked(entra.Token)); n != 1 {
		t.Errorf("%d exchanges, want 1", n)
	}
}
