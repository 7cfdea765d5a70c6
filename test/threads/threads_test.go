package threads

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rightSockets are the uses of net.File… that are right, and why.
var rightSockets = map[string]string{
	"pkg/handover/take.go: net.FileListener in add":               "of os.NewFile: TestInheritedSocketIsNeverBlocking",
	"pkg/delivery/held.go: net.FileConn in connect":               "of os.NewFile, and no other has the socket",
	"test/kernel/gate_test.go: net.FileListener in listenIn":      "of os.NewFile, and no other listens with it",
	"pkg/delivery/reconciler_test.go: net.FileListener in copyOf": "of os.NewFile",
	"test/kernel/otherlayout_test.go: net.FileListener in copyOf": "of os.NewFile",
	"test/node/cmd/probe/main.go: net.FileConn in dialMapped":     "of os.NewFile, and no other has the socket",
}

const root = "../.."

func TestSources(t *testing.T) {
	directories := sources(t)
	unused, uses := map[string]bool{}, 0
	for right := range rightSockets {
		unused[right] = true
	}
	for _, files := range directories {
		d, err := parse(files)
		if err != nil {
			t.Fatal(err)
		}
		uses += len(d.uses)
		for _, f := range d.findings() {
			known := fmt.Sprintf("%s: %s in %s", f.Filename, f.Use, f.Function)
			if _, right := rightSockets[known]; right {
				delete(unused, known)
				continue
			}
			t.Errorf("%v: %s", f, advice(f.Use))
		}
	}
	if uses < 8 {
		t.Errorf("%d uses that concern the thread were found in %d directories: the sources are not read", uses, len(directories))
	}
	for right := range unused {
		t.Errorf("no longer there, take it out of rightSockets: %s", right)
	}
}

func advice(what string) string {
	if what == "File()" || strings.HasPrefix(what, "net.") {
		return "the open file is blocking for a moment, also for others that have it; duplicate the descriptor with F_DUPFD_CLOEXEC in SyscallConn().Control, and use os.NewFile"
	}
	return "it concerns the thread alone; call runtime.LockOSThread() first, or do it in a task (lab.Register)"
}

// sources returns the text of the Go files by directory and name, both relative
// to the root.
func sources(t *testing.T) map[string]map[string]string {
	t.Helper()
	all := map[string]map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			hidden := strings.HasPrefix(d.Name(), ".") && path != root
			if hidden || slices.Contains([]string{"out", "testdata", "node_modules"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		dir := filepath.Dir(name)
		if all[dir] == nil {
			all[dir] = map[string]string{}
		}
		all[dir][name] = string(text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRules(t *testing.T) {
	const head = `package p
import ("net"; "os/exec"; "runtime"; "syscall"; other "golang.org/x/sys/unix"; "github.com/vishvananda/netns"
	"github.com/sidestep-agent/sidestep/test/lab")
`
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"not locked":             {`func f() { other.Unshare(0) }`, []string{"Unshare in f"}},
		"locked":                 {`func f() { runtime.LockOSThread(); other.Unshare(0) }`, nil},
		"locked too late":        {`func f() { other.Setns(0, 0); runtime.LockOSThread() }`, []string{"Setns in f"}},
		"unlocked before":        {`func f() { runtime.LockOSThread(); runtime.UnlockOSThread(); other.Setns(0, 0) }`, []string{"Setns in f"}},
		"unlocked to return":     {`func f() { runtime.LockOSThread(); if x { runtime.UnlockOSThread(); return }; other.Setns(0, 0) }`, nil},
		"unlocked at the end":    {`func f() { runtime.LockOSThread(); defer runtime.UnlockOSThread(); other.Setns(0, 0) }`, nil},
		"by its number":          {`func f() { syscall.RawSyscall(syscall.SYS_SETNS, 0, 0, 0) }`, []string{"SYS_SETNS in f"}},
		"by a library":           {`func f() { netns.Set(0) }`, []string{"Set in f"}},
		"as a value":             {`func f() { g := other.Prctl; g() }`, []string{"Prctl in f"}},
		"a task":                 {`func f() { other.Unshare(0) }; func init() { lab.Register("f", f) }`, nil},
		"a task's method":        {`func (x t) g() { other.Unshare(0) }; func f(x t) { x.g() }; func init() { lab.Register("f", f) }`, nil},
		"a task in place":        {`func init() { lab.Register("f", func(int) (int, error) { other.Unshare(0); return 0, nil }) }`, nil},
		"a task, called too":     {`func f() { other.Unshare(0) }; func init() { lab.Register("f", f) }; func g() { f() }`, []string{"Unshare in f"}},
		"a task's goroutine":     {`func f() { go func() { other.Unshare(0) }() }; func init() { lab.Register("f", f) }`, []string{"Unshare in f, a function in it"}},
		"a goroutine by name":    {`func f() { runtime.LockOSThread(); go g() }; func g() { other.Unshare(0) }`, []string{"Unshare in g"}},
		"called by one locked":   {`func f() { runtime.LockOSThread(); g() }; func g() { other.Unshare(0) }`, nil},
		"called by another, too": {`func f() { runtime.LockOSThread(); g() }; func g() { other.Unshare(0) }; func h() { g() }`, []string{"Unshare in g"}},
		"exported":               {`func f() { runtime.LockOSThread(); G() }; func G() { other.Unshare(0) }`, []string{"Unshare in G"}},
		"deferred in place":      {`func f() { runtime.LockOSThread(); defer func() { other.Setns(0, 0) }() }`, nil},
		"handed on":              {`func f() { runtime.LockOSThread(); x.Do(func() { other.Setns(0, 0) }) }`, []string{"Setns in f, a function in it"}},
		"the parent's death":     {`func f() { c := exec.Command(""); c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: 9} }`, []string{"Pdeathsig in f"}},
		"a socket's file":        {`func f() { l.(*net.TCPListener).File() }`, []string{"File() in f"}},
		"a file's socket":        {`func f() { net.FileListener(x) }`, []string{"net.FileListener in f"}},
		"all threads":            {`func f() { syscall.Setuid(0) }`, nil},
	} {
		d, err := parse(map[string]string{"p.go": head + tc.text})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, f := range d.findings() {
			got = append(got, f.Use+" in "+f.Function)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
