package imdspath

import "strings"

// parameters are the query parameters that IMDS has outside the identity
// endpoint, and what their values consist of. What IMDS does not know is not
// sent to it: a made-up name would make two requests out of one, and IMDS
// answers five a second.
var parameters = map[string]func(value string) bool{
	"api-version": func(v string) bool { return len(v) <= 20 && consistsOf(v, "-") },
	"format":      func(v string) bool { return v == "json" || v == "text" },
}

// nonce is the parameter of /metadata/attested, which is relayed only where the
// configuration allows it.
const nonce = "nonce"

// Query returns the parameters of a raw query that are sent to the node's IMDS
// with this route: those that it has, once each, in one order and spelling,
// with nothing encoded. Of a parameter that is given more than once the first
// counts.
func (r Route) Query(raw string) string {
	values := map[string]string{}
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, value = strings.ToLower(decode(name)), decode(value)
		if _, given := values[name]; given {
			continue
		}
		if name == "format" {
			value = strings.ToLower(value)
		}
		valid, known := parameters[name]
		if known && valid(value) || name == nonce && r.Endpoint == Allowed && len(value) <= 32 && consistsOf(value, "-_.~") {
			values[name] = value
		}
	}
	var kept []string
	for _, name := range []string{"api-version", "format", nonce} {
		if value, given := values[name]; given {
			kept = append(kept, name+"="+value)
		}
	}
	return strings.Join(kept, "&")
}
