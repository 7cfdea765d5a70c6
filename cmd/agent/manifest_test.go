package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/cmd/agent/daemon"
	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/preflight"
)

// The agent is given the capabilities that it says it needs, and no other.
func TestManifestsGiveTheNeededCapabilities(t *testing.T) {
	containers := manifestContainers(t)
	for _, name := range []string{"uninstall", "boot-guard", "uninstall-boot-guard"} {
		delete(containers, name) // are no agents
	}
	var node appsv1.DaemonSet
	readManifest(t, "../../manifests/overlays/node-delivery/daemonset.yaml", &node)
	containers[daemon.DeliveryNode] = node.Spec.Template.Spec.Containers[0]
	for name, container := range containers {
		needed := preflight.NeededForPodDelivery()
		if name == daemon.DeliveryNode {
			needed = preflight.NeededForNodeDelivery()
		}
		var want, got []string
		for _, c := range needed {
			want = append(want, c.Name)
		}
		for _, c := range container.SecurityContext.Capabilities.Add {
			got = append(got, "CAP_"+string(c)) // Kubernetes names them without
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-needed +given):\n%s", name, diff)
		}
	}
}

// Commands, flags and environment variables in the manifests are ones that
// this program has.
func TestManifestsSpeakOfWhatTheProgramHas(t *testing.T) {
	for name, container := range manifestContainers(t) {
		flags := commandFlags(t, container.Args)
		for _, e := range container.Env {
			flag, ok := strings.CutPrefix(e.Name, "SIDESTEP_")
			flag = strings.ToLower(strings.ReplaceAll(flag, "_", "-"))
			if !ok || flags.Lookup(flag) == nil {
				t.Errorf("%s: %s sets no flag of %v", name, e.Name, container.Args)
			}
		}
		if probe := container.ReadinessProbe; probe != nil {
			if probe.Exec.Command[0] != "/agent" {
				t.Errorf("%s: the probe runs %s, which is not in the image", name, probe.Exec.Command[0])
			}
			commandFlags(t, probe.Exec.Command[1:])
		}
	}
}

// What the agent reads and writes by default is mounted there.
func TestManifestsMountTheDefaultPaths(t *testing.T) {
	container := manifestContainers(t)["daemonset.yaml"]
	mounted := make(map[string]bool)
	for _, m := range container.VolumeMounts {
		mounted[m.MountPath] = true
	}
	flags := commandFlags(t, container.Args)
	for flag, below := range map[string]string{
		"cgroup-root": "", "bpffs": "", "kubelet-dir": "/pods", "state-dir": "", "config": "",
	} {
		path := flags.Lookup(flag).DefValue + below
		if flag == "config" {
			path = strings.TrimSuffix(path, "/config.yaml")
		}
		if !mounted[path] {
			t.Errorf("--%s: %s is not mounted", flag, path)
		}
	}
}

// What installs and removes the boot guard is given the places where the program
// puts it by default, and the agent keeps the configuration that it reads there.
func TestManifestsMountTheBootGuardsPaths(t *testing.T) {
	containers := manifestContainers(t)
	for name, flags := range map[string][]string{
		"boot-guard":           {"boot-program", "boot-config", "unit-dir", "state-dir", "config", "cgroup-root"},
		"uninstall-boot-guard": {"boot-program", "boot-config", "unit-dir", "state-dir"},
	} {
		mounted := make(map[string]bool)
		for _, m := range containers[name].VolumeMounts {
			mounted[m.MountPath] = true
		}
		for _, flag := range flags {
			path := commandFlags(t, containers[name].Args).Lookup(flag).DefValue
			if !mounted[path] && !mounted[filepath.Dir(path)] {
				t.Errorf("%s: --%s: %s is not mounted", name, flag, path)
			}
		}
	}
	var overlay appsv1.DaemonSet
	readManifest(t, "../../manifests/overlays/boot-guard/daemonset.yaml", &overlay)
	kept := corev1.EnvVar{Name: "SIDESTEP_BOOT_CONFIG", Value: bootguard.DefaultConfig}
	if agent := overlay.Spec.Template.Spec.Containers[0]; !slices.Contains(agent.Env, kept) {
		t.Errorf("the agent's environment %v has no %v", agent.Env, kept)
	}
}

// What the samples allow pods to reach is where the node listener is by
// default.
func TestSamplesAllowTheNodeListener(t *testing.T) {
	var policy networkingv1.NetworkPolicy
	readManifest(t, "../../manifests/samples/networkpolicy.yaml", &policy)
	rule := policy.Spec.Egress[0]
	got := strings.TrimSuffix(rule.To[0].IPBlock.CIDR, "/32") + ":" + rule.Ports[0].Port.String()
	if want := defaultListen.String(); got != want {
		t.Errorf("the sample allows %s, --listen is %s", got, want)
	}
}

// commandFlags parses a command line, and returns the flags of its command.
func commandFlags(t *testing.T, args []string) *pflag.FlagSet {
	t.Helper()
	var out bytes.Buffer
	root := newCommand(environment{stdout: &out, stderr: &out, getenv: func(string) string { return "" }})
	cmd, rest, err := root.Find(args)
	if err != nil || cmd == root {
		t.Fatalf("%v is no command: %v", args, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return cmd.Flags()
}

func manifestContainers(t *testing.T) map[string]corev1.Container {
	t.Helper()
	var agent, uninstall, guarded, unguard appsv1.DaemonSet
	var check batchv1.Job
	readManifest(t, "../../manifests/base/daemonset.yaml", &agent)
	readManifest(t, "../../manifests/uninstall/daemonset.yaml", &uninstall)
	readManifest(t, "../../manifests/overlays/boot-guard/daemonset.yaml", &guarded)
	readManifest(t, "../../manifests/uninstall-boot-guard/daemonset.yaml", &unguard)
	readManifest(t, "../../manifests/check-job.yaml", &check)
	return map[string]corev1.Container{
		"daemonset.yaml": agent.Spec.Template.Spec.Containers[0],
		"check-job.yaml": check.Spec.Template.Spec.Containers[0],
		"uninstall":      uninstall.Spec.Template.Spec.Containers[0],
		"boot-guard":     guarded.Spec.Template.Spec.InitContainers[0],

		"uninstall-boot-guard": unguard.Spec.Template.Spec.Containers[0],
	}
}

func readManifest(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
