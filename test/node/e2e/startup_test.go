package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// atOnce returns a pod whose init container and container ask for a token as
// the first thing that they do, when the agent may not have seen the pod yet.
func atOnce(p pod) *corev1.Pod {
	p.args = []string{"get", "-timeout=40s", tokenPath + url.QueryEscape(vaultURL)}
	object := p.object()
	first := p.app()
	first.Name = "init"
	object.Spec.InitContainers = []corev1.Container{first}
	object.Spec.RestartPolicy = corev1.RestartPolicyNever
	return object
}

// Pods that ask in their first moment wait until they are known, and then get
// what is theirs: labelled ones their identity, from the init container on,
// unlabelled ones what they would get without the agent.
func TestPodsThatAskAtOnce(t *testing.T) {
	needNode(t)
	var pods []pod
	var objects []any
	for i := range 6 {
		p := pod{namespace: teamA, name: fmt.Sprintf("at-once-%d", i), account: "app-one", labelled: i%3 != 2, token: newVolume}
		pods, objects = append(pods, p), append(objects, atOnce(p))
	}
	apply(t, objects...)
	t.Cleanup(func() {
		for _, p := range pods {
			kubectl(t, "-n", p.namespace, "delete", "pod", p.name, "--wait=false")
		}
	})
	for _, p := range pods {
		kubectl(t, "-n", teamA, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+p.name, "--timeout=80s")
		want := "app-one"
		if !p.labelled {
			want = nodes
		}
		for _, container := range []string{"init", "app"} {
			var got answer
			if err := json.NewDecoder(strings.NewReader(kubectl(t, "-n", teamA, "logs", p.name, "-c", container))).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if got.whose() != want {
				t.Errorf("%s of %s gets %q, want %q", container, p.name, got.whose(), want)
			}
			t.Logf("%s of %s: %s after %d ms", container, p.name, got.whose(), got.MS)
		}
	}
}
