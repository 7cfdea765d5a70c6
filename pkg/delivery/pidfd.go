package delivery

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pidfd is a process that is held open: its id may be given to another once it
// has ended, but what is asked of the pidfd is about this one.
type pidfd struct {
	file *os.File
	conn syscall.RawConn
}

// openPidfd opens the process that has the id now. The caller closes the result.
func openPidfd(pid int) (*pidfd, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK) // else Go would not wait for it
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &pidfd{file: os.NewFile(uintptr(fd), "pidfd")}
	if p.conn, err = p.file.SyscallConn(); err != nil {
		p.close()
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return p, nil
}

// ended reports whether the process has ended; also once the pidfd is closed.
func (p *pidfd) ended() bool {
	ended := true
	if err := p.conn.Control(func(fd uintptr) { ended = readable(fd) }); err != nil {
		return true
	}
	return ended
}

// await waits until the process has ended, which it reports, or until the pidfd
// is closed.
func (p *pidfd) await() (ended bool) { return p.conn.Read(readable) == nil }

func (p *pidfd) close() { p.file.Close() }

// readable reports whether the process of a pidfd has ended (pidfd_open(2)).
func readable(fd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != unix.EINTR {
			return n > 0
		}
	}
}
