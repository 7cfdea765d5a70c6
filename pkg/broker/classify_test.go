package broker

import (
	"net/http"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	open := RelaySettings{Instance: true}
	type row struct {
		path  string
		relay RelaySettings
		want  route
	}
	served := func(e endpoint, path string) route { return route{endpoint: e, path: path} }
	post := func(e endpoint, path string) route { return route{endpoint: e, path: path, post: true} }
	token, info := route{endpoint: endpointToken}, route{endpoint: endpointInfo}
	missing, forbidden := refuse(http.StatusNotFound), refuse(http.StatusForbidden)
	allow := RelaySettings{Allow: []string{"/metadata/attested/", "/metadata/scheduledevents", "", "/", "/metadata/\u212a", "/metadata/%6b", "/machine\r\nX: y", "/metadata/identity", "/metadata/instance/compute/location"}}
	rows := []row{
		{"/metadata/identity/oauth2/token", open, token},
		{"//metadata/identity/oauth2/token/", open, token},
		{"/METADATA/Identity/OAuth2/Token", open, token},
		{"/metadata/identity/info", open, info},
		{"/metadata/identity/Info/", open, info},
		{"/metadata/identity/info2", open, missing},
		{"/metadata/instance", open, served(endpointInstance, "/metadata/instance")},
		{"/Metadata/Instance/compute/osProfile/", open, served(endpointInstance, "/metadata/instance/compute/osProfile")},
		{"/metadata/instance/compute/location", RelaySettings{}, missing},
		{"/metadata/instances", open, forbidden},
		{"//metadata/instance", open, forbidden},
		{"/metadata/instance//compute", open, forbidden},
		{"/metadata/instance/%63ompute", open, forbidden},
		{"/metadata/instance;x", open, forbidden},
		{"/metadata/instance/compute;x", open, forbidden},
		{"/metadata/instance/compute/userData", open, missing},
		{"/metadata/instance/compute/USERDATA/", open, missing},
		{"/metadata/instance/compute/userData", RelaySettings{Instance: true, UserData: true}, served(endpointInstance, "/metadata/instance/compute/userData")},
		{"/metadata/versions", open, served(endpointVersions, "/metadata/versions")},
		{"/metadata/loadbalancer", open, served(endpointLoadBalancer, "/metadata/loadbalancer")},
		{"/metadata/scheduledevents", open, served(endpointScheduledEvents, "/metadata/scheduledevents")},
		{"/metadata/scheduledevents", allow, post(endpointScheduledEvents, "/metadata/scheduledevents")},
		{"/metadata/attested/document", open, forbidden},
		{"/metadata/Attested/Document", allow, post(endpointAllowed, "/metadata/attested/Document")},
		{"/metadata/attestedx", allow, forbidden},
		{"/metadata/identity/issuecredential", allow, missing},
		{"/metadata/instance/compute/location", allow, post(endpointInstance, "/metadata/instance/compute/location")},
		{"/metadata/instance/compute/name", allow, missing},
		{"/", allow, forbidden},
		{"", allow, forbidden},
		{"/machine", open, forbidden},
		{"/machine", allow, forbidden},
		{"/metadata/k", allow, forbidden},
		{"/metadata/" + strings.Repeat("%25", 3) + "x", open, forbidden},
		{"/%" + strings.Repeat("25", 20) + "41", open, missing},
	}
	for _, spelling := range identitySpellings {
		rows = append(rows, row{spelling, open, missing})
	}
	for _, r := range rows {
		if got := classify(r.path, r.relay); got != r.want {
			t.Errorf("classify(%q) = %+v, want %+v", r.path, got, r.want)
		}
	}
}

func TestRawPath(t *testing.T) {
	for target, want := range map[string]string{
		"/a%2fb?c=/d":                    "/a%2fb",
		"//metadata/identity":            "//metadata/identity",
		"http://169.254.169.254/a/b?c":   "/a/b",
		"http://169.254.169.254?a=/b":    "",
		"http://169.254.169.254":         "",
		"*":                              "",
		"169.254.169.254:80":             "",
		"/x?u=http://host/metadata/info": "/x",
	} {
		if got := rawPath(target); got != want {
			t.Errorf("rawPath(%q) = %q, want %q", target, got, want)
		}
	}
}

func TestPlainQuery(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                        "",
		"api-version=2021-02-01&format=text":      "api-version=2021-02-01&format=text",
		"api-version=2021%2D02-01&a=%41":          "api-version=2021-02-01&a=A",
		"b=2&a=1&b=3&empty=&bare&&=x":             "b=2&a=1&b=3&empty=&bare",
		"since=2026-01-02T03:04:05Z&x=~a,b_c.d":   "since=2026-01-02T03:04:05Z&x=~a,b_c.d",
		"/../identity":                            "",
		"a=/../../identity/oauth2/token&b=1":      "b=1",
		"a=%2f..%2fidentity&b=%5c&c=%":            "",
		"a=%252f&b=%u0069&c=%2":                   "",
		"a=x=y&b=a%26c&d=a;e&f=g+h&i=j%20k":       "",
		"a=\xef\xbc\x8f&b=%c0%af&c=\u0131&d=\x00": "",
		"a=b#/../identity":                        "",
	} {
		if got := plainQuery(raw); got != want {
			t.Errorf("plainQuery(%q) = %q, want %q", raw, got, want)
		}
	}
}
