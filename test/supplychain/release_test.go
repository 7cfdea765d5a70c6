package main

import (
	"os/exec"
	"strings"
	"testing"
)

// A tag that the tree does not speak of is stopped, by the name of every place
// that says otherwise.
func TestReleaseCheckFindsEveryOtherVersion(t *testing.T) {
	out, err := script(t, "release-check.sh", "v99.0.0")
	if err == nil {
		t.Error("v99.0.0 passed")
	}
	for _, place := range []string{
		"manifests/base/kustomization.yaml", "manifests/uninstall/kustomization.yaml", "manifests/check-job.yaml",
		"Chart.yaml's appVersion", "Chart.yaml's version", "CHANGELOG.md",
	} {
		if !strings.Contains(out, "release-check: "+place+" says") {
			t.Errorf("%s is not named in\n%s", place, out)
		}
	}
	if out, err := script(t, "release-check.sh", "latest"); err == nil || !strings.Contains(out, "the tag says 'latest'") {
		t.Errorf("latest: %v\n%s", err, out)
	}
}

// Everything but the change log, which is written last, says the same version.
func TestTreeSaysOneVersion(t *testing.T) {
	chart := read(t, "charts/sidestep-agent/Chart.yaml")
	_, version, found := strings.Cut(chart, "\nappVersion: ")
	if !found {
		t.Fatal("Chart.yaml has no appVersion")
	}
	version, _, _ = strings.Cut(version, "\n")
	out, _ := script(t, "release-check.sh", version)
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "CHANGELOG.md") {
			t.Error(line)
		}
	}
}

func TestReleaseNotesAreOneSection(t *testing.T) {
	out, err := script(t, "release-notes.sh", "Unreleased")
	if err != nil || !strings.Contains(out, "### ") || strings.Contains(out, "## [") || strings.Contains(out, "\n[") {
		t.Errorf("%v:\n%s", err, out)
	}
	if out, err := script(t, "release-notes.sh", "v99.0.0"); err == nil {
		t.Errorf("v99.0.0 has notes:\n%s", out)
	}
}

// script runs one of scripts/, and returns all that it prints.
func script(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), root+"/scripts/"+name, args...).CombinedOutput()
	return string(out), err
}
