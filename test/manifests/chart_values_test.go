package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

func TestChartRefusesWrongValues(t *testing.T) {
	for values, want := range map[string]string{
		"imagee: {}":      "'imagee' not allowed",
		"image: {tag: 1}": "at '/image/tag'",
		"image: {repository: 'registry.example.org/a:v1@x'}": "at '/image/repository'",
		"image: {digest: latest}":                            "at '/image/digest'",
		"image: {pullPolicy: Sometimes}":                     "'Always', 'IfNotPresent', 'Never'",
		"imagePullSecrets: [login]":                          "at '/imagePullSecrets/0'",
		"config: {mode: stop}":                               "'enforce', 'audit'",
		"config: {mod: audit}":                               "'mod' not allowed",
		"config: {scope: {namespace: [a]}}":                  "'namespace' not allowed",
		"config: {scope: {namespaces: ['team-*']}}":          "at '/config/scope/namespaces/0'",
		"config: {exceptions: [{}]}":                         "at '/config/exceptions/0'",
		"config: {exceptions: [{labels: {a: b}}]}":           "'labels' not allowed",
		"config: {relay: {allow: [/metadata/a/../b]}}":       "at '/config/relay/allow/0'",
		"config: {limits: {concurrent: 0}}":                  "at '/config/limits/concurrent'",
		"config: {limits: {requestsPerSecond: many}}":        "got string, want integer",
		"env: {SIDESTEP_DELIVERY: node}":                     "SIDESTEP_DELIVERY",
		"env: {TENANT: a}":                                   "TENANT",
		"env: {SIDESTEP_TENANTID: a}":                        "SIDESTEP_TENANTID",
		"env: {SIDESTEP_TENANT_ID: 1}":                       "at '/env/SIDESTEP_TENANT_ID'",
		"delivery: sidecar":                                  "'pod', 'node'",
		"{delivery: node, env: {SIDESTEP_GUARD: full}}":      "env.SIDESTEP_GUARD",
		"tokenRequest: 'yes'":                                "got string, want boolean",
		"removeTaint: 1":                                     "at '/removeTaint'",
		"kubeletDir: var/lib/kubelet":                        "at '/kubeletDir'",
		"nodeSelector: {pool: 1}":                            "at '/nodeSelector/pool'",
		"tolerations: [{key: a, operator: Some}]":            "at '/tolerations/0/operator'",
		"resources: {limits: {memory: null}}":                "missing property 'memory'",
		"createNamespace: sometimes":                         "at '/createNamespace'",
	} {
		c, err := loader.LoadDir(chartDir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := renderChart(t.Context(), c, parseValues(t, values)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", values, err, want)
		}
	}
}

// Each word that the schema offers for a setting is one that the agent takes.
func TestSchemaOffersWhatTheAgentTakes(t *testing.T) {
	c, err := loader.LoadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Definitions struct {
			Config struct {
				Properties map[string]struct{ Enum []string }
			}
		}
	}
	if err := json.Unmarshal(c.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	words := 0
	for name, property := range schema.Definitions.Config.Properties {
		for _, word := range property.Enum {
			words++
			file := "apiVersion: " + config.APIVersion + "\nkind: " + config.Kind + "\n" + name + ": " + word + "\n"
			if _, err := config.Parse([]byte(file)); err != nil {
				t.Errorf("%s: %s: %v", name, word, err)
			}
		}
	}
	if words < 10 {
		t.Errorf("the schema offers %d words", words)
	}
}

// What kustomize leaves to a patch of one's own.
func TestChartValuesTakeEffect(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	objects := helmObjects(t, parseValues(t, `
image: {repository: registry.example.org:5000/team/agent, tag: v9, digest: "`+digest+`", pullPolicy: Always}
imagePullSecrets: [{name: login}]
createNamespace: false
env: {SIDESTEP_TENANT_ID: tenant}
kubeletDir: /data/kubelet
tolerations: [{key: a, operator: Exists}]
podAnnotations: {team: b}
resources: {limits: {memory: 512Mi}}
`))
	if namespaces := only[*corev1.Namespace](objects); len(namespaces) > 0 {
		t.Errorf("createNamespace: false makes %s", namespaces[0].Name)
	}
	template := one[*appsv1.DaemonSet](t, objects).Spec.Template
	pod, container := template.Spec, template.Spec.Containers[0]
	tenants := 0
	for _, c := range only[*corev1.ConfigMap](objects) {
		if c.Name == container.EnvFrom[0].ConfigMapRef.Name && c.Data["SIDESTEP_TENANT_ID"] == "tenant" {
			tenants++
		}
	}
	mount := slices.IndexFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "kubelet-pods" })
	volume := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == "kubelet-pods" })
	got := map[string]any{
		"image": container.Image, "policy": container.ImagePullPolicy, "secrets": pod.ImagePullSecrets,
		"tolerations": pod.Tolerations, "annotation": template.Annotations["team"], "tenants": tenants,
		"memory": container.Resources.Limits.Memory().String(), "mounted": container.VolumeMounts[mount].MountPath,
		"kubelet": pod.Volumes[volume].HostPath.Path,
		"set":     slices.Contains(container.Env, corev1.EnvVar{Name: "SIDESTEP_KUBELET_DIR", Value: "/data/kubelet"}),
	}
	want := map[string]any{
		"image":  "registry.example.org:5000/team/agent:v9@" + digest,
		"policy": corev1.PullAlways, "secrets": []corev1.LocalObjectReference{{Name: "login"}},
		"tolerations": []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}},
		"annotation":  "b", "tenants": 1, "memory": "512Mi",
		"mounted": "/data/kubelet/pods", "kubelet": "/data/kubelet/pods", "set": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A changed environment is read by agents that start after it alone.
func TestChangedEnvironmentRollsOut(t *testing.T) {
	template := func(values string) corev1.PodTemplateSpec {
		return one[*appsv1.DaemonSet](t, helmObjects(t, parseValues(t, values))).Spec.Template
	}
	first, again := template("env: {SIDESTEP_TENANT_ID: a}"), template("env: {SIDESTEP_TENANT_ID: a}")
	other := template("env: {SIDESTEP_TENANT_ID: b}")
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the same values (-first +again):\n%s", diff)
	}
	if cmp.Equal(first, other) {
		t.Error("another tenant makes no other pod")
	}
	// That of the configuration must not be one: audit cannot wait for it.
	if diff := cmp.Diff(template("{}"), template("config: {mode: audit}")); diff != "" {
		t.Errorf("mode (-enforce +audit):\n%s", diff)
	}
}
