package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/status"
)

// agentStatus returns what the agent says about its node.
func agentStatus(t *testing.T) status.Report {
	t.Helper()
	var r status.Report
	out := kubectl(t, "-n", system, "exec", "daemonset/sidestep-agent", "--", "/agent", "status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return r
}

// reported returns what the agent says about the pod.
func (p pod) reported(t *testing.T) (status.Pod, bool) {
	t.Helper()
	for _, r := range agentStatus(t).Pods {
		if r.Namespace == p.namespace && r.Name == p.name {
			return r, true
		}
	}
	return status.Pod{}, false
}

// listener waits until the pod has a listener and returns its port.
func (p pod) listener(t *testing.T) uint16 {
	t.Helper()
	var port uint16
	eventually(t, 10*time.Second, func() error {
		r, _ := p.reported(t)
		if port = r.Listener; port == 0 {
			return fmt.Errorf("%s has no listener", p.name)
		}
		return nil
	})
	return port
}

// agentProcess returns the process ID of the agent, as the node sees it. By
// its arguments: the readiness probe runs the same program.
func agentProcess(t *testing.T) string {
	t.Helper()
	out := strings.Fields(inNode(t, "bash", "-c", `for process in /proc/[0-9]*; do
		[ "$(tr '\0' ' ' 2>/dev/null <$process/cmdline)" != "/agent run " ] || echo ${process#/proc/}
	done`))
	if len(out) != 1 {
		t.Fatalf("processes that are the agent: %q", out)
	}
	return out[0]
}
