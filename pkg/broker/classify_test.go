package broker

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
)

// identitySpellings are paths that some server reads as one below
// /metadata/identity. The first that are real clients' get an answer, none is
// ever relayed.
var identitySpellings = []string{
	"/metadata/identity",
	"/metadata/identity/",
	"/metadata/identity/getplatformmetadata",
	"/metadata/identity/issuecredential",
	"/Metadata/Identity/IssueCredential",
	"//metadata//identity/issuecredential",
	"/metadata/./identity/oauth2/token",
	"/metadata/identity/./oauth2/token",
	"/metadata/instance/../identity/oauth2/token",
	"/metadata/identity/x/../oauth2/token",
	"/metadata/instance/..;/identity/oauth2/token",
	"/metadata/instance/..%2fidentity/oauth2/token",
	"/metadata/instance/%2e%2e/identity/oauth2/token",
	"/metadata/instance/%252e%252e/identity/oauth2/token",
	`/metadata/identity\oauth2\token`,
	`/metadata\identity/oauth2/token`,
	"/metadata/identity%5coauth2%5ctoken",
	"/metadata/identity%5Coauth2/token",
	"/metadata%2fidentity%2foauth2%2ftoken",
	"/metadata%252Fidentity%252Foauth2%252Ftoken",
	"/metadata/identity/oauth2%2ftoken",
	"/metadata/identity;x/oauth2/token",
	"/metadata/identity;x=y/oauth2/token;z",
	"/metadata;a/identity/oauth2/token",
	"/metadata/%69dentity/oauth2/token",
	"/metadata/identity/oauth2/%74oken",
	"/metadata/identity/oauth2/token%2f",
	"/metadata/identity/info/..",
}

func TestClassify(t *testing.T) {
	open := RelaySettings{Instance: true}
	type row struct {
		path  string
		relay RelaySettings
		want  route
	}
	token, info := route{endpoint: endpointToken}, route{endpoint: endpointInfo}
	missing, forbidden := refuse(http.StatusNotFound), refuse(http.StatusForbidden)
	allow := RelaySettings{Allow: []string{"/Metadata/attested/", "/metadata/scheduledevents", "", "/", "/metadata/identity", "/metadata/instance/compute/location"}}
	rows := []row{
		{"/metadata/identity/oauth2/token", open, token},
		{"//metadata/identity/oauth2/token/", open, token},
		{"/METADATA/Identity/OAuth2/Token", open, token},
		{"/metadata/identity/info", open, info},
		{"/metadata/identity/Info/", open, info},
		{"/metadata/identity/info2", open, missing},
		{"/metadata/instance", open, route{endpoint: endpointInstance}},
		{"/Metadata/Instance/compute/location/", open, route{endpoint: endpointInstance}},
		{"/metadata/instance/compute/location", RelaySettings{}, missing},
		{"/metadata/instances", open, forbidden},
		{"//metadata/instance", open, forbidden},
		{"/metadata/instance//compute", open, forbidden},
		{"/metadata/instance/%63ompute", open, forbidden},
		{"/metadata/instance;x", open, forbidden},
		{"/metadata/instance/compute/userData", open, missing},
		{"/metadata/instance/compute/USERDATA/", open, missing},
		{"/metadata/instance/compute/userData", RelaySettings{Instance: true, UserData: true}, route{endpoint: endpointInstance}},
		{"/metadata/versions", open, route{endpoint: endpointVersions}},
		{"/metadata/loadbalancer", open, route{endpoint: endpointLoadBalancer}},
		{"/metadata/scheduledevents", open, route{endpoint: endpointScheduledEvents}},
		{"/metadata/scheduledevents", allow, route{endpoint: endpointScheduledEvents, post: true}},
		{"/metadata/attested/document", open, forbidden},
		{"/metadata/attested/document", allow, route{endpoint: endpointAllowed, post: true}},
		{"/metadata/attestedx", allow, forbidden},
		{"/metadata/identity/issuecredential", allow, missing},
		{"/metadata/instance/compute/location", allow, route{endpoint: endpointInstance, post: true}},
		{"/metadata/instance/compute/name", allow, missing},
		{"/", allow, forbidden},
		{"", allow, forbidden},
		{"/machine", open, forbidden},
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

// readings returns the path as different servers would understand it. They
// are written apart from the code under test, with other means.
func readings(p string) []string {
	known := map[string]bool{p: true}
	steps := []func(string) string{
		func(p string) string {
			if u, err := url.PathUnescape(p); err == nil {
				return u
			}
			return p
		},
		func(p string) string { return strings.ReplaceAll(p, `\`, "/") },
		func(p string) string { return path.Clean("/" + p) },
		strings.ToLower,
		func(p string) string { return upTo(p, "\x00") },
		func(p string) string { return upTo(p, "#") },
		func(p string) string { return upTo(p, "?") },
		func(p string) string { // parameters, and what Windows cuts off a name
			segments := strings.Split(p, "/")
			for i, s := range segments {
				if s = upTo(s, ";"); s != "." && s != ".." {
					s = strings.TrimRight(s, ". \t")
				}
				segments[i] = s
			}
			return strings.Join(segments, "/")
		},
	}
	all := []string{p}
	for i := 0; i < len(all) && len(all) < 200; i++ {
		for _, step := range steps {
			if next := step(all[i]); !known[next] {
				known[next] = true
				all = append(all, next)
			}
		}
	}
	return all
}

func upTo(s, end string) string {
	before, _, _ := strings.Cut(s, end)
	return before
}

// FuzzClassify looks for a path that is relayed though some server reads it
// as an identity path or, with user data withheld, as the way to user data.
func FuzzClassify(f *testing.F) {
	for _, spelling := range identitySpellings {
		f.Add(spelling)
	}
	for _, seed := range []string{
		"/metadata/instance", "/metadata/instance/compute/userData", "/metadata/instance/compute/user%44ata",
		"/metadata/instance/compute/userData.", "/metadata/identity./oauth2/token", "/metadata/identity%20/oauth2/token",
		"/metadata/instance\x00/../identity", "/metadata/versions/../identity/info", "/metadata/attested/document",
		"/metadata/instance/%", "/metadata/instance/%2", "/metadata/instance?/identity", "metadata/identity",
	} {
		f.Add(seed)
	}
	relay := RelaySettings{Instance: true, Allow: []string{"/metadata", "/machine", "/"}}
	f.Fuzz(func(t *testing.T, p string) {
		r := classify(p, relay)
		if r.status != 0 || r.endpoint == endpointToken || r.endpoint == endpointInfo {
			return
		}
		for _, reading := range readings(p) {
			low := strings.ToLower(reading)
			if low == "/metadata/identity" || strings.HasPrefix(low, "/metadata/identity/") {
				t.Fatalf("%q is relayed and may be read as %q", p, reading)
			}
			if strings.HasSuffix(strings.TrimRight(low, "/"), "/userdata") {
				t.Fatalf("%q is relayed and may be read as %q", p, reading)
			}
		}
	})
}
