package daemon

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The kubelet replaces the agent's token in its file; one that is refused is
// not used for long.
func TestRefusedTokenIsReadAnew(t *testing.T) {
	tokens := make(chan string, 100)
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer := r.Header.Get("Authorization")
		tokens <- bearer
		w.Header().Set("Content-Type", "application/json")
		if bearer != "Bearer second" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = io.WriteString(w, `{"major": "1"}`)
	}))
	defer api.Close()
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, "first")
	ca := filepath.Join(t.TempDir(), "ca.crt")
	writeFile(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})))
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	writeFile(t, kubeconfig, `{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
		"clusters": [{"name": "c", "cluster": {"server": "`+api.URL+`", "certificate-authority": "`+ca+`"}}], "users": [{"name": "u", "user": {"tokenFile": "`+file+`"}}]}`)
	client, _, err := NewClients(kubeconfig, "v")
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := client.Discovery().ServerVersion()
		return err
	}
	if err := ask(); !apierrors.IsUnauthorized(err) {
		t.Fatalf("the first token: %v", err)
	}
	writeFile(t, file, "second")
	// The token that the refused request read was new to it.
	for tries := 1; ask() != nil; tries++ {
		if tries == 3 {
			t.Fatalf("still refused; the tokens were %q, %q, %q", <-tokens, <-tokens, <-tokens)
		}
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAddressOfTheAPIServer(t *testing.T) {
	for server, want := range map[string]string{
		"https://10.0.0.1:6443":        "10.0.0.1:6443",
		"https://api.example":          "api.example:443",
		"https://[fd00::1]:443/prefix": "[fd00::1]:443",
	} {
		file := filepath.Join(t.TempDir(), "kubeconfig")
		text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"" + server + "\"}}]\n" +
			"contexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := apiServerAddress(file); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", server, got, err, want)
		}
	}
}

// HTTPS_PROXY is for Entra. A transport without a proxy of its own would go by
// it to the API server.
func TestOnlyTheKubeconfigSendsCallsThroughAProxy(t *testing.T) {
	for name, want := range map[string]string{"": "", "http://proxy.example:3128": "http://proxy.example:3128"} {
		file := filepath.Join(t.TempDir(), "kubeconfig")
		through := ""
		if name != "" {
			through = ", proxy-url: \"" + name + "\""
		}
		writeFile(t, file, "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://10.0.0.1\""+through+"}}]\n"+
			"contexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n")
		c, err := clusterConfig(file)
		if err != nil {
			t.Fatal(err)
		}
		if c.Proxy == nil {
			t.Fatalf("%q: the environment's proxy is used", name)
		}
		got, err := c.Proxy(httptest.NewRequest(http.MethodGet, "https://10.0.0.1", nil))
		if err != nil {
			t.Fatal(err)
		}
		if (got == nil) != (want == "") || (got != nil && got.String() != want) {
			t.Errorf("%q: proxy %v, want %q", name, got, want)
		}
	}
}
