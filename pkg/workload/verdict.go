package workload

// Verdict is what the kernel does with a pod's connects to the instance
// metadata service.
type Verdict uint8

// The verdicts. Unknown is the zero value, so that a forgotten field holds a
// connection back instead of letting it through.
const (
	// Unknown holds the connection at the node listener until the pod is known.
	Unknown Verdict = iota
	// Pass leaves the connection alone.
	Pass
	// Steer rewrites the connection to the pod's listener.
	Steer
	// Deny refuses the connection with EPERM.
	Deny
)

// String returns the verdict's name as metrics, logs and status show it.
func (v Verdict) String() string {
	switch v {
	case Pass:
		return "pass"
	case Steer:
		return "steer"
	case Deny:
		return "deny"
	default:
		return "unknown"
	}
}

// Access is what a steered caller may have from the broker.
type Access uint8

const (
	// MetadataOnly lets a caller read instance metadata; every identity is
	// "not found". It is the zero value: identity must be granted.
	MetadataOnly Access = iota
	// Identity lets a caller have its own workload's tokens as well.
	Identity
)

// String returns the access's name as logs and status show it.
func (a Access) String() string {
	if a == Identity {
		return "identity"
	}
	return "metadata-only"
}

// Reasons of decisions that are read by more than people: the plugin of kubectl
// knows by them what to fix, and attest who can still become known.
const (
	// ReasonAccountLabel: the pod's service account bears UseLabel.
	ReasonAccountLabel = "label on the service account"
	// ReasonUnlabeled begins the reason where nothing selects the pod.
	ReasonUnlabeled = "unlabeled"
	// ReasonContainerUnknown: the pod skips some of its containers, and which
	// one asks is not known. Who is in none of them never has a decision.
	ReasonContainerUnknown = "skip-containers: container not known"
)

// Decision is what the rules say about a pod or one of its containers.
type Decision struct {
	Verdict Verdict
	// Access matters only where Verdict is Steer.
	Access Access
	// DenyWireServer says that connects to Azure's wire server are refused,
	// whatever Verdict is.
	DenyWireServer bool
	// Reason names the rule that decided, for people: "label",
	// "exception 1", "unlabeled: pass", ….
	Reason string
}
