package cgroups

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	uid     = "1b3c1f6e-8d5a-4b0e-9c57-2f6a7d8e9f01"
	escaped = "1b3c1f6e_8d5a_4b0e_9c57_2f6a7d8e9f01"
	hash    = "0123456789abcdef0123456789abcdef"
	other   = "ffffffff-8d5a-4b0e-9c57-2f6a7d8e9f01"
	cid     = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
)

func TestParse(t *testing.T) {
	pod := workload.CgroupRef{PodUID: uid}
	container := workload.CgroupRef{PodUID: uid, ContainerID: cid}
	tests := map[string]workload.CgroupRef{
		// systemd
		"kubepods-burstable.slice/kubepods-burstable-pod" + escaped + ".slice":                                    pod,
		"kubepods-burstable.slice/kubepods-burstable-pod" + escaped + ".slice/cri-containerd-" + cid + ".scope":   container,
		"kubepods-besteffort.slice/kubepods-besteffort-pod" + escaped + ".slice/crio-" + cid + ".scope":           container,
		"kubepods-besteffort.slice/kubepods-besteffort-pod" + escaped + ".slice/crio-conmon-" + cid + ".scope":    pod,
		"kubepods-besteffort.slice/kubepods-besteffort-pod" + escaped + ".slice/crio-" + cid + ".scope/container": container,
		"kubepods-pod" + escaped + ".slice":                                   pod,
		"kubepods-pod" + escaped + ".slice/docker-" + cid + ".scope":          container,
		"kubepods-pod" + escaped + ".slice/docker-" + cid + ".scope/init/sub": container,
		"kubepods-pod" + hash + ".slice":                                      {PodUID: hash},
		// kind
		"kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + escaped + ".slice/cri-containerd-" + cid + ".scope": container,
		"kubelet-kubepods-pod" + escaped + ".slice": pod,
		// cgroupfs
		"burstable/pod" + uid:                               pod,
		"burstable/pod" + uid + "/" + cid:                   container,
		"besteffort/pod" + uid + "/crio-" + cid:             container,
		"besteffort/pod" + uid + "/crio-conmon-" + cid:      pod,
		"pod" + uid + "/" + cid + "/nested/deeper":          container,
		"pod" + hash + "/" + cid:                            {PodUID: hash, ContainerID: cid},
		"burstable/pod" + uid + "/kata_overhead":            pod,
		"burstable/pod" + uid + "/" + cid + "/pod" + other:  container,
		"pod" + uid + "/kubepods-pod" + hash + ".slice":     pod,
		"pod" + uid + "/burstable/pod" + other + "/" + cid:  pod,
		"burstable/pod" + uid + "/pod" + other + "/" + hash: pod,
	}
	for rel, want := range tests {
		got, err := parse(rel)
		if err != nil {
			t.Errorf("parse(%q): %v", rel, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("parse(%q) (-want +got):\n%s", rel, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, rel := range []string{
		"", "/", ".", "..",
		"burstable", "kubepods-burstable.slice", "pod", "podman",
		"/pod" + uid,
		"system.slice/pod" + uid,
		"burstable/burstable/pod" + uid,
		"burstable/other/pod" + uid,
		"pod" + escaped,
		"pod" + uid + ".slice",
		"pod" + uid + " (deleted)",
		"pod" + hash[1:],
		"pod" + strings.Replace(uid, "1b", "zz", 1),
		"kubepods-pod" + uid + ".slice",
		"kubepods-pod" + escaped,
		"kubepods-pod" + escaped + ".scope",
		"kubepods-guaranteed-pod" + escaped + ".slice",
		"notkubepods-pod" + escaped + ".slice",
		"user-pod" + escaped + ".slice",
		"kubepods-guaranteed.slice/kubepods-guaranteed-pod" + escaped + ".slice",
	} {
		if got, err := parse(rel); !errors.Is(err, ErrNotPod) {
			t.Errorf("parse(%q) = %+v, %v, want ErrNotPod", rel, got, err)
		}
	}
}

// FuzzParse checks that whatever a pod makes below its own directory, the pod
// stays the same, and that no other name passes for a UID.
func FuzzParse(f *testing.F) {
	f.Add("burstable/pod"+uid, cid)
	f.Add("pod"+hash, "pod"+other)
	f.Add("kubepods-burstable.slice/kubepods-burstable-pod"+escaped+".slice", "cri-containerd-"+cid+".scope")
	f.Add("kubelet-kubepods-pod"+escaped+".slice", "crio-conmon-"+cid+".scope")
	f.Add("kubepods.slice/kubepods-pod"+escaped+".slice", "../pod"+other)
	f.Add("pod"+uid+" (deleted)", "")
	f.Fuzz(func(t *testing.T, rel, child string) {
		ref, err := parse(rel)
		if err != nil {
			if !errors.Is(err, ErrNotPod) || ref != (workload.CgroupRef{}) {
				t.Fatalf("parse(%q) = %+v, %v", rel, ref, err)
			}
			return
		}
		if !isUID(ref.PodUID) {
			t.Fatalf("parse(%q): %q is no UID", rel, ref.PodUID)
		}
		if ref.ContainerID != "" && !isHex(ref.ContainerID) {
			t.Fatalf("parse(%q): %q is no container id", rel, ref.ContainerID)
		}
		nested, err := parse(rel + "/" + child)
		if err != nil || nested.PodUID != ref.PodUID {
			t.Fatalf("parse(%q) = %+v, %v; its parent is %+v", rel+"/"+child, nested, err, ref)
		}
		if ref.ContainerID != "" && nested != ref {
			t.Fatalf("parse(%q) = %+v; its parent is %+v", rel+"/"+child, nested, ref)
		}
	})
}
