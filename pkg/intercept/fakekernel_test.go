package intercept

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// A kernel with maps, sockets and cgroups as far as the programs at connect(),
// at sockops and at a socket's release see them. What it does around the
// programs is what net/ipv4 does: the hooks it calls, their order, and who can
// have which 4-tuple.

const (
	kubepodsID, burstableID = 10, 11
	nodeNetns               = 1
	minute                  = 60 * uint64(1e9)

	imdsPort = 80
)

var (
	imdsAddress  = netip.MustParseAddr("169.254.169.254")
	loopback     = netip.MustParseAddr("127.0.0.1")
	nodeListener = netip.MustParseAddrPort("169.254.169.252:2579")
)

// fakeMap is one of the programs' maps, but for socket storage.
type fakeMap struct {
	name       string
	kind       ebpf.MapType
	keySize    int
	valueSize  int
	maxEntries int
	entries    map[string][]byte
}

// fakeSocket is a TCP socket of a pod, or a listener.
type fakeSocket struct {
	cookie  uint64
	netns   uint64
	port    uint16 // local
	local   netip.Addr
	remote  netip.AddrPort
	open    bool // it is connected or connecting
	flags   uint64
	device  uint32
	storage map[string][]byte

	// What no program knows: who connected it, and whether the listener has it.
	owner    uint64 // the cgroup that must be found at its flow
	pod      int
	accepted bool // taken off the listener's queue
	queued   bool
}

type fakeKernel struct {
	programs map[string]*program
	specs    *ebpf.CollectionSpec
	defects  defects

	tables    map[string]*fakeMap
	listeners []*fakeSocket
	sockets   []*fakeSocket // by slot; nil: there is none
	now       uint64
	cookies   uint64
	task      []uint64 // the cgroups of the task that calls, by level
	current   *fakeSocket
	machine   *machine // used again for each run
}

// defects are planted, to see that the search finds them.
type defects struct {
	overwrites    bool // a map entry that is there is written over
	noRecount     bool // what the agent writes to the counts is lost
	keepsVerdicts bool // the removal of a verdict is lost
}

// changing are the maps that programs, or steps, change.
var changing = []string{verdictMap, usageMap, flowMap}

const (
	verdictMap, usageMap, flowMap = "sidestep_verdicts", "sidestep_usage", "sidestep_flows"
	settingsMap                   = "sidestep_settings"
	claimMap, tagMap              = "sidestep_claims", "sidestep_tags"
)

func (k *fakeKernel) clone() *fakeKernel {
	c := *k
	c.tables = maps.Clone(k.tables)
	for _, name := range changing {
		t := k.tables[name]
		copied := *t
		copied.entries = make(map[string][]byte, len(t.entries))
		for key, value := range t.entries {
			copied.entries[key] = slices.Clone(value)
		}
		c.tables[name] = &copied
	}
	c.sockets = make([]*fakeSocket, len(k.sockets))
	for i, s := range k.sockets {
		if s != nil {
			c.sockets[i] = s.clone()
		}
	}
	return &c
}

func (s *fakeSocket) clone() *fakeSocket {
	c := *s
	c.storage = make(map[string][]byte, len(s.storage))
	for name, value := range s.storage {
		c.storage[name] = slices.Clone(value)
	}
	return &c
}

// bytes is the socket as struct bpf_sock.
func (s *fakeSocket) bytes() []byte {
	b := make([]byte, 80)
	binary.NativeEndian.PutUint32(b, s.device)
	return b
}

// runHook runs a program for the socket. context has room for a pointer to it
// at the offset; below zero the socket itself is the context.
func (k *fakeKernel) runHook(name string, s *fakeSocket, context []byte, offset int) uint64 {
	k.current = s
	m := k.machine
	m.kernel, m.program, m.regions, m.r = k, k.programs[name], m.regions[:0], [11]uint64{}
	sk := m.point(region{bytes: s.bytes(), socket: s})
	if offset < 0 {
		return m.run(sk)
	}
	binary.NativeEndian.PutUint64(context[offset:], sk)
	return m.run(m.point(region{bytes: context}))
}

// Of struct bpf_sock_addr and struct bpf_sock_ops.
const (
	addrSocket, opsSocket = 64, 184

	opConnect, opActive, opPassive, opState = 3, 4, 5, 10

	stateFlag, stateClose = 1 << 2, 7
)

// connectHook asks the program at connect() and returns where it leads to.
func (k *fakeKernel) connectHook(s *fakeSocket, to netip.AddrPort) (netip.AddrPort, bool) {
	context := make([]byte, 72)
	put := binary.NativeEndian.PutUint32
	put(context, syscall.AF_INET)
	put(context[4:], addressWord(to.Addr()))
	put(context[24:], uint32(swap(uint64(to.Port()), 16, true)))
	put(context[28:], syscall.AF_INET)
	put(context[32:], syscall.SOCK_STREAM)
	put(context[36:], syscall.IPPROTO_TCP)
	if k.runHook("sidestep_connect4", s, context, addrSocket) == 0 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(context[4:8])), binary.BigEndian.Uint16(context[24:])), true
}

// sockops calls back about the socket.
func (k *fakeKernel) sockops(s *fakeSocket, op, state uint32) {
	context := make([]byte, 192)
	put := binary.NativeEndian.PutUint32
	put(context, op)
	put(context[8:], state)
	put(context[20:], syscall.AF_INET)
	put(context[24:], addressWord(s.remote.Addr()))
	put(context[28:], addressWord(s.local))
	put(context[64:], uint32(swap(uint64(s.remote.Port()), 32, true)))
	put(context[68:], uint32(s.port))
	put(context[84:], uint32(s.flags))
	k.runHook("sidestep_sockops", s, context, opsSocket)
}

// listener returns who listens at the address in the namespace.
func (k *fakeKernel) listener(netns uint64, at netip.AddrPort) *fakeSocket {
	for _, l := range k.listeners {
		if l.local == at.Addr() && l.port == at.Port() && l.netns == netns {
			return l
		}
	}
	return nil
}

// reach returns the listener that a connection of the socket comes to.
func (k *fakeKernel) reach(s *fakeSocket) *fakeSocket {
	if s.remote == nodeListener {
		return k.listener(nodeNetns, s.remote)
	}
	return k.listener(s.netns, s.remote)
}

// flow is the connection as its listener sees it.
type fakeTuple struct {
	netns          uint64
	client, server netip.AddrPort
}

func (k *fakeKernel) tuple(s *fakeSocket) fakeTuple {
	t := fakeTuple{netns: s.netns, client: netip.AddrPortFrom(s.local, s.port), server: s.remote}
	if s.remote == nodeListener {
		t.netns = 0
	}
	return t
}

// taken reports whether another socket that is open has the 4-tuple in the same
// namespace, so that the kernel gives it to nobody else.
func (k *fakeKernel) taken(s *fakeSocket) bool {
	return slices.ContainsFunc(k.sockets, func(o *fakeSocket) bool {
		return o != nil && o != s && o.open && o.netns == s.netns && k.tuple(o) == k.tuple(s)
	})
}

// establish brings the SYNs of sockets that connect to their listeners, as far as
// no other connection has the 4-tuple there.
func (k *fakeKernel) establish() {
	for _, s := range k.sockets {
		if s == nil || !s.open || s.queued || s.accepted || s.remote.Addr() == imdsAddress {
			continue
		}
		l := k.reach(s)
		busy := slices.ContainsFunc(k.sockets, func(o *fakeSocket) bool {
			return o != nil && o != s && o.open && (o.queued || o.accepted) && k.tuple(o) == k.tuple(s)
		})
		if l == nil || busy {
			continue
		}
		s.queued = true
		k.sockops(s, opActive, 0)
		child := &fakeSocket{netns: l.netns, local: l.local, port: l.port, storage: l.storage,
			remote: netip.AddrPortFrom(s.local, s.port)}
		k.sockops(child, opPassive, 0)
	}
}

// end ends the socket's connection; the callback comes if its flag is set.
func (k *fakeKernel) end(s *fakeSocket) {
	if !s.open {
		return
	}
	if s.flags&stateFlag != 0 {
		k.sockops(s, opState, stateClose)
	}
	s.open, s.queued, s.accepted = false, false, false
}

// call is a helper's.
func (k *fakeKernel) call(m *machine, helper asm.BuiltinFunc) uint64 {
	switch helper {
	case asm.FnMapLookupElem:
		return k.lookup(m)
	case asm.FnMapUpdateElem:
		t := m.at(m.r[1]).table
		return errno(t.update(string(m.bytes(m.r[2], t.keySize)), m.bytes(m.r[3], t.valueSize), m.r[4], k.defects.overwrites))
	case asm.FnMapDeleteElem:
		t := m.at(m.r[1]).table
		return errno(t.remove(string(m.bytes(m.r[2], t.keySize))))
	case asm.FnSkStorageGet:
		return k.storage(m)
	case asm.FnGetSocketCookie:
		return k.current.cookie
	case asm.FnGetNetnsCookie:
		return k.current.netns
	case asm.FnGetCurrentAncestorCgroupId:
		if level := int(m.r[1]); level < len(k.task) {
			return k.task[level]
		}
		return 0
	case asm.FnSkLookupTcp:
		tuple := m.bytes(m.r[2], 12)
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte(tuple[4:8])), binary.BigEndian.Uint16(tuple[10:]))
		if l := k.listener(k.current.netns, at); l != nil {
			return m.point(region{bytes: l.bytes(), socket: l})
		}
		return 0
	case asm.FnKtimeGetNs:
		return k.now
	case asm.FnSockOpsCbFlagsSet:
		k.current.flags = m.r[2]
		return 0
	case asm.FnSkRelease, asm.FnSetsockopt, asm.FnSpinLock, asm.FnSpinUnlock, asm.FnRingbufOutput:
		return 0
	}
	panic(fmt.Sprintf("%s calls %v", m.program.name, helper))
}

func errno(err syscall.Errno) uint64 { return uint64(-int64(err)) }

func (k *fakeKernel) lookup(m *machine) uint64 {
	t := m.at(m.r[1]).table
	value, ok := t.entries[string(m.bytes(m.r[2], t.keySize))]
	if !ok && t.kind != ebpf.Array && t.kind != ebpf.PerCPUArray {
		return 0
	}
	if !ok {
		value = make([]byte, t.valueSize)
	}
	return m.point(region{bytes: value})
}

func (k *fakeKernel) storage(m *machine) uint64 {
	name, s := m.at(m.r[1]).table.name, m.at(m.r[2]).socket
	value, ok := s.storage[name]
	if !ok && m.r[4] == 0 {
		return 0
	}
	if !ok {
		value = make([]byte, k.specs.Maps[name].ValueSize)
		s.storage[name] = value
	}
	return m.point(region{bytes: value})
}

// Flags of an update, as bpf(2) has them.
const updateNoExist, updateExist = 1, 2

func (t *fakeMap) update(key string, value []byte, flags uint64, overwrites bool) syscall.Errno {
	_, there := t.entries[key]
	switch {
	case there && flags == updateNoExist && !overwrites:
		return syscall.EEXIST
	case !there && flags == updateExist:
		return syscall.ENOENT
	case !there && len(t.entries) >= t.maxEntries:
		return syscall.E2BIG
	}
	t.entries[key] = slices.Clone(value)
	return 0
}

func (t *fakeMap) remove(key string) syscall.Errno {
	if _, there := t.entries[key]; !there {
		return syscall.ENOENT
	}
	delete(t.entries, key)
	return 0
}

func (t *fakeMap) sortedKeys() []string { return slices.Sorted(maps.Keys(t.entries)) }
