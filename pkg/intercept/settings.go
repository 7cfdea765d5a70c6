package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Settings are what the programs need to know beside the verdicts.
type Settings struct {
	// KubepodsID is the id of the cgroup that the programs are attached at.
	KubepodsID uint64
	// QoSIDs are the ids of the cgroups of QoS classes below it, 0 where there
	// is none: each other cgroup there is a pod's.
	QoSIDs [2]uint64
	// NodeNetns is the SO_NETNS_COOKIE of the node's network namespace.
	NodeNetns uint64
	// NodeListener is the IPv4 address and port of the node listener.
	NodeListener netip.AddrPort
	// NoNodeListener refuses those who would be steered to the node listener:
	// somebody else may be listening there.
	NoNodeListener bool
	// FirstPort and LastPort bound the ports of pods' listeners.
	FirstPort, LastPort uint16
	// Audit counts verdicts and lets every connect pass.
	Audit bool
	// UnknownPass and UnknownHostNetworkPass let pods without a verdict pass,
	// those with a network namespace of their own and those in the node's.
	UnknownPass, UnknownHostNetworkPass bool
	// DenyWireServer refuses Azure's wire server to pods without a verdict.
	DenyWireServer bool
	// Quota is how many open steered connections one pod may have.
	Quota uint32
}

// Configure applies the settings from the next connect on.
func (d *decisions) Configure(s Settings) error {
	if s.KubepodsID == 0 || s.NodeNetns == 0 || s.Quota == 0 || !s.NodeListener.Addr().Is4() {
		return errors.New("settings are incomplete")
	}
	err := d.objects.SidestepSettings.Update(uint32(0), kernelSettings{
		KubepodsId: s.KubepodsID,
		QosIds:     s.QoSIDs,
		NodeNetns:  s.NodeNetns,
		NodeAddr:   addressWord(s.NodeListener.Addr()),
		NodePort:   uint32(s.NodeListener.Port()),
		PortFirst:  uint32(s.FirstPort),
		PortLast:   uint32(s.LastPort),
		Flags:      s.flags(),
		Quota:      s.Quota,
	}, ebpf.UpdateAny)
	if err != nil {
		return fmt.Errorf("write the settings: %w", err)
	}
	return nil
}

// Configured returns the id of the cgroup that the active settings are for,
// an earlier agent's too; 0 if there are none.
func (d *decisions) Configured() (kubepodsID uint64, err error) {
	var s kernelSettings
	if err := d.objects.SidestepSettings.Lookup(uint32(0), &s); err != nil {
		return 0, fmt.Errorf("read the settings: %w", err)
	}
	return s.KubepodsId, nil
}

func (s Settings) flags() kernelSettingFlags {
	var f kernelSettingFlags
	if s.Audit {
		f |= kernelSettingFlagsSETTING_AUDIT
	}
	if s.UnknownPass {
		f |= kernelSettingFlagsSETTING_UNKNOWN_PASS
	}
	if s.UnknownHostNetworkPass {
		f |= kernelSettingFlagsSETTING_UNKNOWN_HOSTNETWORK_PASS
	}
	if s.DenyWireServer {
		f |= kernelSettingFlagsSETTING_WIRESERVER_DENY
	}
	if s.NoNodeListener {
		f |= kernelSettingFlagsSETTING_NO_NODE_LISTENER
	}
	return f
}

// addressWord returns an IPv4 address as the programs keep it: four bytes in
// network order, whatever the machine's own order is.
func addressWord(a netip.Addr) uint32 {
	return addressWord4(a.As4())
}

func addressWord4(b [4]byte) uint32 {
	return binary.NativeEndian.Uint32(b[:])
}
