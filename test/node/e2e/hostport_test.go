package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// impostor is what a hostPort pod answers to whoever comes.
const impostor = "an impostor"

// hostPorts returns a pod without label whose process answers at the ports of
// the node that the network plugin translates to it: the node listener's, and
// one in every hundred of the range of pods' listeners.
func hostPorts(namespace, name string) pod {
	const container = 9000
	return pod{
		namespace: namespace, name: name, account: "default", args: []string{"serve", fmt.Sprintf("0.0.0.0:%d", container), impostor},
		change: func(o *corev1.Pod) {
			at := []int32{2579}
			for port := int32(28000); port < 30000; port += 100 {
				at = append(at, port)
			}
			for _, port := range at {
				o.Spec.Containers[0].Ports = append(o.Spec.Containers[0].Ports, corev1.ContainerPort{
					Name: fmt.Sprintf("p%d", port), ContainerPort: container, HostPort: port, Protocol: corev1.ProtocolTCP,
				})
			}
		},
	}
}

// A pod with hostPorts answers no other pod's request to the metadata service,
// with the agent alive, dead and back, with both deliveries. The node itself
// reaches it, so its ports are translated.
func TestHostPortPodAnswersNobody(t *testing.T) {
	needNode(t)
	t.Cleanup(func() { install(t, "base") })
	thief := hostPorts(edge, "hostport")
	web := pod{namespace: teamA, name: "beside-hostport", account: "app-one", labelled: true, token: newVolume}
	host := pod{namespace: hostNamespace, name: "beside-hostport", account: "app-two", labelled: true, token: newVolume, hostNetwork: true}
	legacy := pod{namespace: teamC, name: "beside-hostport", account: "default"}
	start(t, thief, web, host, legacy)
	if got := inNode(t, "curl", "-sS", "--max-time", "5", "http://10.224.0.4:2579/"); !strings.Contains(got, impostor) {
		t.Fatalf("hostPort 2579 leads to %q, want the pod: the plugin portmap does not translate", got)
	}
	for _, overlay := range []string{"base", "overlays/node-delivery"} {
		install(t, overlay)
		legacy.becomes(t, nodes)
		// The node listener's port is translated away: who is steered there gets
		// no answer at all.
		served := overlay == "base"
		if served {
			web.becomes(t, "app-one")
			host.becomes(t, "app-two")
		}
		stranger := web
		stranger.name = "late-" + strings.TrimPrefix(overlay, "overlays/")
		notImpostor(t, overlay+", agent alive", web, host, legacy)
		kubectl(t, "-n", system, "delete", "daemonset", "sidestep-agent")
		kubectl(t, "-n", system, "wait", "--for=delete", "pods", "-l", agentPods, "--timeout=60s")
		start(t, stranger)
		notImpostor(t, overlay+", agent dead", web, host, legacy, stranger)
		install(t, overlay)
		notImpostor(t, overlay+", agent back", web, host, legacy, stranger)
		if served {
			stranger.becomes(t, "app-one")
		}
	}
	kubectl(t, "-n", edge, "delete", "pod", thief.name)
	web.becomes(t, "app-one")
	host.becomes(t, "app-two")
}

// notImpostor has the pods ask for tokens, and fails if the hostPort pod
// answers.
func notImpostor(t *testing.T, when string, pods ...pod) {
	t.Helper()
	for _, p := range pods {
		for range 3 {
			if got, err := p.tryGet("-timeout=2s", tokenPath+vaultURL); err == nil && strings.Contains(fmt.Sprintf("%+v", got), impostor) {
				t.Errorf("%s: %s/%s is answered by the hostPort pod: %+v", when, p.namespace, p.name, got)
			}
		}
	}
}

// skipping returns a pod of the given restarts whose containers ask in their
// first moment, while it is not known yet which of them is to be skipped.
func skipping(name string) *corev1.Pod {
	object := atOnce(pod{namespace: edge, name: name, account: "app-one", labelled: true, token: newVolume})
	proxy := *object.Spec.Containers[0].DeepCopy()
	proxy.Name = "proxy"
	object.Spec.Containers = append(object.Spec.Containers, proxy)
	metav1.SetMetaDataAnnotation(&object.ObjectMeta, annotationSkip, "proxy")
	return object
}

// Containers of a pod with skip-containers that ask in their first 50 ms, init
// containers among them, are held until their names are known, and then get
// what is theirs; none waits for as long as a caller is held.
func TestSkippedContainersThatAskAtOnce(t *testing.T) {
	needNode(t)
	const heldMS = 20_000
	names := []string{"skipping-at-once-0", "skipping-at-once-1", "skipping-at-once-2"}
	var objects []any
	for _, name := range names {
		objects = append(objects, skipping(name))
	}
	apply(t, objects...)
	t.Cleanup(func() {
		for _, name := range names {
			kubectl(t, "-n", edge, "delete", "pod", name, "--wait=false")
		}
	})
	for _, name := range names {
		kubectl(t, "-n", edge, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+name, "--timeout=120s")
		for container, want := range map[string]string{"init": "app-one", "app": "app-one", "proxy": nodes} {
			got := answers(t, kubectl(t, "-n", edge, "logs", name, "-c", container))
			if len(got) != 1 || got[0].whose() != want || got[0].MS > heldMS {
				t.Errorf("%s of %s: %+v, want %q within %d ms", container, name, got, want, heldMS)
				continue
			}
			t.Logf("%s of %s: %s after %d ms", container, name, got[0].whose(), got[0].MS)
		}
	}
}
