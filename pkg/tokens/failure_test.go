package tokens

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const supportPart = " Trace ID: 9c2a Correlation ID: 77aa Timestamp: 2026-01-01 00:00:00Z"

func TestEntrasErrorsAreMapped(t *testing.T) {
	tests := []struct {
		name        string
		status      int
		code        int
		oauth       string
		description string
		header      http.Header
		want        workload.TokenError
		label       string
	}{
		{"no federated credential", 401, 70021, "invalid_client", "AADSTS70021: No matching federated identity record found." + supportPart, nil,
			workload.TokenError{Kind: workload.Refused, Code: "AADSTS70021", Description: "AADSTS70021: No matching federated identity record found."}, "AADSTS70021"},
		{"older form of the description", 400, 700016, "unauthorized_client", "AADSTS700016: Application not found.\r\nTrace ID: 1\r\nCorrelation ID: 2", nil,
			workload.TokenError{Kind: workload.Refused, Code: "AADSTS700016", Description: "AADSTS700016: Application not found."}, "AADSTS700016"},
		{"resource not in the tenant", 400, 500011, "invalid_resource", "AADSTS500011: The resource principal was not found.", nil,
			workload.TokenError{Kind: workload.InvalidResource, Code: "AADSTS500011", Description: "AADSTS500011: The resource principal was not found."}, "AADSTS500011"},
		{"invalid resource without a code", 400, 0, "invalid_resource", "bad", nil,
			workload.TokenError{Kind: workload.InvalidResource, Description: "bad"}, "other"},
		{"throttled", 429, 50196, "invalid_grant", "AADSTS50196: loop", http.Header{"Retry-After": {"17"}},
			workload.TokenError{Kind: workload.Unavailable, Code: "AADSTS50196", Description: "AADSTS50196: loop", RetryAfter: 17 * time.Second}, "AADSTS50196"},
		{"looping client with a status of its own", 400, 50196, "invalid_grant", "AADSTS50196: loop", nil,
			workload.TokenError{Kind: workload.Unavailable, Code: "AADSTS50196", Description: "AADSTS50196: loop"}, "AADSTS50196"},
		{"directory down", 400, 90033, "temporarily_unavailable", "AADSTS90033: down", nil,
			workload.TokenError{Kind: workload.Unavailable, Code: "AADSTS90033", Description: "AADSTS90033: down"}, "AADSTS90033"},
		{"server error", 500, 0, "", "", nil,
			workload.TokenError{Kind: workload.Unavailable, Description: "Entra answered with HTTP status 500"}, "other"},
		{"forbidden by something between", 403, 0, "", "", nil,
			workload.TokenError{Kind: workload.Refused, Description: "Entra answered with HTTP status 403"}, "other"},
		{"a code not counted on its own", 400, 123456789, "invalid_request", "AADSTS123456789: new", nil,
			workload.TokenError{Kind: workload.Refused, Code: "AADSTS123456789", Description: "AADSTS123456789: new"}, "other"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.entra.set(func(f *fakeEntra) {
					refuse := refusing(tt.status, tt.code, tt.oauth, tt.description)
					f.refuse = func(w http.ResponseWriter, form url.Values) bool {
						for k, v := range tt.header {
							w.Header()[k] = v
						}
						return refuse(w, form)
					}
				})
				err := b.once(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
				wantTokenError(t, err, tt.want.Kind, tt.want.Description)
				got := asTokenError(err)
				if got.Code != tt.want.Code || got.Description != tt.want.Description || got.RetryAfter.Round(time.Second) < tt.want.RetryAfter {
					t.Errorf("error %+v, want %+v", *got, tt.want)
				}
				if n := testutil.ToFloat64(b.engine.reporter.metrics.errors.WithLabelValues(tt.label)); n != 1 {
					t.Errorf("code %s counted %v times", tt.label, n)
				}
			})
		})
	}
}

func TestNetworkFailureIsUnavailable(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		b.entra.set(func(f *fakeEntra) { f.down = true })
		err := b.once(w, workload.TokenRequest{Resource: vault})
		wantTokenError(t, err, workload.Unavailable, "cannot be reached")
		if n := testutil.ToFloat64(b.engine.reporter.metrics.errors.WithLabelValues("network")); n != 1 {
			t.Errorf("network counted %v times", n)
		}
	})
}

func TestAnswersThatAreNoneAreUnavailable(t *testing.T) {
	answers := map[string]string{
		"not JSON":           `<html>portal</html>`,
		"no token":           `{"token_type":"Bearer","expires_in":3600}`,
		"no expiry":          `{"token_type":"Bearer","access_token":"secret-token"}`,
		"expired when given": `{"token_type":"Bearer","access_token":"secret-token","expires_in":-3600}`,
		"huge":               `{"access_token":"secret-token","expires_in":3600,"pad":"` + strings.Repeat("x", 1<<20) + `"}`,
	}
	for name, body := range answers {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.entra.set(func(f *fakeEntra) {
					f.refuse = func(w http.ResponseWriter, _ url.Values) bool {
						_, _ = w.Write([]byte(body))
						return true
					}
				})
				_, err := b.token(b.pod("shop", "cart", "web"), workload.TokenRequest{Resource: vault})
				wantTokenError(t, err, workload.Unavailable, "")
				if all := err.Error() + b.log.String(); strings.Contains(all, "secret-token") || strings.Contains(all, "portal") {
					t.Errorf("the answer shows in error or log:\n%s", all)
				}
			})
		})
	}
}
