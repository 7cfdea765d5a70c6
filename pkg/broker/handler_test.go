package broker

import (
	"errors"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestMetadataOnlyHasNoIdentity(t *testing.T) {
	r := newRig(t)
	r.attester.set(func(f *fakeAttester) { f.decision.Access = workload.MetadataOnly })
	none := reply{400, errorBody("invalid_request", "Identity not found")}
	for _, test := range []struct {
		request string
		want    reply
	}{
		{get(tokenTarget), none},
		{get("/metadata/identity/info"), none},
		{request("GET", tokenTarget), reply{400, noHeader}},
		{get("/metadata/identity/getplatformmetadata"), reply{404, errorBody("not_found", "Not found")}},
		{get("/metadata/instance"), reply{200, `{"node":true}`}},
	} {
		if got, _ := r.dial().send(test.request); got != test.want {
			t.Errorf("%.60q: %+v, want %+v", test.request, got, test.want)
		}
	}
	if asked := r.tokens.requests(); asked != nil {
		t.Errorf("asked of Tokens: %+v", asked)
	}
}

func TestInfoIsTheWorkloadsTenant(t *testing.T) {
	missing := reply{404, errorBody("not_found", "Not found")}
	for _, test := range []struct {
		tenant, fallback string
		request          string
		want             reply
	}{
		{"tenant-1", "tenant-2", get("/metadata/identity/info"), reply{200, `{"tenantId":"tenant-1"}`}},
		{"", "tenant-2", get("//metadata/identity/info/?api-version=1"), reply{200, `{"tenantId":"tenant-2"}`}},
		{"", "", get("/metadata/identity/info"), missing},
		{"t", "", request("GET", "/metadata/identity/info"), reply{400, noHeader}},
		{"t", "", request("DELETE", "/metadata/identity/info", "Metadata: true"), reply{405, errorBody("method_not_allowed", "Method not allowed")}},
	} {
		r := newRig(t, func(o *Options) { o.TenantID = test.fallback })
		r.attester.set(func(f *fakeAttester) { f.pod.TenantID = test.tenant })
		if got, _ := r.dial().send(test.request); got != test.want {
			t.Errorf("%.60q: %+v, want %+v", test.request, got, test.want)
		}
	}
}

func TestTokenLogLine(t *testing.T) {
	r := newRig(t)
	c := r.dial()
	c.send(get(tokenTarget)) // issued: logged by the engine, once
	r.tokens.set(func(f *fakeTokens) { f.err = errors.New("refused by Entra") })
	c.send(get(tokenTarget + "&client_id=client-2"))
	c.send(get("/metadata/instance"))
	c.send(request("GET", "/metadata/instance/x", "Connection: close"))
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	log := r.log.String()
	if n := strings.Count(log, "event=imds_request"); n != 1 {
		t.Fatalf("%d info lines, want 1:\n%s", n, log)
	}
	for _, part := range []string{
		"namespace=shop", "service_account=web", "pod=web-0", "pod_uid=pod-1", "endpoint=token", "status=429",
		"client_id=client-2", "resource=https://vault.azure.net", "duration_ms=0", "refused by Entra",
	} {
		if !strings.Contains(log, part) {
			t.Errorf("log line lacks %q:\n%s", part, log)
		}
	}
	if strings.Contains(log, "secret-token") {
		t.Errorf("the token is in the log:\n%s", log)
	}
}
