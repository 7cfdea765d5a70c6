package kernel

import (
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// A pod with hostUsers: false has a user namespace that owns its network
// namespace. It is distinguished as any other, and root in it, who may make
// network namespaces without being root on the node, gains nothing by that.
func TestPodsInUserNamespaces(t *testing.T) {
	n := newNode(t, options{})
	steered := n.pod(t, steer, lab.PodOptions{UserNamespace: true})
	passing := n.pod(t, pass, lab.PodOptions{UserNamespace: true})
	denied := n.pod(t, deny, lab.PodOptions{UserNamespace: true})
	if out, err := steered.Output(t.Context(), nil, "cat", "/proc/self/uid_map"); err != nil || !strings.Contains(string(out), "100000") {
		t.Fatalf("the pod's users: %q, %v", out, err)
	}
	for way, d := range ways {
		t.Run(way, func(t *testing.T) {
			if got := dialFrom(t, steered, d); got.Errno != 0 || got.Answer.UID != steered.UID {
				t.Errorf("steered: errno %v, answer %+v, want pod %s", got.Errno, got.Answer, steered.UID)
			}
			if got := dialFrom(t, passing, d); got.Answer.UID != "imds" {
				t.Errorf("passing: errno %v, answer %+v", got.Errno, got.Answer)
			}
			if got := dialFrom(t, denied, d); got.Errno == 0 {
				t.Errorf("denied: %+v", got)
			}
		})
	}
	if got := dialFrom(t, steered, dialing{To: imds, NewNetns: true}); got.Errno == 0 {
		t.Errorf("from a nested network namespace: %+v", got)
	}
}
