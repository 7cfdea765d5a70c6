package main

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/commands"
)

// kubectl returns a command of kubectl in a namespace.
func kubectl(namespace, format string, args ...any) string {
	return "kubectl --namespace " + commands.Word(namespace) + " " + fmt.Sprintf(format, args...)
}

func judgeAgent(f *facts) link {
	node := f.pod.Spec.NodeName
	switch {
	case node == "":
		return link{State: broken, Detail: "the pod is on no node yet",
			Fix: kubectl(f.pod.Namespace, "describe pod %s", commands.Word(f.pod.Name))}
	case errors.Is(f.agentErr, errNoAgent):
		return link{State: broken, Detail: "no agent runs on node " + node + ": its steered pods are refused",
			Fix: kubectl(f.agentNamespace, "get daemonset,pods --output wide")}
	case f.agentErr != nil:
		return link{State: broken, Detail: "the agent on node " + node + " does not answer: " + f.agentErr.Error(),
			Fix: kubectl(f.agentNamespace, "get pods --output wide --field-selector spec.nodeName=%s", commands.Word(node))}
	case !f.report.Ready:
		return link{State: broken, Detail: f.agent + " is not ready: " + strings.Join(f.report.Problems, "; "),
			Fix: kubectl(f.agentNamespace, "logs %s", commands.Word(f.agent))}
	}
	return link{State: ok, Detail: fmt.Sprintf("%s on node %s is ready (%s)", f.agent, node, f.report.Version)}
}

func judgeListener(f *facts) link {
	switch {
	case f.agentErr != nil:
		return link{State: unknown, Detail: "the agent does not answer"}
	case f.seen == nil:
		return link{State: broken, Detail: "the agent does not know the pod: it has ended, or the agent does not hear from the API server",
			Fix: kubectl(f.agentNamespace, "logs %s", commands.Word(f.agent))}
	case f.seen.Verdict != steered:
		return link{State: unknown, Detail: "the pod is not steered"}
	case f.seen.CgroupID == 0:
		return link{State: broken, Detail: "no process of the pod runs", Fix: kubectl(f.pod.Namespace, "describe pod %s", commands.Word(f.pod.Name))}
	case f.seen.Listener != 0:
		return link{State: ok, Detail: fmt.Sprintf("%s, port %d", where(f.pod), f.seen.Listener)}
	case f.report.Delivery == "node":
		return link{State: ok, Detail: "on the node"}
	}
	return link{State: broken, Detail: "no listener could be opened for the pod",
		Fix: kubectl(f.agentNamespace, "logs %s", commands.Word(f.agent))}
}

func where(pod *corev1.Pod) string {
	if pod.Spec.HostNetwork {
		return "on the node's loopback"
	}
	return "in the pod's network namespace"
}
