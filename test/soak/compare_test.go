package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		before, after figures
		want          []difference
	}{
		"the same":           {figures{goroutines: 5}, figures{goroutines: 5}, nil},
		"more":               {figures{goroutines: 5}, figures{goroutines: 6}, []difference{{goroutines, 5, 6}}},
		"fewer":              {figures{pins: 5}, figures{pins: 4}, []difference{{pins, 5, 4}}},
		"none before":        {figures{}, figures{pins: 1}, []difference{{pins, 0, 1}}},
		"none after":         {figures{pins: 1}, figures{}, []difference{{pins, 1, 0}}},
		"memory, a little":   {figures{residentMemory: 100}, figures{residentMemory: 110}, nil},
		"memory, too much":   {figures{residentMemory: 100}, figures{residentMemory: 111}, []difference{{residentMemory, 100, 111}}},
		"heap, a little":     {figures{liveHeap: 4000}, figures{liveHeap: 4400 + highWater}, nil},
		"heap, too much":     {figures{liveHeap: 4000}, figures{liveHeap: 4401 + highWater}, []difference{{liveHeap, 4000, 4401 + highWater}}},
		"memory, given back": {figures{liveHeap: 100}, figures{liveHeap: 50}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, compare(c.before, c.after)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestKindOf(t *testing.T) {
	for target, want := range map[string]string{
		"socket:[123]": "socket", "net:[4026531833]": "net", "anon_inode:bpf-map": "bpf-map",
		"anon_inode:[eventpoll]": "eventpoll", "anon_inode:inotify": "inotify", "/a:b": "file", "pipe:[1]": "pipe",
	} {
		if got := kindOf(target); got != want {
			t.Errorf("%s is %s, want %s", target, got, want)
		}
	}
}
