package preflight

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Lines of /proc/net/tcp, as a little-endian machine has them.
const (
	tcpTable     = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	agentsSocket = "   0: FCA9FEA9:0A13 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0\n"
	anySocket    = "   1: 00000000:0A13 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0\n"
	anySocket6   = "   1: 00000000000000000000000000000000:0A13 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1\n"
	// NMI 1.6.3 at the node's own address, and a connection that was made from
	// the port.
	hostSocket = "   2: 0A00000A:0A13 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1 0000000000000000 100 0 0 10 0\n" +
		"   3: 00000000:0A13 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4715 1 0000000000000000 100 0 0 10 0\n"
)

// Settings of the kernel, as the fake node has them.
const (
	portRangeFile = "proc/sys/net/ipv4/ip_local_port_range"
	reservedFile  = "proc/sys/net/ipv4/ip_local_reserved_ports"
)

// node is a machine that can run the agent.
type node struct {
	dir     string
	options Options
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{dir: t.TempDir()}
	n.write(t, "proc/self.status", "Name:\tagent\nCapEff:\t000000c000001000\nCapBnd:\t0000000000000000\n")
	n.mkdir(t, "proc/42/attr/apparmor")
	n.mkdir(t, "proc/1/ns")
	n.link(t, "42", "proc/self")
	n.link(t, "../self.status", "proc/42/status")
	n.link(t, "net:[4026531840]", "proc/1/ns/net")
	n.write(t, "proc/42/net/tcp", tcpTable+agentsSocket+hostSocket)
	n.write(t, portRangeFile, "32768\t60999\n")
	n.write(t, reservedFile, "\n")
	n.mkdir(t, "cgroup/kubepods.slice")
	n.mkdir(t, "bpf")
	n.mkdir(t, "kubelet/pods")
	n.options = Options{
		CgroupRoot: n.path("cgroup"), BPFFS: n.path("bpf"), Proc: n.path("proc"), Sys: n.path("sys"),
		KubeletDir: n.path("kubelet"), Listen: netip.MustParseAddrPort("169.254.169.252:2579"),
		Capabilities: []Capability{
			{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN},
			{"CAP_PERFMON", unix.CAP_PERFMON},
			{"CAP_BPF", unix.CAP_BPF},
		},
		FindKubepods:  func(root string) (string, error) { return filepath.Join(root, "kubepods.slice"), nil },
		LoadPrograms:  func() error { return nil },
		CheckPlace:    func(string) error { return nil },
		TrySecondLine: func() error { return nil },
		Kernel:        func() (string, error) { return "5.15.0-1071-azure", nil },
		OpenByHandle:  func(string) error { return nil },
		FileSystem: func(path string) (int64, error) {
			return map[string]int64{"cgroup": unix.CGROUP2_SUPER_MAGIC, "bpf": unix.BPF_FS_MAGIC}[filepath.Base(path)], nil
		},
	}
	return n
}

func (n *node) path(rel string) string { return filepath.Join(n.dir, rel) }

func (n *node) mkdir(t *testing.T, rel string) {
	t.Helper()
	if err := os.MkdirAll(n.path(rel), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (n *node) write(t *testing.T, rel, content string) {
	t.Helper()
	n.mkdir(t, filepath.Dir(rel))
	if err := os.WriteFile(n.path(rel), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (n *node) link(t *testing.T, target, rel string) {
	t.Helper()
	n.remove(t, rel)
	if err := os.Symlink(target, n.path(rel)); err != nil {
		t.Fatal(err)
	}
}

func (n *node) remove(t *testing.T, rel string) {
	t.Helper()
	if err := os.RemoveAll(n.path(rel)); err != nil {
		t.Fatal(err)
	}
}

func (n *node) kernel(release string) {
	n.options.Kernel = func() (string, error) { return release, nil }
}

func (n *node) fileSystem(magic int64, err error) {
	n.options.FileSystem = func(string) (int64, error) { return magic, err }
}

func TestRunOnANodeThatCanRunIt(t *testing.T) {
	n := newNode(t)
	var names []string
	for _, r := range Run(n.options) {
		names = append(names, r.Name)
		if !r.OK || r.Detail == "" || r.Fix != "" {
			t.Errorf("%+v", r)
		}
	}
	want := []string{
		"kernel", "capabilities", "AppArmor", "SELinux", "cgroup v2", "kubepods", "cgroup handles",
		"BPF filesystem", "programs", "place", "second line", "listener port", "kubelet directory", "host processes",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
	left, err := os.ReadDir(n.path("bpf"))
	if err != nil || len(left) != 0 {
		t.Errorf("left on the BPF filesystem: %v, %v", left, err)
	}
}

func TestFailures(t *testing.T) {
	boom := errors.New("operation not permitted")
	const enforcing, enabled = "sys/fs/selinux/enforce", "sys/module/apparmor/parameters/enabled"
	tests := map[string]struct {
		spoil  func(*testing.T, *node)
		check  string
		detail string
		fix    string
	}{
		"old kernel":         {func(_ *testing.T, n *node) { n.kernel("5.14.21-150500") }, "kernel", "5.14.21", "Linux 5.15"},
		"older major":        {func(_ *testing.T, n *node) { n.kernel("4.19.0") }, "kernel", "4.19.0", "Linux 5.15"},
		"no release":         {func(_ *testing.T, n *node) { n.kernel("rolling") }, "kernel", "rolling", "Linux 5.15"},
		"no uname":           {func(_ *testing.T, n *node) { n.options.Kernel = func() (string, error) { return "", boom } }, "kernel", "not permitted", "Linux 5.15"},
		"missing capability": {func(t *testing.T, n *node) { n.write(t, "proc/self.status", "CapEff:\t0000004000001000\n") }, "capabilities", "missing: CAP_BPF", "capabilities.add: BPF;"},
		"no capabilities":    {func(t *testing.T, n *node) { n.write(t, "proc/self.status", "CapEff:\t0000000000000000\n") }, "capabilities", "CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF", "NET_ADMIN, PERFMON, BPF"},
		"no CapEff":          {func(t *testing.T, n *node) { n.write(t, "proc/self.status", "Name:\tagent\n") }, "capabilities", "no CapEff", "--proc"},
		"AppArmor profile": {func(t *testing.T, n *node) {
			n.write(t, enabled, "Y\n")
			n.write(t, "proc/42/attr/apparmor/current", "cri-containerd.apparmor.d (enforce)\n")
		}, "AppArmor", "cri-containerd.apparmor.d (enforce)", "appArmorProfile.type: Unconfined"},
		"AppArmor profile not readable": {func(t *testing.T, n *node) { n.write(t, enabled, "Y\n") }, "AppArmor", "cannot be read", "Unconfined"},
		"SELinux container type": {func(t *testing.T, n *node) {
			n.write(t, enforcing, "1")
			n.write(t, "proc/42/attr/current", "system_u:system_r:container_t:s0:c1,c2\x00")
		}, "SELinux", "container_t", "seLinuxOptions.type: spc_t"},
		"SELinux without selinuxfs": {func(t *testing.T, n *node) {
			n.write(t, "proc/42/attr/current", "system_u:system_r:container_t:s0\x00")
		}, "SELinux", "container_t", "seLinuxOptions.type: spc_t"},
		"cgroup v1":           {func(_ *testing.T, n *node) { n.fileSystem(unix.TMPFS_MAGIC, nil) }, "cgroup v2", "is not cgroup v2", "unified_cgroup_hierarchy=1"},
		"no cgroup mount":     {func(_ *testing.T, n *node) { n.fileSystem(0, boom) }, "cgroup v2", "not permitted", "--cgroup-root"},
		"no kubepods":         {func(_ *testing.T, n *node) { n.options.FindKubepods = func(string) (string, error) { return "", boom } }, "kubepods", "not permitted", "--kubepods-cgroup"},
		"no such kubepods":    {func(_ *testing.T, n *node) { n.options.KubepodsCgroup = n.path("cgroup/none") }, "kubepods", "cgroup/none", "--kubepods-cgroup"},
		"kubepods is a file":  {func(_ *testing.T, n *node) { n.options.KubepodsCgroup = n.path("proc/self.status") }, "kubepods", "not a directory", "--kubepods-cgroup"},
		"no handles":          {func(_ *testing.T, n *node) { n.options.OpenByHandle = func(string) error { return boom } }, "cgroup handles", "not permitted", "DAC_READ_SEARCH"},
		"not bpffs":           {func(_ *testing.T, n *node) { n.fileSystem(unix.CGROUP2_SUPER_MAGIC, nil) }, "BPF filesystem", "is not one", "mount -t bpf"},
		"no bpffs":            {func(_ *testing.T, n *node) { n.fileSystem(0, boom) }, "BPF filesystem", "not permitted", "--bpffs"},
		"bpffs not writable":  {func(t *testing.T, n *node) { n.remove(t, "bpf") }, "BPF filesystem", "not writable", "readOnly"},
		"programs":            {func(_ *testing.T, n *node) { n.options.LoadPrograms = func() error { return boom } }, "programs", "not permitted", "CONFIG_CGROUP_BPF"},
		"place taken":         {func(_ *testing.T, n *node) { n.options.CheckPlace = func(string) error { return boom } }, "place", "not permitted", "make room"},
		"no place":            {func(_ *testing.T, n *node) { n.options.FindKubepods = func(string) (string, error) { return "", boom } }, "place", "not permitted", "make room"},
		"no second line":      {func(_ *testing.T, n *node) { n.options.TrySecondLine = func() error { return boom } }, "second line", "not permitted", "nf_tables"},
		"no kubelet dir":      {func(t *testing.T, n *node) { n.remove(t, "kubelet/pods") }, "kubelet directory", "kubelet/pods", "--kubelet-dir"},
		"own PID namespace":   {func(t *testing.T, n *node) { n.link(t, "1", "proc/self") }, "host processes", "number 1", "hostPID: true"},
		"namespaces not seen": {func(t *testing.T, n *node) { n.remove(t, "proc/1/ns/net") }, "host processes", "1/ns/net", "SYS_PTRACE"},
		"early NMI": {func(t *testing.T, n *node) {
			n.write(t, "proc/42/net/tcp", tcpTable+anySocket)
			n.write(t, "proc/77/comm", "nmi\n")
			n.mkdir(t, "proc/77/fd")
			n.link(t, "socket:[4712]", "proc/77/fd/3")
		}, "listener port", "169.254.169.252:2579 is taken: 0.0.0.0:2579 by nmi (process 77)", "1.6.3 or later"},
		"port taken over IPv6": {func(t *testing.T, n *node) { n.write(t, "proc/42/net/tcp6", tcpTable+anySocket6) },
			"listener port", "[::]:2579 by a process that cannot be seen from here", "--listen"},
		"port that the kernel chooses": {func(t *testing.T, n *node) {
			n.write(t, portRangeFile, "1024\t65535\n")
			n.write(t, reservedFile, "2570-2578,2580\n")
		}, "listener port", "2579 is in net.ipv4.ip_local_port_range", "ip_local_reserved_ports"},
		"no range of ports":        {func(t *testing.T, n *node) { n.write(t, portRangeFile, "1024\n") }, "listener port", "is no range", "--proc"},
		"no list of listeners":     {func(t *testing.T, n *node) { n.remove(t, "proc/42/net/tcp") }, "listener port", "cannot be read", "--proc"},
		"listeners not understood": {func(t *testing.T, n *node) { n.write(t, "proc/42/net/tcp", tcpTable+"0: 00:0A13 x 0A 0 0 0 0 0 1\n") }, "listener port", `"00:0A13" is no address`, "--proc"},
		"no proc":                  {func(t *testing.T, n *node) { n.remove(t, "proc") }, "host processes", "proc/self", "--proc"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			tc.spoil(t, n)
			r := result(t, Run(n.options), tc.check)
			if r.OK || !strings.Contains(r.Detail, tc.detail) || !strings.Contains(r.Fix, tc.fix) {
				t.Errorf("got %+v, want a failure with %q, fixed by %q", r, tc.detail, tc.fix)
			}
		})
	}
}

func TestConfinementThatDoesNotMatter(t *testing.T) {
	const enabled, label = "sys/module/apparmor/parameters/enabled", "proc/42/attr/current"
	tests := map[string]struct {
		files  map[string]string
		check  string
		detail string
	}{
		"AppArmor off":          {map[string]string{enabled: "N\n"}, "AppArmor", "not active"},
		"AppArmor unconfined":   {map[string]string{enabled: "Y\n", "proc/42/attr/apparmor/current": "unconfined\n"}, "AppArmor", "unconfined"},
		"AppArmor complains":    {map[string]string{enabled: "Y\n", "proc/42/attr/apparmor/current": "agent (complain)\n"}, "AppArmor", "agent (complain)"},
		"AppArmor's own label":  {map[string]string{label: ":k8s://agent:x (enforce)\n"}, "SELinux", "not active"},
		"SELinux spc_t":         {map[string]string{label: "system_u:system_r:spc_t:s0\x00"}, "SELinux", "spc_t"},
		"SELinux root's shell":  {map[string]string{label: "unconfined_u:unconfined_r:unconfined_t:s0\x00"}, "SELinux", "unconfined_t"},
		"SELinux is permissive": {map[string]string{label: "u:r:container_t:s0\x00", "sys/fs/selinux/enforce": "0"}, "SELinux", "permissive"},
	}
	for name, tc := range tests {
		n := newNode(t)
		for path, content := range tc.files {
			n.write(t, path, content)
		}
		if r := result(t, Run(n.options), tc.check); !r.OK || r.Detail != tc.detail {
			t.Errorf("%s: %+v, want OK with %q", name, r, tc.detail)
		}
	}
}

func TestSecondLineThatIsNotAskedFor(t *testing.T) {
	n := newNode(t)
	n.options.TrySecondLine = nil
	if r := result(t, Run(n.options), "second line"); !r.OK || r.Detail != "not asked for" {
		t.Errorf("%+v", r)
	}
}

func TestReservedPort(t *testing.T) {
	for _, reserved := range []string{"2579\n", "80,2500-2600\n"} {
		n := newNode(t)
		n.write(t, portRangeFile, "1024\t65535\n")
		n.write(t, reservedFile, reserved)
		if r := result(t, Run(n.options), "listener port"); !r.OK {
			t.Errorf("%q: %+v", reserved, r)
		}
	}
}

// NMI may run beside the agent; of which version it is, its process does not
// say.
func TestNMIBesideTheAgent(t *testing.T) {
	n := newNode(t)
	n.write(t, "proc/77/comm", "nmi\n")
	if r := result(t, Run(n.options), "listener port"); !r.OK || !strings.Contains(r.Detail, "NMI runs (process 77)") || !strings.Contains(r.Detail, "1.6.3") {
		t.Errorf("%+v", r)
	}
	n.options.Listen = netip.AddrPort{}
	if r := result(t, Run(n.options), "listener port"); !r.OK || r.Detail != "not asked for" {
		t.Errorf("%+v", r)
	}
}

// The kernel's own table, and a socket of this process in it.
func TestListenersOfThisProcess(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := netip.AddrPortFrom(netip.MustParseAddr("169.254.169.252"), uint16(l.Addr().(*net.TCPAddr).Port))
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("0.0.0.0:%d by %s (process %d)", at.Port(), bytes.TrimSpace(name), os.Getpid())
	if got, err := listenersAt("/proc", at); err != nil || !slices.Equal(got, []string{want}) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// TestRunAsksTheKernel runs with nothing injected that asks it.
func TestRunAsksTheKernel(t *testing.T) {
	n := newNode(t)
	n.options.Kernel, n.options.FileSystem, n.options.OpenByHandle = nil, nil, nil
	results := Run(n.options)
	release, err := unameRelease()
	if r := result(t, results, "kernel"); err != nil || !strings.Contains(r.Detail, release) {
		t.Errorf("%+v, want %q in it, %v", r, release, err)
	}
	for _, check := range []string{"cgroup v2", "BPF filesystem"} {
		if r := result(t, results, check); r.OK {
			t.Errorf("a plain directory passes: %+v", r)
		}
	}
}

func TestPrint(t *testing.T) {
	var out bytes.Buffer
	err := Print(&out, []Result{
		{Name: "kernel", OK: true, Detail: "Linux 6.8.0"},
		{Name: "capabilities", Detail: "missing: CAP_BPF", Fix: "add BPF"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "ok    kernel        Linux 6.8.0\n" +
		"FAIL  capabilities  missing: CAP_BPF. Fix: add BPF\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func result(t *testing.T, results []Result, name string) Result {
	t.Helper()
	for _, r := range results {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no check named %q", name)
	return Result{}
}
