package preflight

import (
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"
)

// Options say where to look and how. Every path is as this process sees it.
type Options struct {
	CgroupRoot     string
	KubepodsCgroup string // empty: it is looked for
	BPFFS          string
	Proc           string // the host's; empty: its processes are not needed
	Sys            string
	KubeletDir     string
	Capabilities   []Capability
	// Listen is where the node listener is to be. The zero value: nobody asks.
	Listen netip.AddrPort

	FindKubepods func(cgroupRoot string) (string, error)
	LoadPrograms func() error
	// CheckPlace fails if other programs keep the agent's from the cgroup.
	CheckPlace func(kubepods string) error
	// TrySecondLine fails if the guard cannot have its second line. Nil: it
	// has none.
	TrySecondLine func() error
	// Kernel returns the running kernel's release. Nil: uname.
	Kernel func() (string, error)
	// FileSystem returns the magic number of the file system at a path. Nil:
	// statfs.
	FileSystem func(path string) (int64, error)
	// OpenByHandle opens the cgroup at a path by its handle and closes it.
	// Nil: open_by_handle_at.
	OpenByHandle func(cgroup string) error
}

// Result is what one check found.
type Result struct {
	Name   string
	OK     bool
	Detail string // what was found
	Fix    string // what to do; empty if OK
}

// Run makes all checks, in the order in which their failures are best fixed.
func Run(o Options) []Result {
	if o.Kernel == nil {
		o.Kernel = unameRelease
	}
	if o.FileSystem == nil {
		o.FileSystem = statfsMagic
	}
	if o.OpenByHandle == nil {
		o.OpenByHandle = openByHandle
	}
	var results []Result
	for _, check := range []func(Options) Result{
		kernel, capabilities, appArmor, seLinux, cgroupV2, kubepods, handles, bpffs, programs, place, secondLine, port, kubeletDir, hostProc,
	} {
		results = append(results, check(o))
	}
	return results
}

// Print writes one line for each result.
func Print(w io.Writer, results []Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range results {
		if r.OK {
			fmt.Fprintf(tw, "ok\t%s\t%s\n", r.Name, r.Detail)
		} else {
			fmt.Fprintf(tw, "FAIL\t%s\t%s. Fix: %s\n", r.Name, r.Detail, r.Fix)
		}
	}
	return tw.Flush()
}

func ok(name, format string, args ...any) Result {
	return Result{Name: name, OK: true, Detail: fmt.Sprintf(format, args...)}
}

func fail(name, fix, format string, args ...any) Result {
	return Result{Name: name, Detail: fmt.Sprintf(format, args...), Fix: fix}
}
