// Package convert turns the objects of aad-pod-identity (group
// aadpodidentity.k8s.io) into what replaces them: annotated service accounts,
// the az commands for their federated credentials, the label that pods need,
// and a configuration of the agent. `agent convert` calls it. It is handed
// objects and returns text: it asks neither a cluster nor Azure, applies
// nothing, and says in a warning whatever it had to leave open.
package convert
