package main

import (
	"encoding/json"
	"encoding/pem"
	"flag"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the recording")

// golden is the recording that pkg/tokens is held to.
const golden = "../../../pkg/tokens/testdata/identitybinding.json"

type recording struct {
	Recorded string    `json:"recorded"`
	Requests []request `json:"requests"`
}

type request struct {
	SNI         string     `json:"sni"`
	Method      string     `json:"method"`
	Host        string     `json:"host"`
	Path        string     `json:"path"`
	ContentType string     `json:"contentType,omitempty"`
	Form        url.Values `json:"form,omitempty"`
}

// recorder is a proxy that answers whatever it is sent, and keeps it.
type recorder struct {
	mu   sync.Mutex
	sent []request
}

func (p *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	form := r.PostForm
	if len(form) == 0 {
		form = nil
	}
	p.mu.Lock()
	p.sent = append(p.sent, request{r.TLS.ServerName, r.Method, r.Host, r.URL.Path, r.Header.Get("Content-Type"), form})
	p.mu.Unlock()
	authority := "https://" + r.Host + "/" + tenant
	body := map[string]any{
		"issuer": authority + "/v2.0", "authorization_endpoint": authority + "/oauth2/v2.0/authorize",
		"token_endpoint": authority + "/oauth2/v2.0/token",
	}
	if r.URL.Path == prefix+instanceDiscovery {
		body = map[string]any{
			"tenant_discovery_endpoint": authority + "/v2.0/.well-known/openid-configuration",
			"metadata": []map[string]any{{
				"preferred_network": r.Host, "preferred_cache": r.Host, "aliases": []string{r.Host},
			}},
		}
	}
	if r.Method == http.MethodPost {
		body = map[string]any{"token_type": "Bearer", "expires_in": 3600, "access_token": "a.b.c"}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

const (
	tenant            = "aaaaaaaa-0000-4000-8000-00000000000a"
	prefix            = "/base"
	instanceDiscovery = "/common/discovery/instance"
)

// record returns what the SDK sends for one token.
func record(t *testing.T, withoutInstanceDiscovery bool) []request {
	t.Helper()
	p := &recorder{}
	server := httptest.NewTLSServer(p)
	defer server.Close()
	dir := t.TempDir()
	files := map[string][]byte{
		"token":  []byte("the assertion"),
		"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"AZURE_TENANT_ID": tenant, "AZURE_CLIENT_ID": "cccccccc-0000-4000-8000-00000000000a",
		"AZURE_FEDERATED_TOKEN_FILE": filepath.Join(dir, "token"), "AZURE_AUTHORITY_HOST": "https://login.microsoftonline.com/",
		"AZURE_KUBERNETES_TOKEN_PROXY": server.URL + prefix, "AZURE_KUBERNETES_SNI_NAME": "example.com",
		"AZURE_KUBERNETES_CA_FILE": filepath.Join(dir, "ca.crt"), "AZURE_KUBERNETES_CA_DATA": "",
	} {
		t.Setenv(name, value)
	}
	if _, err := get(t.Context(), withoutInstanceDiscovery); err != nil {
		t.Fatal(err)
	}
	return p.sent
}

// The SDK still sends what was recorded.
func TestRecordingIsUpToDate(t *testing.T) {
	got := recording{
		Recorded: "azidentity v1.15.0, WorkloadIdentityCredential with EnableAzureProxy, instance discovery off",
		Requests: record(t, true),
	}
	if *update {
		text, err := json.MarshalIndent(got, "", "  ")
		if err == nil {
			err = os.WriteFile(golden, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var want recording
	text, err := os.ReadFile(golden)
	if err == nil {
		err = json.Unmarshal(text, &want)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("sent %+v, recorded %+v", got, want)
	}
}

// With instance discovery on, its default, the SDK asks for that first, at the
// proxy too, and the rest is the same.
func TestInstanceDiscoveryGoesToTheProxyToo(t *testing.T) {
	with, without := record(t, false), record(t, true)
	if with[0].Path != prefix+instanceDiscovery || !reflect.DeepEqual(with[1:], without) {
		t.Errorf("sent %+v, without instance discovery %+v", with, without)
	}
}

func TestObjectID(t *testing.T) {
	if got, err := objectID("e30.eyJvaWQiOiJvIn0.c2ln"); err != nil || got != "o" { // {"oid":"o"}
		t.Errorf("object id %q, %v", got, err)
	}
	for _, token := range []string{"", "secret", "e30.!.c2ln", "e30.MQ.c2ln"} {
		if _, err := objectID(token); err == nil {
			t.Errorf("%q was taken for a token", token)
		}
	}
}
