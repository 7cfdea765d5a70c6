package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Arguments of io_uring_setup(2) and io_uring_enter(2); see the header
// linux/io_uring.h.
const (
	ringOpConnect   = 16
	ringAsync       = 1 << 4 // IOSQE_ASYNC
	ringGetEvents   = 1 << 0 // IORING_ENTER_GETEVENTS
	ringOffCQ       = 0x8000000
	ringOffSQEs     = 0x10000000
	ringEntrySize   = 64
	ringParamsWords = 30
)

// ringConnect connects the socket by one submission to an io_uring.
func ringConnect(fd int, to netip.AddrPort, async bool) error {
	var params [ringParamsWords]uint32
	ring, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if e != 0 {
		return fmt.Errorf("io_uring_setup: %w", e)
	}
	defer unix.Close(int(ring))
	// Offsets in struct io_uring_params: sq_off from word 10, cq_off from 20.
	sqArray, cqRing := params[16], params[25]
	size := int(max(sqArray+4, cqRing+32))
	sq, err := unix.Mmap(int(ring), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	cq, err := unix.Mmap(int(ring), ringOffCQ, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	entries, err := unix.Mmap(int(ring), ringOffSQEs, ringEntrySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	address := sockaddr(to)
	entries[0] = ringOpConnect
	if async {
		entries[1] = ringAsync
	}
	binary.NativeEndian.PutUint32(entries[4:], uint32(fd))
	binary.NativeEndian.PutUint64(entries[8:], uint64(len(address)))                          // off: the address's length
	binary.NativeEndian.PutUint64(entries[16:], uint64(uintptr(unsafe.Pointer(&address[0])))) // addr
	binary.NativeEndian.PutUint32(sq[sqArray:], 0)
	binary.NativeEndian.PutUint32(sq[params[11]:], 1) // tail
	if _, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, ringGetEvents, 0, 0); e != 0 {
		return fmt.Errorf("io_uring_enter: %w", e)
	}
	if result := int32(binary.NativeEndian.Uint32(cq[cqRing+8:])); result < 0 {
		return unix.Errno(-result)
	}
	return nil
}

// sockaddr returns a struct sockaddr_in.
func sockaddr(a netip.AddrPort) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	b = binary.BigEndian.AppendUint16(b, a.Port())
	b = append(b, a.Addr().AsSlice()...)
	return append(b, make([]byte, 8)...)
}
