package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const uninstallPods = "app.kubernetes.io/name=sidestep-uninstall"

// Until uninstall runs, a pod whose agent is gone is refused; uninstall waits
// for the agent's end, leaves nothing on the node, and says what it removed.
// From then on the pod has what it had before Sidestep.
func TestUninstall(t *testing.T) {
	needNode(t)
	node := nodeName(t)
	web := pod{namespace: teamA, name: "set-free", account: "app-one", labelled: true, token: newVolume}
	start(t, web)
	web.becomes(t, "app-one")
	t.Cleanup(func() {
		kubectl(t, "-n", system, "delete", "daemonset", "sidestep-uninstall", "--ignore-not-found")
		removePermission(t)
		install(t, "base")
		web.becomes(t, "app-one")
	})
	kubectl(t, "apply", "-k", manifest(t, "uninstall"))
	eventually(t, 60*time.Second, func() error {
		said, err := tryInNode(nil, "kubectl", "-n", system, "logs", "-l", uninstallPods)
		if err == nil && !strings.Contains(said, "an agent runs on this node") {
			err = fmt.Errorf("beside the agent it says %q", said)
		}
		return err
	})
	if got := web.who(t); got != "app-one" {
		t.Errorf("while uninstall waits for the agent's end: %q, want app-one", got)
	}
	kubectl(t, "-n", system, "delete", "daemonset", "sidestep-uninstall")
	kubectl(t, "-n", system, "delete", "daemonset", "sidestep-agent")
	kubectl(t, "-n", system, "wait", "--for=delete", "pods", "-l", agentPods, "--timeout=60s")
	if got := web.who(t); got != refused {
		t.Errorf("without the agent: %q, want %q", got, refused)
	}
	kubectl(t, "taint", "node", node, notReady+"=:NoSchedule")

	kubectl(t, "apply", "-k", manifest(t, "uninstall"))
	kubectl(t, "-n", system, "rollout", "status", "daemonset/sidestep-uninstall", "--timeout=80s")
	said := kubectl(t, "-n", system, "logs", "-l", uninstallPods, "--tail=-1")
	t.Log(said)
	for _, want := range []string{"sidestep/link_connect4", "sidestep/sidestep_verdicts", "address 169.254.169.252/32", "taint " + notReady, "nothing of the agent is left"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if left := inNode(t, "ls", "/sys/fs/bpf"); strings.Contains(left, "sidestep") {
		t.Errorf("in the BPF filesystem: %s", left)
	}
	if on := inNode(t, "ip", "-4", "address", "show", "lo"); strings.Contains(on, "169.254.169.252") {
		t.Errorf("on the loopback link: %s", on)
	}
	if left := taints(t, node); len(left) != 0 {
		t.Errorf("taints %v", left)
	}
	if got := web.who(t); got != nodes {
		t.Errorf("after uninstall the pod gets %q, want %q", got, nodes)
	}
}
