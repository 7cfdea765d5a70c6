package routeguard

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// tableName is the table's name among those of the ip family.
	tableName = "sidestep"
	// scratchName is the table that Try makes and removes in one transaction.
	scratchName = "sidestep_check"
)

var (
	imds       = service{name: "imds", address: workload.IMDS.As4()}
	wireServer = service{name: "wireserver", address: workload.WireServer.As4(), ports: workload.WireServerPorts()}
)

// service is what the table guards.
type service struct {
	name    string
	address [4]byte
	ports   []uint16 // of TCP; none: whatever goes to the address
}

// allows reports whether the link's pod may send to the service.
func (s service) allows(l workload.PodLink) bool {
	if s.name == wireServer.name {
		return l.WireServer
	}
	return l.IMDS
}

// Policy is what the configuration says about the line. The zero value is the
// closed one.
type Policy struct {
	// Open lets everything through.
	Open bool
	// UnknownPass stops only what comes over the links of pods that are known
	// not to pass.
	UnknownPass bool
	// DenyWireServer guards the wire server too.
	DenyWireServer bool
}

func (p Policy) services() []service {
	switch {
	case p.Open:
		return nil
	case p.DenyWireServer:
		return []service{imds, wireServer}
	}
	return []service{imds}
}

// table is the nftables table as it should be.
type table struct {
	nftables.Table
	policy Policy
	links  []workload.PodLink
}

func newTable(name string, policy Policy, links []workload.PodLink) *table {
	return &table{
		Table:  nftables.Table{Name: name, Family: nftables.TableFamilyIPv4},
		policy: policy, links: links,
	}
}

// base is the one chain that the kernel calls. It runs after conntrack has
// translated the destination, whichever priority a nat chain names; packets
// that were taken out of a tunnel come by as well, those of the node's own
// sockets only when they come back over the loopback link.
func (t *table) base() *nftables.Chain {
	return &nftables.Chain{
		Name: "prerouting", Table: &t.Table, Type: nftables.ChainTypeFilter,
		Hooknum:  nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + 10),
	}
}

// of returns the chain of a service, which only its packets enter.
func (t *table) of(s service) *nftables.Chain {
	return &nftables.Chain{Name: s.name, Table: &t.Table}
}

// chains returns all chains, whether the policy needs them or not.
func (t *table) chains() []*nftables.Chain {
	return []*nftables.Chain{t.base(), t.of(imds), t.of(wireServer)}
}

// counter counts what the table has dropped.
func (t *table) counter() *nftables.CounterObj {
	return &nftables.CounterObj{Table: &t.Table, Name: "drops"}
}

// linkSet has links by the index of the interface that a packet came in by,
// stampSet by the stamp that the packet bears: on a bridge the interface is
// the bridge.
func (t *table) linkSet(s service) *nftables.Set {
	return &nftables.Set{Table: &t.Table, Name: s.name + "_links", KeyType: nftables.TypeIFIndex, KeyByteOrder: binaryutil.NativeEndian}
}

func (t *table) stampSet(s service) *nftables.Set {
	return &nftables.Set{Table: &t.Table, Name: s.name + "_stamps", KeyType: nftables.TypeMark, KeyByteOrder: binaryutil.NativeEndian}
}

// stamp is what the program at a pod's link leaves in each packet's priority
// (STAMP in bpf/guard.h).
func stamp(ifindex int) uint32 { return 0x50000000 | uint32(ifindex)<<4&0x0ffffff0 }

// named returns the links that the service's rules name: those that may send to
// it, or with UnknownPass those that may not.
func (t *table) named(s service) []workload.PodLink {
	var all []workload.PodLink
	for _, l := range t.links {
		if s.allows(l) != t.policy.UnknownPass {
			all = append(all, l)
		}
	}
	return all
}

// elements returns what the two sets of a service have in them.
func (t *table) elements(s service) (links, stamps []nftables.SetElement) {
	for _, l := range t.named(s) {
		links = append(links, nftables.SetElement{Key: binary.NativeEndian.AppendUint32(nil, uint32(l.Ifindex))})
		stamps = append(stamps, nftables.SetElement{Key: binary.NativeEndian.AppendUint32(nil, stamp(l.Ifindex))})
	}
	return links, stamps
}

// add adds to the batch what makes the table of the kernel this one, whatever
// it had in it. A packet meets either the former table or this one.
func (t *table) add(batch *nftables.Conn) error {
	batch.AddTable(&t.Table)
	batch.AddObj(t.counter())
	for _, c := range t.chains() {
		batch.AddChain(c)
		batch.FlushChain(c)
	}
	for _, s := range []service{imds, wireServer} {
		links, stamps := t.elements(s)
		if err := fill(batch, t.linkSet(s), links); err != nil {
			return err
		}
		if err := fill(batch, t.stampSet(s), stamps); err != nil {
			return err
		}
	}
	for _, s := range t.policy.services() {
		for _, r := range t.entries(s) {
			batch.AddRule(&nftables.Rule{Table: &t.Table, Chain: t.base(), Exprs: r})
		}
		for _, r := range t.verdicts(s) {
			batch.AddRule(&nftables.Rule{Table: &t.Table, Chain: t.of(s), Exprs: r})
		}
	}
	return nil
}

// mostElements go into one message, whose length is a 16-bit number.
const mostElements = 1000

func fill(batch *nftables.Conn, set *nftables.Set, elements []nftables.SetElement) error {
	if err := batch.AddSet(set, nil); err != nil {
		return fmt.Errorf("set %s: %w", set.Name, err)
	}
	batch.FlushSet(set)
	for len(elements) > 0 {
		n := min(len(elements), mostElements)
		if err := batch.SetAddElements(set, elements[:n]); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
		elements = elements[n:]
	}
	return nil
}

const register = 1

// entries are the rules by which a service's packets come to its chain. They
// begin with the destination: all others leave after one comparison.
func (t *table) entries(s service) [][]expr.Any {
	to := []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}, // destination
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: s.address[:]},
	}
	enter := &expr.Verdict{Kind: expr.VerdictGoto, Chain: t.of(s).Name}
	if s.ports == nil {
		return [][]expr.Any{append(to, enter)}
	}
	var rules [][]expr.Any
	for _, port := range s.ports {
		rules = append(rules, append(to[:len(to):len(to)],
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // port
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
			enter))
	}
	return rules
}

// verdicts are the rules of a service's chain.
func (t *table) verdicts(s service) [][]expr.Any {
	if t.policy.UnknownPass {
		return [][]expr.Any{
			append(in(expr.MetaKeyIIF, t.linkSet(s)), t.drop()...),
			append(in(expr.MetaKeyPRIORITY, t.stampSet(s)), t.drop()...),
		}
	}
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	loopback := binary.NativeEndian.AppendUint32(nil, 1) // its index in every network namespace
	return [][]expr.Any{
		{
			&expr.Meta{Key: expr.MetaKeyIIF, Register: register},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: loopback},
			accept,
		},
		append(in(expr.MetaKeyIIF, t.linkSet(s)), accept),
		append(in(expr.MetaKeyPRIORITY, t.stampSet(s)), accept),
		t.drop(),
	}
}

// in matches packets whose property is in the set.
func in(key expr.MetaKey, set *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID},
	}
}

func (t *table) drop() []expr.Any {
	return []expr.Any{
		&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: t.counter().Name},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}
