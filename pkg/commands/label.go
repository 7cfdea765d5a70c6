package commands

import (
	"fmt"
	"slices"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// patchable are the kinds whose pod template kubectl can patch in place.
var patchable = []string{"deployment", "statefulset", "daemonset"}

// LabelPods returns the command that gives the pods of a workload the label
// that selects them. kind is in lower case; false if a workload of that kind
// cannot be patched so that its pods get it.
func LabelPods(namespace, kind, name string) (string, bool) {
	if !slices.Contains(patchable, kind) {
		return "", false
	}
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"labels":{"%s":"true"}}}}}`, workload.UseLabel)
	return fmt.Sprintf("kubectl --namespace %s patch %s %s --type merge --patch %s",
		Word(namespace), kind, Word(name), Word(patch)), true
}
