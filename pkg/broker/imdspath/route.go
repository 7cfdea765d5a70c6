package imdspath

import (
	"net/http"
	"strings"
)

// Endpoint is what a request asks for, as metrics and logs name it.
type Endpoint string

// The endpoints of IMDS that pods may reach.
const (
	TokenEndpoint   Endpoint = "token"
	InfoEndpoint    Endpoint = "info"
	Instance        Endpoint = "instance"
	Versions        Endpoint = "versions"
	LoadBalancer    Endpoint = "loadbalancer"
	ScheduledEvents Endpoint = "scheduledevents"
	Allowed         Endpoint = "allowed" // a path of Rules.Allow
	Refused         Endpoint = "refused" // any other
)

// Endpoints are all of them.
var Endpoints = []Endpoint{TokenEndpoint, InfoEndpoint, Instance, Versions, LoadBalancer, ScheduledEvents, Allowed, Refused}

// The paths that the broker answers itself.
const (
	Identity = root + "/identity"
	Token    = Identity + "/oauth2/token"
	Info     = Identity + "/info"
)

const root = "/metadata"

// builtin lists the paths that are relayed without being configured.
var builtin = []struct {
	path     string
	endpoint Endpoint
}{
	{"/metadata/instance", Instance},
	{"/metadata/versions", Versions},
	{"/metadata/loadbalancer", LoadBalancer},
	{"/metadata/scheduledevents", ScheduledEvents},
}

// attested is what IMDS has and pods do not get: a proof of being the node.
const attested = "/metadata/attested"

// Rules says what is relayed to the node's IMDS.
type Rules struct {
	Instance bool // /metadata/instance at all
	UserData bool // with the VM's user data in it
	// Allow lists further paths, each with everything below it. Nothing
	// under /metadata/identity is relayed, whatever stands here.
	Allow []string
}

// Route is the decision about a path. It is comparable.
type Route struct {
	Endpoint Endpoint
	Status   int    // the refusal's HTTP status; 0 where the path is served
	Outside  bool   // the path is outside /metadata, where IMDS answers as a web server does
	Identity bool   // the path is one below /metadata/identity, which is never relayed
	Path     string // what the node's IMDS is asked for; empty where it is not asked
	Post     bool   // POST is relayed as well as GET
}

func refuse(status int) Route { return Route{Endpoint: Refused, Status: status} }

// Classify decides about a path as it stood in the request line (see Raw). The
// list of what is relayed is one of permissions. Apart from the case of its
// letters a path is compared in its plain spelling only: servers differ in how
// they read any other, and a spelling that one of them takes for an identity
// path must not reach the node's IMDS.
func (rules Rules) Classify(path string) Route {
	switch Loose(path) {
	case Token:
		return Route{Endpoint: TokenEndpoint, Identity: true}
	case Info:
		return Route{Endpoint: InfoEndpoint, Identity: true}
	}
	cleaned, ok := clean(path)
	switch {
	case ok && !under(cleaned, root):
		return Route{Endpoint: Refused, Status: http.StatusNotFound, Outside: true}
	case !ok, under(cleaned, Identity):
		return Route{Endpoint: Refused, Status: http.StatusNotFound, Identity: true}
	}
	if !plain(path) {
		return refuse(http.StatusNotFound)
	}
	return rules.relayed(strings.TrimSuffix(path, "/"))
}

// relayed decides about a plain path outside Identity.
func (rules Rules) relayed(path string) Route {
	if !rules.UserData && strings.Contains(strings.ToLower(path)+"/", "/userdata/") {
		return refuse(http.StatusNotFound)
	}
	own, allowed := "", false
	for _, prefix := range rules.Allow {
		if p, ok := respell(path, strings.TrimSuffix(prefix, "/")); ok {
			own, allowed = p, true
		}
	}
	for _, b := range builtin {
		own, ok := respell(path, b.path)
		if !ok {
			continue
		}
		if b.endpoint == Instance && !rules.Instance && !allowed {
			return refuse(http.StatusNotFound)
		}
		return Route{Endpoint: b.endpoint, Path: own, Post: allowed}
	}
	if allowed {
		return Route{Endpoint: Allowed, Path: own, Post: true}
	}
	if _, ok := respell(path, attested); ok {
		return refuse(http.StatusForbidden)
	}
	return refuse(http.StatusNotFound)
}

// respell returns a plain path with its beginning spelt as prefix is; false if
// it is not prefix in any case, nor lies below it.
func respell(path, prefix string) (string, bool) {
	// A prefix that is not plain has letters whose case changes their length.
	if !plain(prefix) || !under(strings.ToLower(path), strings.ToLower(prefix)) {
		return "", false
	}
	return prefix + path[len(prefix):], true
}

// under reports whether path is prefix or lies below it.
func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}
