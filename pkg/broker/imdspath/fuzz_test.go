package imdspath

import (
	"strings"
	"testing"
)

// everything is a configuration that allows more than any valid one could.
var everything = Rules{Instance: true, Allow: []string{
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
		r := everything.Classify(path)
		switch {
		case r.Path != "" && (r.Status != 0 || r.Endpoint == TokenEndpoint || r.Endpoint == InfoEndpoint):
			t.Fatalf("%q is not to be relayed, as %q", path, r.Path)
		case r.Path == "" && r.Status == 0 && r.Endpoint != TokenEndpoint && r.Endpoint != InfoEndpoint:
			t.Fatalf("%q is to be relayed as nothing", path)
		case r.Path == "":
			return
		}
		if again := everything.Classify(r.Path); again != r {
			t.Fatalf("%q is relayed as %q, which is %+v, not %+v", path, r.Path, again, r)
		}
		if reading, opens := opensIdentity(path); opens {
			t.Fatalf("%q is relayed and may be read as %q", path, reading)
		}
		for _, reading := range append(readings(path), readings(r.Path)...) {
			if strings.HasSuffix(strings.TrimRight(reading, "/"), "/userdata") {
				t.Fatalf("%q is relayed and may be read as %q", path, reading)
			}
		}
	})
}

// FuzzRelayedTarget follows a request target to the one that the node's IMDS
// would get: no server reads it as an identity path.
func FuzzRelayedTarget(f *testing.F) {
	for _, list := range [][]string{identitySpellings, oddSpellings, {
		"/metadata/instance?api-version=2021-02-01&format=text", "/metadata/instance?/../identity/oauth2/token",
		"/metadata/instance?x=/../../identity", "/metadata/instance/?%2f..%2f..%2fidentity", "/metadata/versions#/../identity",
		"/metadata/instance?a=%0d%0aGET%20/metadata/identity", "http://x/metadata/instance?path=/metadata/identity",
		"/metadata/scheduledevents?&&a&=b&c==d&e=%", "/machine?a;b=/metadata/identity", "/metadata/instance?\u2215..\u2215identity",
		"/metadata/attested?nonce=../identity&api-version=..", "/machine?format=%6aSON&nonce=1&a=b",
	}} {
		for _, seed := range list {
			f.Add(seed)
		}
	}
	f.Fuzz(func(t *testing.T, target string) {
		route := everything.Classify(Raw(target))
		if route.Path == "" {
			return
		}
		_, raw, _ := strings.Cut(target, "?")
		sent := route.Path
		if query := route.Query(raw); query != "" {
			sent += "?" + query
		}
		if strings.ContainsFunc(sent, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' || r == '#' }) {
			t.Fatalf("%q is relayed as %q", target, sent)
		}
		if reading, opens := opensIdentity(sent); opens {
			t.Fatalf("%q is relayed as %q, which may be read as %q", target, sent, reading)
		}
	})
}
