package bootguard

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func inode(info os.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

func names(t *testing.T, f Files) []string {
	t.Helper()
	all, err := f.Leftovers()
	check(t, err)
	var names []string
	for _, l := range all {
		names = append(names, l.What)
	}
	return names
}

// The link goes first, the note that there is a boot guard last.
func TestLeftovers(t *testing.T) {
	o := options(t)
	if got := names(t, o.Files); got != nil {
		t.Errorf("of a host without a boot guard: %q", got)
	}
	check(t, Install(o))
	// Since the kubelet's unit got another name.
	other := filepath.Join(o.UnitDir, "k3s.service.wants", UnitName)
	check(t, os.Mkdir(o.at(filepath.Dir(other)), 0o755))
	check(t, os.Symlink(o.unit(), o.at(other)))
	// An installation that lost its power, and somebody else's unit.
	scratch := filepath.Join(filepath.Dir(o.Program), scratchPrefix+"123")
	check(t, os.Mkdir(o.at(scratch), 0o700))
	check(t, os.WriteFile(filepath.Join(o.at(scratch), "next"), nil, 0o600))
	others := filepath.Join(o.wants(), "other.service")
	check(t, os.Symlink("/dev/null", o.at(others)))

	want := []string{
		"file " + other, "file " + o.link(), "file " + o.unit(), "file " + o.Program, "file " + o.Config,
		"file " + scratch, "file " + o.marker(),
	}
	if diff := cmp.Diff(want, names(t, o.Files)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	all, err := o.Leftovers()
	check(t, err)
	check(t, os.Remove(o.at(o.Config))) // since it was listed
	for _, l := range all {
		check(t, l.Remove())
	}
	if diff := cmp.Diff(map[string]string{others: "-> /dev/null"}, tree(t, o.Root)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// A directory of links that nobody has any more goes with the last.
func TestLeftoversWithoutOthers(t *testing.T) {
	o := options(t)
	check(t, Install(o))
	all, err := o.Leftovers()
	check(t, err)
	for _, l := range all {
		check(t, l.Remove())
		check(t, l.Remove()) // a second time is no error
	}
	if _, err := os.Stat(o.at(o.wants())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", o.wants(), err)
	}
}

// In a container without the host's directories the note alone tells.
func TestLeftoversOutOfReach(t *testing.T) {
	o := options(t)
	check(t, Install(o))
	check(t, os.RemoveAll(o.at("/etc")))
	if all, err := o.Leftovers(); !errors.Is(err, ErrOutOfReach) {
		t.Errorf("%v, %v", all, err)
	}
	check(t, os.Remove(o.at(o.marker())))
	if got := names(t, o.Files); len(got) != 2 {
		t.Errorf("without the note: %q", got)
	}
}
