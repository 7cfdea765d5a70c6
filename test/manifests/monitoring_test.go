package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What `kubectl apply -k manifests/monitoring` sends: kinds that the cluster
// may not have, so they are read as plain documents.
func TestMonitoringRenders(t *testing.T) {
	text, err := render(filepath.Join(manifests, "monitoring"))
	if err != nil {
		t.Fatal(err)
	}
	dashboard, err := os.ReadFile(filepath.Join(manifests, "monitoring", "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var object struct {
			Kind     string
			Metadata struct{ Namespace string }
			Data     map[string]string
		}
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, object.Kind)
		if object.Metadata.Namespace != "sidestep-system" {
			t.Errorf("%s in namespace %q", object.Kind, object.Metadata.Namespace)
		}
		if object.Kind == "ConfigMap" && object.Data["dashboard.json"] != string(dashboard) {
			t.Error("the ConfigMap has another dashboard")
		}
	}
	slices.Sort(kinds)
	if want := []string{"ConfigMap", "PodMonitor", "PrometheusRule"}; !slices.Equal(kinds, want) {
		t.Errorf("kinds %v, want %v", kinds, want)
	}
}
