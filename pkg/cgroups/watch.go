package cgroups

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// rescanEvery is how often the whole tree is read although inotify works,
	// against a change that was missed. Where the kernel has lost events it says so,
	// and the tree is read at once.
	rescanEvery = 10 * time.Minute
	// pollEvery is how often it is read while inotify does not.
	pollEvery = time.Second
)

// Run keeps the snapshot current until ctx is done, and then returns nil. It
// must run once at most. Where the kernel refuses inotify watches
// (fs.inotify.max_user_instances, max_user_watches) it says so in the log and
// reads the tree every second instead.
func (t *Tree) Run(ctx context.Context) error {
	inotify, err := fsnotify.NewWatcher()
	if err != nil {
		return t.run(ctx, &watch{tree: t, missing: err}, nil, nil)
	}
	defer func() { _ = inotify.Close() }()
	return t.run(ctx, &watch{tree: t, inotify: inotify, watched: map[string]uint64{}}, inotify.Events, inotify.Errors)
}

func (t *Tree) run(ctx context.Context, w *watch, events <-chan fsnotify.Event, errs <-chan error) error {
	w.scan()
	t.readyOnce.Do(func() { close(t.ready) })
	for {
		next := time.NewTimer(time.Until(w.due()))
		select {
		case <-ctx.Done():
			return nil
		case ev := <-events:
			w.handle(ev)
		case err := <-errs: // the queue overflowed: events are lost
			t.log.Warn("inotify lost events: reading all cgroups", "err", err)
			w.scan()
		case <-next.C:
			w.scan()
		}
		next.Stop()
	}
}

// watch reads the tree for Run. Every directory is watched before it is read,
// so that a child is met by the one or by the other.
type watch struct {
	tree    *Tree
	inotify *fsnotify.Watcher // nil: the kernel gave none
	watched map[string]uint64 // the directories' cgroup ids, by path
	missing error             // why a watch is missing; nil: none is
	logged  bool              // the log says so already
	scanned time.Time
	// unread is why a cgroup of the last scan, or one since, could not be read;
	// nil: all could.
	unread       error
	loggedUnread bool
}

// due returns when the tree is to be read again if nothing happens.
func (w *watch) due() time.Time {
	if w.missing != nil || w.unread != nil {
		return w.scanned.Add(pollEvery)
	}
	return w.scanned.Add(rescanEvery)
}

// handle reads again what one event is about.
func (w *watch) handle(ev fsnotify.Event) {
	// The kernel reports changed cgroup.events files here too.
	if !ev.Has(fsnotify.Create) && !ev.Has(fsnotify.Remove) {
		return
	}
	removed := ev.Has(fsnotify.Remove)
	if removed {
		w.forget(ev.Name)
	}
	kubepods := w.tree.kubepods
	rel, inside := below(ev.Name, kubepods)
	if !inside {
		if _, ancestor := below(kubepods, ev.Name); ancestor || ev.Name == kubepods {
			w.scan()
		}
		return
	}
	dir, uid, ok := splitPod(rel)
	if !ok { // a QoS level
		w.scan()
		return
	}
	pod, err := w.readPod(dir, uid)
	if removed {
		w.tree.known.forgetPod(uid)
	}
	switch {
	case err == nil:
		w.tree.put(pod)
	case isGone(err):
		w.tree.drop(filepath.Join(kubepods, dir))
	default: // what is known of it stays
		w.cannotRead(err)
	}
}

// scan reads the whole tree.
func (w *watch) scan() {
	w.scanned = time.Now()
	if w.inotify != nil {
		w.missing = nil
	}
	w.unread = nil
	w.addAncestors()
	w.add(w.tree.kubepods)
	pods := map[string]workload.PodCgroup{}
	w.readLevel("", pods)
	// Read last, so that no pods are reported beside a kubepods that is missing.
	id, err := ID(w.tree.kubepods)
	if err != nil {
		id = 0
	}
	if w.unread != nil {
		w.addKnown(pods)
		if !w.loggedUnread {
			w.tree.log.Warn("a cgroup cannot be read; what was known stays", "err", w.unread)
		}
	}
	w.loggedUnread = w.unread != nil
	w.forgetGone()
	w.tree.replace(id, pods)
	w.tree.known.forgetGone()
	if w.missing != nil && !w.logged {
		w.tree.log.Warn("inotify is refused: reading the cgroups every second instead",
			"err", w.missing, "fix", "raise fs.inotify.max_user_watches and max_user_instances")
	}
	w.logged = w.missing != nil
}

// addKnown adds the pods that were known before and are still there: that one
// could not be read, for lack of descriptors or memory, does not mean that it
// has ended.
func (w *watch) addKnown(pods map[string]workload.PodCgroup) {
	for _, pod := range w.tree.Snapshot() {
		if _, ok := pods[pod.Path]; ok {
			continue
		}
		if id, err := ID(pod.Path); err == nil && id == pod.CgroupID {
			pods[pod.Path] = pod
		}
	}
}

// addAncestors watches the directories above kubepods, in which it would be
// made again.
func (w *watch) addAncestors() {
	dir := w.tree.rootPath
	for name := range strings.SplitSeq(w.tree.rel, "/") {
		w.add(dir)
		dir = filepath.Join(dir, name)
	}
}

// readLevel adds the pods below kubepods, or below one of its QoS levels, to
// pods. A level that is gone has none.
func (w *watch) readLevel(level string, pods map[string]workload.PodCgroup) {
	names, err := subdirs(filepath.Join(w.tree.kubepods, level))
	if err != nil {
		w.cannotRead(err)
		return
	}
	for _, name := range names {
		rel := filepath.Join(level, name)
		if level == "" && isQoS(name) {
			w.add(filepath.Join(w.tree.kubepods, rel))
			w.readLevel(rel, pods)
			continue
		}
		dir, uid, ok := splitPod(rel)
		if !ok {
			continue
		}
		pod, err := w.readPod(dir, uid)
		if err != nil {
			w.cannotRead(err)
			continue
		}
		pods[pod.Path] = pod
	}
}

// readPod reads the cgroups of the pod at dir, relative to kubepods. The error
// satisfies isGone if the pod is.
func (w *watch) readPod(dir, uid string) (workload.PodCgroup, error) {
	path := filepath.Join(w.tree.kubepods, dir)
	w.add(path)
	id, err := ID(path)
	if err != nil {
		return workload.PodCgroup{}, err
	}
	names, err := subdirs(path)
	if err != nil {
		return workload.PodCgroup{}, err
	}
	pod := workload.PodCgroup{UID: uid, CgroupID: id, Path: path}
	for _, name := range names {
		container := containerID(name)
		if container == "" {
			continue
		}
		child := filepath.Join(path, name)
		id, err := ID(child)
		if err != nil { // gone since it was listed
			continue
		}
		pod.Containers = append(pod.Containers,
			workload.ContainerCgroup{ContainerID: container, CgroupID: id, Path: child})
	}
	return pod, nil
}

// cannotRead notes that a cgroup could not be read for another reason than that
// it is gone. The whole tree is then read again until all of it can be.
func (w *watch) cannotRead(err error) {
	if !isGone(err) {
		w.unread = err
	}
}
