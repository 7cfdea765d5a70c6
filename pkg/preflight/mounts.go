package preflight

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func cgroupV2(o Options) Result {
	const name = "cgroup v2"
	magic, err := o.FileSystem(o.CgroupRoot)
	if err != nil {
		return fail(name, "mount the node's /sys/fs/cgroup in the pod (hostPath) and set --cgroup-root to it",
			"%s: %v", o.CgroupRoot, err)
	}
	if magic != unix.CGROUP2_SUPER_MAGIC {
		return fail(name, "boot the node with cgroup v2 (systemd.unified_cgroup_hierarchy=1), "+
			"or set --cgroup-root to where it is mounted", "%s is not cgroup v2", o.CgroupRoot)
	}
	return ok(name, "mounted at %s", o.CgroupRoot)
}

func kubepods(o Options) Result {
	const name = "kubepods"
	const fix = "run it on a node whose kubelet runs, or set --kubepods-cgroup to the cgroup that pods' cgroups are below"
	path, err := kubepodsPath(o)
	if err != nil {
		return fail(name, fix, "%v", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return fail(name, fix, "%v", err)
	}
	if !st.IsDir() {
		return fail(name, fix, "%s is not a directory", path)
	}
	return ok(name, "%s", path)
}

func kubepodsPath(o Options) (string, error) {
	if o.KubepodsCgroup != "" {
		return o.KubepodsCgroup, nil
	}
	return o.FindKubepods(o.CgroupRoot)
}

func handles(o Options) Result {
	const name = "cgroup handles"
	if err := o.OpenByHandle(o.CgroupRoot); err != nil {
		return fail(name, "add the capability DAC_READ_SEARCH, and allow open_by_handle_at in the seccomp profile "+
			"(RuntimeDefault allows it with that capability)", "a cgroup cannot be opened by its id: %v", err)
	}
	return ok(name, "cgroups can be opened by their ids")
}

func openByHandle(cgroup string) error {
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	handle, _, err := unix.NameToHandleAt(int(dir.Fd()), ".", 0)
	if err != nil {
		return os.NewSyscallError("name_to_handle_at", err)
	}
	fd, err := unix.OpenByHandleAt(int(dir.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_by_handle_at", err)
	}
	return unix.Close(fd)
}

func bpffs(o Options) Result {
	const name = "BPF filesystem"
	magic, err := o.FileSystem(o.BPFFS)
	if err != nil {
		return fail(name, "mount the node's /sys/fs/bpf in the pod (hostPath) and set --bpffs to it", "%s: %v", o.BPFFS, err)
	}
	if magic != unix.BPF_FS_MAGIC {
		return fail(name, "mount it on the node: mount -t bpf none /sys/fs/bpf", "%s is not one", o.BPFFS)
	}
	// The BPF filesystem refuses names with a dot.
	scratch, err := os.MkdirTemp(o.BPFFS, "sidestep_check_")
	if err == nil {
		err = os.Remove(scratch)
	}
	if err != nil {
		return fail(name, "mount it without readOnly, and let AppArmor and SELinux not confine the agent",
			"not writable: %v", err)
	}
	return ok(name, "writable at %s", o.BPFFS)
}

func kubeletDir(o Options) Result {
	const name = "kubelet directory"
	pods := filepath.Join(o.KubeletDir, "pods")
	if _, err := os.ReadDir(pods); err != nil {
		return fail(name, "mount the node's kubelet directory's pods in the pod (hostPath, HostToContainer), "+
			"and set --kubelet-dir if the kubelet has another --root-dir", "%v", err)
	}
	return ok(name, "%s is readable", pods)
}

// hostProc wants the node's processes: through them the agent enters pods'
// network namespaces.
func hostProc(o Options) Result {
	const name = "host processes"
	if o.Proc == "" {
		return ok(name, "not needed")
	}
	self, err := os.Readlink(filepath.Join(o.Proc, "self"))
	if err != nil {
		return fail(name, "mount /proc and set --proc to it", "%v", err)
	}
	if self == "1" {
		return fail(name, "set hostPID: true on the pod", "this process is number 1: it does not see the node's")
	}
	if _, err := os.Readlink(filepath.Join(o.Proc, "1/ns/net")); err != nil {
		return fail(name, "set hostPID: true on the pod, add the capability SYS_PTRACE, "+
			"and let AppArmor and SELinux not confine the agent", "%v", err)
	}
	return ok(name, "visible in %s", o.Proc)
}

func statfsMagic(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return st.Type, nil
}
