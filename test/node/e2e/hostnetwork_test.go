package e2e

import (
	"fmt"
	"testing"
)

// Two pods on the node's network, with different service accounts: every
// listener is at an address that all of them can reach, and each serves its
// own pod alone.
func TestHostNetworkPodsBesideEachOther(t *testing.T) {
	needNode(t)
	t.Parallel()
	one := pod{namespace: edge, name: "host-one", account: "app-one", labelled: true, token: newVolume, hostNetwork: true}
	two := pod{namespace: edge, name: "host-two", account: "app-two", labelled: true, token: newVolume, hostNetwork: true}
	plain := pod{namespace: edge, name: "host-plain", account: "default", hostNetwork: true}
	start(t, one, two, plain)
	for _, p := range []pod{one, two} {
		for _, flag := range []string{"-bare=false", "-mapped"} {
			if got := p.who(t, flag); got != p.account {
				t.Errorf("%s %s gets %q, want %q", p.name, flag, got, p.account)
			}
		}
	}
	ports := map[string]uint16{one.name: one.listener(t), two.name: two.listener(t)}
	if ports[one.name] == ports[two.name] {
		t.Fatalf("both have the listener %d", ports[one.name])
	}
	for _, from := range []pod{one, two, plain} {
		for to, port := range ports {
			for _, flag := range []string{"-bare=false", "-mapped"} {
				got := from.get(t, flag, fmt.Sprintf("http://127.0.0.1:%d/metadata/identity/oauth2/token?resource=%s", port, vaultURL))
				if got.whose() != refused {
					t.Errorf("%s %s at the listener of %s gets %q, want %q", from.name, flag, to, got.whose(), refused)
				}
			}
		}
	}
}
