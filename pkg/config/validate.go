package config

import (
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// validate notes what the shape of the file cannot show to be wrong.
func (s *source) validate(c *AgentConfiguration) {
	s.validateType("apiVersion", c.APIVersion, APIVersion)
	s.validateType("kind", c.Kind, Kind)
	s.validateNamespaces("scope.namespaces", c.Scope.Namespaces)
	for i, e := range c.Exceptions {
		s.validateException(element("exceptions", i), e)
	}
	for i, p := range c.Relay.Allow {
		s.validateRelayed(element("relay.allow", i), p)
	}
	s.validatePositive("limits.requestsPerSecond", c.Limits.RequestsPerSecond)
	s.validatePositive("limits.concurrent", c.Limits.Concurrent)
}

func (s *source) validateType(field, got, want string) {
	if !s.given(field) {
		s.mistake(0, "%s is missing: add \"%s: %s\"", field, field, want)
		return
	}
	if got != want {
		s.mistakeAt(field, "%q is not known to this version: use %s", got, want)
	}
}

func (s *source) validateNamespaces(field string, namespaces []string) {
	for i, ns := range namespaces {
		if len(validation.IsDNS1123Label(ns)) > 0 {
			s.mistakeAt(element(field, i), "%q is not a namespace's name: "+
				"write each name in full, wildcards are not known", ns)
		}
	}
}

func (s *source) validateException(field string, e Exception) {
	selector, err := metav1.LabelSelectorAsSelector(&e.PodSelector)
	if err != nil {
		s.mistakeAt(field+".podSelector", "not a label selector: %v", err)
		return
	}
	s.validateNamespaces(field+".namespaces", e.Namespaces)
	if len(e.Namespaces) == 0 && selector.Empty() {
		s.mistakeAt(field, "matches every pod: give namespaces or a podSelector "+
			"(to let every pod pass, set mode to audit)")
	}
}

// plainPath is a path that every server reads in the same way: no escape, no
// backslash, no path parameter, and no dot at either end of a name. The broker
// relays no other.
var plainPath = regexp.MustCompile(`^/metadata(/[A-Za-z0-9_-]+(\.+[A-Za-z0-9_-]+)*)+$`)

const identityPath = "/metadata/identity"

func (s *source) validateRelayed(field, p string) {
	if !plainPath.MatchString(p) {
		s.mistakeAt(field, "%q is not a clean path: write it as /metadata/ and plain names "+
			"between single slashes, with no slash or dot at the end", p)
		return
	}
	// IMDS reads paths in any case, and the entry is a prefix: one that
	// identityPath begins with would open it too.
	lower := strings.ToLower(p)
	if strings.HasPrefix(lower, identityPath) || strings.HasPrefix(identityPath, lower) {
		s.mistakeAt(field, "%q leads to the node's identity, which is never relayed: remove it", p)
	}
}

func (s *source) validatePositive(field string, n int) {
	if n <= 0 {
		s.mistakeAt(field, "%d would let no request through: use 1 or more", n)
	}
}
