package tokens

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// maxAssertion is far above any service account token; Entra itself takes no
// longer ones.
const maxAssertion = 64 << 10

var errNotRegular = errors.New("not a regular file")

// projected reads assertions where the kubelet keeps the pods' projected
// volumes: <pods>/<uid>/volumes/kubernetes.io~projected/<volume>/<path>.
type projected struct {
	pods string // <kubelet dir>/pods
}

// Assertion implements assertionSource. It reads the file at each call,
// since the kubelet renews it.
func (p projected) Assertion(_ context.Context, w workload.Workload) (string, error) {
	if w.Projected == nil {
		return "", refused("the pod has no projected service account token for the audience %s: "+
			"let the azure-workload-identity webhook add it (install the webhook, then recreate the pod), or add the volume to the pod's spec", workload.TokenAudience)
	}
	name, ok := volumePath(workload.VolumeFile{
		Plugin: "kubernetes.io~projected", Volume: w.Projected.Volume, Path: w.Projected.Path,
	})
	if !ok || !validComponent(w.PodUID) {
		return "", refused("the pod's projected service account token has a path that cannot be used")
	}
	raw, err := p.read(w.PodUID, name)
	if err != nil {
		return "", readError(err)
	}
	if len(raw) > maxAssertion {
		return "", refused("the pod's projected service account token is too long to be one")
	}
	return strings.TrimSpace(string(raw)), nil
}

// volumePath returns the file's path below the pod's directory, and false if a
// part of it is not a plain name.
func volumePath(f workload.VolumeFile) (string, bool) {
	for _, part := range append([]string{f.Plugin, f.Volume}, strings.Split(f.Path, "/")...) {
		if !validComponent(part) {
			return "", false
		}
	}
	return filepath.Join("volumes", f.Plugin, f.Volume, f.Path), true
}

func validComponent(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= unix.NAME_MAX && !strings.ContainsAny(s, "/\x00")
}

// read returns the file's first maxAssertion+1 bytes. The kernel resolves the
// path beneath the pod's directory: the volume's own "..data" link works, a
// link that leaves the pod's directory fails with EXDEV (openat2(2)).
func (p projected) read(podUID, name string) ([]byte, error) {
	dir, err := unix.Open(filepath.Join(p.pods, podUID), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
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
		return nil, errNotRegular
	}
	return io.ReadAll(io.LimitReader(f, maxAssertion+1))
}

// isElsewhere reports whether an error of read says that the path leads to
// something else than a file in the pod's own directory.
func isElsewhere(err error) bool {
	for _, e := range []error{unix.EXDEV, unix.ELOOP, unix.ENOTDIR, errNotRegular} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func readError(err error) *workload.TokenError {
	var e *workload.TokenError
	switch {
	case errors.Is(err, unix.ENOENT):
		e = unavailable("the kubelet has not written the pod's projected service account token yet")
	case isElsewhere(err):
		e = refused("the pod's projected service account token is not a file in the pod's own directory")
	default:
		e = unavailable("the pod's projected service account token cannot be read")
	}
	e.Err = err
	return e
}
