package main

import (
	"encoding/json"
	"net/http"
	"path"
	"time"

	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
)

// Where the CLI finds Azure Resource Manager.
const (
	armAddress = "10.63.0.4"
	armURL     = "https://" + armAddress
)

// armEndpoints is what Azure Resource Manager tells everyone about a cloud.
const armEndpoints = `{"galleryEndpoint":"` + armURL + `","graphEndpoint":"` + armURL + `","portalEndpoint":"` + armURL + `",` +
	`"authentication":{"loginEndpoint":"` + scene.EntraURL + `","audiences":["https://management.core.windows.net/"]}}`

// loginPath is where a HashiCorp Vault takes tokens of Azure.
const loginPath = "/v1/auth/azure/login"

// logIn answers as HashiCorp's Vault does to what proves a machine by a token
// and by what the metadata service says of it. Whose the token is, the suite
// reads from the client's own.
func logIn(w http.ResponseWriter, r *http.Request) {
	var login struct {
		Role           string `json:"role"`
		JWT            string `json:"jwt"`
		VMName         string `json:"vm_name"`
		SubscriptionID string `json:"subscription_id"`
		ResourceGroup  string `json:"resource_group_name"`
	}
	here := imds.DefaultInstance
	switch err := json.NewDecoder(r.Body).Decode(&login); {
	case err != nil, login.Role == "", login.JWT == "":
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"errors":["role and jwt are required"]}`))
	case login.VMName != here.Name || login.SubscriptionID != here.SubscriptionID || login.ResourceGroup != here.ResourceGroup:
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"errors":["permission denied: the machine is another"]}`))
	default:
		_, _ = w.Write([]byte(`{"auth":{"client_token":"hvs.lab","policies":["default"],"lease_duration":3600,"renewable":true}}`))
	}
}

// manage is as much of Azure Resource Manager as the clients need: `az login`,
// whose identity has no subscription, and a DNS zone. It takes no token for
// another resource, nor one that has ended.
func (a *azure) manage(w http.ResponseWriter, r *http.Request, token string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/metadata/endpoints":
		_, _ = w.Write([]byte(armEndpoints))
	case r.Method == http.MethodPut && r.URL.Path == loginPath:
		logIn(w, r)
	case !forManagement(token, time.Now()):
		azureError(w, http.StatusUnauthorized, "InvalidAuthenticationToken")
	case r.URL.Query().Get("api-version") == "":
		azureError(w, http.StatusBadRequest, "MissingApiVersionParameter")
	case r.Method == http.MethodGet && r.URL.Path == "/subscriptions":
		_, _ = w.Write([]byte(`{"value":[],"count":{"type":"Total","value":0}}`))
	case r.Method == http.MethodPost && r.URL.Path == graphPath:
		graph(w, r)
	case path.Dir(r.URL.Path) == zonePath+"/TXT":
		a.record(w, r)
	default:
		azureError(w, http.StatusNotFound, "NotFound")
	}
}
