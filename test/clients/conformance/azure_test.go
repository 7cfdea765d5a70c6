package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

// Resource Manager takes tokens that are its own and good now, for what it has.
func TestResourceManager(t *testing.T) {
	now := time.Now()
	of := func(audience string, lifetime time.Duration) string {
		return token(accesstoken.New(accesstoken.Identity{TenantID: "t", ClientID: "c", ObjectID: "o"}, audience, now, lifetime))
	}
	own := of("https://management.core.windows.net/", time.Hour)
	const record, version = zonePath + "/TXT/" + challengeName, "?api-version=2018-05-01"
	const challenge = `{"properties":{"TTL":60,"TXTRecords":[{"value":["x"]}]}}`
	a := newAzure()
	for _, tt := range []struct {
		what, token, method, target, body string
		status                            int
	}{
		{"no token", "", "GET", record + version, "", 401},
		{"no JWT", "x", "GET", record + version, "", 401},
		{"the vault's", of(vault.Resource, time.Hour), "GET", record + version, "", 401},
		{"ended", of("https://management.core.windows.net/", -time.Minute), "GET", record + version, "", 401},
		{"no version", own, "GET", record, "", 400},
		{"no record", own, "GET", record + version, "", 404},
		{"another zone", own, "PUT", strings.Replace(record, zoneName, "another.test", 1) + version, challenge, 404},
		{"a record without text", own, "PUT", record + version, `{"properties":{"TTL":60}}`, 400},
		{"the record", own, "PUT", record + version, challenge, 201},
		{"the record is there", own, "GET", record + version, "", 200},
		{"the zones", own, "POST", graphPath + version, `{"query":"| where type =~ \"microsoft.network/dnszones\""}`, 200},
		{"other resources", own, "POST", graphPath + version, `{"query":"x"}`, 400},
		{"removed", own, "DELETE", record + version, "", 200},
		{"the record is gone", own, "GET", record + version, "", 404},
	} {
		r := httptest.NewRequest(tt.method, "https://"+managementHost+tt.target, strings.NewReader(tt.body))
		if tt.token != "" {
			r.Header.Set("Authorization", "Bearer "+tt.token)
		}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.what, w.Code, w.Body, tt.status)
		}
	}
	tokens, changes := a.seen()
	if diff := cmp.Diff([]string{"PUT " + challengeName + " x", "DELETE " + challengeName}, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if len(tokens) != 13 {
		t.Errorf("%d tokens were kept, not 13", len(tokens))
	}
	a.rewind()
	if tokens, changes = a.seen(); tokens != nil || changes != nil {
		t.Errorf("after rewind: %q, %q", tokens, changes)
	}
}

// What is sent to the storage account goes to Azurite, its token is kept.
func TestStorageAccountIsForwarded(t *testing.T) {
	a := newAzure()
	a.blobs = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Seen", r.Host+r.URL.Path)
	})
	r := httptest.NewRequest(http.MethodGet, "https://"+storageHost+"/container/blob", http.NoBody)
	r.Header.Set("Authorization", "Bearer x")
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	if tokens, _ := a.seen(); w.Header().Get("Seen") != storageHost+"/container/blob" || len(tokens) != 1 || tokens[0] != "x" {
		t.Errorf("%v, tokens %q", w.Header(), tokens)
	}
}
