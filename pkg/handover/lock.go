package handover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld is returned by Acquire while another agent holds the lock.
var ErrHeld = errors.New("handover: another agent holds the lock")

const (
	lockName   = "agent.lock"
	socketName = "handover.sock"
	// network keeps the messages apart, so that each has its descriptor.
	network = "unixpacket"
)

// Lock is the right to write the maps, and the socket at which a successor
// asks for it. There is one holder in a state directory at a time: the lock is
// the kernel's (flock(2)), so that it ends with its holder, however that ends.
type Lock struct {
	file   *os.File
	socket *net.UnixListener
	path   string
}

// Acquire takes the lock of the state directory if it is free; else the
// error is ErrHeld. The directory is made if it is missing. The caller
// releases the lock, or has a Successor take it.
func Acquire(stateDir string) (*Lock, error) {
	file, err := tryLock(stateDir)
	if err != nil {
		return nil, err
	}
	l := &Lock{file: file, path: filepath.Join(stateDir, socketName)}
	// Whoever bound it held the lock, and is gone.
	if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		file.Close()
		return nil, fmt.Errorf("handover: remove a stale socket: %w", err)
	}
	config := net.ListenConfig{Control: ownerOnly}
	socket, err := config.Listen(context.Background(), network, l.path)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("handover: listen: %w", err)
	}
	l.socket = socket.(*net.UnixListener)
	// The name stays for the successor, who gets the socket itself.
	l.socket.SetUnlinkOnClose(false)
	return l, nil
}

func tryLock(stateDir string) (*os.File, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("handover: make the state directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(stateDir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("handover: open the lock: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrHeld
	}
	return nil, fmt.Errorf("handover: lock: %w", err)
}

// ownerOnly sets the mode that bind gives the socket's file, so that there is
// no moment at which others may connect.
func ownerOnly(_, _ string, c syscall.RawConn) error {
	var chmodErr error
	err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), 0o600) })
	return errors.Join(err, chmodErr)
}

// Release gives the lock up; the next agent starts without what this one had.
func (l *Lock) Release() error {
	// First the name: once the lock is free it may be another's.
	err := os.Remove(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.forget())
}

// forget closes this process's copies.
func (l *Lock) forget() error { return errors.Join(l.socket.Close(), l.file.Close()) }

// vacancyTick is how often Vacant looks.
const vacancyTick = time.Second

// Vacant waits until the lock is free; it returns an error if ctx ends
// first. It does not take the lock.
func Vacant(ctx context.Context, stateDir string) error {
	tick := time.NewTicker(vacancyTick)
	defer tick.Stop()
	for {
		file, err := tryLock(stateDir)
		if err == nil {
			return file.Close()
		}
		if !errors.Is(err, ErrHeld) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
