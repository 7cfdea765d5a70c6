package boot

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/test/lab"
)

const (
	kubepods = "/sys/fs/cgroup/kubepods.slice"
	connect4 = "/sys/fs/bpf/" + intercept.PinDirectory + "/link_connect4"
)

// seen is what a process finds on the machine.
type seen struct {
	Attached bool
	Kubepods uint64 // the cgroup's id; 0: there is none
	Tried    tried
}

func init() {
	lab.Register("kubelet", look)
	lab.Register("pod", look)
}

func look(struct{}) (s seen, err error) {
	_, err = os.Stat(connect4)
	if s.Attached = err == nil; err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	s.Kubepods, err = lab.CgroupID(kubepods)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	s.Tried, err = dial(struct{}{})
	return s, err
}

// node are the units of a node whose kubelet starts one pod, in a cgroup as the
// systemd driver makes it.
func node() map[string]string {
	return map[string]string{
		units + "/boot.target": "[Unit]\nDefaultDependencies=no\nWants=kubelet.service\n",
		units + "/kubelet.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\n" + task("kubelet") +
			"ExecStartPost=systemctl start --no-block pod.service\n",
		units + "/pod.service":                           "[Service]\nType=oneshot\nSlice=kubepods-besteffort-podx.slice\n" + task("pod"),
		units + "/" + bootguard.UnitName + ".d/log.conf": "[Service]\nStandardOutput=append:/results/log\n",
		"etc/sidestep/config.yaml":                       head + "unknownHostNetwork: hold\n",
	}
}

const install = "/agent boot-guard install --kubepods-cgroup " + kubepods

// The unit, as the agent's program writes it, is run by a systemd that boots:
// with its hardening, before the kubelet, and systemd takes the cgroup that the
// boot guard has made for the pods' slice. A boot guard that cannot do its work
// does not keep the kubelet from starting.
func TestUnitAtBoot(t *testing.T) {
	needProgram(t)
	if _, err := os.Stat(systemd); err != nil {
		t.Fatalf("%v: `make setup` installs it", err)
	}
	open := tried{served, sent}
	for name, tt := range map[string]struct {
		prepare []string
		holds   bool
	}{
		"installed": {[]string{
			install,
			`said=$(SYSTEMD_UNIT_PATH=` + units + ` systemd-analyze verify --man=no ` + bootguard.UnitName + ` 2>&1) && [ -z "$said" ] || { echo "$said"; exit 1; }`,
		}, true},
		"not installed": {nil, false},
		"fails":         {[]string{install, "rm /var/lib/sidestep/boot.yaml", "umount /sys/fs/bpf"}, false},
		"program gone":  {[]string{install, "rm " + bootguard.DefaultProgram}, false},
		"hangs": {[]string{
			install, "printf '#!/bin/sh\\nexec sleep infinity\\n' >" + bootguard.DefaultProgram,
			"printf '[Service]\\nTimeoutStartSec=1\\n' >" + units + "/" + bootguard.UnitName + ".d/soon.conf",
		}, false},
		"removed": {[]string{install, "/agent uninstall --boot-guard-only"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := lab.NewNode(t.TempDir())
			check(t, err)
			t.Cleanup(func() { check(t, n.Close()) })
			check(t, lab.CheckIsolated("/proc/thread-self/ns/net", "/proc/thread-self/ns/net"))
			serveIMDS(t)
			self, err := os.Executable()
			check(t, err)
			m := machine{Root: t.TempDir(), Agent: *program, Task: self, Prepare: tt.prepare}
			layout := node()
			maps.Copy(layout, skeleton)
			m.files(t, layout)
			ended := m.start(t, filepath.Join(filepath.Dir(n.Kubepods), "machine"))

			kubelet, pod := result[seen](t, m, ended, "kubelet"), result[seen](t, m, ended, "pod")
			t.Logf("the kubelet: %+v, the pod: %+v", kubelet, pod)
			if kubelet.Attached != tt.holds || kubelet.Tried != open {
				t.Errorf("the kubelet sees %+v, want attached %t, itself free", kubelet, tt.holds)
			}
			if !tt.holds {
				if kubelet.Kubepods != 0 || pod.Tried != open {
					t.Errorf("a boot guard that does not hold has made the pods' cgroup, or keeps the pod: %+v", pod)
				}
				return
			}
			if pod.Tried != (tried{eperm, eperm}) {
				t.Errorf("the pod is not held: %+v", pod)
			}
			if kubelet.Kubepods == 0 || pod.Kubepods != kubelet.Kubepods {
				t.Errorf("the pods' cgroup is %d at first and %d then", kubelet.Kubepods, pod.Kubepods)
			}
		})
	}
}
