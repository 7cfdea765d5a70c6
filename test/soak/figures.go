package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// figures is how much there is of everything, by name. What there is none of
// may be missing.
type figures map[string]int64

// The figures. Those with a word after the colon are of one kind or map each.
const (
	goroutines     = "goroutines"
	cachedTokens   = "cached tokens"
	descriptors    = "descriptors"
	descriptorsOf  = "descriptors: "
	watches        = "inotify watches"
	residentMemory = "resident memory, KiB"
	liveHeap       = "heap after a collection, KiB"
	entriesOf      = "map entries: "
	pins           = "pins"
	namespaces     = "network namespaces of pods"
	cgroupsLeft    = "cgroups of pods"
)

// measure looks at the agent's process, and at what it keeps in the kernel.
func measure(ctx context.Context, s *scene.Scene) (figures, error) {
	f := figures{}
	pid := s.Agent.PID()
	return f, errors.Join(
		f.scrape(ctx), f.countDescriptors(pid), f.readMemory(pid),
		f.countPins(filepath.Join(s.Node.BPFFS, intercept.PinDirectory)),
		f.countNamespaces(), f.countCgroups(s.Node.Kubepods),
	)
}

// scrape reads what the agent says of itself.
func (f figures) scrape(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	text, err := scene.Metrics(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]string{
		"go_goroutines": goroutines, "sidestep_token_cache_entries": cachedTokens, "go_memstats_next_gc_bytes": liveHeap,
	}
	for line := range strings.Lines(string(text)) {
		metric, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name, ok := wanted[metric]; ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return fmt.Errorf("metric %s: %w", metric, err)
			}
			f[name] = int64(n)
			delete(wanted, metric)
		}
	}
	if len(wanted) > 0 {
		return fmt.Errorf("the agent does not export %v", wanted)
	}
	f[liveHeap] /= 2 << 10 // with GOGC=100 the next collection is due at twice what is alive
	return nil
}

// countDescriptors counts the process's descriptors, all and by kind, and the
// watches of its inotify instances.
func (f figures) countDescriptors(pid int) error {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range all {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed since
		}
		f[descriptors]++
		f[descriptorsOf+kindOf(target)]++
		if kindOf(target) == "inotify" {
			info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, e.Name()))
			if err != nil {
				continue
			}
			f[watches] += int64(bytes.Count(info, []byte("inotify wd:")))
		}
	}
	return nil
}

// kindOf returns the kind of a descriptor: what stands before the colon in
// socket:[1], or after it in anon_inode:[eventpoll], and file for a path.
func kindOf(target string) string {
	kind, rest, ok := strings.Cut(target, ":")
	switch {
	case strings.HasPrefix(target, "/") || !ok:
		return "file"
	case kind == "anon_inode":
		return strings.Trim(rest, "[]")
	}
	return kind
}

func (f figures) readMemory(pid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "Rss:" {
			f[residentMemory], err = strconv.ParseInt(fields[1], 10, 64)
			return err
		}
	}
	return errors.New("smaps_rollup does not say what is resident")
}

// countPins counts the pins, and the entries of the maps among them.
func (f figures) countPins(dir string) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	f[pins] = int64(len(all))
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), "sidestep_") {
			continue // a link's
		}
		n, err := countEntries(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("count the entries of %s: %w", e.Name(), err)
		}
		if n > 0 {
			f[entriesOf+e.Name()] = n
		}
	}
	return nil
}

// countEntries counts those of a hash map. Others have a fixed number, or end
// with their socket: they count as none.
func countEntries(path string) (n int64, err error) {
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer func() { _ = m.Close() }()
	if m.Type() != ebpf.Hash {
		return 0, nil
	}
	var key, value []byte
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		n++
	}
	return n, entries.Err()
}

// countNamespaces counts the ids that the node's namespace has for others: one
// that a link ever led to keeps its own as long as anything, a forgotten socket
// too, keeps it alive.
func (f figures) countNamespaces() error {
	req := nl.NewNetlinkRequest(unix.RTM_GETNSID, unix.NLM_F_DUMP)
	req.AddData(nl.NewRtGenMsg())
	all, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNSID)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // by one that ends: looked at again
		return fmt.Errorf("list the namespaces' ids: %w", err)
	}
	f[namespaces] = int64(len(all))
	return nil
}

func (f figures) countCgroups(kubepods string) error {
	return filepath.WalkDir(kubepods, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			f[cgroupsLeft]++
		}
		return err
	})
}
