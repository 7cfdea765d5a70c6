package config

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// APIVersion and Kind are what a configuration file must say it is.
const (
	APIVersion = "sidestep.dev/v1alpha1"
	Kind       = "AgentConfiguration"
)

// AgentConfiguration is the content of the configuration file. Values come
// from Parse, Load, Default or Held, and are not changed afterwards.
type AgentConfiguration struct {
	// APIVersion is sidestep.dev/v1alpha1, and must be given.
	APIVersion string `json:"apiVersion"`
	// Kind is AgentConfiguration, and must be given.
	Kind string `json:"kind"`
	// Mode says whether verdicts are enforced or only counted and shown.
	Mode Mode `json:"mode"`
	// Select says where the label that selects a pod is looked for.
	Select Select `json:"select"`
	// Unlabeled is what happens to pods and containers that are not selected.
	Unlabeled Unlabeled `json:"unlabeled"`
	// Unknown is what happens to a connection of a pod not known yet.
	Unknown Unknown `json:"unknown"`
	// UnknownHostNetwork is the same for pods in the node's own network: held,
	// they wait for the agent also where it cannot run without them.
	UnknownHostNetwork Unknown `json:"unknownHostNetwork"`
	// Scope limits which pods are ever steered or denied.
	Scope Scope `json:"scope"`
	// Exceptions are the pods that always pass.
	Exceptions []Exception `json:"exceptions"`
	// AzurePodIdentityExceptions says whether AzurePodIdentityException
	// objects make pods pass as well. Whoever may create one could then exempt
	// the pods of its namespace.
	AzurePodIdentityExceptions PodIdentityExceptions `json:"azurePodIdentityExceptions"`
	// Relay says which metadata a steered pod may read from the node's IMDS.
	Relay Relay `json:"relay"`
	// WireServer is what happens to connects of pods to 168.63.129.16, ports 80
	// and 32526. Pods outside of Scope and those of Exceptions always pass.
	WireServer WireServer `json:"wireServer"`
	// Limits hold for each pod by itself.
	Limits Limits `json:"limits"`

	// AllHeld has every pod held, whatever the rest says. No file can say so:
	// it is what an agent goes by that has never had a valid one.
	AllHeld bool `json:"-"`
}

// Mode says whether verdicts take effect.
type Mode string

// The modes.
const (
	ModeEnforce Mode = "enforce" // verdicts take effect
	ModeAudit   Mode = "audit"   // every connect passes: the way back, applied within seconds
)

// Select says whose label selects a pod.
type Select string

// The places of the label.
const (
	SelectPod    Select = "pod"    // the pod alone
	SelectEither Select = "either" // the pod or its service account
)

// Unlabeled says what happens to a pod that is not selected.
type Unlabeled string

// The ways to treat pods that are not selected.
const (
	UnlabeledPass         Unlabeled = "pass"          // the real IMDS, untouched
	UnlabeledMetadataOnly Unlabeled = "metadata-only" // instance metadata; every identity is "not found"
	UnlabeledDeny         Unlabeled = "deny"          // connects fail with EPERM
)

// Unknown says what happens to a connection whose pod is not known.
type Unknown string

// The ways to treat unknown pods.
const (
	UnknownHold Unknown = "hold" // it waits until the pod is known, and is refused if it never is
	UnknownPass Unknown = "pass" // it reaches the real IMDS, with the node's identity
)

// PodIdentityExceptions says whether AzurePodIdentityException objects count.
type PodIdentityExceptions string

// The ways to treat AzurePodIdentityException objects. Honoured, they let
// whoever may create one exempt the pods of its namespace.
const (
	PodIdentityExceptionsIgnore PodIdentityExceptions = "ignore" // they change nothing
	PodIdentityExceptionsHonour PodIdentityExceptions = "honour" // they let their pods pass
)

// WireServer says what happens to connects to Azure's wire server.
type WireServer string

// The ways to treat connects to the wire server.
const (
	WireServerPass WireServer = "pass" // untouched
	WireServerDeny WireServer = "deny" // they fail with EPERM
)

// Scope limits the agent to some pods of the cluster.
type Scope struct {
	// Namespaces are the only ones whose pods are steered or denied; empty
	// means all.
	Namespaces []string `json:"namespaces"`
}

// Exception matches pods that always pass. At least one of its fields is set.
type Exception struct {
	// Namespaces are those whose pods match; empty means all.
	Namespaces []string `json:"namespaces"`
	// PodSelector must match the pod's labels; empty matches every pod.
	PodSelector metav1.LabelSelector `json:"podSelector"`
}

// Relay says which metadata paths are handed on to the node's IMDS.
type Relay struct {
	// Instance allows /metadata/instance; without it the answer is 404.
	Instance bool `json:"instance"`
	// UserData leaves the VM's userData in the answers.
	UserData bool `json:"userData"`
	// Allow lists further paths, each with all below it: clean, below
	// /metadata/, none that leads to /metadata/identity. POST is relayed too.
	Allow []string `json:"allow"`
}

// Limits keep one pod from starving the others.
type Limits struct {
	// RequestsPerSecond is at least 1; more are answered 429.
	RequestsPerSecond int `json:"requestsPerSecond"`
	// Concurrent is how many requests may be under way at once, at least 1.
	Concurrent int `json:"concurrent"`
}

// Default returns a new configuration as a file with nothing but its
// apiVersion and kind gives it.
func Default() *AgentConfiguration {
	return &AgentConfiguration{
		APIVersion:         APIVersion,
		Kind:               Kind,
		Mode:               ModeEnforce,
		Select:             SelectPod,
		Unlabeled:          UnlabeledPass,
		Unknown:            UnknownHold,
		UnknownHostNetwork: UnknownPass,
		Exceptions: []Exception{{
			Namespaces: []string{"kube-system"},
			PodSelector: metav1.LabelSelector{
				MatchLabels: map[string]string{"kubernetes.azure.com/managedby": "aks"},
			},
		}},
		AzurePodIdentityExceptions: PodIdentityExceptionsIgnore,
		Relay:                      Relay{Instance: true},
		WireServer:                 WireServerPass,
		Limits:                     Limits{RequestsPerSecond: 200, Concurrent: 64},
	}
}

// Held returns the configuration of an agent that has never had a valid one:
// every pod is held, those on the node's network too, since nothing says who
// may pass.
func Held() *AgentConfiguration {
	c := Default()
	c.Exceptions = nil
	c.UnknownHostNetwork = UnknownHold
	c.AllHeld = true
	return c
}
