package cgroups

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// qosClasses have a cgroup below kubepods for their pods; pods of the class
// Guaranteed are in kubepods itself.
var qosClasses = [...]string{"burstable", "besteffort"}

// QoS returns the ids of the cgroups of QoS classes in the kubepods cgroup at
// the path, 0 for each that is not there. Both drivers' names are known:
// burstable and kubepods-burstable.slice.
func QoS(kubepods string) ([len(qosClasses)]uint64, error) {
	var ids [len(qosClasses)]uint64
	entries, err := os.ReadDir(kubepods)
	if err != nil {
		return ids, fmt.Errorf("cgroups: look for QoS classes: %w", err)
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".slice")
		for i, class := range qosClasses {
			if !e.IsDir() || name != class && !strings.HasSuffix(name, "-"+class) {
				continue
			}
			if ids[i], err = ID(filepath.Join(kubepods, e.Name())); err != nil {
				return ids, err
			}
		}
	}
	return ids, nil
}
