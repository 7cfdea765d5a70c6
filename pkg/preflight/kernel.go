package preflight

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// The oldest kernel that has every BPF helper that the agent's programs call.
const (
	minMajor = 5
	minMinor = 15
)

func kernel(o Options) Result {
	const name = "kernel"
	fix := fmt.Sprintf("use a node image with Linux %d.%d or newer", minMajor, minMinor)
	release, err := o.Kernel()
	if err != nil {
		return fail(name, fix, "release unknown: %v", err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fail(name, fix, "release %q is not understood", release)
	}
	if major < minMajor || major == minMajor && minor < minMinor {
		return fail(name, fix, "Linux %s is too old", release)
	}
	return ok(name, "Linux %s", release)
}

func unameRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

func programs(o Options) Result {
	const name = "programs"
	if err := o.LoadPrograms(); err != nil {
		return fail(name, "fix what fails above first; if nothing does, the node's kernel was built without "+
			"CONFIG_CGROUP_BPF, or lockdown or another security module forbids bpf()", "do not load: %v", err)
	}
	return ok(name, "load")
}

func secondLine(o Options) Result {
	const name = "second line"
	if o.TrySecondLine == nil {
		return ok(name, "not asked for")
	}
	if err := o.TrySecondLine(); err != nil {
		return fail(name, "load the kernel module nf_tables on the node; where the network plugin routes past netfilter "+
			"(AKS with eBPF host routing) set --second-line=off", "the nftables table cannot be made: %v", err)
	}
	return ok(name, "the nftables table can be made")
}

func place(o Options) Result {
	const name = "place"
	path, err := kubepodsPath(o)
	if err == nil {
		err = o.CheckPlace(path)
	}
	if err != nil {
		return fail(name, "make room for the programs, and run this again", "%v", err)
	}
	return ok(name, "no other program keeps the agent's out")
}
