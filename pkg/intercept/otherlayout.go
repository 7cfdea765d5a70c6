package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// otherLayout is what an agent of another layout has pinned. Of its maps this
// one reads what all layouts have alike (bpf/maps.h) and writes nothing but
// removes records.
type otherLayout struct {
	directory              string
	flows, verdicts, usage *ebpf.Map // nil: not pinned
	drained                bool      // at the last look
}

// commonFlow is how the value of a flow begins in every layout.
type commonFlow struct {
	CgroupID, SocketCookie, CreatedNs uint64
	Ambiguous, Accepted               uint32
}

const (
	commonFlowSize = 32
	commonIDSize   = 8 // of cgroup ids, and of counts
)

// Every layout has these pins, by which it is seen that its programs steer and
// record. Those that decide may be in our directory, with another layout's
// program: who was replacing them has ended meanwhile.
const recordingPin = "link_sockops"

var decidingPins = []string{"link_connect4", "link_connect6"}

// findOthers opens what is pinned of other layouts below root. The caller
// closes it.
func findOthers(root string) (all []*otherLayout, err error) {
	defer func() {
		if err != nil {
			closeOthers(all)
		}
	}()
	directories, err := filepath.Glob(filepath.Join(root, layoutDirectories+"*"))
	if err != nil {
		return nil, fmt.Errorf("look for other layouts: %w", err)
	}
	for _, directory := range append(directories, root) {
		if directory == layoutDirectory(root, layout) {
			continue
		}
		o, err := openOther(directory)
		if err != nil {
			return all, err
		}
		if o != nil {
			all = append(all, o)
		}
	}
	return all, nil
}

// openOther opens the maps in a directory; it returns nil where nothing is
// pinned.
func openOther(directory string) (*otherLayout, error) {
	pins, err := ownPins(directory)
	if err != nil || len(pins) == 0 {
		return nil, err
	}
	o := &otherLayout{directory: directory}
	for _, m := range []struct {
		at         **ebpf.Map
		name       string
		key, value uint32 // at least, in bytes
	}{
		{&o.flows, "sidestep_flows", uint32(binary.Size(kernelFlowKey{})), commonFlowSize},
		{&o.verdicts, "sidestep_verdicts", commonIDSize, 0},
		{&o.usage, "sidestep_usage", commonIDSize, commonIDSize},
	} {
		*m.at, err = ebpf.LoadPinnedMap(filepath.Join(directory, m.name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && ((*m.at).KeySize() != m.key || (*m.at).ValueSize() < m.value) {
			err = fmt.Errorf("%s is not as all layouts have it", m.name)
		}
		if err != nil {
			o.close()
			return nil, &LayoutError{Directory: directory, Found: layoutOf(directory), Want: layout, Err: err}
		}
	}
	return o, nil
}

// layoutOf returns the layout whose pins are in the directory.
func layoutOf(directory string) uint32 {
	number, own := strings.CutPrefix(filepath.Base(directory), layoutDirectories)
	if !own {
		return flatLayout
	}
	n, _ := strconv.ParseUint(number, 10, 32) // 0: none
	return uint32(n)
}

func (o *otherLayout) close() {
	for _, m := range []*ebpf.Map{o.flows, o.verdicts, o.usage} {
		if m != nil {
			m.Close()
		}
	}
}

func closeOthers(all []*otherLayout) {
	for _, o := range all {
		o.close()
	}
}

// ownPins returns the pins in a layout's directory, sorted by name, without
// those of other layouts and the map that names the active one.
func ownPins(directory string) ([]string, error) {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the pins: %w", err)
	}
	var pins []string
	for _, e := range entries {
		if !e.IsDir() && e.Name() != layoutPin {
			pins = append(pins, filepath.Join(directory, e.Name()))
		}
	}
	return pins, nil
}

// layouts is which layout's maps the attached programs decide by, and what agents
// of others have pinned.
type layouts struct {
	root      string    // PinDirectory
	pins      string    // the directory of this layout's pins
	named     *ebpf.Map // names the layout whose programs decide
	log       *slog.Logger
	attaching *sync.Mutex // held while programs are attached, or pins removed

	active, filled atomic.Bool
	mu             sync.RWMutex
	others         []*otherLayout
}

// closeLayouts gives up this process's descriptors.
func (l *layouts) closeLayouts() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	closeOthers(l.others)
	l.others = nil
	return l.named.Close()
}

// LookForOthers notes which other layouts have something pinned, and by whose
// maps the attached programs decide. Load does so. Both agents do it again when
// one hands over, before the other accepts connections: until the former has
// closed its listeners it accepts what the latter's programs have steered, too.
func (l *layouts) LookForOthers() error {
	active, err := activeLayout(l.root)
	if err != nil {
		return err
	}
	others, err := findOthers(l.root)
	if err != nil {
		return err
	}
	l.mu.Lock()
	closeOthers(l.others)
	l.others = others
	l.mu.Unlock()
	// An earlier version pinned no layout, and had the one directory.
	l.active.Store(active == layout || active == 0 && len(others) == 0)
	return nil
}

// Active reports whether the attached programs decide by this agent's maps, or
// would if there were any. If not, those of another layout do: they go on until
// Filled was called, and Attach after it.
func (l *layouts) Active() bool { return l.active.Load() }

// Filled says that the maps have the settings and a verdict for each pod that
// runs, so that the next Attach may put this agent's programs in the place of
// another layout's.
func (l *layouts) Filled() { l.filled.Store(true) }

// waits reports whether the programs that decide are to be left as they are:
// those of another layout, by maps with verdicts that ours do not have yet. If
// they are not all there, ours are better than none. The caller holds mu.
func (l *layouts) waits(cgroup uint64) (bool, error) {
	if l.Active() || l.filled.Load() {
		return false, nil
	}
	there, err := anyAttached(l.othersPins(recordingPin), cgroup)
	for _, name := range decidingPins {
		if there && err == nil {
			there, err = anyAttached(append(l.othersPins(name), filepath.Join(l.pins, name)), cgroup)
		}
	}
	return there, err
}

// anyAttached reports whether one of the pinned links is attached to the cgroup.
func anyAttached(pins []string, cgroup uint64) (bool, error) {
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("open the pinned link: %w", err)
		}
		info, err := l.Info()
		if err := errors.Join(err, l.Close()); err != nil {
			return false, fmt.Errorf("read the pinned link: %w", err)
		}
		if at, err := linkedCgroup(info); err == nil && at == cgroup {
			return true, nil
		}
	}
	return false, nil
}

// activate notes that from now on the programs decide by our maps. It is called
// once they are filled, and whoever follows a claim in them is attached: where
// this process ends before all programs are replaced, the next agent goes on.
func (l *layouts) activate() error {
	if l.Active() {
		return nil
	}
	if err := writeLayout(l.named); err != nil {
		return err
	}
	l.active.Store(true)
	l.log.Info("programs of another layout are replaced; connections that they have steered go on", "layout", layout)
	return nil
}

// othersPins returns where agents of other layouts pin by the name.
func (l *layouts) othersPins(name string) []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var all []string
	for _, o := range l.others {
		all = append(all, filepath.Join(o.directory, name))
	}
	return all
}

// takeOver puts the program behind the link that an agent of another layout
// pinned, moves the pin to ours, and returns the link; nil if there is none at
// the right place. The kernel replaces a link's program, and renames a pin, in
// one step: at no moment is nothing attached, or both programs are.
func (l *layouts) takeOver(p place) (link.Link, error) {
	for _, pin := range l.othersPins(filepath.Base(p.pin)) {
		theirs := p
		theirs.pin = pin
		taken, err := adopt(theirs)
		if err != nil {
			return nil, err
		}
		if taken == nil {
			continue
		}
		if err := taken.Pin(p.pin); err != nil {
			return nil, errors.Join(fmt.Errorf("move the pin: %w", err), taken.Close())
		}
		return taken, nil
	}
	return nil, nil
}

// claim takes the records of a connection that programs of other layouts
// have steered.
func (l *layouts) claim(c workload.Connection) (found []commonFlow, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, o := range l.others {
		if o.flows == nil {
			continue
		}
		var value []byte
		err := o.flows.LookupAndDelete(flowKey(c), &value)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("take another layout's flow record: %w", err)
		}
		f, err := decodeFlow(value)
		if err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, nil
}

func decodeFlow(value []byte) (f commonFlow, err error) {
	if _, err := binary.Decode(value, binary.NativeEndian, &f); err != nil {
		return f, fmt.Errorf("decode a flow: %w", err)
	}
	return f, nil
}

// decidedByOthers returns the ids of cgroups that have a verdict in the maps of
// other layouts.
func (l *layouts) decidedByOthers() (ids []uint64, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, o := range l.others {
		if o.verdicts == nil {
			continue
		}
		var id uint64
		var value []byte
		entries := o.verdicts.Iterate()
		for entries.Next(&id, &value) {
			ids = append(ids, id)
		}
		if err := entries.Err(); err != nil {
			return nil, fmt.Errorf("read another layout's verdicts: %w", err)
		}
	}
	return ids, nil
}

// RemoveDrained removes the pins of other layouts that nothing needs any more:
// their programs decide nothing, and at this look and the one before had no
// connection that they have steered, of a cgroup that exists reports to be
// there.
func (l *layouts) RemoveDrained(exists func(cgroupID uint64) bool) error {
	if !l.Active() {
		return nil
	}
	l.attaching.Lock()
	defer l.attaching.Unlock()
	l.mu.RLock()
	others := slices.Clone(l.others)
	l.mu.RUnlock()
	var errs []error
	for _, o := range others {
		before := o.drained
		var err error
		o.drained, err = o.isDrained(exists)
		if o.drained && before {
			err = l.removeOther(o)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", o.directory, err))
		}
	}
	return errors.Join(errs...)
}

// removeOther removes the pins of another layout and closes its maps.
func (l *layouts) removeOther(o *otherLayout) error {
	if err := o.remove(l.root); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.others = slices.DeleteFunc(l.others, func(other *otherLayout) bool { return other == o })
	o.close()
	l.log.Info("removed what an agent of another layout had pinned: its connections have ended", "layout", layoutOf(o.directory))
	return nil
}

// isDrained reports whether programs of the layout were attached, do not decide
// any more, and have no connection. Maps without a program may be a successor's
// that waits.
func (o *otherLayout) isDrained(exists func(uint64) bool) (bool, error) {
	pins, err := ownPins(o.directory)
	if err != nil {
		return false, err
	}
	wereAttached := false
	for _, pin := range pins {
		switch name := filepath.Base(pin); {
		case strings.HasPrefix(name, "tcx_"), strings.HasPrefix(name, "link_connect"):
			return false, nil
		case strings.HasPrefix(name, "link_"):
			wereAttached = true
		}
	}
	if !wereAttached {
		return false, nil
	}
	open, err := o.open(exists)
	if err != nil || open {
		return false, err
	}
	left, err := o.sweepFlows(flowAge)
	return left == 0, err
}

// open reports whether one of the cgroups that exist has a connection. Counts of
// others are removed.
func (o *otherLayout) open(exists func(uint64) bool) (open bool, err error) {
	if o.usage == nil {
		return false, nil
	}
	var id uint64
	var value []byte
	var gone []uint64
	entries := o.usage.Iterate()
	for entries.Next(&id, &value) {
		if !exists(id) {
			gone = append(gone, id)
		} else if int64(binary.NativeEndian.Uint64(value)) > 0 {
			open = true
		}
	}
	return open, errors.Join(entries.Err(), removeAll(mapTable[uint64, []byte]{o.usage}, gone))
}

// sweepFlows removes records that are older, and returns how many are left.
func (o *otherLayout) sweepFlows(age time.Duration) (left int, err error) {
	if o.flows == nil {
		return 0, nil
	}
	now, err := monotonic()
	if err != nil {
		return 0, err
	}
	var key kernelFlowKey
	var value []byte
	var stale []kernelFlowKey
	entries := o.flows.Iterate()
	for entries.Next(&key, &value) {
		f, err := decodeFlow(value)
		if err != nil {
			return 0, err
		}
		if now-time.Duration(f.CreatedNs) > age {
			stale = append(stale, key)
		} else {
			left++
		}
	}
	return left, errors.Join(entries.Err(), removeAll(mapTable[kernelFlowKey, []byte]{o.flows}, stale))
}

// remove removes the layout's pins, programs first.
func (o *otherLayout) remove(root string) error {
	pins, err := ownPins(o.directory)
	if err != nil {
		return err
	}
	slices.SortStableFunc(pins, func(a, b string) int { return removal(a) - removal(b) })
	for _, pin := range pins {
		if err := unpin(pin); err != nil {
			return err
		}
	}
	if o.directory == root {
		return nil
	}
	return unpin(o.directory)
}
