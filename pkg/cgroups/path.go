package cgroups

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// ErrNotPod is returned for a cgroup that is no pod's and lies in none.
var ErrNotPod = errors.New("cgroups: not a pod's cgroup")

// uuidLen and hashLen are the lengths of the two forms of a pod's UID: the
// API's, and the hash of a static pod's manifest.
const (
	uuidLen = 36
	hashLen = 32
)

// parse reads the pod and the container from a cgroup's path relative to
// kubepods, as the kubelet (pkg/kubelet/cm) and the container runtimes name
// them with the systemd and the cgroupfs driver. Whatever lies deeper than a
// container belongs to that container. It returns ErrNotPod for every other
// path.
func parse(rel string) (workload.CgroupRef, error) {
	dir, uid, ok := splitPod(rel)
	if !ok {
		return workload.CgroupRef{}, fmt.Errorf("%w: %q", ErrNotPod, rel)
	}
	child, _, _ := strings.Cut(strings.TrimPrefix(rel[len(dir):], "/"), "/")
	return workload.CgroupRef{PodUID: uid, ContainerID: containerID(child)}, nil
}

// splitPod returns the pod's directory, relative to kubepods, and its UID. The
// pod must stand where the kubelet puts it, directly below kubepods or a QoS
// level: a pod that may write its own part of the tree can make a directory
// there that bears another pod's name.
func splitPod(rel string) (dir, uid string, ok bool) {
	first, rest, _ := strings.Cut(rel, "/")
	if isQoS(first) {
		pod, _, _ := strings.Cut(rest, "/")
		uid, ok = podUID(pod)
		return path.Join(first, pod), uid, ok
	}
	uid, ok = podUID(first)
	return first, uid, ok
}

// isQoS reports whether a directory below kubepods is a QoS level. Guaranteed
// pods have none.
func isQoS(name string) bool {
	if name == "burstable" || name == "besteffort" {
		return true
	}
	unit, ok := strings.CutSuffix(name, ".slice")
	if !ok {
		return false
	}
	parent, level, ok := cutLast(unit, "-")
	return ok && (level == "burstable" || level == "besteffort") && isKubepods(parent)
}

// isKubepods reports whether a slice's name without suffix is that of
// kubepods. systemd puts the names of all parents before it ("kubelet-kubepods").
func isKubepods(unit string) bool {
	return unit == "kubepods" || strings.HasSuffix(unit, "-kubepods")
}

// podUID reads the UID from the name of a pod's directory. In a slice's name a
// dash means a parent, so the kubelet writes the UID's as underscores.
func podUID(name string) (string, bool) {
	if uid, ok := strings.CutPrefix(name, "pod"); ok {
		return uid, isUID(uid)
	}
	unit, ok := strings.CutSuffix(name, ".slice")
	if !ok {
		return "", false
	}
	parent, escaped, ok := cutLast(unit, "-pod")
	if !ok || strings.Contains(escaped, "-") {
		return "", false
	}
	uid := strings.ReplaceAll(escaped, "_", "-")
	return uid, isUID(uid) && (isKubepods(parent) || isQoS(parent+".slice"))
}

// isUID reports whether s is a UUID or a static pod's config hash.
func isUID(s string) bool {
	switch len(s) {
	case hashLen:
		return isHex(s)
	case uuidLen:
		for _, i := range []int{8, 13, 18, 23} {
			if s[i] != '-' {
				return false
			}
		}
		return isHex(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	default:
		return false
	}
}

// containerID returns the bare id that a directory of a pod bears, or "" if it
// is not a container's: cri-o's monitor ("crio-conmon-<id>.scope") is none.
func containerID(name string) string {
	name = strings.TrimSuffix(name, ".scope")
	for _, runtime := range []string{"cri-containerd-", "crio-", "docker-"} {
		if id, ok := strings.CutPrefix(name, runtime); ok {
			name = id
			break
		}
	}
	if !isHex(name) {
		return ""
	}
	return name
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
