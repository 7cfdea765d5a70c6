package intercept

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

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
	layout  *ebpf.Map
	bpffs   string
	root    string // PinDirectory
	pins    string // the directory of this layout's pins
	log     *slog.Logger

	active, filled atomic.Bool
	othersMu       sync.RWMutex
	others         []*otherLayout

	mu          sync.Mutex
	maps        []*pin
	links       map[string]*keptLink    // attached, by their pins' paths
	filters     map[int]bool            // links guarded in the way of kernels before tcx
	attachTypes map[int]ebpf.AttachType // of links guarded by tcx or at netkit
	ids         map[*ebpf.Program]ebpf.ProgramID
	repairs     *repairs
}

// Load loads the programs and opens their maps pinned below bpffs, which an
// earlier agent may have left; it attaches nothing. The caller closes the
// result; pins stay. What an agent of another layout has pinned is left as it
// is, beside ours (Active says who decides); where that cannot be, the error is a
// *LayoutError.
func Load(bpffs string, log *slog.Logger) (*Hooks, error) {
	if err := checkBPFFS(bpffs); err != nil {
		return nil, err
	}
	root := filepath.Join(bpffs, PinDirectory)
	h := &Hooks{
		bpffs: bpffs, root: root, pins: layoutDirectory(root, layout), log: log,
		links: make(map[string]*keptLink), filters: make(map[int]bool),
		attachTypes: make(map[int]ebpf.AttachType),
		ids:         make(map[*ebpf.Program]ebpf.ProgramID), repairs: newRepairs(),
	}
	if err := os.MkdirAll(h.pins, 0o700); err != nil {
		return nil, fmt.Errorf("make the pin directory: %w", err)
	}
	found, err := activeLayout(root)
	if err == nil {
		err = checkFlat(root, found)
	}
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
	if err = h.LookForOthers(); err == nil {
		h.layout, err = openLayout(root, len(h.others) > 0)
	}
	if err == nil {
		h.maps, err = h.mapPins()
	}
	if err != nil {
		return nil, errors.Join(err, h.Close())
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

// Close gives up this process's descriptors. What is pinned stays active.
func (h *Hooks) Close() error {
	h.othersMu.Lock()
	closeOthers(h.others)
	h.others = nil
	h.othersMu.Unlock()
	return errors.Join(h.Detach(), h.layout.Close(), h.objects.Close())
}
