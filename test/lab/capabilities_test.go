package lab

import (
	"os/exec"
	"strings"
	"testing"
)

// A process has the set that its pod says, in a user namespace too.
func TestCapabilitiesAreExact(t *testing.T) {
	n, err := NewNode(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, userNamespace := range []bool{false, true} {
		for want, set := range map[string][]string{
			"0000000000002000": {"NET_RAW"},
			"0000000000003000": {"NET_RAW", "NET_ADMIN"},
			"0000000000000000": {},
			"00000000a80425fb": DefaultCapabilities(),
		} {
			p, err := n.StartPod(PodOptions{Capabilities: set, UserNamespace: userNamespace})
			if err != nil {
				t.Fatal(err)
			}
			out, err := p.Output(t.Context(), nil, cat(t), "/proc/self/status")
			if err != nil {
				t.Fatal(err)
			}
			for _, field := range []string{"CapPrm", "CapEff", "CapBnd"} {
				if !strings.Contains(string(out), field+":\t"+want+"\n") {
					t.Errorf("%v, user namespace %t: %s is not %s:\n%s", set, userNamespace, field, want, out)
				}
			}
		}
	}
}

func cat(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	return path
}
