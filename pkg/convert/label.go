package convert

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sidestep-agent/sidestep/pkg/commands"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// labelChange is a workload whose pods need the label.
type labelChange struct {
	namespace, kind, name string
	selector              string
}

// command returns the one that labels the pods, or what to do by hand as false.
func (l labelChange) command() (string, bool) {
	if command, ok := commands.LabelPods(l.namespace, l.kind, l.name); ok {
		return command, true
	}
	where := fmt.Sprintf("%s %s of namespace %s", l.kind, l.name, l.namespace)
	switch l.kind {
	case "pod":
		return where + ": make it anew with the label " + workload.UseLabel + `: "true"`, false
	case "job":
		return where + ": its template cannot be changed; label that of the CronJob or program that makes it: " + workload.UseLabel + `: "true"`, false
	case "":
		return "pods labelled " + bindingLabel + "=" + l.selector + ": label their template: " + workload.UseLabel + `: "true"`, false
	}
	return where + ": label its pod template: " + workload.UseLabel + `: "true"`, false
}

// findLabels finds the workloads behind the pods that are to get identities.
func (c *converter) findLabels() {
	for _, name := range sorted(c.pods) {
		pod := c.pods[name]
		account, ok := accountOf(&pod)
		if !ok || pod.Labels[workload.UseLabel] == "true" || !c.isConverted(account, pod.Labels[bindingLabel]) {
			continue
		}
		change := ownerOf(&pod.ObjectMeta)
		if !slices.Contains(c.plan.labels, change) {
			c.plan.labels = append(c.plan.labels, change)
		}
	}
	for _, a := range c.plan.accounts {
		if change := (labelChange{selector: a.selectors[0]}); !a.filledIn && !slices.Contains(c.plan.labels, change) {
			c.plan.labels = append(c.plan.labels, change)
		}
	}
}

func (c *converter) isConverted(name types.NamespacedName, selector string) bool {
	return slices.ContainsFunc(c.plan.accounts, func(a *account) bool {
		return a.namespace == name.Namespace && a.name == name.Name && slices.Contains(a.selectors, selector)
	})
}

// ownerOf returns what has the pod's template. A ReplicaSet of a Deployment is
// called after it and the pods' template hash.
func ownerOf(pod *metav1.ObjectMeta) labelChange {
	change := labelChange{namespace: pod.Namespace, kind: "pod", name: pod.Name}
	owner := metav1.GetControllerOf(pod)
	if owner == nil || len(validation.IsDNS1123Subdomain(owner.Name)) > 0 || len(validation.IsDNS1123Label(strings.ToLower(owner.Kind))) > 0 {
		return change
	}
	change.kind, change.name = strings.ToLower(owner.Kind), owner.Name
	if hash := pod.Labels["pod-template-hash"]; change.kind == "replicaset" && hash != "" {
		if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok {
			change.kind, change.name = "deployment", name
		}
	}
	return change
}
