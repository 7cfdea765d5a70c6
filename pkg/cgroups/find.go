package cgroups

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// findDepth is how deep Find looks below the cgroup mount: kind's
// kubelet.slice/kubelet-kubepods.slice is at 2.
const findDepth = 3

// Find returns the absolute path of the node's kubepods cgroup below root, the
// cgroup2 mount. It looks at root's own children and into those named
// kubelet…, not into others: below them lie the nodes of clusters that run in
// containers on this machine. If there is none, or more than one, the error
// lists what was found and names the flag that settles it.
func Find(root string) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("cgroups: find kubepods: %w", err)
	}
	found, seen, err := search(root, findDepth)
	if err != nil {
		return "", fmt.Errorf("cgroups: find kubepods: %w", err)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("cgroups: no kubepods cgroup below %s, which has %s: set --kubepods-cgroup",
			root, list(seen))
	default:
		return "", fmt.Errorf("cgroups: more than one kubepods cgroup below %s: %s: set --kubepods-cgroup",
			root, list(found))
	}
}

// search returns the kubepods cgroups below dir, and all cgroups that it met.
func search(dir string, depth int) (found, seen []string, err error) {
	names, err := subdirs(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		seen = append(seen, path)
		switch {
		case isKubepods(strings.TrimSuffix(name, ".slice")):
			found = append(found, path)
		case strings.HasPrefix(name, "kubelet") && depth > 1:
			// A cgroup that goes away meanwhile has no kubepods in it.
			f, s, err := search(path, depth-1)
			if err != nil && !isGone(err) {
				return nil, nil, err
			}
			found, seen = append(found, f...), append(seen, s...)
		}
	}
	return found, seen, nil
}

// subdirs returns the names of the child cgroups of a cgroup, sorted.
func subdirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func list(paths []string) string {
	if len(paths) == 0 {
		return "no child cgroups"
	}
	return strings.Join(paths, ", ")
}
