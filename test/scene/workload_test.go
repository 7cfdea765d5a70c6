package scene

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteProjected(t *testing.T) {
	dir := t.TempDir()
	if err := writeProjected(dir, "uid", "assertion"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pods/uid/volumes/kubernetes.io~projected/azure-identity-token/azure-identity-token")
	got, err := os.ReadFile(file)
	if err != nil || string(got) != "assertion" {
		t.Errorf("read %q, error %v", got, err)
	}
	if target, err := os.Readlink(file); err != nil || target != "..data/azure-identity-token" {
		t.Errorf("the file links to %q, error %v", target, err)
	}
}
