package broker

import (
	"net/http"
	"strings"
)

// endpoint names what a request asks for, in metrics and logs.
type endpoint string

const (
	endpointToken           endpoint = "token"
	endpointInfo            endpoint = "info"
	endpointInstance        endpoint = "instance"
	endpointVersions        endpoint = "versions"
	endpointLoadBalancer    endpoint = "loadbalancer"
	endpointScheduledEvents endpoint = "scheduledevents"
	endpointAllowed         endpoint = "allowed"
	endpointRefused         endpoint = "refused"
)

var endpoints = []endpoint{
	endpointToken, endpointInfo, endpointInstance, endpointVersions, endpointLoadBalancer,
	endpointScheduledEvents, endpointAllowed, endpointRefused,
}

const (
	identityPath = "/metadata/identity"
	tokenPath    = identityPath + "/oauth2/token"
	infoPath     = identityPath + "/info"
)

// builtin lists the paths that are relayed without being configured.
var builtin = []struct {
	path     string
	endpoint endpoint
}{
	{"/metadata/instance", endpointInstance},
	{"/metadata/versions", endpointVersions},
	{"/metadata/loadbalancer", endpointLoadBalancer},
	{"/metadata/scheduledevents", endpointScheduledEvents},
}

// route is the decision about a path.
type route struct {
	endpoint endpoint
	status   int    // the refusal's HTTP status; 0 where the path is served
	path     string // what the node's IMDS is asked for; empty where it is not asked
	post     bool   // POST is relayed as well as GET
}

func refuse(status int) route { return route{endpoint: endpointRefused, status: status} }

// classify decides about a path as it stood in the request line. The list of
// what is relayed is one of permissions: a path is compared in its plain
// spelling only, since servers differ in how they read any other and a
// spelling that is an identity path to one of them must not reach the node's
// IMDS (CVE-2022-23551).
func classify(path string, relay RelaySettings) route {
	switch loose(path) {
	case tokenPath:
		return route{endpoint: endpointToken}
	case infoPath:
		return route{endpoint: endpointInfo}
	}
	cleaned, ok := clean(path)
	switch {
	case !ok || under(cleaned, identityPath):
		return refuse(http.StatusNotFound)
	case !plain(path):
		return refuse(http.StatusForbidden)
	}
	return classifyRelayed(strings.TrimSuffix(path, "/"), relay)
}

// classifyRelayed decides about a plain path outside identityPath.
func classifyRelayed(path string, relay RelaySettings) route {
	if !relay.UserData && strings.Contains(strings.ToLower(path)+"/", "/userdata/") {
		return refuse(http.StatusNotFound)
	}
	own, allowed := "", false
	for _, prefix := range relay.Allow {
		if p, ok := respell(path, strings.TrimSuffix(prefix, "/")); ok {
			own, allowed = p, true
		}
	}
	for _, b := range builtin {
		own, ok := respell(path, b.path)
		if !ok {
			continue
		}
		if b.endpoint == endpointInstance && !relay.Instance && !allowed {
			return refuse(http.StatusNotFound)
		}
		return route{endpoint: b.endpoint, path: own, post: allowed}
	}
	if allowed {
		return route{endpoint: endpointAllowed, path: own, post: true}
	}
	return refuse(http.StatusForbidden)
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
