package preflight

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// nmi is the program of aad-pod-identity that answers pods. Before 1.6.3 it
// listens on its port at every address, and the node listener's is the same one
// by default.
const nmi = "nmi"

// port tells whether somebody else has the node listener's port: while the
// agent runs their bind is refused, and where they are first the agent's is.
func port(o Options) Result {
	const name = "listener port"
	if !o.Listen.IsValid() {
		return ok(name, "not asked for")
	}
	proc := o.Proc
	if proc == "" {
		proc = "/proc" // this process's own network namespace is in it always
	}
	owners, err := listenersAt(proc, o.Listen)
	if err != nil {
		return fail(name, "mount /proc and set --proc to it", "the node's listeners cannot be read: %v", err)
	}
	if len(owners) > 0 {
		return fail(name, "NMI of aad-pod-identity before 1.6.3 does this: upgrade it to 1.6.3 or later; "+
			"else move whatever listens there, or give the agent another port with --listen",
			"%s is taken: %s", o.Listen, strings.Join(owners, ", "))
	}
	chosen, err := chosenByKernel(proc, o.Listen.Port())
	if err != nil {
		return fail(name, "mount /proc and set --proc to it", "the ports that the kernel chooses cannot be read: %v", err)
	}
	if chosen {
		return fail(name, "give the agent a port outside of that range with --listen, or add it to net.ipv4.ip_local_reserved_ports",
			"port %d is in net.ipv4.ip_local_port_range: while no agent runs, the kernel may choose it for another socket of the node's network, "+
				"and pods there can have it chosen", o.Listen.Port())
	}
	if pids := runningNMI(proc); len(pids) > 0 {
		return ok(name, "%s is free; NMI runs (process %s): one before 1.6.3 wants port %d of every address, is refused and restarts: "+
			"have 1.6.3 or later, or another --listen", o.Listen, strings.Join(pids, ", "), o.Listen.Port())
	}
	return ok(name, "nobody else listens at %s", o.Listen)
}

// listenersAt returns who listens on the port at every address, each as
// "0.0.0.0:2579 by nmi (process 42)". A socket at the very address is the
// agent's own: the node has the address from it.
func listenersAt(proc string, at netip.AddrPort) ([]string, error) {
	var all []string
	for _, table := range []string{"tcp", "tcp6"} {
		sockets, err := listening(filepath.Join(proc, "self/net", table))
		if os.IsNotExist(err) && table == "tcp6" { // a node without IPv6
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, s := range sockets {
			if s.address.Port() == at.Port() && s.address.Addr().IsUnspecified() {
				all = append(all, fmt.Sprintf("%s by %s", s.address, ownerOf(proc, s.inode)))
			}
		}
	}
	return all, nil
}

// chosenByKernel reports whether the kernel gives the port to sockets that ask
// for none (ip-sysctl.rst). No bind hook sees that choice.
func chosenByKernel(proc string, port uint16) (bool, error) {
	low, high, err := portRange(filepath.Join(proc, "sys/net/ipv4/ip_local_port_range"))
	if err != nil || port < low || port > high {
		return false, err
	}
	text, err := os.ReadFile(filepath.Join(proc, "sys/net/ipv4/ip_local_reserved_ports"))
	if err != nil {
		return false, err
	}
	for _, reserved := range strings.FieldsFunc(string(text), func(r rune) bool { return r == ',' || r == '\n' }) {
		first, last, isRange := strings.Cut(reserved, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA == nil && errB == nil && uint64(port) >= a && uint64(port) <= b {
			return false, nil
		}
	}
	return true, nil
}

func portRange(path string) (low, high uint16, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		return 0, 0, fmt.Errorf("%s: %q is no range: %w", path, text, err)
	}
	return low, high, nil
}

type socket struct {
	address netip.AddrPort
	inode   string
}

// listening reads the sockets that listen from a table of /proc/net.
func listening(path string) ([]socket, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var all []socket
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		const local, state, inode, listen = 1, 3, 9, "0A"
		fields := strings.Fields(lines.Text())
		if len(fields) <= inode || fields[state] != listen {
			continue
		}
		address, err := procAddress(fields[local])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, socket{address, fields[inode]})
	}
	return all, lines.Err()
}

// procAddress reads "0100007F:0A13": words in the machine's byte order, a port
// in the network's.
func procAddress(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", s)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	address, ok := netip.AddrFromSlice(raw)
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil || !ok {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", s)
	}
	return netip.AddrPortFrom(address, uint16(number)), nil
}

// ownerOf names the process that has the socket open, as far as this one may
// look into others.
func ownerOf(proc, inode string) string {
	links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*/fd/*"))
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == "socket:["+inode+"]" {
			process := filepath.Dir(filepath.Dir(link))
			return fmt.Sprintf("%s (process %s)", comm(process), filepath.Base(process))
		}
	}
	return "a process that cannot be seen from here"
}

// runningNMI returns the ids of the processes that are NMI, of whatever version.
func runningNMI(proc string) []string {
	processes, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	var pids []string
	for _, process := range processes {
		if comm(process) == nmi {
			pids = append(pids, filepath.Base(process))
		}
	}
	slices.Sort(pids)
	return pids
}

// comm returns the name of a process, for people; "" if it has gone.
func comm(process string) string {
	name, _ := os.ReadFile(filepath.Join(process, "comm"))
	return strings.TrimSpace(string(name))
}
