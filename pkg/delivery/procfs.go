package delivery

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// procfs is the path of the host's procfs.
type procfs string

func (p procfs) of(pid int, file string) string {
	return filepath.Join(string(p), strconv.Itoa(pid), file)
}

func (p procfs) namespace(pid int) (*namespace, error) { return openNamespace(p.of(pid, "ns/net")) }

// startTime is field 22 of /proc/<pid>/stat (proc(5)), counted after the
// command's name, which may have spaces and brackets of its own.
func (p procfs) startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(p.of(pid, "stat"))
	if err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[end+1:])
	const field = 22 - 3 // the first after the name is field 3
	if end < 0 || len(fields) <= field {
		return 0, fmt.Errorf("%s: unknown form", p.of(pid, "stat"))
	}
	return strconv.ParseUint(string(fields[field]), 10, 64)
}

func (procfs) hold(pid int) (lifetime, error) { return openPidfd(pid) }
