package podcache

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

const clientIDVariable = "AZURE_CLIENT_ID"

// clientIDs is what the containers of a pod that set AZURE_CLIENT_ID set it to,
// by the container's name. It is empty where the value comes from another
// object: the agent reads no secrets and no ConfigMaps.
type clientIDs map[string]string

// newClientIDs returns nil if no container sets the variable.
func newClientIDs(s *corev1.PodSpec) clientIDs {
	var all clientIDs
	for _, c := range allContainers(s) {
		value, elsewhere := variable(c, clientIDVariable)
		if value == "" && !elsewhere {
			continue
		}
		if all == nil {
			all = clientIDs{}
		}
		all[c.Name] = value
	}
	return all
}

// of returns the container's client id; both are empty if it sets none. Without
// a name it is not known which container asks: then the value is the one that
// all who set the variable agree on. unclear says why there is no value although
// the variable is set.
func (c clientIDs) of(container string) (value, unclear string) {
	if container != "" {
		value, set := c[container]
		if set && value == "" {
			return "", elsewhere(container)
		}
		return value, ""
	}
	for _, name := range slices.Sorted(maps.Keys(c)) {
		switch own := c[name]; {
		case own == "":
			return "", elsewhere(name)
		case value != "" && own != value:
			return "", fmt.Sprintf("the pod's containers set %s to different values, and it is not known which of them asks", clientIDVariable)
		default:
			value = own
		}
	}
	return value, ""
}

func elsewhere(container string) string {
	return fmt.Sprintf("the container %s takes %s from a secret, a ConfigMap or another variable (valueFrom, envFrom), which the agent does not read", container, clientIDVariable)
}
