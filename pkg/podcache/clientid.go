package podcache

import (
	"fmt"

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
