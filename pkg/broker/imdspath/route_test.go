package imdspath

import (
	"net/http"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	open := Rules{Instance: true}
	type row struct {
		path  string
		relay Rules
		want  Route
	}
	served := func(e Endpoint, path string) Route { return Route{Endpoint: e, Path: path} }
	post := func(e Endpoint, path string) Route { return Route{Endpoint: e, Path: path, Post: true} }
	token, info := Route{Endpoint: TokenEndpoint, Identity: true}, Route{Endpoint: InfoEndpoint, Identity: true}
	missing, forbidden, outside := refuse(http.StatusNotFound), refuse(http.StatusForbidden), Route{Endpoint: Refused, Status: 404, Outside: true}
	identity := Route{Endpoint: Refused, Status: 404, Identity: true}
	allow := Rules{Allow: []string{"/metadata/attested/", "/metadata/scheduledevents", "", "/", "/metadata/\u212a", "/metadata/%6b", "/machine\r\nX: y", "/metadata/identity", "/metadata/instance/compute/location"}}
	rows := []row{
		{"/metadata/identity/oauth2/token", open, token},
		{"//metadata/identity/oauth2/token/", open, token},
		{"/METADATA/Identity/OAuth2/Token", open, token},
		{"/metadata/identity/info", open, info},
		{"/metadata/identity/Info/", open, info},
		{"/metadata/identity/info2", open, identity},
		{"/metadata/instance", open, served(Instance, "/metadata/instance")},
		{"/Metadata/Instance/compute/osProfile/", open, served(Instance, "/metadata/instance/compute/osProfile")},
		{"/metadata/instance/compute/location", Rules{}, missing},
		{"/metadata/instances", open, missing},
		{"//metadata/instance", open, missing},
		{"/metadata/instance//compute", open, missing},
		{"/metadata/instance/%63ompute", open, missing},
		{"/metadata/instance;x", open, missing},
		{"/metadata/instance/compute;x", open, missing},
		{"/metadata/instance/compute/userData", open, missing},
		{"/metadata/instance/compute/USERDATA/", open, missing},
		{"/metadata/instance/compute/userData", Rules{Instance: true, UserData: true}, served(Instance, "/metadata/instance/compute/userData")},
		{"/metadata/versions", open, served(Versions, "/metadata/versions")},
		{"/metadata/loadbalancer", open, served(LoadBalancer, "/metadata/loadbalancer")},
		{"/metadata/scheduledevents", open, served(ScheduledEvents, "/metadata/scheduledevents")},
		{"/metadata/scheduledevents", allow, post(ScheduledEvents, "/metadata/scheduledevents")},
		{"/metadata/attested/document", open, forbidden},
		{"/metadata/Attested/Document", allow, post(Allowed, "/metadata/attested/Document")},
		{"/metadata/attestedx", allow, missing},
		{"/metadata/identity/issuecredential", allow, identity},
		{"/metadata/instance/compute/location", allow, post(Instance, "/metadata/instance/compute/location")},
		{"/metadata/instance/compute/name", allow, missing},
		{"/metadata", open, missing},
		{"/metadata/nothing", open, missing},
		{"/latest/meta-data/", open, outside},
		{"/computeMetadata/v1/project", open, outside},
		{"/metadata/../x", open, outside},
		{"/", allow, outside},
		{"", allow, outside},
		{"/machine", open, outside},
		{"/machine", allow, outside},
		{"/metadata/k", allow, missing},
		{"/metadata/" + strings.Repeat("%25", 3) + "x", open, missing},
		{"/%" + strings.Repeat("25", 20) + "41", open, identity},
	}
	for _, spelling := range identitySpellings {
		rows = append(rows, row{spelling, open, identity})
	}
	for _, r := range rows {
		if got := r.relay.Classify(r.path); got != r.want {
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
		if got := Raw(target); got != want {
			t.Errorf("Raw(%q) = %q, want %q", target, got, want)
		}
	}
}

func TestQuery(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                   "",
		"api-version=2021-02-01&format=text": "api-version=2021-02-01&format=text",
		"format=TEXT&API-Version=2021%2D02-01&format=json":         "api-version=2021-02-01&format=text",
		"b=2&a=1&api-version=2021-02-01&x":                         "api-version=2021-02-01",
		"nonce=1&resource=a&metadata=true&_=17":                    "",
		"api-version=&format=xml":                                  "api-version=",
		"/../identity":                                             "",
		"api-version=/../../identity/oauth2/token&format=text":     "format=text",
		"api-version=%2f..%2fidentity&format=%5c&c=%":              "",
		"api-version=%252f&format=%u0069":                          "",
		"api-version=x=y&format=te+xt":                             "",
		"api-version=\xef\xbc\x8f&format=\u0131&\u017fformat=text": "",
		"api-version=b#/../identity":                               "",
		"api-version=" + strings.Repeat("1", 21):                   "",
	} {
		if got := (Route{Endpoint: Instance}).Query(raw); got != want {
			t.Errorf("Query(%q) = %q, want %q", raw, got, want)
		}
	}
	if got := (Route{Endpoint: Allowed}).Query("nonce=1-a&api-version=2020-09-01&x=y"); got != "api-version=2020-09-01&nonce=1-a" {
		t.Errorf("query of an allowed path: %q", got)
	}
}
