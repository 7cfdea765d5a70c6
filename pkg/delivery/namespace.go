package delivery

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is an open network namespace.
type namespace struct {
	file  *os.File
	inode uint64
}

func openNamespace(path string) (*namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		f.Close()
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	return &namespace{file: f, inode: stat.Ino}, nil
}

func (n *namespace) close() { n.file.Close() }

// do runs fn on a thread inside the namespace. A socket that fn makes belongs
// to the namespace for good; the thread comes back to its own, or is thrown
// away if it cannot.
func (n *namespace) do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer back.Close()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		err = fn()
		if home := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); home != nil {
			// Still locked: the runtime ends the thread with this goroutine.
			result <- errors.Join(err, fmt.Errorf("leave the network namespace: %w", home))
			return
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}
