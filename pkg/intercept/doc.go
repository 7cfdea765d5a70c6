// Package intercept loads and pins the eBPF programs that steer pods' connects
// to the instance metadata service, tells them the verdicts, and takes back
// the flows that they record. cmd/agent/daemon opens it; delivery sets verdicts, tags
// listeners and guards links, attest claims flows. The kernel's bytes stop
// here. It never decides which pod is steered and never reads a connection.
package intercept
