package cgroups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	tests := map[string]struct {
		dirs []string
		want string
	}{
		"systemd":           {[]string{"system.slice", "kubepods.slice/kubepods-burstable.slice"}, "kubepods.slice"},
		"cgroupfs":          {[]string{"init.scope", "kubepods/burstable"}, "kubepods"},
		"kind, systemd":     {[]string{"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"}, "kubelet.slice/kubelet-kubepods.slice"},
		"kind, cgroupfs":    {[]string{"kubelet/kubepods", "kubelet/kubelet"}, "kubelet/kubepods"},
		"beside kind nodes": {[]string{"kubepods.slice", "docker/0a/kubelet/kubepods"}, "kubepods.slice"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			root := makeDirs(t, tc.dirs...)
			got, err := Find(root)
			if err != nil || got != filepath.Join(root, tc.want) {
				t.Errorf("Find = %q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

func TestFindSaysWhatItFound(t *testing.T) {
	tests := map[string]struct {
		dirs []string
		want []string
	}{
		"none":     {[]string{"system.slice", "user.slice", "docker/0a/kubepods"}, []string{"/system.slice", "/user.slice"}},
		"nothing":  {nil, []string{"no child cgroups"}},
		"two":      {[]string{"kubepods", "kubelet.slice/kubelet-kubepods.slice"}, []string{"/kubepods", "/kubelet-kubepods.slice"}},
		"too deep": {[]string{"kubelet/kubelet/kubelet/kubepods"}, []string{"/kubelet/kubelet/kubelet"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Find(makeDirs(t, tc.dirs...))
			if err == nil {
				t.Fatalf("Find = %q, want an error", got)
			}
			for _, want := range append(tc.want, "--kubepods-cgroup") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not name %q", err, want)
				}
			}
		})
	}
}

func makeDirs(t *testing.T, dirs ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
