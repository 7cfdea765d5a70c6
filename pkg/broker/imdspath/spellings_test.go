package imdspath

import (
	"os"
	"strings"
	"testing"
)

// identitySpellings are paths that some server reads as one below
// /metadata/identity.
var identitySpellings = func() []string {
	text, err := os.ReadFile("testdata/identity-paths.txt") // tests of the broker read it too
	if err != nil {
		panic(err)
	}
	return strings.Fields(string(text))
}()

// oddSpellings are such paths too, for servers that are odder: they are
// refused, but not for their being recognised.
var oddSpellings = []string{
	"/metadata/%u0069dentity/oauth2/token",
	`/metadata/\u0069dentity`,
	"/metadata%u2215identity",
	"/metadata%c0%afidentity/oauth2/token",
	"/metadata%e0%80%afidentity",
	"/metadata%f0%80%80%afidentity",
	"/metadata/%c1%a9dentity",
	"/metadata\xc1\x9cidentity",
	"/metadata/ｉｄｅｎｔｉｔｙ",
	"/metadata／identity",
	"/metadata∕identity",
	"/metadata＼identity",
	"/metadata/instance/．．/identity",
	"/metadata/instance/%ef%bc%8e%ef%bc%8e/identity",
	"/metadata/ıdentity",
	"/metadata/İdentity",
	"/metadata/ⓘdentity",
	"/metadata/𝐢dentity",
	"/metadata/\u012fidentity/../x/../\u0169dentity",
	"/metadata/identity\t/info",
	"/metadata/iden\ttity",
	"/metadata/identity%00.json",
	"/metadata/identity%20/info",
	"/metadata/identity./info",
	"/metadata/identity::$DATA",
	"/metadata/identity+/info",
	"/metadata/identity#x",
	"/metadata/ide\u00adntity",
	"/metadata/\u200bidentity",
	"/%0d%0ametadata/identity",
	"//x/metadata/identity",
	"http://x/metadata/identity",
	"/metadata/identity%3fx",
}

// The readings find what they are for: without them the fuzz tests would prove
// nothing.
func TestReadings(t *testing.T) {
	queries := []string{
		"/metadata/instance?/../identity/oauth2/token", "/metadata/instance?x=/../identity", "/x?/metadata/identity",
		"/x?a=b&path=%2fmetadata%2fidentity", "/metadata/instance?%2f..%2fidentity",
	}
	for _, list := range [][]string{identitySpellings, oddSpellings, queries} {
		for _, target := range list {
			if _, opens := opensIdentity(target); !opens {
				t.Errorf("no reading of %q is below /metadata/identity", target)
			}
		}
	}
	for _, target := range []string{
		"/metadata/instance?api-version=2021-02-01", "/metadata/identityx", "/metadata/instance/identity",
		"/metadata/iden/tity", "/metadata/identity-x?a", "/metadata/x?identity",
	} {
		if reading, opens := opensIdentity(target); opens {
			t.Errorf("%q is read as %q", target, reading)
		}
	}
}
