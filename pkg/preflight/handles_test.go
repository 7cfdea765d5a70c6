package preflight

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenByHandle(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: open_by_handle_at")
	}
	for _, mount := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if magic, err := statfsMagic(mount); err != nil || magic != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		if err := openByHandle(mount); err != nil {
			t.Error(err)
		}
		return
	}
	t.Skip("needs cgroup v2: none is mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified")
}
