package e2e

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	standin "github.com/sidestep-agent/sidestep/test/standins/imds"
)

// ofClass lets pods be made by a runtime of config/containerd.toml.
func ofClass(t *testing.T, name string) func(*corev1.Pod) {
	t.Helper()
	apply(t, &nodev1.RuntimeClass{
		TypeMeta:   metav1.TypeMeta{APIVersion: "node.k8s.io/v1", Kind: "RuntimeClass"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: name,
	})
	return func(o *corev1.Pod) { o.Spec.RuntimeClassName = ptr.To(name) }
}

// processes returns the IDs of the pod's processes that run the program, as
// the node sees them, the oldest first.
func (p pod) processes(t *testing.T, program string) []string {
	t.Helper()
	return strings.Fields(inNode(t, "bash", "-c", `
		find /sys/fs/cgroup/kubepods -path "*pod$0/*" -name cgroup.procs -exec cat {} + | sort -n | while read -r pid; do
			[ "$(readlink /proc/$pid/exe)" != "$1" ] || echo $pid
		done`, p.uid(t), program))
}

func netnsOf(t *testing.T, pid string) string {
	t.Helper()
	return inNode(t, "readlink", "/proc/"+pid+"/ns/net")
}

// A sandbox that dies is recreated: the same pod in another namespace.
func TestRestartedSandbox(t *testing.T) {
	needNode(t)
	t.Parallel()
	p := pod{namespace: edge, name: "restarted", account: "app-two", labelled: true, token: newVolume}
	start(t, p)
	p.becomes(t, "app-two")
	uid, pause := p.uid(t), p.processes(t, "/pause")
	if len(pause) != 1 {
		t.Fatalf("sandboxes: %q", pause)
	}
	inNode(t, "kill", "-KILL", pause[0])
	tries := 0
	eventually(t, 60*time.Second, func() error {
		a, err := p.tryGet(tokenPath + url.QueryEscape(vaultURL))
		if err != nil {
			return err // its container does not run
		}
		tries++
		if a.whose() == nodes {
			t.Fatal("while the sandbox was recreated the pod got the node's identity")
		}
		if now := p.processes(t, "/pause"); len(now) != 1 || now[0] == pause[0] { // the namespace's number may be used again
			return fmt.Errorf("the sandboxes are %q", now)
		}
		if a.whose() != "app-two" {
			return fmt.Errorf("gets %q", a.whose())
		}
		return nil
	})
	if p.uid(t) != uid {
		t.Error("the pod is another one")
	}
	t.Logf("answered %d times meanwhile", tries)
}

// A runtime that takes two seconds from a container's first process to its
// namespaces: that process is in the pod's cgroup and on the node's network.
func TestSlowRuntime(t *testing.T) {
	needNode(t)
	t.Parallel()
	slow := ofClass(t, "slow")
	steered := pod{namespace: edge, name: "slow", account: "app-one", labelled: true, token: newVolume}
	passing := pod{namespace: edge, name: "slow-plain", account: "default"}
	var objects []any
	for _, p := range []pod{steered, passing} {
		o := atOnce(p)
		slow(o)
		objects = append(objects, o)
	}
	apply(t, objects...)
	t.Cleanup(func() { kubectl(t, "-n", edge, "delete", "pod", steered.name, passing.name, "--wait=false") })
	for p, want := range map[*pod]string{&steered: "app-one", &passing: nodes} {
		kubectl(t, "-n", edge, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+p.name, "--timeout=80s")
		for _, container := range []string{"init", "app"} {
			got := answers(t, kubectl(t, "-n", edge, "logs", p.name, "-c", container))
			if len(got) != 1 || got[0].whose() != want {
				t.Errorf("%s of %s: %+v, want %q", container, p.name, got, want)
			}
		}
	}
}

// A container that makes a network namespace of its own, and has it connected
// to the node, does not come to the metadata service by that way either.
func TestNestedNetworkNamespace(t *testing.T) {
	needNode(t)
	t.Parallel()
	steered := pod{namespace: edge, name: "nested", account: "app-one", labelled: true, token: newVolume, args: []string{"apart", "wait"}, change: privileged}
	passing := steered
	passing.name, passing.labelled = "nested-plain", false
	start(t, steered, passing)
	for i, p := range []pod{steered, passing} {
		// pause is not probe; what runs probe is in the nested namespace.
		own := p.processes(t, "/probe")
		if len(own) != 1 || netnsOf(t, own[0]) == netnsOf(t, p.processes(t, "/pause")[0]) {
			t.Fatalf("%s has no nested namespace: processes %q", p.name, own)
		}
		inNode(t, "bash", "-euc", `
			ip link add "nested$1" type veth peer name eth0 netns "$0"
			ip address add "10.245.$1.1/30" dev "nested$1"
			ip link set "nested$1" up
			nsenter --target "$0" --net ip link set lo up
			nsenter --target "$0" --net ip address add "10.245.$1.2/30" dev eth0
			nsenter --target "$0" --net ip link set eth0 up
			nsenter --target "$0" --net ip route add default via "10.245.$1.1"`, own[0], fmt.Sprint(i))
	}
	asked := sinceNow[standin.Entry](t, "imds")
	nested := []string{"join", "/proc/1/ns/net"}
	// It is held at the node's listener until it is known, and it is. That the
	// listener is reached shows that the namespace is connected.
	if got := steered.elsewhere(t, nested...); got != "app-one" {
		t.Errorf("from its nested namespace the labelled pod gets %q, want app-one", got)
	}
	// Nothing says whose the other end of that link is: the second line drops it.
	if got := passing.elsewhere(t, nested...); !strings.Contains(got, "deadline exceeded") {
		t.Errorf("from its nested namespace the unlabelled pod gets %q, want no answer", got)
	}
	for _, e := range asked() {
		if strings.HasPrefix(e.Remote, "10.245.") {
			t.Errorf("the metadata service was asked from a nested namespace: %+v", e)
		}
	}
}

// Pods with an IPv6 address alone cannot reach the metadata service: steered
// ones are answered all the same, since their listener is on loopback.
func TestIPv6OnlyPods(t *testing.T) {
	needNode(t)
	t.Parallel()
	six := ofClass(t, "ipv6")
	steered := pod{namespace: edge, name: "ipv6", account: "app-two", labelled: true, token: newVolume, change: six}
	passing := pod{namespace: edge, name: "ipv6-plain", account: "default", change: six}
	start(t, steered, passing)
	if ips := kubectl(t, "-n", edge, "get", "pod", steered.name, "-o", "jsonpath={.status.podIPs[*].ip}"); !strings.Contains(ips, ":") || strings.Contains(ips, ".") {
		t.Fatalf("the pod's addresses are %q", ips)
	}
	for _, flag := range []string{"-bare=false", "-mapped"} {
		if got := steered.who(t, flag); got != "app-two" {
			t.Errorf("%s: gets %q, want app-two", flag, got)
		}
	}
	if got := passing.who(t); !strings.Contains(got, "network is unreachable") {
		t.Errorf("the unlabelled pod gets %q: it has a way to the metadata service", got)
	}
}
