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
	return patchPods(namespace, kind, name, fmt.Sprintf(`"metadata":{"labels":{"%s":"true"}}`, workload.UseLabel))
}

// LabelPodsAs is LabelPods that also has the pods run as the service account.
func LabelPodsAs(namespace, kind, name, account string) (string, bool) {
	return patchPods(namespace, kind, name,
		fmt.Sprintf(`"metadata":{"labels":{"%s":"true"}},"spec":{"serviceAccountName":"%s"}`, workload.UseLabel, account))
}

// patchPods returns the command that merges fields into a pod template.
func patchPods(namespace, kind, name, fields string) (string, bool) {
	if !slices.Contains(patchable, kind) {
		return "", false
	}
	patch := `{"spec":{"template":{` + fields + `}}}`
	return fmt.Sprintf("kubectl --namespace %s patch %s %s --type merge --patch %s",
		Word(namespace), kind, Word(name), Word(patch)), true
}
