package main

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/commands"
	"github.com/sidestep-agent/sidestep/pkg/config"
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
// that is in force.
func judgeRules(f *facts) link {
	edit := kubectl(f.agentNamespace, "edit configmap sidestep-agent-config")
	switch {
	case f.agentErr != nil:
		return link{State: unknown, Detail: "the agent does not answer"}
	case f.seen == nil:
		return link{State: unknown, Detail: "the agent does not know the pod"}
	case f.seen.Verdict == steered && f.report.Mode == string(config.ModeAudit):
		return link{State: broken, Detail: "mode is audit: every connect passes, to the node's identity", Fix: edit}
	case f.seen.Verdict == steered && f.seen.Access == workload.Identity.String():
		return link{State: ok, Detail: "steered: " + f.seen.Reason + skipped(f.pod)}
	case f.seen.Verdict == workload.Unknown.String():
		return link{State: unknown, Detail: "held until more is known: " + f.seen.Reason}
	case strings.HasPrefix(f.seen.Reason, workload.ReasonUnlabeled):
		return link{State: broken, Detail: f.seen.Verdict + ": " + f.seen.Reason, Fix: labelCommand(f)}
	}
	return link{State: broken, Detail: fmt.Sprintf("verdict %s by %s", f.seen.Verdict, f.seen.Reason), Fix: edit}
}

// skipped names the containers that the pod exempts itself.
func skipped(pod *corev1.Pod) string {
	if names := pod.Annotations[workload.SkipContainersAnnotation]; names != "" {
		return "; not the containers " + names
	}
	return ""
}
