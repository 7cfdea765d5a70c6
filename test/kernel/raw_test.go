package kernel

import (
	"encoding/json"
	"unsafe"

	"golang.org/x/sys/unix"
)

func rawConnect(fd int, a *unix.RawSockaddr) error {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	if errno != 0 {
		return errno
	}
	return nil
}

func parseAnswer(line []byte) (a answer, err error) {
	return a, json.Unmarshal(line, &a)
}
