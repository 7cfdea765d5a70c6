package cgroups

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// How the kubelet and the runtimes name a pod's directory and what lies below
// it, written apart from the parser.
const (
	kubepodsName = `(?:[^/]*-)?kubepods`
	uuidName     = `[0-9a-fA-F]{8}SEP[0-9a-fA-F]{4}SEP[0-9a-fA-F]{4}SEP[0-9a-fA-F]{4}SEP[0-9a-fA-F]{12}`
	hashName     = `[0-9a-fA-F]{32}`
)

var (
	cgroupfsPod = regexp.MustCompile(`^(?:(?:burstable|besteffort)/|` + kubepodsName + `-(?:burstable|besteffort)\.slice/)?` +
		`pod(` + strings.ReplaceAll(uuidName, "SEP", "-") + `|` + hashName + `)(?:/|$)`)
	systemdPod = regexp.MustCompile(`^(?:(?:burstable|besteffort)/|` + kubepodsName + `-(?:burstable|besteffort)\.slice/)?` +
		kubepodsName + `(?:-burstable|-besteffort)?-pod(` + strings.ReplaceAll(uuidName, "SEP", "_") + `|` + hashName + `)\.slice(?:/|$)`)
)

var belowKubepods = regexp.MustCompile(`(?s)^/sys/fs/cgroup/kubepods\.slice/(.*)$`)

// podIn returns the UID that stands where the kubelet puts a pod.
func podIn(rel string) (string, bool) {
	if m := cgroupfsPod.FindStringSubmatch(rel); m != nil {
		return m[1], true
	}
	if m := systemdPod.FindStringSubmatch(rel); m != nil {
		return strings.ReplaceAll(m[1], "_", "-"), true
	}
	return "", false
}

// FuzzFirstPod checks that a pod is read from the first directory below
// kubepods or a QoS level alone, and whenever one stands there; whatever
// follows it, whoever wrote that, changes nothing.
func FuzzFirstPod(f *testing.F) {
	for _, rel := range []string{
		"burstable/pod" + uid, "pod" + hash + "/pod" + other, "besteffort/pod" + uid + "/burstable/pod" + other,
		"kubepods-burstable.slice/kubepods-burstable-pod" + escaped + ".slice/cri-containerd-" + cid + ".scope",
		"kubelet-kubepods-pod" + escaped + ".slice/kubelet-kubepods-pod" + hash + ".slice",
		"kubepods.slice/kubepods-pod" + escaped + ".slice", "pod" + uid + " (deleted)", "/pod" + uid, "x/pod" + uid, "../pod" + uid,
		"burstable/../pod" + uid, "burstable//pod" + uid, "pod" + escaped, "kubepods-pod" + uid + ".slice", "kubepods-pod" + escaped + ".slice\n",
		"kubepods-besteffort.slice/pod" + uid, "kubepods-besteffort.slice/kubepods-burstable-pod" + escaped + ".slice",
		"user-pod" + escaped + ".slice", "burstable/kubepods-pod" + escaped + ".slice", "-kubepods-pod" + hash + ".slice", "a-pod-kubepods-pod" + hash + ".slice/x",
	} {
		f.Add(rel)
	}
	f.Fuzz(func(t *testing.T, rel string) {
		ref, err := parse(rel)
		want, is := podIn(rel)
		if is != (err == nil) || ref.PodUID != want {
			t.Fatalf("parse(%q) = %+v, %v; the pod there is %q", rel, ref, err, want)
		}
		if err != nil && !errors.Is(err, ErrNotPod) {
			t.Fatalf("parse(%q): %v", rel, err)
		}
	})
}

// FuzzRoundTrip checks that Parse gives back what the kubelet and the runtimes
// write, in each layout.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), true, []byte("0123456789abcdef0123456789abcdef"))
	f.Add(make([]byte, 16), false, []byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 16), false, []byte{0xde, 0xad})
	f.Fuzz(func(t *testing.T, id []byte, static bool, containerID []byte) {
		if len(id) != 16 {
			return
		}
		uid := fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
		if static {
			uid = hex.EncodeToString(id)
		}
		container := hex.EncodeToString(containerID)
		want := workload.CgroupRef{PodUID: uid, ContainerID: container}
		for _, pod := range podPaths(uid) {
			for _, name := range []string{container, "crio-" + container, "cri-containerd-" + container + ".scope", "docker-" + container + ".scope"} {
				rel := path.Join(pod, name)
				if container == "" {
					rel = pod
				}
				if got, err := parse(rel); err != nil || got != want {
					t.Fatalf("parse(%q) = %+v, %v, want %+v", rel, got, err, want)
				}
			}
		}
	})
}

// podPaths returns where a pod's directory may be, relative to kubepods.
func podPaths(uid string) []string {
	escaped := strings.ReplaceAll(uid, "-", "_")
	paths := []string{"pod" + uid, "burstable/pod" + uid, "besteffort/pod" + uid}
	for _, kubepods := range []string{"kubepods", "kubelet-kubepods"} {
		paths = append(paths, kubepods+"-pod"+escaped+".slice")
		for _, qos := range []string{kubepods + "-burstable", kubepods + "-besteffort"} {
			paths = append(paths, qos+".slice/"+qos+"-pod"+escaped+".slice")
		}
	}
	return paths
}

// FuzzOutsideKubepods checks that a path is read as a pod's only if it lies
// below kubepods, by whole names.
func FuzzOutsideKubepods(f *testing.F) {
	const kubepods = "/sys/fs/cgroup/kubepods.slice"
	for _, p := range []string{
		kubepods + "/kubepods-pod" + escaped + ".slice", kubepods + "/pod" + uid + "/" + cid, kubepods, kubepods + "/",
		"/sys/fs/cgroup/kubepods.slicex/pod" + uid, "/sys/fs/cgroup/pod" + uid, "/pod" + uid, "/../kubepods.slice/pod" + uid,
		kubepods + "//pod" + uid, kubepods + "/../pod" + uid, "/sys/fs/cgroup/system.slice/kubepods.slice/pod" + uid, "",
		"/sys/fs/cgroup" + kubepods + "/pod" + uid,
	} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		rel, inside := below(p, kubepods)
		ref, err := parse(rel)
		want, is := "", false
		if m := belowKubepods.FindStringSubmatch(p); m != nil {
			want, is = podIn(m[1])
		}
		if got := inside && err == nil; got != is || got && ref.PodUID != want {
			t.Fatalf("%q is read as %+v, %v below %s: %v; the pod there is %q", p, ref, err, kubepods, inside, want)
		}
	})
}
