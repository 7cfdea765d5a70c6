package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
)

// A zone of Azure DNS, the record by which a certificate authority is shown that
// the zone is one's own, and what its text is made from.
const (
	zoneName      = "clients.test"
	challengeName = "_acme-challenge.app"
	keyAuthority  = "token.thumbprint"
)

// Where Resource Manager has the zone, and where it finds resources of any kind.
const (
	zoneSubscription = "6b1d3f58-2c4a-4e70-9f86-a5d7c0e3b204"
	zoneGroup        = "dns"
	zonePath         = "/subscriptions/" + zoneSubscription + "/resourceGroups/" + zoneGroup + "/providers/Microsoft.Network/dnsZones/" + zoneName
	graphPath        = "/providers/Microsoft.ResourceGraph/resources"
)

// wantRecords is what a client must do to the zone: publish the challenge as RFC
// 8555 has it, and remove it.
func wantRecords() string {
	digest := sha256.Sum256([]byte(keyAuthority))
	return fmt.Sprintf("PUT %[1]s %[2]s, DELETE %[1]s", challengeName, base64.RawURLEncoding.EncodeToString(digest[:]))
}

// graph answers a query for zones.
func graph(w http.ResponseWriter, r *http.Request) {
	var query struct{ Query string }
	if err := json.NewDecoder(r.Body).Decode(&query); err != nil || !strings.Contains(query.Query, `type =~ "microsoft.network/dnszones"`) {
		azureError(w, http.StatusBadRequest, "InvalidQuery")
		return
	}
	azureJSON(w, http.StatusOK, map[string]any{
		"totalRecords": 1, "count": 1, "resultTruncated": "false",
		"data": []any{map[string]string{"subscriptionId": zoneSubscription, "resourceGroup": zoneGroup, "name": zoneName}},
	})
}

// recordSet is a set of TXT records as a client sends it.
type recordSet struct {
	Properties struct {
		TTL        int64
		TXTRecords []struct{ Value []string }
	}
}

// record serves the set of TXT records at a path below the zone's.
func (a *azure) record(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	a.mu.Lock()
	defer a.mu.Unlock()
	stored, there := a.records[name]
	switch r.Method {
	case http.MethodGet:
		if !there {
			azureError(w, http.StatusNotFound, "NotFound")
			return
		}
		azureJSON(w, http.StatusOK, stored)
	case http.MethodPut:
		var set recordSet
		if err := json.NewDecoder(r.Body).Decode(&set); err != nil || set.Properties.TTL <= 0 || len(set.Properties.TXTRecords) == 0 {
			azureError(w, http.StatusBadRequest, "BadRequest")
			return
		}
		var values []string
		for _, record := range set.Properties.TXTRecords {
			values = append(values, record.Value...)
		}
		a.records[name] = map[string]any{"name": name, "properties": set.Properties}
		a.changes = append(a.changes, "PUT "+name+" "+strings.Join(values, " "))
		azureJSON(w, http.StatusCreated, a.records[name])
	case http.MethodDelete:
		delete(a.records, name)
		a.changes = append(a.changes, "DELETE "+name)
	default:
		azureError(w, http.StatusMethodNotAllowed, "MethodNotAllowed")
	}
}
