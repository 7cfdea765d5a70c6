package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

// needReason are the fields that give a pod something of the node, or put it
// somewhere. Wherever a manifest sets one, it says why beside it.
var needReason = []string{
	"hostNetwork", "hostPID", "dnsPolicy", "priorityClassName", "seccompProfile",
	"appArmorProfile", "seLinuxOptions", "runAsUser", "readinessProbe", "maxUnavailable",
	"mountPropagation", "nodeSelector", "pod-security.kubernetes.io/enforce",
}

// needReasons are those that need one for each entry.
var needReasons = []string{"add", "volumes", "rules", "matchExpressions", "tolerations", "matchConditions", "validations"}

func TestPrivilegesHaveTheirReasons(t *testing.T) {
	files := 0
	err := filepath.WalkDir(manifests, func(path string, d fs.DirEntry, err error) error {
		// The check Job says once that it has all from the DaemonSet, and what
		// is rendered that it is the base.
		if err != nil || filepath.Ext(path) != ".yaml" || d.Name() == "check-job.yaml" || d.Name() == "install.yaml" {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		decoder := yaml.NewDecoder(bytes.NewReader(data))
		for {
			var document yaml.Node
			if err := decoder.Decode(&document); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			for _, missing := range withoutReason(&document) {
				t.Errorf("%s:%d: %s has no reason beside it", path, missing.Line, missing.Value)
			}
		}
	})
	if err != nil || files < 10 {
		t.Errorf("%d files read, %v", files, err)
	}
}

func TestWithoutReasonFindsWhatHasNone(t *testing.T) {
	var document yaml.Node
	text := "hostPID: true\nhostNetwork: true # why\nadd:\n- A # why\n- B\nvolumes:\n# why\n- name: c\n- name: d\n"
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	var lines []int
	for _, n := range withoutReason(&document) {
		lines = append(lines, n.Line)
	}
	if !slices.Equal(lines, []int{1, 5, 9}) {
		t.Errorf("lines %v, want 1, 5 and 9", lines)
	}
}

// withoutReason returns the keys and entries that need a comment and have
// none.
func withoutReason(n *yaml.Node) []*yaml.Node {
	var missing []*yaml.Node
	if n.Kind != yaml.MappingNode {
		for _, child := range n.Content {
			missing = append(missing, withoutReason(child)...)
		}
		return missing
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if slices.Contains(needReason, key.Value) && !commented(key) && !commented(value) {
			missing = append(missing, key)
		}
		if slices.Contains(needReasons, key.Value) {
			for _, entry := range value.Content {
				if !commented(entry) && !commentedFirst(entry) {
					missing = append(missing, entry)
				}
			}
		}
		missing = append(missing, withoutReason(value)...)
	}
	return missing
}

func commented(n *yaml.Node) bool { return n.HeadComment != "" || n.LineComment != "" }

// commentedFirst reports a comment above a list's entry that is a mapping: the
// parser may give it to the entry's first key.
func commentedFirst(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && len(n.Content) > 0 && (commented(n.Content[0]) || commentedFirst(n.Content[0]))
}
