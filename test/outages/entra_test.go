package outages

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"sync"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
	"github.com/sidestep-agent/sidestep/test/standins/pki"
)

// keys are the cluster's and Entra's: making them takes longer than most tests.
var keys = sync.OnceValue(func() (k struct{ cluster, entra *jwks.Key }) {
	var err error
	if k.cluster, err = jwks.NewKey(); err != nil {
		panic(err)
	}
	if k.entra, err = jwks.NewKey(); err != nil {
		panic(err)
	}
	return k
})

const identities = 20

func clientOf(i int) string  { return fmt.Sprintf("33333333-3333-4333-8333-%012d", i) }
func accountOf(i int) string { return fmt.Sprintf("app-%d", i) }

func (r *rig) makeEntra(s setup) {
	r.t.Helper()
	r.issuer = r.cluster()
	file := federation.File{
		Issuer: r.issuer, Tenants: []string{tenant}, Resources: []string{vault},
		NodeIdentity: federation.NodeIdentity{TenantID: tenant, ClientID: clientOf(999), PrincipalID: clientOf(998)},
	}
	for i := range identities {
		file.Identities = append(file.Identities, federation.Identity{
			Name: accountOf(i), TenantID: tenant, ClientID: clientOf(i), PrincipalID: fmt.Sprintf("44444444-4444-4444-8444-%012d", i),
			ResourceID:           "/subscriptions/s/" + accountOf(i),
			FederatedCredentials: []federation.Credential{{Subject: "system:serviceaccount:" + namespace + ":" + accountOf(i)}},
		})
	}
	directory, err := federation.Fixed(file)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server, err = entra.New(entra.Options{
		Federation: directory, Key: keys().entra, Log: &r.entraLog, RefreshIn: s.refreshIn, Delay: s.delay,
		Issuers: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.ca.Pool(), MinVersion: tls.VersionTLS12}}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// cluster publishes the cluster's key and returns its issuer.
func (r *rig) cluster() string {
	r.t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{r.certificate(r.ca)}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	r.t.Cleanup(server.Close)
	publish := func(path string, v any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
	}
	publish("/.well-known/openid-configuration", map[string]string{"jwks_uri": server.URL + "/openid/v1/jwks"})
	publish("/openid/v1/jwks", keys().cluster.Public())
	return server.URL
}

func (r *rig) certificate(ca *pki.Authority, hosts ...string) tls.Certificate {
	r.t.Helper()
	issued, err := ca.Issue(hosts...)
	if err != nil {
		r.t.Fatal(err)
	}
	pair, err := issued.TLS()
	if err != nil {
		r.t.Fatal(err)
	}
	return pair
}

// openSite serves the rig's Entra with a certificate of the authority.
func (r *rig) openSite(ca *pki.Authority, at netip.Addr, hosts ...string) *entra.Site {
	r.t.Helper()
	site, err := entra.OpenSite(at, r.server, r.certificate(ca, append(hosts, at.String())...))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(site.Close)
	return site
}

// trust writes the authority's certificate in the agent's CA file, in one step
// as the kubelet does.
func (r *rig) trust(ca *pki.Authority) {
	r.t.Helper()
	next := r.caFile + ".next"
	if err := os.WriteFile(next, ca.PEM(), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(next, r.caFile); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) setFault(fault entra.Fault) {
	r.t.Helper()
	if err := r.site.SetFault(fault); err != nil {
		r.t.Error(err)
	}
}

// asked returns what Entra was asked for so far.
func (r *rig) asked(kind entra.Kind) []entra.Entry {
	r.t.Helper()
	entries, err := journal.Read[entra.Entry](bytes.NewReader([]byte(r.entraLog.String())))
	if err != nil {
		r.t.Fatal(err)
	}
	var all []entra.Entry
	for _, e := range entries {
		if e.Kind == kind {
			all = append(all, e)
		}
	}
	return all
}
