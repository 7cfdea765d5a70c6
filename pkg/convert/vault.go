package convert

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// secretsGroup is the API group of the Secrets Store CSI driver, secretsDriver
// its name in the volumes of pods.
const (
	secretsGroup  = "secrets-store.csi.x-k8s.io"
	secretsDriver = "secrets-store.csi.k8s.io"
)

// secretProviderClass says from which vault the driver mounts secrets into
// pods, and as whom.
type secretProviderClass struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Provider   string            `json:"provider"`
		Parameters map[string]string `json:"parameters"`
	} `json:"spec"`
}

// usesPodIdentity reports whether the driver's Azure provider asks
// aad-pod-identity for a token. It asks NMI on the node, at
// localhost:2579/host/token, and no connection from a pod is made.
func (s *secretProviderClass) usesPodIdentity() bool {
	uses, err := strconv.ParseBool(strings.TrimSpace(s.Spec.Parameters["usePodIdentity"]))
	return err == nil && uses && strings.EqualFold(s.Spec.Provider, "azure")
}

// mountedClasses returns the SecretProviderClass objects that the pod's volumes
// name.
func mountedClasses(pod *corev1.Pod) []types.NamespacedName {
	var classes []types.NamespacedName
	for _, v := range pod.Spec.Volumes {
		if v.CSI == nil || v.CSI.Driver != secretsDriver {
			continue
		}
		if name := v.CSI.VolumeAttributes["secretProviderClass"]; isObjectName(name) {
			classes = append(classes, types.NamespacedName{Namespace: pod.Namespace, Name: name})
		}
	}
	return classes
}
