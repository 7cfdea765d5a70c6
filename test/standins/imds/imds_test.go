package imds

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

const (
	tenant     = "11111111-1111-4111-8111-111111111111"
	nodeClient = "22222222-2222-4222-8222-222222222222"
	nodeObject = "33333333-3333-4333-8333-333333333333"
	token      = "/metadata/identity/oauth2/token?api-version=2018-02-01"
	vault      = "&resource=https://vault.azure.net"
)

type rig struct {
	*httptest.Server
	log bytes.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	directory, err := federation.Fixed(federation.File{
		Tenants: []string{tenant}, Resources: []string{"https://vault.azure.net"},
		NodeIdentity: federation.NodeIdentity{TenantID: tenant, ClientID: nodeClient, PrincipalID: nodeObject, ResourceID: "/subscriptions/s/node"},
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := jwks.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{}
	s, err := New(Options{Federation: directory, Signer: key, Log: &r.log})
	if err != nil {
		t.Fatal(err)
	}
	r.Server = httptest.NewServer(s)
	t.Cleanup(r.Close)
	return r
}

// send writes the request line as it stands, since an http.Client would correct
// it, and returns status and body.
func (r *rig) send(t *testing.T, method, uri string, headers ...string) (int, string) {
	t.Helper()
	conn, err := net.Dial("tcp", r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := append([]string{method + " " + uri + " HTTP/1.1", "Host: imds", "Connection: close"}, headers...)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

func TestTokenRefusals(t *testing.T) {
	const header = "Metadata: true"
	tests := []struct {
		name, method, uri string
		headers           []string
		status            int
		body              string
	}{
		{"no header", "GET", token + vault, nil, 400, `{"error":"invalid_request","error_description":"Required metadata header not specified"}`},
		{"header says no", "GET", token + vault, []string{"Metadata: false"}, 400, `{"error":"invalid_request","error_description":"Required metadata header not specified"}`},
		{"forwarded", "GET", token + vault, []string{header, "X-Forwarded-For: 10.0.0.1"}, 400, `{"error":"invalid_request","error_description":"X-Forwarded-For header is not allowed"}`},
		{"no resource", "GET", token, []string{header}, 400, `{"error":"invalid_request","error_description":"Required query variable 'resource' is missing"}`},
		{"resource twice", "GET", token + vault + vault, []string{header}, 400, `{"error":"invalid_request","error_description":"Query variable 'resource' is specified more than once"}`},
		{"another identity", "GET", token + vault + "&client_id=" + tenant, []string{header}, 400, `{"error":"invalid_request","error_description":"Identity not found"}`},
		{"POST", "POST", token + vault, []string{header, "Content-Length: 0"}, 405, `{"error":"method_not_allowed","error_description":"Only GET requests are supported"}`},
	}
	r := newRig(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := r.send(t, tt.method, tt.uri, tt.headers...)
			if status != tt.status || body != tt.body {
				t.Errorf("%d %s, want %d %s", status, body, tt.status, tt.body)
			}
		})
	}
}

// Each spelling reaches the node's identity, and the log says so: that is how
// tests see a leak.
func TestNodeTokenInEverySpelling(t *testing.T) {
	spellings := []string{
		"/metadata/identity/oauth2/token", "//metadata//identity/oauth2/token/", "/Metadata/IDENTITY/oauth2/Token",
		`/metadata/identity\oauth2\token`, "/metadata/identity%5coauth2%5ctoken", "/metadata/identity%2foauth2%2ftoken",
		"/metadata/./identity/x/../oauth2/token", "/metadata/identity;x/oauth2/token", "/metadata/identity%252foauth2/token",
	}
	r := newRig(t)
	for _, path := range spellings {
		status, body := r.send(t, "GET", path+"?api-version=2018-02-01"+vault, "metadata: TRUE")
		var answer issued
		if err := json.Unmarshal([]byte(body), &answer); status != 200 || err != nil {
			t.Fatalf("%s: %d %s", path, status, body)
		}
		payload, err := jwks.Payload(answer.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
		var claims accesstoken.Claims
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
		if claims.ObjectID != nodeObject || answer.ClientID != nodeClient || answer.ExpiresIn != "86400" {
			t.Errorf("%s: object id %s, answer %+v", path, claims.ObjectID, answer)
		}
	}
	r.Close()
	entries, err := journal.Read[Entry](&r.log)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if !e.Identity || !e.Metadata || e.ObjectID != nodeObject || e.Remote == "" {
			t.Errorf("%s: log entry %+v", spellings[i], e)
		}
	}
}

func TestMetadata(t *testing.T) {
	const version = "?api-version=2021-02-01"
	tests := []struct {
		uri    string
		status int
		body   string // a part of it
	}{
		{"/metadata/instance" + version, 200, `"vmId":"` + DefaultInstance.VMID},
		{"/metadata/instance/compute" + version, 200, `"userData":"Ym9vdHN0cmFw`},
		{"/metadata/instance/compute/location" + version + "&format=text", 200, "westeurope"},
		{"/metadata/instance/compute/location" + version, 400, "format=text"},
		{"/metadata/instance" + version + "&format=text", 200, "compute/\nnetwork/"},
		{"/metadata/instance/network/interface/0/macAddress" + version + "&format=text", 200, "000D3A000001"},
		{"/metadata/instance/compute/nothing" + version, 404, ""},
		{"/metadata/instance", 400, "newest-versions"},
		{"/metadata/versions", 200, `"apiVersions":["2017-03-01"`},
		{"/metadata/attested/document" + version, 200, "pkcs7"},
		{"/metadata/scheduledevents" + version, 200, "DocumentIncarnation"},
		{"/metadata/scheduledevents?api-version=2020-07-01", 200, "DocumentIncarnation"},
		{"/metadata/instance/compute/osProfile/computerName" + version + "&format=text", 200, DefaultInstance.Name},
		{"/metadata/instance/network/interface/0/ipv6/ipAddress?api-version=2017-03-01", 200, "[]"},
		{"/metadata/instance?api-version=2020-07-01", 400, "newest-versions"},
		{"/metadata/loadbalancer" + version, 200, "inboundRules"},
		{"/metadata/identity/info" + version, 200, tenant},
		{"/metadata/nothing" + version, 404, ""},
	}
	r := newRig(t)
	for _, tt := range tests {
		if status, _ := r.send(t, "GET", tt.uri); status != 400 {
			t.Errorf("%s without the header: status %d, want 400", tt.uri, status)
		}
		status, body := r.send(t, "GET", tt.uri, "Metadata: true")
		if status != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%s: %d %s; want %d with %q", tt.uri, status, body, tt.status, tt.body)
		}
	}
}

func TestUnderstandKeepsOtherPathsApart(t *testing.T) {
	got := map[string]bool{}
	for _, path := range []string{"/metadata/identityx", "/metadata/identity", "/metadata/instance/../identity/info", "/identity"} {
		got[path] = isIdentity(understand(path))
	}
	want := map[string]bool{
		"/metadata/identityx": false, "/metadata/identity": true, "/metadata/instance/../identity/info": true, "/identity": false,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("identity paths (-want +got):\n%s", diff)
	}
}

// Outside /metadata there is a web server's page, whatever headers are sent.
func TestOtherPaths(t *testing.T) {
	r := newRig(t)
	for _, uri := range []string{"/", "/latest/meta-data/", "/computeMetadata/v1/", "/metadatax", "/metadata/../x"} {
		for _, headers := range [][]string{nil, {"Metadata: true"}} {
			if status, body := r.send(t, "GET", uri, headers...); status != 404 || !strings.HasPrefix(body, "<!DOCTYPE html") {
				t.Errorf("%s: %d %s", uri, status, body)
			}
		}
	}
}
