package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	system      = "sidestep-system"
	agentPods   = "app.kubernetes.io/name=sidestep-agent"
	agentConfig = "sidestep-agent-config"
	configHead  = "apiVersion: sidestep.dev/v1alpha1\nkind: AgentConfiguration\n"
)

// Results of reading a configuration.
const (
	applied = "applied"
	refusal = "refused"
)

// configure applies a configuration, fields alone without its head, and
// the base's again when the test ends. It returns how long the change took.
func configure(t *testing.T, fields string) time.Duration {
	t.Helper()
	t.Cleanup(func() {
		base, err := os.ReadFile(manifests + "/base/config.yaml")
		if err != nil {
			t.Fatal(err)
		}
		putConfig(t, string(base), applied)
	})
	return putConfig(t, configHead+fields, applied)
}

// putConfig writes the ConfigMap and waits until the agent has taken it up, as
// its metric says: it was applied, or refused.
func putConfig(t *testing.T, config, result string) time.Duration {
	t.Helper()
	before := reloads(t, result)
	start := time.Now()
	out := apply(t, &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: agentConfig},
		Data:       map[string]string{"config.yaml": config},
	})
	if strings.Contains(out, "unchanged") {
		return 0
	}
	eventually(t, 90*time.Second, func() error {
		// The kubelet looks after the volumes of a pod that changed at once,
		// and otherwise once a minute. It may not know the new ConfigMap yet.
		kubectl(t, "-n", system, "annotate", "pods", "--overwrite", "-l", agentPods,
			fmt.Sprintf("sidestep.dev/reload=%d", time.Now().UnixNano()))
		if reloads(t, result) == before {
			return fmt.Errorf("the agent has not read the changed configuration")
		}
		return nil
	})
	return time.Since(start)
}

// reloads returns the agent's count of configurations with that result.
func reloads(t *testing.T, result string) string {
	t.Helper()
	line := regexp.MustCompile(`(?m)^sidestep_config_reloads_total\{result="` + result + `"\} (\S+)$`)
	found := line.FindStringSubmatch(inNode(t, "curl", "--silent", "--fail", "http://127.0.0.1:9402/metrics"))
	if found == nil {
		t.Fatalf("the agent's metrics have no count of configurations %s", result)
	}
	return found[1]
}

// install applies an overlay, or base, and waits until the agent is ready.
func install(t *testing.T, overlay string) {
	t.Helper()
	start := time.Now()
	kubectl(t, "apply", "-k", manifest(t, overlay))
	rolledOut(t)
	t.Logf("%s: ready after %s", overlay, time.Since(start).Round(100*time.Millisecond))
}

// rolledOut waits until the agent as the DaemonSet has it now is ready, and the
// one before has ended: its clients may keep connections for a while.
func rolledOut(t *testing.T) {
	t.Helper()
	kubectl(t, "-n", system, "rollout", "status", "daemonset/sidestep-agent", "--timeout=80s")
	eventually(t, 90*time.Second, func() error {
		pods := strings.Fields(kubectl(t, "-n", system, "get", "pods", "-l", agentPods, "-o", "name"))
		if len(pods) != 1 {
			return fmt.Errorf("agents on the node: %v", pods)
		}
		return nil
	})
}
