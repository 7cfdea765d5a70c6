package delivery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// errNoDestroy means that this kernel destroys no sockets on request.
var errNoDestroy = errors.New("the kernel destroys no sockets: it is built without CONFIG_INET_DIAG_DESTROY, or has no tcp_diag")

// What sock_diag(7) takes and returns (linux/sock_diag.h, linux/inet_diag.h).
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	diagRequestSize  = 56
	diagMessageSize  = 72
	diagCgroupID     = 21 // INET_DIAG_CGROUP_ID, since Linux 5.9
)

// A socket's identity: its ends, its link and its cookie. It stands in requests
// and in answers.
const (
	diagIDSize      = 48
	diagIDInRequest = 8
	diagIDInMessage = 4
	diagPortInID    = 2 // of the other end
	diagAddressInID = 20
)

// openStates are those of connections that may wait for something: all but
// those that listen, have ended, or have no socket of an application any more.
const openStates = 0xfff &^ (1<<unix.BPF_TCP_LISTEN | 1<<unix.BPF_TCP_TIME_WAIT | 1<<unix.BPF_TCP_CLOSE)

// destroySockets destroys the TCP sockets in a network namespace, the caller's
// if it is nil, that lead to the metadata service or the wire server, where
// closed says so of the cgroup of who made the socket, 0 if the kernel does not
// tell. It returns how many.
// The error is errNoDestroy if the kernel cannot. It needs CAP_NET_ADMIN, and
// for another namespace than the caller's CAP_SYS_ADMIN.
func destroySockets(ns *namespace, closed func(cgroupID uint64) closedTo) (n int, err error) {
	config := &netlink.Config{}
	if ns != nil {
		config.NetNS = int(ns.file.Fd())
	}
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, config)
	if err != nil {
		return 0, fmt.Errorf("ask for sockets: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} { // IPv4-mapped sockets are the latter's
		all, err := c.Execute(diagRequest(sockDiagByFamily, netlink.Dump, family, nil))
		if errors.Is(err, unix.ENOENT) {
			return n, errNoDestroy
		}
		if err != nil {
			return n, fmt.Errorf("list sockets: %w", err)
		}
		for _, m := range all {
			leads, cgroupID, ok := parseSocket(m.Data)
			if !ok || leads == 0 || closed(cgroupID)&leads == 0 {
				continue
			}
			id := m.Data[diagIDInMessage : diagIDInMessage+diagIDSize]
			_, err := c.Execute(diagRequest(sockDestroy, netlink.Acknowledge, family, id))
			switch {
			case err == nil:
				n++
			case errors.Is(err, unix.EOPNOTSUPP):
				return n, errNoDestroy
			case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESTALE): // else it has ended
				return n, fmt.Errorf("destroy a socket: %w", err)
			}
		}
	}
	return n, nil
}

// diagRequest returns a request for all open TCP sockets of a family, or for the
// one with the identity.
func diagRequest(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, id []byte) netlink.Message {
	data := make([]byte, diagRequestSize)
	data[0], data[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(data[4:], openStates)
	copy(data[diagIDInRequest:], id)
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | flags}, Data: data}
}

// parseSocket returns where a socket leads, a bit if it is one of ours, and the
// cgroup of who made it; false for what is too short.
func parseSocket(data []byte) (leads closedTo, cgroupID uint64, ok bool) {
	if len(data) < diagMessageSize {
		return 0, 0, false
	}
	id := data[diagIDInMessage:]
	leads = leadsTo(data[0], id[diagAddressInID:][:16], binary.BigEndian.Uint16(id[diagPortInID:]))
	attributes, err := netlink.NewAttributeDecoder(data[diagMessageSize:])
	if err != nil {
		return 0, 0, false
	}
	for attributes.Next() {
		if attributes.Type() == diagCgroupID {
			cgroupID = attributes.Uint64()
		}
	}
	return leads, cgroupID, attributes.Err() == nil
}

func leadsTo(family byte, address []byte, port uint16) closedTo {
	var at netip.Addr
	if family == unix.AF_INET {
		at, _ = netip.AddrFromSlice(address[:4])
	} else {
		at, _ = netip.AddrFromSlice(address)
	}
	switch at.Unmap() {
	case workload.IMDS:
		return closedToIMDS
	case workload.WireServer:
		if slices.Contains(workload.WireServerPorts(), port) {
			return closedToWireServer
		}
	}
	return 0
}
