package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// hostPaths returns what of the node each container may write to and read.
func hostPaths(pod corev1.PodSpec, c corev1.Container) (writes, reads []string) {
	paths := map[string]string{}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			paths[v.Name] = v.HostPath.Path
		}
	}
	for _, m := range c.VolumeMounts {
		switch path, ok := paths[m.Name]; {
		case !ok:
		case m.ReadOnly:
			reads = append(reads, path)
		default:
			writes = append(writes, path)
		}
	}
	slices.Sort(writes)
	return writes, reads
}

var bare = func() *corev1.SecurityContext {
	root, yes, no := int64(0), true, false
	return &corev1.SecurityContext{
		RunAsUser: &root, RunAsGroup: &root, ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"},
	}
}()

// What installs the boot guard, and what removes it, may write its four places
// on the node, without a capability; the agent may write none that the node's
// systemd executes or reads.
func TestBootGuardsPrivileges(t *testing.T) {
	all := rendered(t)
	agent := one[*appsv1.DaemonSet](t, all["boot-guard"]).Spec.Template.Spec
	removal := one[*appsv1.DaemonSet](t, all["uninstall-boot-guard"]).Spec.Template.Spec
	places := []string{"/etc/systemd/system", "/opt/sidestep", "/run/sidestep", "/var/lib/sidestep"}
	for _, tt := range []struct {
		pod           corev1.PodSpec
		container     corev1.Container
		writes, reads []string
	}{
		{agent, agent.InitContainers[0], places, []string{"/sys/fs/cgroup"}},
		{removal, removal.Containers[0], places, nil},
	} {
		writes, reads := hostPaths(tt.pod, tt.container)
		if !slices.Equal(writes, tt.writes) || !slices.Equal(reads, tt.reads) {
			t.Errorf("%s: writes %q, reads %q", tt.container.Name, writes, reads)
		}
		if diff := cmp.Diff(bare, tt.container.SecurityContext); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.container.Name, diff)
		}
	}
	writes, _ := hostPaths(agent, agent.Containers[0])
	base := one[*appsv1.DaemonSet](t, all["base"]).Spec.Template.Spec
	want, _ := hostPaths(base, base.Containers[0])
	if want = append(want, "/var/lib/sidestep"); !slices.Equal(writes, want) {
		t.Errorf("the agent writes %q, want %q", writes, want)
	}
	if removal.HostNetwork || removal.HostPID || removal.AutomountServiceAccountToken == nil || *removal.AutomountServiceAccountToken {
		t.Error("what removes the boot guard is given more of the node, or a token")
	}
}

// The boot guard is removed wherever an agent may have been.
func TestBootGuardIsRemovedEverywhere(t *testing.T) {
	all := rendered(t)
	agent := one[*appsv1.DaemonSet](t, all["base"])
	removal := one[*appsv1.DaemonSet](t, all["uninstall-boot-guard"])
	want, got := agent.Spec.Template.Spec, removal.Spec.Template.Spec
	for what, pair := range map[string][2]any{
		"affinity":    {want.Affinity, got.Affinity},
		"tolerations": {want.Tolerations, got.Tolerations},
		"priority":    {want.PriorityClassName, got.PriorityClassName},
		"image":       {want.Containers[0].Image, got.Containers[0].Image},
		"namespace":   {agent.Namespace, removal.Namespace},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s (-agent +removal):\n%s", what, diff)
		}
	}
	if agent.Name == removal.Name || maps.Equal(agent.Spec.Selector.MatchLabels, removal.Spec.Template.Labels) {
		t.Error("the two DaemonSets are one")
	}
}
