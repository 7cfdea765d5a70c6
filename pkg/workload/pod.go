package workload

import "time"

// Pod is one pod of this node with the rules applied to it.
type Pod struct {
	// UID is the pod's UID as its cgroup bears it: the API's UID, or for a
	// static pod the hash of its manifest (annotation
	// kubernetes.io/config.hash of its mirror pod).
	UID            string
	Namespace      string
	Name           string
	ServiceAccount string
	HostNetwork    bool
	// Ports are the TCP ports that the pod's containers declare, host ports
	// included: no listener may take one of them.
	Ports []uint16
	// Decision holds for every container without one of its own. It is
	// Unknown in a pod where only some containers are skipped: there each
	// container must be known by its id first.
	Decision Decision
	// Containers has the decisions of single containers by container id
	// (bare, without the runtime's prefix). Nil in most pods.
	Containers map[string]Decision
}

// Steered reports whether any container of the pod is steered, so that the
// pod needs a listener.
func (p Pod) Steered() bool {
	if p.Decision.Verdict == Steer {
		return true
	}
	for _, d := range p.Containers {
		if d.Verdict == Steer {
			return true
		}
	}
	return false
}

// PassesAny reports whether the pod passes or any container of it does.
func (p Pod) PassesAny() bool {
	if p.Decision.Verdict == Pass {
		return true
	}
	for _, d := range p.Containers {
		if d.Verdict == Pass {
			return true
		}
	}
	return false
}

// Workload is one pod and the service account that it runs as, with all that
// is needed to ask for a token in its name.
type Workload struct {
	PodUID            string
	PodName           string
	Namespace         string
	ServiceAccount    string
	ServiceAccountUID string
	ChangedAt         time.Time // the youngest of pod, service account and its annotations as seen here
	ClientID          string    // the default identity; empty: none is set
	// ClientIDUnclear says why ClientID is empty although AZURE_CLIENT_ID is set
	// in the pod's spec.
	ClientIDUnclear string
	// ContainerUnknown reports that ClientIDUnclear is only that it is not known
	// yet which of the pod's containers asks.
	ContainerUnknown bool
	TenantID         string // empty: the agent's own default holds
	AuthorityHost    string // the pod's own AZURE_AUTHORITY_HOST; empty: the agent's holds
	Identities       []MappedIdentity
	Projected        *ProjectedToken // nil: the pod has no such volume
	// TokenExpiration is how long a service account token shall hold that is
	// asked for in the pod's name; 0: not known.
	TokenExpiration    time.Duration
	Binding            *IdentityBinding // nil: tokens come from Entra itself
	ServiceAccountSeen bool             // false: the service account is not in the cache yet
}

// Subject returns the subject that the workload's service account tokens
// bear.
func (w Workload) Subject() string {
	return "system:serviceaccount:" + w.Namespace + ":" + w.ServiceAccount
}

// MappedIdentity is one entry of the service account annotation
// sidestep.dev/identities, in the names that `az identity show` prints.
type MappedIdentity struct {
	ClientID    string `json:"clientId"`
	ResourceID  string `json:"id"`
	PrincipalID string `json:"principalId"`
}

// ProjectedToken says where in the pod's directory the kubelet keeps the
// service account token for Entra.
type ProjectedToken struct {
	Volume string // the volume's name
	Path   string // the token's path in the volume
}
