// Command kubectl-sidestep is a plugin of kubectl: `kubectl sidestep status`
// shows what the agents of all nodes do, `kubectl sidestep explain POD` follows
// one pod from its label to its token and names the first link that is broken.
//
// It reads pods and service accounts as the user of the kubeconfig, and asks an
// agent by running `agent status` in its pod (pods/exec in the agent's
// namespace). It changes nothing.
package main
