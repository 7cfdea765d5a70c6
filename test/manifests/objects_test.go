package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// asksAPI reports whether what is rendered under the name asks the API server.
func asksAPI(name string) bool { return name != "check-job" && name != "uninstall-boot-guard" }

func configFile(t *testing.T, objects []runtime.Object) string {
	t.Helper()
	return one[*corev1.ConfigMap](t, objects).Data["config.yaml"]
}

// The permissions, in full: whoever widens them must do it here too.
func TestPermissions(t *testing.T) {
	for name, objects := range rendered(t) {
		if !asksAPI(name) {
			continue
		}
		var got []string
		for _, r := range only[*rbacv1.ClusterRole](objects) {
			got = append(got, permissions("cluster", r.Rules)...)
		}
		for _, r := range only[*rbacv1.Role](objects) {
			got = append(got, permissions(r.Namespace, r.Rules)...)
		}
		want := []string{
			"cluster: list,watch pods.",
			"cluster: list,watch serviceaccounts.",
			"cluster: list,watch azurepodidentityexceptions.aadpodidentity.k8s.io",
			"cluster: get nodes.",
			"cluster: create events.events.k8s.io",
			"default: create,patch events.events.k8s.io",
			"sidestep-system: list,watch configmaps.",
		}
		const taint = "cluster: get,patch nodes."
		switch name {
		case "token-request":
			want = slices.Insert(want, len(want)-2, "cluster: create serviceaccounts/token.")
		case "metrics-auth":
			want = slices.Insert(want, len(want)-2, "cluster: create tokenreviews.authentication.k8s.io",
				"cluster: create subjectaccessreviews.authorization.k8s.io", "cluster: get /metrics")
		case "taint":
			want = slices.Insert(want, len(want)-2, taint)
		case "uninstall":
			want = []string{taint}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func permissions(where string, rules []rbacv1.PolicyRule) []string {
	var all []string
	for _, r := range rules {
		for _, url := range r.NonResourceURLs {
			all = append(all, where+": "+strings.Join(r.Verbs, ",")+" "+url)
		}
		if len(r.NonResourceURLs) > 0 {
			continue
		}
		all = append(all, where+": "+strings.Join(r.Verbs, ",")+" "+
			strings.Join(r.Resources, ",")+"."+strings.Join(r.APIGroups, ","))
	}
	return all
}

// Each binding gives the agent's own account, and no other, the role of its
// own kind and namespace.
func TestBindings(t *testing.T) {
	for name, objects := range rendered(t) {
		if !asksAPI(name) {
			continue
		}
		account := one[*corev1.ServiceAccount](t, objects)
		subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account.Name, Namespace: account.Namespace}}
		roles := map[string]bool{}
		for _, r := range only[*rbacv1.ClusterRole](objects) {
			roles["ClusterRole "+r.Name] = true
		}
		delete(roles, "ClusterRole sidestep-metrics-reader") // for whoever scrapes
		for _, r := range only[*rbacv1.Role](objects) {
			roles["Role "+r.Namespace+"/"+r.Name] = true
		}
		bound := func(role string, to []rbacv1.Subject) {
			if !roles[role] || !cmp.Equal(to, subjects) {
				t.Errorf("%s: %s, bound to %v, is not there or not bound before", name, role, to)
			}
			delete(roles, role)
		}
		for _, b := range only[*rbacv1.ClusterRoleBinding](objects) {
			bound(b.RoleRef.Kind+" "+b.RoleRef.Name, b.Subjects)
		}
		for _, b := range only[*rbacv1.RoleBinding](objects) {
			bound(b.RoleRef.Kind+" "+b.Namespace+"/"+b.RoleRef.Name, b.Subjects)
		}
		if len(roles) > 0 {
			t.Errorf("%s: bound to no subject: %v", name, roles)
		}
	}
}

func TestNamesAndLabelsFitTogether(t *testing.T) {
	for name, objects := range rendered(t) {
		if !asksAPI(name) {
			continue
		}
		d := one[*appsv1.DaemonSet](t, objects)
		want := "sidestep-agent"
		if name == "uninstall" {
			want = "sidestep-uninstall"
		}
		if d.Name != want || d.Namespace != "sidestep-system" {
			t.Errorf("%s: the DaemonSet is %s/%s", name, d.Namespace, d.Name)
		}
		if got := one[*corev1.Namespace](t, objects); got.Name != d.Namespace ||
			got.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
			t.Errorf("%s: namespace %s, labels %v", name, got.Name, got.Labels)
		}
		for key, value := range d.Spec.Selector.MatchLabels {
			if d.Spec.Template.Labels[key] != value || d.Labels[key] != value {
				t.Errorf("%s: the selector's %s=%s is not on the DaemonSet and its pods", name, key, value)
			}
		}
		pod := d.Spec.Template.Spec
		if pod.ServiceAccountName != one[*corev1.ServiceAccount](t, objects).Name {
			t.Errorf("%s: service account %s is not among the objects", name, pod.ServiceAccountName)
		}
		if name == "uninstall" {
			continue // it obeys no configuration
		}
		if c := one[*corev1.ConfigMap](t, objects); !usesConfigMap(pod, c.Name) || c.Namespace != d.Namespace {
			t.Errorf("%s: ConfigMap %s/%s is not mounted", name, c.Namespace, c.Name)
		}
	}
}

func usesConfigMap(pod corev1.PodSpec, name string) bool {
	return slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool {
		return v.ConfigMap != nil && v.ConfigMap.Name == name
	})
}

// One image in one version, and it never runs without a limit.
func TestImageAndResources(t *testing.T) {
	images := map[string]bool{}
	for name, objects := range rendered(t) {
		for _, pod := range podTemplates(objects) {
			for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
				images[c.Image] = true
				for what, list := range map[string]corev1.ResourceList{
					"requests": c.Resources.Requests, "limits": c.Resources.Limits,
				} {
					if list.Cpu().IsZero() || list.Memory().IsZero() {
						t.Errorf("%s: %s: %s = %v", name, c.Name, what, list)
					}
				}
			}
		}
	}
	if len(images) != 1 {
		t.Errorf("images %v, want one", images)
	}
	for image := range images {
		if !strings.HasPrefix(image, "sidestep-agent:v") {
			t.Errorf("image %q, want sidestep-agent of a version", image)
		}
	}
}

// `agent check` answers for the agent only if it is given just the same.
func TestCheckJobIsGivenWhatTheAgentIs(t *testing.T) {
	all := rendered(t)
	want := one[*appsv1.DaemonSet](t, all["base"]).Spec.Template.Spec
	got := one[*batchv1.Job](t, all["check-job"]).Spec.Template.Spec
	wantContainer, gotContainer := want.Containers[0], got.Containers[0]
	own := func(name string) bool { return name == "config" || name == "ca" || name == "state" }
	want.Volumes = slices.DeleteFunc(want.Volumes, func(v corev1.Volume) bool { return own(v.Name) })
	wantContainer.VolumeMounts = slices.DeleteFunc(wantContainer.VolumeMounts,
		func(m corev1.VolumeMount) bool { return own(m.Name) })
	for what, pair := range map[string][2]any{
		"volumes":       {want.Volumes, got.Volumes},
		"mounts":        {wantContainer.VolumeMounts, gotContainer.VolumeMounts},
		"container":     {wantContainer.SecurityContext, gotContainer.SecurityContext},
		"pod":           {want.SecurityContext, got.SecurityContext},
		"resources":     {wantContainer.Resources, gotContainer.Resources},
		"affinity":      {want.Affinity, got.Affinity},
		"tolerations":   {want.Tolerations, got.Tolerations},
		"host's spaces": {[]bool{want.HostNetwork, want.HostPID}, []bool{got.HostNetwork, got.HostPID}},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s (-agent +check):\n%s", what, diff)
		}
	}
}
