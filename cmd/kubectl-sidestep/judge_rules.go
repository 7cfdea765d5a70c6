package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/commands"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// steered is the verdict of pods that the agent serves.
var steered = workload.Steer.String()

func judgeLabel(f *facts) link {
	wanted := workload.UseLabel + `: "true"`
	onAccount := f.account != nil && f.account.Labels[workload.UseLabel] == "true"
	switch {
	case f.pod.Labels[workload.UseLabel] == "true":
		return link{State: ok, Detail: wanted}
	case f.seen != nil && f.seen.Reason == workload.ReasonAccountLabel:
		return link{State: ok, Detail: wanted + " on the service account (select: either)"}
	case onAccount:
		return link{State: broken, Fix: labelCommand(f),
			Detail: "the service account has the label, the pod has not, and pods are selected by their own label (select: pod)"}
	case f.pod.Labels[workload.UseLabel] != "":
		return link{State: broken, Fix: labelCommand(f),
			Detail: fmt.Sprintf("the pod's label %s is %q, not \"true\"", workload.UseLabel, f.pod.Labels[workload.UseLabel])}
	}
	return link{State: broken, Detail: "the pod has no label " + wanted, Fix: labelCommand(f)}
}

// labelCommand labels the pod where its next one will be labelled too.
func labelCommand(f *facts) string {
	if command, ok := commands.LabelPods(f.pod.Namespace, f.owner.kind, f.owner.name); ok {
		return command
	}
	return kubectl(f.pod.Namespace, "label --overwrite pod %s %s=true", commands.Word(f.pod.Name), workload.UseLabel)
}

// judgeRules goes by what the agent decided: it alone knows the configuration
// that is active.
func judgeRules(f *facts) link {
	edit := kubectl(f.agentNamespace, "edit configmap sidestep-agent-config")
	switch {
	case f.agentErr != nil:
		return link{State: unknown, Detail: "the agent does not answer"}
	case f.seen == nil:
		return link{State: unknown, Detail: "the agent does not know the pod"}
	case isSteered(f.seen) && f.report.Mode == string(config.ModeAudit):
		return link{State: broken, Detail: "mode is audit: every connect passes, to the node's identity", Fix: edit}
	case f.seen.Verdict == steered && f.seen.Access == workload.Identity.String():
		return link{State: ok, Detail: "steered: " + f.seen.Reason + skipped(f.pod)}
	case len(f.seen.Containers) > 0:
		return judgeContainers(f, edit)
	case f.seen.Verdict == workload.Unknown.String():
		return link{State: unknown, Detail: "held until more is known: " + f.seen.Reason}
	case strings.HasPrefix(f.seen.Reason, workload.ReasonUnlabeled):
		return link{State: broken, Detail: f.seen.Verdict + ": " + f.seen.Reason, Fix: labelCommand(f)}
	}
	return link{State: broken, Detail: fmt.Sprintf("verdict %s by %s", f.seen.Verdict, f.seen.Reason), Fix: edit}
}

// isSteered reports whether the pod or one of its containers is.
func isSteered(p *status.Pod) bool {
	return p.Verdict == steered || slices.ContainsFunc(p.Containers, func(c status.Container) bool { return c.Verdict == steered })
}

// judgeContainers: with skip-containers each container has a verdict of its
// own. One that gets tokens is what the label is for.
func judgeContainers(f *facts, edit string) link {
	names := containerNames(f.pod)
	l := link{State: broken, Fix: edit}
	var said []string
	for _, c := range f.seen.Containers {
		name := cmp.Or(names[c.ID], c.ID)
		said = append(said, fmt.Sprintf("%s: %s by %s", name, c.Verdict, c.Reason))
		if c.Verdict == steered && c.Access == workload.Identity.String() {
			l.State, l.Fix = ok, ""
		}
	}
	slices.Sort(said)
	l.Detail = "by container: " + strings.Join(said, "; ")
	return l
}

// containerNames returns the names of the pod's containers by the ids that the
// agent knows them by.
func containerNames(pod *corev1.Pod) map[string]string {
	names := map[string]string{}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if _, id, ok := strings.Cut(c.ContainerID, "://"); ok {
			names[id] = c.Name
		}
	}
	return names
}

// skipped names the containers that the pod exempts itself.
func skipped(pod *corev1.Pod) string {
	if names := pod.Annotations[workload.SkipContainersAnnotation]; names != "" {
		return "; not the containers " + names
	}
	return ""
}
