package attest

import "errors"

// The reasons for which a caller is refused.
var (
	// ErrNoFlow: the kernel has no record of the connection. It was not
	// steered here: somebody dialled the listener, or the record was used.
	ErrNoFlow = errors.New("attest: no flow record of this connection")
	// ErrAmbiguous: more than one connection claims to be this one.
	ErrAmbiguous = errors.New("attest: more than one flow record fits this connection")
	// ErrGone: the caller's cgroup or pod does not exist any more.
	ErrGone = errors.New("attest: the caller is gone")
	// ErrExhausted: the node is out of descriptors or memory, so that the caller
	// could not be looked for. Asking again later may succeed: it is Unknown as
	// ErrUnknownPod is.
	ErrExhausted error = exhaustedError{}
	// ErrNotPod: the caller's cgroup is no pod's, or cannot be looked up.
	ErrNotPod = errors.New("attest: the caller's cgroup is not known as a pod's")
	// ErrNoContainer: the pod's containers are decided on one by one, and the
	// caller's cgroup is none of them, nor will it be.
	ErrNoContainer = errors.New("attest: the caller is in none of its pod's containers, and some of those are skipped")
	// ErrUnknownPod: the pod did not become known while its caller was held.
	// Asking again later may succeed; errors.As finds a type in its chain
	// whose method Unknown() returns true.
	ErrUnknownPod error = unknownPodError{}
	// ErrNotEstablished: the connection was reset, closed on this side, or never
	// established.
	ErrNotEstablished = errors.New("attest: the connection is not established")
)

type unknownPodError struct{}

func (unknownPodError) Error() string { return "attest: the caller's pod is not known yet" }
func (unknownPodError) Unknown() bool { return true }

type exhaustedError struct{}

func (exhaustedError) Error() string { return "attest: the caller cannot be looked for now" }
func (exhaustedError) Unknown() bool { return true }
