package e2e

import (
	"os"
	"path"
	"testing"
)

// Every object of every overlay passes the API server's own validation; a
// field that it does not know is an error. Nothing is changed.
func TestManifestsAreValid(t *testing.T) {
	needNode(t)
	folders, err := os.ReadDir(manifests + "/overlays")
	if err != nil {
		t.Fatal(err)
	}
	sources := [][]string{
		{"-k", manifest(t, "base")},
		{"-k", manifest(t, "uninstall")},
		{"-k", manifest(t, "uninstall-boot-guard")},
		{"-f", manifest(t, "check-job.yaml")},
	}
	for _, f := range folders {
		sources = append(sources, []string{"-k", manifest(t, "overlays/"+f.Name())})
	}
	for _, source := range sources {
		t.Run(path.Base(source[1]), func(t *testing.T) {
			t.Parallel()
			kubectl(t, append([]string{
				"apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict",
			}, source...)...)
		})
	}
}

// The Job says of this node, which runs the agent, that it can.
func TestCheckJob(t *testing.T) {
	needNode(t)
	job := manifest(t, "check-job.yaml")
	kubectl(t, "apply", "-f", job)
	t.Cleanup(func() { kubectl(t, "delete", "-f", job, "--wait=false") })
	_, err := tryInNode(nil, "kubectl", "-n", system, "wait", "--for=condition=Complete", "job/sidestep-check", "--timeout=30s")
	t.Log(kubectl(t, "-n", system, "logs", "job/sidestep-check"))
	if err != nil {
		t.Error(err)
	}
}
