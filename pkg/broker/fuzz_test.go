package broker

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	testingclock "k8s.io/utils/clock/testing"
)

// everything is a configuration that allows more than any valid one could.
var everything = RelaySettings{Instance: true, Allow: []string{
	"/", "/metadata", "/metadata/identity", "/metadata/ident", "/machine", "/metadata/\u0131dentity", "/metadata/identity/oauth2",
}}

// FuzzClassify looks for a path that is relayed though some server reads it as
// an identity path or, with user data withheld, as the way to user data.
func FuzzClassify(f *testing.F) {
	for _, list := range [][]string{identitySpellings, oddSpellings, {
		"/metadata/instance", "/metadata/instance/compute/userData", "/metadata/instance/compute/user%44ata",
		"/metadata/instance/compute/userData.", "/metadata/instance/compute/userData;x",
		"/metadata/instance\x00/../identity", "/metadata/versions/../identity/info",
		"/metadata/attested/document", "/metadata/instance/%", "/metadata/instance/%2", "metadata/identity",
	}} {
		for _, seed := range list {
			f.Add(seed)
		}
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := classify(path, everything)
		switch {
		case r.path != "" && (r.status != 0 || r.endpoint == endpointToken || r.endpoint == endpointInfo):
			t.Fatalf("%q is not to be relayed, as %q", path, r.path)
		case r.path == "" && r.status == 0 && r.endpoint != endpointToken && r.endpoint != endpointInfo:
			t.Fatalf("%q is to be relayed as nothing", path)
		case r.path == "":
			return
		}
		if again := classify(r.path, everything); again != r {
			t.Fatalf("%q is relayed as %q, which is %+v, not %+v", path, r.path, again, r)
		}
		if reading, opens := opensIdentity(path); opens {
			t.Fatalf("%q is relayed and may be read as %q", path, reading)
		}
		for _, reading := range append(readings(path), readings(r.path)...) {
			if strings.HasSuffix(strings.TrimRight(reading, "/"), "/userdata") {
				t.Fatalf("%q is relayed and may be read as %q", path, reading)
			}
		}
	})
}

// FuzzRelayedTarget follows a request from its bytes to those that the node's
// IMDS would get: no server reads their target as an identity path.
func FuzzRelayedTarget(f *testing.F) {
	for _, list := range [][]string{identitySpellings, oddSpellings, {
		"/metadata/instance?api-version=2021-02-01&format=text", "/metadata/instance?/../identity/oauth2/token",
		"/metadata/instance?x=/../../identity", "/metadata/instance/?%2f..%2f..%2fidentity", "/metadata/versions#/../identity",
		"/metadata/instance?a=%0d%0aGET%20/metadata/identity", "http://x/metadata/instance?path=/metadata/identity",
		"/metadata/scheduledevents?&&a&=b&c==d&e=%", "/machine?a;b=/metadata/identity", "/metadata/instance?\u2215..\u2215identity",
	}} {
		for _, seed := range list {
			f.Add("GET", seed, "true")
		}
	}
	f.Add("POST", "/machine?a=b", "TRUE\t")
	r, err := newRelay("http://169.254.169.254", testingclock.NewFakeClock(testNow), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, target, metadata string) {
		raw := method + " " + target + " HTTP/1.1\r\nHost: x\r\nMetadata: " + metadata + "\r\n\r\n"
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return // net/http answers it
		}
		route := classify(rawPath(request.RequestURI), everything)
		if route.path == "" {
			return
		}
		var sent bytes.Buffer
		if err := r.request(newRelayRequest(request, route, true)).Write(&sent); err != nil {
			t.Fatalf("%q cannot be sent: %v", raw, err)
		}
		line, rest, _ := strings.Cut(sent.String(), "\r\n")
		sentMethod, sentTarget, ok := strings.Cut(strings.TrimSuffix(line, " HTTP/1.1"), " ")
		if !ok || sentMethod != http.MethodGet || strings.ContainsAny(sentTarget, " \r\n") {
			t.Fatalf("%q becomes %q", raw, line)
		}
		if want := "Host: 169.254.169.254\r\nUser-Agent: sidestep-agent\r\n"; rest != want+"\r\n" && rest != want+"Metadata: true\r\n\r\n" {
			t.Fatalf("%q becomes %q", raw, sent.String())
		}
		if reading, opens := opensIdentity(sentTarget); opens {
			t.Fatalf("%q is relayed as %q, which may be read as %q", raw, sentTarget, reading)
		}
	})
}

// FuzzTokenParams looks for a query whose parameters are read otherwise than a
// standard parser reads them: one that selects an identity must never be
// overlooked.
func FuzzTokenParams(f *testing.F) {
	for _, seed := range []string{
		"api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net", "resource=a&client_id=b", "resource=a&Client_ID=b",
		"resource=a&client%5fid=b&object_id=", "resource=a&principal_id=b", "resource=a&msi-res-id=%2Fsubscriptions%2Fx",
		"resource=a&resource=b", "resource=%zz", "resource=a&client_id=%ff", "resource=a;client_id=b", "resource=a+b&bypass_cache=True",
		"&&=&resource=a&=b", "resource=a&client_id=b&mi_res_id=c", "%", "resource=a&%63lient_id",
	} {
		f.Add(seed, "")
		f.Add("", seed)
	}
	f.Fuzz(func(t *testing.T, query, form string) {
		request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form))
		request.URL.RawQuery = query
		got, err := tokenParams(httptest.NewRecorder(), request)
		if bad := (*badParamsError)(nil); err != nil && !errors.As(err, &bad) {
			t.Fatalf("%q, %q: %v is not for the caller", query, form, err)
		}
		if err != nil {
			return
		}
		asked := map[parameter][]string{}
		for _, raw := range []string{query, form} {
			values, _ := url.ParseQuery(raw) // what it cannot read it leaves out
			for name, all := range values {
				if one, ok := parameters[strings.ToLower(name)]; ok {
					asked[one] = append(asked[one], all...)
				}
			}
		}
		for name, value := range map[parameter]string{
			resource: got.Resource, clientID: got.ClientID, objectID: got.ObjectID, resourceID: got.ResourceID,
		} {
			if all := asked[name]; len(all) > 1 || len(all) == 1 && all[0] != value {
				t.Fatalf("%q, %q: %d is %q, read as %q", query, form, name, all, value)
			}
			if !utf8.ValidString(value) {
				t.Fatalf("%q, %q: %d is %q", query, form, name, value)
			}
		}
		if got.Resource == "" || got.ClientID != "" && got.ObjectID+got.ResourceID != "" || got.ObjectID != "" && got.ResourceID != "" {
			t.Fatalf("%q, %q: %+v", query, form, got)
		}
	})
}
