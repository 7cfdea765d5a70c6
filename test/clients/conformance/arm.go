package main

import (
	"net/http"
	"strings"

	"github.com/sidestep-agent/sidestep/test/scene"
)

// Where the CLI finds Azure Resource Manager.
const (
	armAddress = "10.63.0.4"
	armURL     = "https://" + armAddress
)

// armEndpoints is what Azure Resource Manager tells everyone about a cloud.
const armEndpoints = `{"galleryEndpoint":"` + armURL + `","graphEndpoint":"` + armURL + `","portalEndpoint":"` + armURL + `",` +
	`"authentication":{"loginEndpoint":"` + scene.EntraURL + `","audiences":["https://management.core.windows.net/"]}}`

// arm is as much of Azure Resource Manager as `az login` needs: the identity
// has no subscription. It takes any bearer token; whose a token is, the suite
// reads from the client's own.
func arm(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/metadata/endpoints":
		_, _ = w.Write([]byte(armEndpoints))
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
