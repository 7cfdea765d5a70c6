package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// PinDirectory is where, below the BPF filesystem, maps and links are pinned.
const PinDirectory = "sidestep"

// ErrNoBPFFS means that the path given as BPF filesystem is none.
var ErrNoBPFFS = errors.New("not a BPF filesystem")

// Hooks are the loaded programs and their maps. All methods may be called
// from several goroutines.
//
// What they go by (decisions), what they record (connections) and count
// (counters), and what agents of other layouts have pinned (layouts) are parts of
// their own. Hooks itself keeps programs attached.
type Hooks struct {
	decisions
	connections
	counters
	layouts

	objects kernelObjects
	bpffs   string
	log     *slog.Logger

	mu          sync.Mutex
	maps        []*pin
	links       map[string]*keptLink    // attached, by their pins' paths
	filters     map[int]bool            // links guarded in the way of kernels before tcx
	attachTypes map[int]ebpf.AttachType // of links guarded by tcx or at netkit
	ids         map[*ebpf.Program]ebpf.ProgramID
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
		bpffs: bpffs, log: log,
		links: make(map[string]*keptLink), filters: make(map[int]bool),
		attachTypes: make(map[int]ebpf.AttachType),
		ids:         make(map[*ebpf.Program]ebpf.ProgramID),
	}
	h.root, h.pins, h.attaching = root, layoutDirectory(root, layout), &h.mu
	h.layouts.log = log
	h.decisions = decisions{objects: &h.objects, layouts: &h.layouts}
	h.connections = connections{objects: &h.objects, layouts: &h.layouts, log: log}
	h.counters = counters{objects: &h.objects, repairs: newRepairs()}
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
		h.named, err = openLayout(root, len(h.others) > 0)
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
	return errors.Join(h.Detach(), h.closeLayouts(), h.objects.Close())
}

// pin is one file on the BPF filesystem that keeps a map or a link alive
// beyond this process.
type pin struct {
	object string // what the log and the metric call it
	path   string
	pinned interface {
		Pin(path string) error
		Unpin() error
	}
	inode uint64 // of the file that is known to be ours; 0: none yet
}

// restore makes the file if it is not there, or is not ours, and reports
// whether it did. It looks at the file's inode alone, to be cheap.
func (p *pin) restore(bpffs string) (made bool, err error) {
	now, err := inode(p.path)
	if err == nil && now == p.inode {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := checkBPFFS(bpffs); err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(p.path), 0o700); err != nil {
		return false, fmt.Errorf("make the pin directory: %w", err)
	}
	// Unpin has the library forget a pin that others removed: else it would
	// not pin again.
	if err := errors.Join(unpin(p.path), p.pinned.Unpin(), p.pinned.Pin(p.path)); err != nil {
		return false, fmt.Errorf("pin %s: %w", p.path, err)
	}
	p.inode, err = inode(p.path)
	return true, err
}

// pinnedMaps returns all maps that are pinned, by their pins' names.
func (h *Hooks) pinnedMaps() map[string]*ebpf.Map {
	m := &h.objects.kernelMaps
	return map[string]*ebpf.Map{
		"sidestep_settings": m.SidestepSettings,
		"sidestep_verdicts": m.SidestepVerdicts,
		"sidestep_flows":    m.SidestepFlows,
		"sidestep_usage":    m.SidestepUsage,
		"sidestep_claims":   m.SidestepClaims,
		"sidestep_tags":     m.SidestepTags,
		"sidestep_connects": m.SidestepConnects,
		"sidestep_drops":    m.SidestepDrops,
		"sidestep_links":    m.SidestepLinks,
		"sidestep_unknowns": m.SidestepUnknowns,
		layoutPin:           h.named,
	}
}

// mapPins returns the pins of all maps, which are there.
func (h *Hooks) mapPins() ([]*pin, error) {
	var all []*pin
	for name, m := range h.pinnedMaps() {
		p := &pin{object: mapObject, path: filepath.Join(h.pins, name), pinned: m}
		if name == layoutPin {
			p.path = filepath.Join(h.root, name)
		}
		var err error
		if p.inode, err = inode(p.path); err != nil {
			return nil, fmt.Errorf("look at a map's pin: %w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// unpin removes a pin, and with it what is attached if no process has it open. To
// remove what is not there is no error.
func unpin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func checkBPFFS(path string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if uint32(fs.Type) != uint32(unix.BPF_FS_MAGIC) {
		return fmt.Errorf("%s: %w: mount one there (mount -t bpf none %s)", path, ErrNoBPFFS, path)
	}
	return nil
}
