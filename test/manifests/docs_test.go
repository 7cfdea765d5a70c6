package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// The kustomization that docs/install.md shows does what it says.
func TestKustomizationOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(apiVersion: kustomize.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatal("no kustomization in the page")
	}
	tree, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(tree, filepath.Join(dir, "sidestep")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), block[1], 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := render(dir)
	if err != nil {
		t.Fatal(err)
	}
	objects := parse(t, "docs", data)
	pod := one[*appsv1.DaemonSet](t, objects).Spec.Template.Spec
	env := pod.Containers[0].EnvFrom[0].ConfigMapRef.Name
	tenant := ""
	for _, c := range only[*corev1.ConfigMap](objects) {
		if c.Name == env {
			tenant = c.Data["SIDESTEP_TENANT_ID"]
		}
	}
	got := []any{pod.Containers[0].Image, pod.ImagePullSecrets, tenant, strings.HasPrefix(env, "sidestep-agent-env-")}
	want := []any{"registry.example.org/sidestep-agent:v0.1.0", []corev1.LocalObjectReference{{Name: "registry-login"}}, "<tenant id>", true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
