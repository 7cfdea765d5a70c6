package convert

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sidestep-agent/sidestep/pkg/commands"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// owner is what has the template of pods.
type owner struct{ namespace, kind, name string }

func (o owner) String() string {
	return fmt.Sprintf("%s %s of namespace %s", o.kind, o.name, o.namespace)
}

// labelChange is a workload whose pods need the label.
type labelChange struct {
	owner
	selector string // where the owner is not known
	account  string // the service account that its pods are to run as; empty: as they do
}

// command returns the one that labels the pods, or what to do by hand as false.
func (l labelChange) command() (string, bool) {
	command, ok := commands.LabelPods(l.namespace, l.kind, l.name)
	if l.account != "" {
		command, ok = commands.LabelPodsAs(l.namespace, l.kind, l.name, l.account)
	}
	if ok {
		return command, true
	}
	switch l.kind {
	case "pod":
		return l.String() + ": create it again with the label " + workload.UseLabel + `: "true"`, false
	case "job":
		return l.String() + ": its template cannot be changed; label that of the CronJob or program that makes it: " + workload.UseLabel + `: "true"`, false
	case "":
		return "pods labelled " + bindingLabel + "=" + l.selector + ": label their template: " + workload.UseLabel + `: "true"`, false
	}
	return l.String() + ": label its pod template: " + workload.UseLabel + `: "true"`, false
}

// findLabels finds the workloads behind the pods that are to get identities.
func (c *converter) findLabels() {
	for _, name := range sorted(c.pods) {
		pod := c.pods[name]
		a := c.accountFor(&pod)
		if a == nil || pod.Labels[workload.UseLabel] == "true" && a.replaces == "" {
			continue
		}
		change := labelChange{owner: ownerOf(&pod.ObjectMeta)}
		if a.replaces != "" {
			change.account = a.name
		}
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

// accountFor returns the account that the pod is to run as; nil if it gets no
// identity.
func (c *converter) accountFor(pod *corev1.Pod) *account {
	name, ok := accountOf(pod)
	if !ok {
		return nil
	}
	i := slices.IndexFunc(c.plan.accounts, func(a *account) bool {
		if a.namespace != name.Namespace || !slices.Contains(a.selectors, pod.Labels[bindingLabel]) {
			return false
		}
		if a.replaces != "" {
			return a.replaces == name.Name && a.owner == ownerOf(&pod.ObjectMeta)
		}
		return a.name == name.Name
	})
	if i < 0 {
		return nil
	}
	return c.plan.accounts[i]
}

// ownerOf returns what has the pod's template. A ReplicaSet of a Deployment is
// called after it and the pods' template hash.
func ownerOf(pod *metav1.ObjectMeta) owner {
	o := owner{namespace: pod.Namespace, kind: "pod", name: pod.Name}
	ref := metav1.GetControllerOf(pod)
	if ref == nil || len(validation.IsDNS1123Subdomain(ref.Name)) > 0 || len(validation.IsDNS1123Label(strings.ToLower(ref.Kind))) > 0 {
		return o
	}
	o.kind, o.name = strings.ToLower(ref.Kind), ref.Name
	if hash := pod.Labels["pod-template-hash"]; o.kind == "replicaset" && hash != "" {
		if name, ok := strings.CutSuffix(ref.Name, "-"+hash); ok {
			o.kind, o.name = "deployment", name
		}
	}
	return o
}
