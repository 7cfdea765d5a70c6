// Package podfile reads files of the volumes that the kubelet keeps in a pod's
// directory, and nothing that lies elsewhere on the node.
package podfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// MaxSize is how many bytes a file may have. It is far above any service
// account token or certificate; Entra itself takes no longer assertions.
const MaxSize = 64 << 10

var (
	// ErrPath says that the pod's UID or the file's name is no plain path.
	ErrPath = errors.New("a path that cannot be used")
	// ErrElsewhere says that the path leads to something else than a file in
	// the pod's own directory.
	ErrElsewhere = errors.New("not a file in the pod's own directory")
	// ErrTooLong says that the file has more than MaxSize bytes.
	ErrTooLong = errors.New("the file is too long")
)

// Dir is the kubelet's directory of pods, <kubelet dir>/pods.
type Dir string

// Read returns the content of the pod's file. The errors are ErrPath,
// ErrElsewhere, ErrTooLong, one that is fs.ErrNotExist, and others of reading.
//
// The kernel resolves the path beneath the pod's directory: the volume's own
// "..data" link works, a link that leaves the pod's directory fails with EXDEV
// (openat2(2)).
func (d Dir) Read(podUID string, f workload.VolumeFile) ([]byte, error) {
	name, ok := pathOf(f)
	if !ok || !plain(podUID) {
		return nil, ErrPath
	}
	content, err := d.read(podUID, name)
	for _, e := range []error{unix.EXDEV, unix.ELOOP, unix.ENOTDIR} {
		if errors.Is(err, e) {
			return nil, fmt.Errorf("%w: %w", ErrElsewhere, err)
		}
	}
	if len(content) > MaxSize {
		return nil, ErrTooLong
	}
	return content, err
}

// pathOf returns the file's path below the pod's directory, and false if a part
// of it is not a plain name.
func pathOf(f workload.VolumeFile) (string, bool) {
	for _, part := range append([]string{f.Plugin, f.Volume}, strings.Split(f.Path, "/")...) {
		if !plain(part) {
			return "", false
		}
	}
	return filepath.Join("volumes", f.Plugin, f.Volume, f.Path), true
}

func plain(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= unix.NAME_MAX && !strings.ContainsAny(s, "/\x00")
}

// read returns the file's first MaxSize+1 bytes.
func (d Dir) read(podUID, name string) ([]byte, error) {
	dir, err := unix.Open(filepath.Join(string(d), podUID), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the pod's directory: %w", err)
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		// O_NONBLOCK: a FIFO must not hold the exchange.
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open the file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat the file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular one", ErrElsewhere)
	}
	return io.ReadAll(io.LimitReader(f, MaxSize+1))
}
