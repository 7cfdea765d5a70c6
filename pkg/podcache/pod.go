package podcache

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Labels and annotations of azure-workload-identity and of the kubelet.
const (
	// expirationAnnotation is one of service accounts too; the pod's goes first.
	expirationAnnotation = "azure.workload.identity/service-account-token-expiration"
	mirrorAnnotation     = "kubernetes.io/config.mirror"
	configHashAnnotation = "kubernetes.io/config.hash"
)

// pod is all that the cache keeps of a pod object.
type pod struct {
	name           types.NamespacedName
	objectUID      types.UID
	cgroupUID      string // as in workload.Pod.UID
	mirror         bool
	finished       bool
	serviceAccount string
	labels         map[string]string
	hostNetwork    bool
	ports          []uint16
	containers     []string          // names of all containers in the spec
	containerIDs   map[string]string // name by bare container id
	skipped        []string          // container names in skip-containers
	clientIDs      clientIDs         // from the pod's environment, as are the next two
	tenantID       string
	authorityHost  string
	projected      *workload.ProjectedToken
	binding        *workload.IdentityBinding
	expiration     string // the annotation
	created        time.Time
}

// newPod takes from an object what the cache needs. It shares nothing with
// the object but strings and the labels, which are not changed.
func newPod(o *corev1.Pod) pod {
	p := pod{
		name:           types.NamespacedName{Namespace: o.Namespace, Name: o.Name},
		objectUID:      o.UID,
		cgroupUID:      string(o.UID),
		finished:       o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed,
		serviceAccount: o.Spec.ServiceAccountName,
		labels:         o.Labels,
		hostNetwork:    o.Spec.HostNetwork,
		ports:          tcpPorts(&o.Spec),
		containers:     containerNames(&o.Spec),
		containerIDs:   containerIDs(&o.Status),
		skipped:        skippedContainers(o.Annotations),
		clientIDs:      newClientIDs(&o.Spec),
		tenantID:       environment(&o.Spec, "AZURE_TENANT_ID"),
		authorityHost:  environment(&o.Spec, "AZURE_AUTHORITY_HOST"),
		expiration:     trimmed(o.Annotations[expirationAnnotation]),
		created:        o.CreationTimestamp.UTC(),
	}
	// The kubelet names a static pod's cgroup by the hash of its manifest;
	// the API object is a mirror with a UID of its own.
	if _, ok := o.Annotations[mirrorAnnotation]; ok {
		p.mirror = true
		p.cgroupUID = o.Annotations[configHashAnnotation]
	}
	return p
}

// findToken finds the pod's token for the proxy of its identity binding, or else
// the one for Entra, which has that audience.
func (p *pod) findToken(s *corev1.PodSpec, audience string) {
	if p.binding, p.projected = identityBinding(s); p.binding == nil {
		p.projected = projectedToken(s, audience)
	}
}

// account returns the name of the pod's service account. A mirror pod has
// none, and its Name is empty then.
func (p *pod) account() types.NamespacedName {
	return types.NamespacedName{Namespace: p.name.Namespace, Name: p.serviceAccount}
}

// allContainers returns the containers and init containers of a spec.
func allContainers(s *corev1.PodSpec) []corev1.Container {
	return slices.Concat(s.Containers, s.InitContainers)
}

// tcpPorts returns every TCP port that a container declares, sorted.
func tcpPorts(s *corev1.PodSpec) []uint16 {
	var ports []uint16
	for _, c := range allContainers(s) {
		for _, p := range c.Ports {
			if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
				continue
			}
			for _, n := range []int32{p.ContainerPort, p.HostPort} {
				if n > 0 && n <= 65535 {
					ports = append(ports, uint16(n))
				}
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func containerNames(s *corev1.PodSpec) []string {
	var names []string
	for _, c := range allContainers(s) {
		names = append(names, c.Name)
	}
	for _, c := range s.EphemeralContainers {
		names = append(names, c.Name)
	}
	return names
}

// containerIDs returns the names of the containers that the kubelet has
// started, by their ids without the runtime's prefix ("containerd://").
func containerIDs(s *corev1.PodStatus) map[string]string {
	ids := map[string]string{}
	for _, c := range slices.Concat(s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses) {
		if _, id, ok := strings.Cut(c.ContainerID, "://"); ok && id != "" {
			ids[id] = c.Name
		}
	}
	return ids
}

// skippedContainers returns the names that the skip-containers annotation
// lists between semicolons.
func skippedContainers(annotations map[string]string) []string {
	var names []string
	for name := range strings.SplitSeq(annotations[workload.SkipContainersAnnotation], ";") {
		if name = trimmed(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// environment returns the value of an environment variable in the first
// container that sets it itself, or "".
func environment(s *corev1.PodSpec, name string) string {
	for _, c := range allContainers(s) {
		if value := ownValue(c, name); value != "" {
			return value
		}
	}
	return ""
}

// projectedToken finds a token by its audience: volume name and path differ
// between versions of the webhook.
func projectedToken(s *corev1.PodSpec, audience string) *workload.ProjectedToken {
	for _, v := range s.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, src := range v.Projected.Sources {
			if t := src.ServiceAccountToken; t != nil && t.Audience == audience {
				return &workload.ProjectedToken{Volume: v.Name, Path: t.Path}
			}
		}
	}
	return nil
}

// record is a pod as the cache knows it. It is replaced, never changed.
type record struct {
	pod
	changed time.Time // when its label was last seen to change; zero: never
}

// owner returns the one record that a cgroup UID belongs to, or nil. A mirror
// pod's cgroup UID is an annotation that whoever may create pods can write, so
// it never takes a UID from the pod whose own UID that is, and two mirror pods
// with the same one are both disbelieved.
func owner(claims []*record) *record {
	var mirror *record
	mirrors := 0
	for _, r := range claims {
		if !r.mirror {
			return r
		}
		mirror = r
		mirrors++
	}
	if mirrors != 1 {
		return nil
	}
	return mirror
}
