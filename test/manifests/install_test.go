package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
)

// What is checked in for `kubectl apply -f` is what the base renders.
func TestInstallFileIsTheBase(t *testing.T) {
	want, err := installFile(manifests)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(manifests, "install.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("run `make manifests` (-rendered +checked in):\n%s", diff)
	}
	if diff := cmp.Diff(byIdentity(t, rendered(t)["base"]), byIdentity(t, parse(t, "install.yaml", got))); diff != "" {
		t.Errorf("(-base +install.yaml):\n%s", diff)
	}
}

func TestEverythingIsRenderedWithOnesOwnImage(t *testing.T) {
	const image = "registry.example.org/team/agent:v9"
	dir := t.TempDir()
	if err := run(options{manifests: manifests, render: dir, image: image}); err != nil {
		t.Fatal(err)
	}
	for name, objects := range rendered(t) {
		data, err := os.ReadFile(filepath.Join(dir, name+".yaml"))
		if err != nil {
			t.Error(err)
			continue
		}
		pod := podTemplates(parse(t, name, data))[0].Spec
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			if c.Image != image {
				t.Errorf("%s: image %s of %s", name, c.Image, c.Name)
			}
		}
		// And nothing else is another.
		was := podTemplates(objects)[0].Spec.Containers[0].Image
		restored := strings.ReplaceAll(string(data), image, was)
		if diff := cmp.Diff(byIdentity(t, objects), byIdentity(t, parse(t, name, []byte(restored)))); diff != "" {
			t.Errorf("%s (-without +with):\n%s", name, diff)
		}
	}
}

func TestImageThatIsNotThereIsAnError(t *testing.T) {
	if data, err := withImage([]byte("image: other:v1\n"), "a:b"); err == nil {
		t.Errorf("withImage = %q", data)
	}
}

// The archive has the chart: what is installed from it is the same.
func TestArchiveOfTheChart(t *testing.T) {
	dir := t.TempDir()
	if err := run(options{chart: chartDir, archive: dir}); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "sidestep-agent-*.tgz"))
	if err != nil || len(found) != 1 {
		t.Fatalf("archives %q, %v", found, err)
	}
	got := one[*appsv1.DaemonSet](t, chartObjects(t, found[0], nil))
	want := one[*appsv1.DaemonSet](t, chartObjects(t, chartDir, nil))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-directory +archive):\n%s", diff)
	}
}
