package daemon

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// --metrics-auth asks for a token where the metrics are, and nowhere else.
func TestMetricsAskForATokenIfTold(t *testing.T) {
	a := wired(t)
	a.registry.Unregister(a.hooks) // there is no kernel side
	for _, auth := range []bool{false, true} {
		a.metrics.auth = auth
		h := a.metrics.handler()
		for path, open := range map[string]bool{"/metrics": !auth, "/healthz": true} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
			if (w.Code == http.StatusOK) != open || !open && w.Code != http.StatusUnauthorized {
				t.Errorf("--metrics-auth=%t: %s is answered %d", auth, path, w.Code)
			}
		}
	}
}
