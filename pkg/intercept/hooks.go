package intercept

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// PinDirectory is where, below the BPF filesystem, maps and links are pinned.
const PinDirectory = "sidestep"

// ErrNoBPFFS means that the path given as BPF filesystem is none.
var ErrNoBPFFS = errors.New("not a BPF filesystem")

// Hooks are the loaded programs and their maps. All methods may be called
// from several goroutines.
type Hooks struct {
	objects kernelObjects
	pins    string
	log     *slog.Logger
}

// Load loads the programs and opens their maps pinned below bpffs, which an
// earlier agent may have left; it attaches nothing. The caller closes the
// result; pins stay. Maps of another layout are refused with a *LayoutError,
// never emptied.
func Load(bpffs string, log *slog.Logger) (*Hooks, error) {
	if err := checkBPFFS(bpffs); err != nil {
		return nil, err
	}
	h := &Hooks{pins: filepath.Join(bpffs, PinDirectory), log: log}
	if err := os.MkdirAll(h.pins, 0o700); err != nil {
		return nil, fmt.Errorf("make the pin directory: %w", err)
	}
	found, err := checkLayout(h.pins)
	if err != nil {
		return nil, err
	}
	err = loadKernelObjects(&h.objects, &ebpf.CollectionOptions{
		Maps: ebpf.MapOptions{PinPath: h.pins},
	})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, &LayoutError{Directory: h.pins, Found: found, Want: layout, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	if found != layout {
		if err := writeLayout(h.pins); err != nil {
			return nil, errors.Join(err, h.Close())
		}
	}
	return h, nil
}

// TryLoad loads the programs once without pinning or attaching anything, and
// throws them away: the error is the verifier's.
func TryLoad() error {
	spec, err := loadKernel()
	if err != nil {
		return err
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return err
	}
	collection.Close()
	return nil
}

// Close gives up this process's descriptors. What is pinned stays in force.
func (h *Hooks) Close() error { return h.objects.Close() }
