package intercept

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func checkBPFFS(path string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if uint32(fs.Type) != uint32(unix.BPF_FS_MAGIC) {
		return fmt.Errorf("%s: %w: mount one there (mount -t bpf none %s)", path, ErrNoBPFFS, path)
	}
	return nil
}
