package broker

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// raw returns an answer as it is on the wire, with the date taken out.
func raw(status int, body string, headers ...string) string {
	return rawAs("application/json; charset=utf-8", status, body, headers...)
}

func rawAs(contentType string, status int, body string, headers ...string) string {
	lines := []string{
		fmt.Sprintf("HTTP/1.1 %d %s", status, http.StatusText(status)),
		fmt.Sprintf("Content-Length: %d", len(body)), "Content-Type: " + contentType,
	}
	lines = append(append(lines, headers...), "Date: -")
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

func rawError(status int, code, description string) string {
	return raw(status, errorBody(code, description))
}

// rawMethods returns the answer to another method than those.
func rawMethods(allowed string) string {
	return strings.Replace(raw(405, errorBody("method_not_allowed", "Method not allowed")), "\r\n", "\r\nAllow: "+allowed+"\r\n", 1)
}

// surface is the documented table of what a steered application sees: each row
// with requests that have the same answer, byte for byte.
var surface = []struct {
	row      string
	change   func(*rig)
	requests []string
	want     string
}{
	{row: "token", want: raw(200, tokenBody("client-default", "https://vault.azure.net")), requests: []string{
		get(tokenTarget),
		request("GET", tokenTarget, "METADATA: TRUE"),
		request("GET", tokenTarget, "metadata:  tRuE "),
		get(tokenAt + "?resource=https%3A%2F%2Fvault.azure.net&api-version=2099-01-01"),
		get(tokenAt + "?%72esource=https://vault.azure.net"),
		get(tokenAt + "?api-version=&bypass_cache=true&unknown=1&unknown=2&resource=https://vault.azure.net"),
		get(tokenTarget, "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
		post(tokenTarget, ""),
		post(tokenAt, "resource=https://vault.azure.net", "Expect: 100-continue"),
		post(tokenAt+"?api-version=2018-02-01", "resource=https%3A%2F%2Fvault.azure.net"),
		request("POST", tokenAt, "Metadata: true", "Transfer-Encoding: chunked", "Content-Type: application/x-www-form-urlencoded") +
			"20\r\nresource=https://vault.azure.net\r\n0\r\n\r\n",
	}},
	{row: "token, spelt otherwise", want: raw(200, tokenBody("client-default", "https://vault.azure.net")), requests: []string{
		get("/" + tokenTarget),
		get("//metadata///identity/oauth2//token//?resource=https://vault.azure.net"),
		get("/METADATA/Identity/oAuth2/TOKEN/?resource=https://vault.azure.net"),
		get("http://169.254.169.254/" + tokenTarget),
	}},
	{row: "token, asked for awkwardly", want: raw(200, tokenBody("client-default", "https://vault.azure.net")), requests: []string{
		get("http://metadata.azure.internal:80" + tokenTarget),
		get("https://vault.azure.net" + tokenTarget),
		get(tokenAt + "?Resource=https://vault.azure.net&API-Version=2018-02-01"),
		get(tokenAt + "?&&resource=https://vault.azure.net&client_id=&"),
		request("GET", tokenTarget, "Metadata: true", "Metadata: true"),
		get(tokenTarget, "Expect: 100-continue"),
		get(tokenTarget, "Transfer-Encoding: chunked") + "0\r\n\r\n",
		get(tokenTarget, "Content-Type: application/json", "Content-Length: 2") + "{}",
		get(tokenTarget, "Via: 1.1 squid", "Forwarded: for=10.0.0.1", "Accept: text/html", "Range: bytes=0-10", "If-None-Match: *"),
		"GET " + tokenTarget + " HTTP/1.1\nHost:\nMetadata: true\n\n",
		"GET " + tokenTarget + " HTTP/1.1\r\nHost: [::ffff:169.254.169.254]\r\nMetadata: true\r\n\r\n",
		request("POST", tokenAt, "Metadata: true", "Content-Type: Application/X-WWW-Form-Urlencoded; charset=utf-8", "Content-Length: 32") +
			"resource=https://vault.azure.net",
		request("POST", tokenAt, "Metadata: true", "Content-Length: 32") + "resource=https://vault.azure.net",
	}},
	{row: "other methods", want: rawMethods("GET, POST"), requests: []string{
		request("OPTIONS", tokenTarget, "Metadata: true"), request("TRACE", tokenTarget, "Metadata: true"),
		request("PATCH", tokenTarget, "Metadata: true", "Content-Length: 0"), request("get", tokenTarget, "Metadata: true"),
	}},
	{row: "no header", want: raw(400, noHeader), requests: []string{
		request("GET", tokenTarget, "Metadata: true, true"),
		request("GET", tokenTarget, `Metadata: "true"`),
		request("GET", tokenTarget, "Metadata: false", "Metadata: true"),
		request("GET", tokenAt),
		request("GET", "/"+tokenTarget+"&client_id=a&client_id=b"),
		request("GET", tokenTarget, "Metadata: false"),
		request("GET", tokenTarget, "Metadata:"),
		request("GET", tokenTarget, "X-Forwarded-For: 10.0.0.1"),
		request("POST", tokenAt, "Content-Length: 0"),
		request("DELETE", tokenAt),
	}},
	{row: "no header, whoever asks", want: raw(400, noHeader), change: func(r *rig) {
		r.attester.set(func(f *fakeAttester) { f.decision = workload.Decision{} })
	}, requests: []string{request("GET", tokenAt)}},
	{row: "X-Forwarded-For", want: rawError(400, "invalid_request", "Header 'X-Forwarded-For' is not allowed"), requests: []string{
		get(tokenTarget, "X-Forwarded-For: 10.0.0.1"),
		get(tokenAt, "x-forwarded-for: a", "x-forwarded-for: b"),
		get("/metadata/identity/info", "X-Forwarded-For: 10.0.0.1"),
		get("/metadata/instance", "X-Forwarded-For: 10.0.0.1"),
	}},
	{row: "no resource", want: rawError(400, "invalid_request", "Required query variable 'resource' is missing"), requests: []string{
		get(tokenAt), get(tokenAt + "?resource="), post(tokenAt, "client_id=a"),
	}},
	{row: "a parameter twice", want: rawError(400, "invalid_request", "Parameter 'client_id' is given more than once"), requests: []string{
		get(tokenTarget + "&client_id=a&client_id=a"), post(tokenTarget+"&client_id=a", "client_id=a"),
	}},
	{row: "two identities", want: rawError(400, "invalid_request", "Only one identity may be asked for, not 'client_id' and 'mi_res_id'"), requests: []string{
		get(tokenTarget + "&client_id=a&mi_res_id=b"), get(tokenTarget + "&msi-res-id=b&client_id=a"), post(tokenTarget+"&msi_res_id=b", "client_id=a"),
	}},
	{row: "identity not mapped, or none", want: rawError(400, "invalid_request", "Identity not found: why"), change: func(r *rig) {
		r.failTokens(workload.IdentityNotFound, "", "why")
	}, requests: []string{
		get(tokenTarget), get(tokenTarget + "&object_id=o"), get(tokenTarget + "&principal_id=o"),
		get(tokenTarget + "&mi_res_id=r"), get(tokenTarget + "&msi_res_id=r"), get(tokenTarget + "&msi-res-id=r"),
	}},
	{row: "identity refused by Entra", want: rawError(400, "invalid_request", "Identity not found: AADSTS700016: why"), change: func(r *rig) {
		r.failTokens(workload.Refused, "AADSTS700016", "why")
	}, requests: []string{get(tokenTarget + "&client_id=c")}},
	{row: "tenant", want: raw(200, `{"tenantId":"tenant-1"}`), requests: []string{
		get("/metadata/identity/info"), get("//metadata/identity/INFO/?api-version=2018-02-01"),
	}},
	{row: "identity paths that are not there", want: rawError(404, "not_found", "Not found"), requests: spellings()},
	{row: "relayed", want: raw(200, `{"node":true}`), requests: []string{
		get("/metadata/instance?api-version=2021-02-01"), get("/metadata/instance/compute/location?api-version=2020-06-01"),
		get("/metadata/versions"), get("/metadata/loadbalancer?api-version=2020-10-01"),
	}},
	{row: "events", want: raw(200, `{"node":true}`), requests: []string{get("/metadata/scheduledevents?api-version=2020-07-01")}},
	{row: "instance blocked", want: rawError(404, "not_found", "Not found"), change: func(r *rig) {
		settings := testSettings
		settings.Relay.Instance = false
		r.server.SetSettings(settings)
	}, requests: []string{get("/metadata/instance"), get("/metadata/instance/compute")}},
	{row: "user data", want: rawError(404, "not_found", "Not found"), requests: []string{
		get("/metadata/instance/compute/userData?api-version=2021-01-01&format=text"),
	}},
	{row: "not for pods", want: rawError(403, "access_denied", "This path is not served to pods"), requests: []string{
		get("/metadata/attested/document"), get("/Metadata/attested"),
	}},
	{row: "not there", want: rawError(404, "not_found", "Not found"), requests: []string{
		get("/metadata"), get("/metadata/nothing"), get("/metadata/instance/%2e"), get("//metadata/instance"), get("/metadata/instance;x"),
	}},
	{row: "no header, elsewhere", want: raw(400, noMetadata.Body), requests: []string{
		request("GET", "/metadata/instance?api-version=2021-02-01"), request("GET", "/metadata/instance", "Metadata: false"),
		request("GET", "/metadata/versions"), request("GET", "/metadata/nothing"), request("GET", "/metadata/attested/document"),
	}},
	{row: "other clouds", want: rawAs("text/html", 404, notFoundPage), requests: []string{
		get("/"), get("/machine?comp=goalstate"), request("GET", "/latest/meta-data/"), request("GET", "/latest/dynamic/instance-identity/document"),
		request("GET", "/computeMetadata/v1/instance/", "Metadata-Flavor: Google"), request("GET", "/opc/v2/instance/"),
		request("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 21600", "Content-Length: 0"), request("GET", "/metadatax"),
	}},
	{row: "no events from pods", want: rawError(403, "access_denied", "Pods may not start scheduled events"), requests: []string{
		post("/metadata/scheduledevents", `{"StartRequests":[]}`),
	}},
	{row: "set-up error", want: rawError(400, "invalid_request", "AADSTS700213: no credential matches"), change: func(r *rig) {
		r.failTokens(workload.Refused, "AADSTS700213", "no credential matches")
	}, requests: []string{get(tokenTarget)}},
	{row: "bad resource", want: rawError(400, "invalid_resource", "AADSTS500011: unknown"), change: func(r *rig) {
		r.failTokens(workload.InvalidResource, "AADSTS500011", "unknown")
	}, requests: []string{get(tokenTarget)}},
	{row: "transient", want: raw(429, throttledReply.Body, "Retry-After: 1"), change: func(r *rig) {
		r.failTokens(workload.Unavailable, "", "down")
	}, requests: []string{get(tokenTarget), get(tokenTarget + "&client_id=c")}},
}

const tokenAt = "/metadata/identity/oauth2/token"

// spellings returns the identity paths that nobody is served, with the header
// and without.
func spellings() []string {
	var all []string
	for _, path := range identitySpellings {
		if !strings.ContainsAny(path, " \\\x00\r\n") { // those are no request line
			all = append(all, get(path), request("GET", path), post(path, "{}"))
		}
	}
	return all
}

// failTokens makes every token request fail.
func (r *rig) failTokens(kind workload.TokenErrorKind, code, description string) {
	r.tokens.set(func(f *fakeTokens) {
		f.err = &workload.TokenError{Kind: kind, Code: code, Description: description}
	})
}

// TestSurface sends each row's requests one after another: an answer never
// costs a client its connection.
func TestSurface(t *testing.T) {
	for _, row := range surface {
		t.Run(row.row, func(t *testing.T) {
			r := newRig(t)
			if row.change != nil {
				row.change(r)
			}
			c := r.dial()
			for _, request := range row.requests {
				if _, err := c.Write([]byte(request)); err != nil {
					t.Fatal(err)
				}
				got := dateHeader.ReplaceAllString(c.receiveRaw(), "\r\nDate: -\r\n")
				if diff := cmp.Diff(row.want, got); diff != "" {
					t.Errorf("%q (-want +got):\n%s", request, diff)
				}
			}
			for _, seen := range r.imds.requests() {
				if strings.Contains(strings.ToLower(seen), "identity") {
					t.Errorf("the node's IMDS was asked: %s", seen)
				}
			}
		})
	}
}

// The resource is the audience asked for: no slash is added or taken.
func TestResourceIsExact(t *testing.T) {
	r := newRig(t)
	c := r.dial()
	for encoded, want := range map[string]string{
		"https://vault.azure.net":                 "https://vault.azure.net",
		"https%3A%2F%2Fvault.azure.net%2F":        "https://vault.azure.net/",
		"https://management.core.windows.net//":   "https://management.core.windows.net//",
		"api://my-app":                            "api://my-app",
		"00000003-0000-0000-c000-000000000000":    "00000003-0000-0000-c000-000000000000",
		"https://Vault.Azure.NET":                 "https://Vault.Azure.NET",
		"api%3a%2f%2fa%26b%3dc%25":                "api://a&b=c%",
		"https://vault.azure.net/.default":        "https://vault.azure.net/.default",
		"urn:x%2By":                               "urn:x+y",
		"https://ossrdbms-aad.database.windows.n": "https://ossrdbms-aad.database.windows.n",
	} {
		got, _ := c.send(get(tokenAt + "?resource=" + encoded))
		if diff := cmp.Diff(reply{200, tokenBody("client-default", want)}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", encoded, diff)
		}
		asked := r.tokens.requests()
		if last := asked[len(asked)-1].Resource; last != want {
			t.Errorf("%s: asked for %q", encoded, last)
		}
	}
}

// expires_in is what is left when the answer is written.
func TestExpiresInIsComputedAnew(t *testing.T) {
	r := newRig(t)
	c := r.dial()
	for _, want := range []string{"3599", "3299", "2999"} {
		got, _ := c.send(get(tokenTarget))
		if !strings.Contains(got.Body, `"expires_in":"`+want+`","expires_on":"1800003599","ext_expires_in":"`+want+`"`) {
			t.Errorf("want %s s left: %s", want, got.Body)
		}
		r.clock.Step(5 * time.Minute)
	}
}

// A client that gives up leaves nothing behind for the next one.
func TestClientGivesUp(t *testing.T) {
	r := newRig(t)
	asked, ended := make(chan struct{}), make(chan struct{})
	r.tokens.set(func(f *fakeTokens) {
		f.before = func(ctx context.Context) {
			close(asked)
			<-ctx.Done()
			close(ended)
		}
	})
	c := r.dial()
	if _, err := c.Write([]byte(get(tokenTarget))); err != nil {
		t.Fatal(err)
	}
	<-asked
	c.reset()
	<-ended
	r.tokens.set(func(f *fakeTokens) { f.before = nil })
	if got, _ := r.dial().send(get(tokenTarget)); got.Status != 200 {
		t.Errorf("the next: %+v", got)
	}
}
