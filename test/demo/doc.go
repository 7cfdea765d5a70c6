// Command demo shows the agent's main job on one machine without a cluster: it
// makes a node with pods (see test/lab), runs the agent's own program on it,
// lets unmodified clients ask for tokens in the pods, and checks the results
// against the logs of all parts. Only Entra, Key Vault, the VM's
// metadata service and the Kubernetes API are stand-ins. It is no part of the
// image.
package main
