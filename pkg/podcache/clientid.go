package podcache

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
)

const clientIDVariable = "AZURE_CLIENT_ID"

// clientIDs is what the containers of a pod that set AZURE_CLIENT_ID set it to,
// by the container's name. It is empty where the value comes from another
// object: the agent reads no secrets and no ConfigMaps.
type clientIDs map[string]string

// newClientIDs returns nil if no container sets the variable.
func newClientIDs(s *corev1.PodSpec) clientIDs {
	all := allContainers(s)
	for _, c := range s.EphemeralContainers {
		all = append(all, corev1.Container(c.EphemeralContainerCommon))
	}
	var ids clientIDs
	for _, c := range all {
		value, elsewhere := variable(c, clientIDVariable)
		if value == "" && !elsewhere {
			continue
		}
		if ids == nil {
			ids = clientIDs{}
		}
		ids[c.Name] = value
	}
	return ids
}

// of returns the container's own client id; both are empty if it sets none.
// unclear says why there is no value although the variable is set.
func (c clientIDs) of(container string) (value, unclear string) {
	value, set := c[container]
	if set && value == "" {
		return "", fmt.Sprintf("the container %s takes %s from a secret, a ConfigMap or another variable (valueFrom, envFrom), which the agent does not read", container, clientIDVariable)
	}
	return value, ""
}

// same reports whether it does not matter which of the pod's containers asks: all
// set the variable, and to the same. It returns what they set it to, as of does.
func (c clientIDs) same(containers []string) (value, unclear string, same bool) {
	for _, name := range containers {
		own, set := c[name]
		if !set || own != c[containers[0]] {
			return "", "", false
		}
	}
	if len(containers) == 0 { // of a state that was saved
		return "", "", false
	}
	value, unclear = c.of(containers[0])
	return value, unclear, true
}

// maxValue bounds values that are made of others, which could double with each
// variable. Ids and host names are shorter.
const maxValue = 1024

// reference is how the value of a variable names another one.
var reference = regexp.MustCompile(`\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)`)

// trimmed returns a value without what people do not see at its ends: white
// space (`az … --output tsv` ends lines with a carriage return on Windows), and
// characters without a width, as the byte order mark of PowerShell's files.
func trimmed(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) })
}

// variable returns the value that the container's env gives an environment
// variable, trimmed. As for the kubelet, the last entry of a name counts, also an
// empty one, and $(NAME) stands for what an earlier entry has set. elsewhere reports that the variable is set, and that its value, or
// one that it refers to, is in another object: then there is no value.
func variable(c corev1.Container, name string) (value string, elsewhere bool) {
	known := map[string]string{}
	for _, e := range c.Env {
		v, whole := expand(e.Value, known)
		whole = whole && e.ValueFrom == nil
		if delete(known, e.Name); whole {
			known[e.Name] = v
		}
		if e.Name == name {
			value, elsewhere = trimmed(known[name]), !whole
		}
	}
	return value, elsewhere
}

// ownValue returns the value of variable, or "".
func ownValue(c corev1.Container, name string) string {
	value, _ := variable(c, name)
	return value
}

// expand replaces the references in value, and reports whether all of them are
// known.
func expand(value string, known map[string]string) (string, bool) {
	whole := true
	made := reference.ReplaceAllStringFunc(value, func(r string) string {
		v, ok := known[r[2:len(r)-1]]
		whole = whole && ok
		return v
	})
	return made, whole && (made == value || len(made) <= maxValue)
}
