package main

import (
	"maps"
	"path"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// What each pod is given of the node, in full.
func TestPrivileges(t *testing.T) {
	full := []corev1.Capability{"NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"}
	for name, objects := range rendered(t) {
		if name == "uninstall-boot-guard" {
			continue // bootguard_test.go
		}
		capabilities, hostPID := full, true
		switch name {
		case "node-delivery":
			capabilities, hostPID = []corev1.Capability{"BPF", "PERFMON", "NET_ADMIN", "DAC_READ_SEARCH"}, false
		case "uninstall":
			capabilities, hostPID = []corev1.Capability{"NET_ADMIN"}, false
		}
		templates := podTemplates(objects)
		if len(templates) != 1 {
			t.Fatalf("%s runs %d kinds of pods, want 1", name, len(templates))
		}
		pod := templates[0].Spec
		if !pod.HostNetwork || pod.HostPID != hostPID || pod.HostIPC {
			t.Errorf("%s: hostNetwork %t, hostPID %t, hostIPC %t", name, pod.HostNetwork, pod.HostPID, pod.HostIPC)
		}
		before := 0
		if name == "boot-guard" {
			before = 1 // bootguard_test.go
		}
		if len(pod.Containers) != 1 || len(pod.InitContainers) != before {
			t.Fatalf("%s: %d containers and %d before them, want 1 and %d", name, len(pod.Containers), len(pod.InitContainers), before)
		}
		root, yes := int64(0), true
		want := &corev1.SecurityContext{
			RunAsUser: &root, RunAsGroup: &root, ReadOnlyRootFilesystem: &yes,
			Capabilities:    &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: capabilities},
			AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined},
			SELinuxOptions:  &corev1.SELinuxOptions{Type: "spc_t"},
		}
		if diff := cmp.Diff(want, pod.Containers[0].SecurityContext); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		wantPod := &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		if diff := cmp.Diff(wantPod, pod.SecurityContext); diff != "" {
			t.Errorf("%s, pod (-want +got):\n%s", name, diff)
		}
	}
}

// Each mount has its volume, each volume its mount, and what the node's are
// mounted at is where they are on the node, so that paths mean the same.
func TestMounts(t *testing.T) {
	writable := map[string]bool{"bpffs": true, "state": true, "boot-program": true, "boot-config": true, "units": true}
	for name, objects := range rendered(t) {
		for _, template := range podTemplates(objects) {
			volumes := map[string]corev1.Volume{}
			for _, v := range template.Spec.Volumes {
				volumes[v.Name] = v
			}
			var mounts []corev1.VolumeMount
			unused := maps.Clone(volumes)
			for _, c := range append(template.Spec.InitContainers, template.Spec.Containers...) {
				mounts = append(mounts, c.VolumeMounts...)
			}
			for _, m := range mounts {
				v, ok := volumes[m.Name]
				if !ok {
					t.Errorf("%s: %s is mounted and is no volume", name, m.Name)
					continue
				}
				delete(unused, m.Name)
				if v.HostPath != nil && (v.HostPath.Path != m.MountPath || !allowedPath(v.HostPath.Path)) {
					t.Errorf("%s: the node's %s is mounted at %s", name, v.HostPath.Path, m.MountPath)
				}
				if m.ReadOnly == writable[m.Name] {
					t.Errorf("%s: %s: readOnly %t", name, m.Name, m.ReadOnly)
				}
			}
			for left := range unused {
				t.Errorf("%s: volume %s is mounted nowhere", name, left)
			}
		}
	}
}

func allowedPath(p string) bool {
	switch path.Clean(p) {
	case "/sys/fs/cgroup", "/sys/fs/bpf", "/var/lib/kubelet/pods", "/run/sidestep",
		"/opt/sidestep", "/var/lib/sidestep", "/etc/systemd/system":
		return true
	}
	return false
}

// The agent is on every Linux node that can run it, whatever its taints, and
// nothing evicts it; a canary on those nodes only that say so. What uninstalls
// it goes wherever an agent may have been.
func TestNodes(t *testing.T) {
	for name, objects := range rendered(t) {
		if name == "check-job" {
			continue
		}
		d := one[*appsv1.DaemonSet](t, objects)
		pod := d.Spec.Template.Spec
		var selector map[string]string
		if name == "canary" {
			selector = map[string]string{"sidestep.dev/canary": "true"}
		}
		if diff := cmp.Diff(selector, pod.NodeSelector); diff != "" {
			t.Errorf("%s: nodeSelector (-want +got):\n%s", name, diff)
		}
		terms := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		want := []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelOSStable, Operator: corev1.NodeSelectorOpIn, Values: []string{"linux"}},
			{Key: corev1.LabelArchStable, Operator: corev1.NodeSelectorOpIn, Values: []string{"amd64", "arm64"}},
			{Key: "type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtual-kubelet"}},
			{Key: "virtualization", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtualnode2"}},
		}}}
		if diff := cmp.Diff(want, terms); diff != "" {
			t.Errorf("%s: affinity (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Tolerations); diff != "" {
			t.Errorf("%s: tolerations (-want +got):\n%s", name, diff)
		}
		if pod.PriorityClassName != "system-node-critical" {
			t.Errorf("%s: priority class %q", name, pod.PriorityClassName)
		}
		probe := pod.Containers[0].ReadinessProbe
		if probe == nil || probe.Exec == nil {
			t.Errorf("%s: no readiness probe by exec", name)
		}
	}
}
