package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// agentToken is where the kubelet writes the agent's own token.
func agentToken(t *testing.T) string {
	t.Helper()
	uid := kubectl(t, "-n", system, "get", "pods", "-l", agentPods, "-o", "jsonpath={.items[0].metadata.uid}")
	return strings.TrimSpace(inNode(t, "bash", "-c", `ls -d "/var/lib/kubelet/pods/$0/volumes/kubernetes.io~projected/"kube-api-access-*/token`, uid))
}

// The agent's service account is deleted and recreated, as tools do that apply
// manifests: the API server takes no token of the old one any more, and the
// kubelet, which looks at the token's age alone, keeps it until it is started
// again.
func refusedToken(t *testing.T, w witness) string {
	file := agentToken(t)
	old := inNode(t, "cat", file)
	kubectl(t, "-n", system, "delete", "serviceaccount", "sidestep-agent")
	kubectl(t, "apply", "-k", manifest(t, "base"))
	eventually(t, 30*time.Second, func() error { // one that was taken is, for 10 s more
		if status, _ := askAPI(t, old, "GET", "application/json", "/api/v1/pods?limit=1", nil); status != 401 {
			return fmt.Errorf("the agent's token gets %d", status)
		}
		return nil
	})
	before := unauthenticated(t)
	cutOff(t, func() { w.nudge(t) })() // who is connected is not asked again
	eventually(t, 60*time.Second, func() error {
		if unauthenticated(t) == before {
			return fmt.Errorf("the API server has not refused the agent")
		}
		return nil
	})
	w.label(t, "-")
	issued := w.newTokens(t, time.Second)
	kubelet.kill(t)
	kubelet.start(t)
	eventually(t, 90*time.Second, func() error {
		kubectl(t, "-n", system, "annotate", "pods", "--overwrite", "-l", agentPods,
			fmt.Sprintf("sidestep.dev/reload=%d", time.Now().UnixNano()))
		if inNode(t, "cat", file) == old {
			return fmt.Errorf("the kubelet has not written another token")
		}
		return nil
	})
	label := w.reached(t, nodes)
	w.steered(t)
	return fmt.Sprintf("401 for it, new tokens for pods meanwhile: %d; a change made meanwhile came through %s after the kubelet wrote another", issued, label)
}

// unauthenticated returns the API server's count of requests with a token that
// it does not take.
func unauthenticated(t *testing.T) string {
	t.Helper()
	return inNode(t, "bash", "-c", "grep -c 'Unable to authenticate the request' /run/node/log/kube-apiserver.log || true")
}

func killedKubelet(t *testing.T, _ witness) string {
	kubelet.kill(t)
	started := kubelet.start(t)
	return fmt.Sprintf("back after %s, %s", seconds(started), latePod(t, "late-kubelet"))
}

func killedContainerd(t *testing.T, _ witness) string {
	containerd.kill(t)
	started := containerd.start(t)
	return fmt.Sprintf("back after %s, %s", seconds(started), latePod(t, "late-containerd"))
}

// latePod makes a labelled pod on the node, since the scheduler may not have
// noticed yet that the API server is back, and says when it had its identity.
func latePod(t *testing.T, name string) string {
	t.Helper()
	p := pod{namespace: edge, name: name, account: "app-one", labelled: true, token: newVolume}
	node := nodeName(t)
	p.change = func(o *corev1.Pod) { o.Spec.NodeName = node }
	began := time.Now()
	start(t, p)
	ran := time.Since(began)
	p.becomes(t, p.account)
	if p.listener(t) == 0 {
		t.Errorf("%s has no listener", name)
	}
	return fmt.Sprintf("a pod made then was Ready after %s and had its identity and a listener at %s", seconds(ran), seconds(time.Since(began)))
}

func malformedConfiguration(t *testing.T, w witness) string {
	t.Cleanup(func() {
		base, err := os.ReadFile(manifests + "/base/config.yaml")
		if err != nil {
			t.Fatal(err)
		}
		putConfig(t, string(base), applied)
	})
	refused := putConfig(t, configHead+"exceptions: [{namespaces: ["+w.namespace+"]\n", refusal)
	if got := w.who(t); got != witnessName {
		t.Errorf("under the former configuration the witness gets %q, want %s", got, witnessName)
	}
	took := configure(t, "exceptions: [{namespaces: ["+w.namespace+"], podSelector: {matchLabels: {app.kubernetes.io/name: "+w.name+"}}}]\n")
	felt := w.reached(t, nodes)
	return fmt.Sprintf("refused after %s; the good one applied after %s and felt %s later", seconds(refused), seconds(took), felt)
}
