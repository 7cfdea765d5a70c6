package main

import (
	"encoding/json"
	"net/http"
	"strings"

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

// arm is as much of Azure Resource Manager as `az login` needs: the identity
// has no subscription. It takes any bearer token; whose a token is, the suite
// reads from the client's own.
func arm(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/metadata/endpoints":
		_, _ = w.Write([]byte(armEndpoints))
	case r.Method == http.MethodPut && r.URL.Path == loginPath:
		logIn(w, r)
	case !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "):
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":{"code":"AuthenticationFailed","message":"Authentication failed."}}`))
	case r.Method == http.MethodGet && r.URL.Path == "/subscriptions":
		_, _ = w.Write([]byte(`{"value":[],"count":{"type":"Total","value":0}}`))
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"error":{"code":"NotFound","message":"Not found."}}`))
	}
}
