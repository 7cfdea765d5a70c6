package cgroups

import (
	"os"
	"path/filepath"
	"testing"
)

func TestQoS(t *testing.T) {
	for name, tc := range map[string]struct {
		dirs []string
		want [2]string // Burstable's, BestEffort's; empty: none
	}{
		"systemd":  {[]string{"kubepods-burstable.slice", "kubepods-besteffort.slice", "kubepods-pod1.slice"}, [2]string{"kubepods-burstable.slice", "kubepods-besteffort.slice"}},
		"cgroupfs": {[]string{"burstable", "besteffort", "pod1"}, [2]string{"burstable", "besteffort"}},
		"nested":   {[]string{"kubelet-kubepods-besteffort.slice", "kubelet-kubepods-pod1.slice"}, [2]string{"", "kubelet-kubepods-besteffort.slice"}},
		"none":     {nil, [2]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			kubepods := t.TempDir()
			for _, d := range tc.dirs {
				if err := os.Mkdir(filepath.Join(kubepods, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(kubepods, "burstable.max"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			var want [2]uint64
			for i, d := range tc.want {
				if d == "" {
					continue
				}
				var err error
				if want[i], err = ID(filepath.Join(kubepods, d)); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := QoS(kubepods); err != nil || got != want {
				t.Errorf("QoS = %v, %v; want %v", got, err, want)
			}
		})
	}
	if _, err := QoS(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error without a kubepods")
	}
}
