package convert

import (
	"slices"
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

// checkVaults warns of secrets that are mounted through aad-pod-identity.
func (c *converter) checkVaults() {
	mounts := c.mounts()
	for _, name := range sorted(c.classes) {
		class := c.classes[name]
		if !class.usesPodIdentity() {
			continue
		}
		client := "the client id of the pods that mount it"
		if ids := mounts[name]; len(ids) > 0 {
			client = strings.Join(ids, " or ")
		}
		c.warn(`SecretProviderClass %s has usePodIdentity: "true": the Secrets Store CSI driver asks NMI on the node, and its volumes cannot be mounted `+
			`once NMI is removed. Set usePodIdentity to "false" and clientID to %s; the federated credential of the pods' service account serves it too`, name, client)
	}
	for _, name := range sorted(mounts) {
		if _, ok := c.classes[name]; !ok {
			c.warn("SecretProviderClass %s is mounted by pods that use aad-pod-identity, and was not read: add secretproviderclasses to what kubectl get prints", name)
		}
	}
}

// mounts returns the client ids of the pods that mount each SecretProviderClass
// and use aad-pod-identity, sorted.
func (c *converter) mounts() map[types.NamespacedName][]string {
	mounts := map[types.NamespacedName][]string{}
	for _, name := range sorted(c.pods) {
		pod := c.pods[name]
		ids := c.selected(pod.Labels[bindingLabel], pod.Namespace)
		if len(ids) == 0 {
			continue
		}
		for _, class := range mountedClasses(&pod) {
			if !slices.Contains(mounts[class], ids[0].clientID) {
				mounts[class] = append(mounts[class], ids[0].clientID)
				slices.Sort(mounts[class])
			}
		}
	}
	return mounts
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
