package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"golang.org/x/sys/unix"
)

// noticed is when the minimal program of the starts has seen that a pod has a
// process, by the pod's UID, on the clock CLOCK_MONOTONIC: no program that runs
// beside the runtime can do anything for a pod earlier.
type noticed map[string]int64

func init() {
	var n *notice
	registerSession("notice", func(dir string) (noticed, error) {
		if n != nil {
			return n.all(), nil
		}
		var err error
		n, err = watchPods(dir)
		return nil, err
	})
}

type notice struct {
	mu  sync.Mutex
	saw noticed
}

// watchPods waits for pods' cgroups in the directory.
func watchPods(dir string) (*notice, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	n := &notice{saw: noticed{}}
	go func() {
		for e := range watcher.Events {
			if uid, ok := strings.CutPrefix(filepath.Base(e.Name), "pod"); ok && e.Has(fsnotify.Create) {
				go n.follow(e.Name, uid)
			}
		}
	}()
	return n, watcher.Add(dir)
}

// follow looks into a pod's cgroups until a process is there.
func (n *notice) follow(dir, uid string) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		lists, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
		for _, list := range lists {
			if text, err := os.ReadFile(list); err == nil && len(text) > 0 {
				n.mu.Lock()
				n.saw[uid] = monotonic()
				n.mu.Unlock()
				return
			}
		}
	}
}

func (n *notice) all() noticed {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.saw
}

// monotonic reads a clock that all processes share, in nanoseconds.
func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // is always there
	return now.Nano()
}
