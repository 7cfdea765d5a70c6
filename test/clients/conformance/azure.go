package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
)

// Hosts of Azure that some clients ask by name. In the lab they are armAddress.
const (
	managementHost = "management.azure.com"
	storageHost    = "devstoreaccount1.blob.core.windows.net" // Azurite's account
)

// Audiences of Resource Manager's tokens.
var managementAudiences = []string{"https://management.core.windows.net/", "https://management.azure.com/", "https://management.azure.com"}

// azure is what the clients reach of Azure besides Entra, the metadata service
// and the vault: Resource Manager, and a storage account. It keeps the tokens
// that it is sent, since not every client shows its own.
type azure struct {
	mu      sync.Mutex
	sent    []string
	records map[string]any // of the zone, by name
	changes []string       // of records, in their order
	blobs   http.Handler   // nil: Azurite does not run
}

func newAzure() *azure { return &azure{records: map[string]any{}} }

// serve has a scene's hosts answer as Azure's.
func (a *azure) serve(o scene.Options) scene.Options {
	o.Extra = map[string]http.Handler{armAddress: a}
	o.Names = []string{managementHost, storageHost}
	o.Booted = nameHosts
	return o
}

// nameHosts has Azure's names mean the lab's address for every process below
// the lab's mount namespace, and no other on the machine.
func nameHosts(s *scene.Scene) error {
	const hosts = "/etc/hosts"
	text, err := os.ReadFile(hosts)
	if err != nil {
		return err
	}
	own := filepath.Join(filepath.Dir(s.CA), "hosts")
	text = fmt.Appendf(text, "\n%s %s %s\n", armAddress, managementHost, storageHost)
	if err := os.WriteFile(own, text, 0o644); err != nil {
		return err
	}
	if err := unix.Mount(own, hosts, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("give the lab an %s of its own: %w", hosts, err)
	}
	return nil
}

// rewind forgets what was sent.
func (a *azure) rewind() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent, a.changes = nil, nil
}

// seen returns the tokens that came since rewind, and what was done to records.
func (a *azure) seen() (tokens, changes []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent, a.changes
}

// forward has the storage account's requests go to Azurite.
func (a *azure) forward(ca string) error {
	text, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return errors.New(ca + " has no certificate")
	}
	to := &url.URL{Scheme: "https", Host: armAddress + ":" + blobPort}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blobs = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // it has the account's name
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (a *azure) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, bears := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	if bears {
		a.sent = append(a.sent, token)
	}
	blobs := a.blobs
	a.mu.Unlock()
	if r.Host == storageHost && blobs != nil {
		blobs.ServeHTTP(w, r)
		return
	}
	a.manage(w, r, token)
}

// forManagement reports whether a token is for Resource Manager and good now. Its
// signature Entra's keys would show; whose it is, the suite judges.
func forManagement(token string, now time.Time) bool {
	claims, err := claimsOf(token)
	return err == nil && isOneOf(claims, managementAudiences) && claims.NotBefore <= now.Unix() && now.Unix() < claims.Expiry
}

func isOneOf(claims accesstoken.Claims, audiences []string) bool {
	for _, audience := range audiences {
		if claims.Audience == audience {
			return true
		}
	}
	return false
}

func azureJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

func azureError(w http.ResponseWriter, status int, code string) {
	azureJSON(w, status, map[string]any{"error": map[string]string{"code": code, "message": http.StatusText(status) + "."}})
}
