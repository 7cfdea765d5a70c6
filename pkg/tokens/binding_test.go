package tokens

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// sentRequest is one request as test/clients/bindingclient records it.
type sentRequest struct {
	SNI         string     `json:"sni"`
	Method      string     `json:"method"`
	Host        string     `json:"host"`
	Path        string     `json:"path"`
	ContentType string     `json:"contentType,omitempty"`
	Form        url.Values `json:"form,omitempty"`
}

// tokenProxy answers as the proxy of identity bindings does, and keeps what it
// was sent.
type tokenProxy struct {
	*httptest.Server

	mu   sync.Mutex
	sent []sentRequest
}

func newTokenProxy(t *testing.T) *tokenProxy {
	p := &tokenProxy{}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.EnableHTTP2 = true // which is stricter about paths
	p.StartTLS()
	t.Cleanup(p.Close)
	return p
}

func (p *tokenProxy) serve(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	p.mu.Lock()
	p.sent = append(p.sent, sentRequest{r.TLS.ServerName, r.Method, r.Host, r.URL.Path, r.Header.Get("Content-Type"), r.PostForm})
	n := len(p.sent)
	p.mu.Unlock()
	if r.Method == http.MethodPost {
		writeJSON(w, http.StatusOK, map[string]any{"token_type": "Bearer", "expires_in": 3600, "access_token": "secret-token-" + strings.Repeat("x", n)})
		return
	}
	authority := "https://" + r.Host + "/" + tenantA
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer": authority + "/v2.0", "authorization_endpoint": authority + "/oauth2/v2.0/authorize",
		"token_endpoint": authority + "/oauth2/v2.0/token",
	})
}

func (p *tokenProxy) certificate() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
}

// address is the proxy's host and port.
func (p *tokenProxy) address() string { return p.Listener.Addr().String() }

// boundPod returns a pod as the webhook makes it: its volume has the token for
// the proxy and the proxy's certificate.
func (b *bench) boundPod(p *tokenProxy) workload.Workload {
	w := b.pod("shop", "cart", "web")
	b.engine.defaults.authority = "https://login.microsoftonline.com"
	w.Binding = &workload.IdentityBinding{
		TokenProxy: "https://kubernetes.default.svc.cluster.local/base", SNIName: "example.com",
		CAFile: "/var/run/secrets/azure/wi/ca-cert/ca.crt",
		CA:     &workload.VolumeFile{Plugin: "kubernetes.io~projected", Volume: w.Projected.Volume, Path: "ca.crt"},
	}
	b.engine.defaults.proxies.APIServer = p.address()
	b.engine.proxies = entra.NewProxies(b.engine.assertions.Pods, p.address(), b.engine.clocks)
	b.write(w, b.assertion(w, func(c jwt.MapClaims) { c["aud"] = []string{workload.BindingAudience} }))
	b.writeCertificate(w, p.certificate())
	return w
}

func (b *bench) writeCertificate(w workload.Workload, pem string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.volume(w), "ca.crt"), []byte(pem), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// The agent sends the proxy what azidentity sends it.
func TestBindingIsExchangedAsAzidentityDoes(t *testing.T) {
	b, p := newBench(t), newTokenProxy(t)
	w := b.boundPod(p)
	assertion, err := b.engine.assertions.Get(t.Context(), w, b.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	token := b.mustToken(w, workload.TokenRequest{Resource: vault})
	if token.Value != "secret-token-xx" {
		t.Errorf("token %q", token.Value)
	}
	var golden struct{ Requests []sentRequest }
	text, err := os.ReadFile("testdata/identitybinding.json")
	if err == nil {
		err = json.Unmarshal(text, &golden)
	}
	if err != nil {
		t.Fatal(err)
	}
	golden.Requests[1].Form["client_assertion"] = []string{assertion}
	if diff := cmp.Diff(golden.Requests, p.sent, cmp.Transformer("", func(v url.Values) map[string][]string {
		if len(v) == 0 {
			return nil
		}
		return v
	})); diff != "" {
		t.Errorf("sent (-azidentity +agent):\n%s", diff)
	}
	if n := b.entra.exchanges() + len(b.entra.discoveries); n != 0 {
		t.Errorf("%d requests went to Entra", n)
	}
}

func TestProxyWithoutAPath(t *testing.T) {
	b, p := newBench(t), newTokenProxy(t)
	w := b.boundPod(p)
	w.Binding.TokenProxy = strings.TrimSuffix(w.Binding.TokenProxy, "/base")
	b.mustToken(w, workload.TokenRequest{Resource: vault})
	if want := "/" + tenantA + "/oauth2/v2.0/token"; p.sent[1].Path != want {
		t.Errorf("path %q, want %q", p.sent[1].Path, want)
	}
}

func TestBindingsCertificateIsReadAgain(t *testing.T) {
	b, p := newBench(t), newTokenProxy(t)
	w := b.boundPod(p)
	b.mustToken(w, workload.TokenRequest{Resource: vault})
	b.mustToken(w, workload.TokenRequest{Resource: vault + "/"})
	if n := len(p.sent); n != 3 {
		t.Errorf("%d requests for two exchanges: discovery is to be done once", n)
	}
	b.writeCertificate(w, "not a certificate")
	_, err := b.token(w, workload.TokenRequest{Resource: "https://other"})
	wantTokenError(t, err, workload.Refused, "not PEM")
}

func TestBindingsThatAreRefused(t *testing.T) {
	link := func(target string) func(*bench, *workload.Workload) {
		return func(b *bench, w *workload.Workload) {
			file := filepath.Join(b.volume(*w), "ca.crt")
			_ = os.Remove(file)
			if err := os.Symlink(target, file); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	proxy := func(url string) func(*bench, *workload.Workload) {
		return func(_ *bench, w *workload.Workload) { w.Binding.TokenProxy = url }
	}
	for name, tc := range map[string]struct {
		spoil   func(*bench, *workload.Workload)
		mention string
	}{
		"another host":             {proxy("https://evil.example"), "--token-proxy https://evil.example"},
		"a name that begins alike": {proxy("https://kubernetes.default.svc-evil.example"), "not the cluster's API server"},
		"the node's metadata":      {proxy("https://169.254.169.254"), "not the cluster's API server"},
		"no TLS":                   {proxy("http://kubernetes.default"), "not an https URL"},
		"a query":                  {proxy("https://kubernetes.default?x=y"), "more in it"},
		"a user":                   {proxy("https://a@kubernetes.default"), "more in it"},
		"not a URL":                {proxy("https://%zz"), "not a URL"},
		"API server not known":     {func(b *bench, _ *workload.Workload) { b.engine.defaults.proxies.APIServer = "" }, "not the cluster's API server"},
		"certificate in no volume": {func(_ *bench, w *workload.Workload) { w.Binding.CA = nil }, "AZURE_KUBERNETES_CA_DATA"},
		"certificate that climbs":  {func(_ *bench, w *workload.Workload) { w.Binding.CA.Path = "../ca.crt" }, "path"},
		"link out of the pod":      {link("/etc/ssl/certs/ca-certificates.crt"), "own directory"},
		"link to proc":             {link("/proc/self/environ"), "own directory"},
		"certificate data is none": {func(_ *bench, w *workload.Workload) { w.Binding.CAData = "x" }, "not PEM"},
		"token for Entra":          {func(b *bench, w *workload.Workload) { b.write(*w, b.assertion(*w, nil)) }, workload.BindingAudience},
	} {
		t.Run(name, func(t *testing.T) {
			b, p := newBench(t), newTokenProxy(t)
			w := b.boundPod(p)
			tc.spoil(b, &w)
			_, err := b.token(w, workload.TokenRequest{Resource: vault})
			wantTokenError(t, err, workload.Refused, tc.mention)
			if n := len(p.sent) + b.entra.exchanges(); n != 0 {
				t.Errorf("%d requests were sent", n)
			}
		})
	}
}

// A token for the proxy never goes to Entra itself.
func TestTokenForTheProxyIsNotForEntra(t *testing.T) {
	b, p := newBench(t), newTokenProxy(t)
	w := b.boundPod(p)
	w.Binding = nil
	_, err := b.token(w, workload.TokenRequest{Resource: vault})
	wantTokenError(t, err, workload.Refused, workload.TokenAudience)
}

func TestProxiesThatMayBeNamed(t *testing.T) {
	d := entra.AllowedProxies{APIServer: "10.0.0.1:443", Other: "https://proxy.example:8443/wi"}
	for url, ok := range map[string]bool{
		"https://kubernetes.default":                   true,
		"https://kubernetes.default.svc":               true,
		"https://kubernetes.default.svc.cluster.local": true,
		"https://Kubernetes.Default.Svc.corp.example/": true,
		"https://10.0.0.1":                             true,
		"https://10.0.0.1:443/":                        true,
		"https://10.0.0.1:8443":                        false,
		"https://kubernetes":                           false,
		"https://proxy.example:8443/wi/":               true,
		"https://proxy.example:8443":                   false,
		"https://proxy.example:8443/other":             false,
	} {
		_, err := d.Select(workload.Workload{Binding: &workload.IdentityBinding{TokenProxy: url}})
		if (err == nil) != ok {
			t.Errorf("%s: %v, want it to be taken: %t", url, err, ok)
		}
	}
}

// Pods with the same service account and another proxy, or none, share no
// token and no circuit.
func TestProxiesAreApart(t *testing.T) {
	plain := key{account: "a", target: target{authority: "x", tenant: tenantA}}
	one, two := plain, plain
	one.proxy = entra.Proxy{URL: "https://kubernetes.default"}
	two.proxy = entra.Proxy{URL: "https://kubernetes.default", CAData: "other"}
	other := one
	other.account = "b"
	if plain == one || one == two {
		t.Error("keys are the same")
	}
	if plain.tenantRealm() == one.tenantRealm() || one.clientRealm() == other.clientRealm() {
		t.Error("realms are the same")
	}
}
