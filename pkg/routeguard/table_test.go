package routeguard

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestNamedLinks(t *testing.T) {
	all, nothing, wireless := workload.PodLink{Ifindex: 2, IMDS: true, WireServer: true}, workload.PodLink{Ifindex: 3},
		workload.PodLink{Ifindex: 4, IMDS: true}
	for name, tc := range map[string]struct {
		policy           Policy
		imds, wireServer []workload.PodLink
	}{
		"those that may":                        {Policy{}, []workload.PodLink{all, wireless}, []workload.PodLink{all}},
		"unknown pods pass, those that may not": {Policy{UnknownPass: true}, []workload.PodLink{nothing}, []workload.PodLink{nothing, wireless}},
	} {
		table := newTable(tableName, tc.policy, []workload.PodLink{all, nothing, wireless})
		if diff := cmp.Diff(tc.imds, table.named(imds)); diff != "" {
			t.Errorf("%s, metadata service (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(tc.wireServer, table.named(wireServer)); diff != "" {
			t.Errorf("%s, wire server (-want +got):\n%s", name, diff)
		}
	}
}

func TestGuardedServices(t *testing.T) {
	for _, tc := range []struct {
		policy Policy
		want   int
	}{
		{Policy{}, 1}, {Policy{DenyWireServer: true}, 2}, {Policy{Open: true, DenyWireServer: true}, 0},
	} {
		if got := tc.policy.services(); len(got) != tc.want {
			t.Errorf("%+v guards %d services, want %d", tc.policy, len(got), tc.want)
		}
	}
}

// Queueing disciplines read the lowest four bits, and take a priority with
// their own handle for the name of a class.
func TestStampsLeaveQueuesAlone(t *testing.T) {
	for _, ifindex := range []int{1, 15, 16, 4097, 1<<24 - 1} {
		if s := stamp(ifindex); s&0xf != 0 || s>>28 != 5 {
			t.Errorf("the stamp of link %d is %#x", ifindex, s)
		}
	}
	if stamp(3) == stamp(4) {
		t.Error("two links have one stamp")
	}
}

func TestNoticesOfOurTable(t *testing.T) {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES << 8
	ours, other := []byte("....sidestep\x00...."), []byte("....kube-proxy\x00....")
	for _, tc := range []struct {
		kind uint16
		data []byte
		want bool
	}{
		{unix.NFT_MSG_DELTABLE, ours, true}, {unix.NFT_MSG_DELRULE, ours, true}, {unix.NFT_MSG_DELSETELEM, ours, true},
		{unix.NFT_MSG_NEWRULE, ours, true}, {unix.NFT_MSG_NEWSETELEM, ours, true}, {unix.NFT_MSG_NEWTABLE, ours, true},
		{unix.NFT_MSG_DELTABLE, other, false}, {unix.NFT_MSG_NEWRULE, other, false}, {unix.NFT_MSG_NEWGEN, ours, false},
	} {
		m := netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(subsystem | tc.kind)}, Data: tc.data}
		if got := changesOurs(m); got != tc.want {
			t.Errorf("message %d about %q: %t, want %t", tc.kind, tc.data, got, tc.want)
		}
	}
}
