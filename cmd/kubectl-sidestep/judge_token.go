package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/commands"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// judgeAssertion looks for the token that the agent sends to Entra, or to the
// proxy of the pod's identity binding.
func judgeAssertion(f *facts) link {
	if name, audience := projection(&f.pod.Spec, workload.TokenAudience); name != "" {
		return link{State: ok, Detail: fmt.Sprintf("volume %s, audience %s", name, audience)}
	}
	if name, audience := projection(&f.pod.Spec, workload.BindingAudience); name != "" && namesTokenProxy(&f.pod.Spec) {
		return link{State: ok, Detail: fmt.Sprintf("volume %s, audience %s, for the proxy of an identity binding", name, audience)}
	}
	if f.agentErr == nil && f.report.TokenRequest {
		return link{State: ok, Detail: "the agent asks for it (--token-request)"}
	}
	restart := "let the azure-workload-identity webhook add the volume, then recreate the pod: " + f.restartCommand()
	if name, audience := projection(&f.pod.Spec, ""); name != "" {
		return link{State: broken, Fix: restart,
			Detail: fmt.Sprintf("the token in volume %s is for the audience %s, not %s", name, audience, workload.TokenAudience)}
	}
	return link{State: broken, Detail: "no volume projects a service account token for the audience " + workload.TokenAudience, Fix: restart}
}

// projection returns the volume of a service account token for the audience,
// or, where that is "", of one that is not for the API server alone.
func projection(s *corev1.PodSpec, audience string) (volume, found string) {
	for _, v := range s.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, src := range v.Projected.Sources {
			t := src.ServiceAccountToken
			if t != nil && t.Audience != "" && (audience == "" || t.Audience == audience) {
				return v.Name, t.Audience
			}
		}
	}
	return "", ""
}

// namesTokenProxy reports whether a container says where the proxy of the
// pod's identity binding is. Without it the agent takes the pod for one that
// has none.
func namesTokenProxy(s *corev1.PodSpec) bool {
	named := func(e corev1.EnvVar) bool { return e.Name == workload.TokenProxyVariable && e.Value != "" }
	return slices.ContainsFunc(slices.Concat(s.Containers, s.InitContainers), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Env, named)
	})
}

func (f *facts) restartCommand() string {
	if f.owner.kind == "pod" {
		return kubectl(f.pod.Namespace, "delete pod %s", commands.Word(f.pod.Name))
	}
	return kubectl(f.pod.Namespace, "rollout restart %s %s", f.owner.kind, commands.Word(f.owner.name))
}

func judgeClientID(f *facts) link {
	if f.account == nil {
		return link{State: broken, Detail: "the service account " + f.pod.Spec.ServiceAccountName + " does not exist",
			Fix: kubectl(f.pod.Namespace, "create serviceaccount %s", commands.Word(f.pod.Spec.ServiceAccountName))}
	}
	if id := f.account.Annotations[workload.ClientIDAnnotation]; id != "" {
		return link{State: ok, Detail: id + ", by the annotation of service account " + f.account.Name}
	}
	if f.seen != nil && f.seen.ClientID != "" {
		return link{State: ok, Detail: f.seen.ClientID + ", by AZURE_CLIENT_ID in the pod's spec"}
	}
	none := "the service account " + f.account.Name + " has no annotation " + workload.ClientIDAnnotation
	annotate := f.annotate(workload.ClientIDAnnotation, "<the identity's client id>")
	switch said, readable := clientIDs(f.pod); {
	case said == "":
		return link{State: broken, Detail: none + ": the default identity is not set", Fix: annotate}
	case !readable:
		return link{State: broken, Detail: none + ", and AZURE_CLIENT_ID cannot be read, by container: " + said, Fix: annotate}
	default:
		return link{State: ok, Detail: "by container, as AZURE_CLIENT_ID in the pod's spec: " + said}
	}
}

// clientIDs says what each container that is not exempt has as its own default
// identity; empty if none sets any. readable reports that the pod's spec itself
// has one.
func clientIDs(pod *corev1.Pod) (said string, readable bool) {
	var all []string
	set := false
	for _, c := range steeredContainers(pod) {
		own := ownClientID(c)
		switch {
		case own == nil || own.Value == "" && own.ValueFrom == nil:
			all = append(all, c.Name+": none")
			continue
		case own.ValueFrom != nil:
			all = append(all, c.Name+": from a secret or ConfigMap, which the agent does not read")
		default:
			readable = true
			all = append(all, c.Name+": "+own.Value)
		}
		set = true
	}
	if !set {
		return "", false
	}
	return strings.Join(all, "; "), readable
}

// ownClientID returns the entry of AZURE_CLIENT_ID that counts in the container,
// which is the last one; nil if there is none.
func ownClientID(c *corev1.Container) *corev1.EnvVar {
	for i := len(c.Env) - 1; i >= 0; i-- {
		if c.Env[i].Name == "AZURE_CLIENT_ID" {
			return &c.Env[i]
		}
	}
	return nil
}

func judgeTenant(f *facts) link {
	if f.account != nil && f.account.Annotations[workload.TenantIDAnnotation] != "" {
		return link{State: ok, Detail: f.account.Annotations[workload.TenantIDAnnotation] + ", by the annotation of service account " + f.account.Name}
	}
	switch {
	case f.agentErr != nil:
		return link{State: unknown, Detail: "the agent does not answer"}
	case f.exchange.TenantID != "":
		return link{State: ok, Detail: f.exchange.TenantID}
	case f.seen == nil:
		return link{State: unknown, Detail: "the agent does not know the pod"}
	}
	return link{State: broken, Detail: "no tenant is set, neither for the service account nor for the agent (--tenant-id)",
		Fix: f.annotate(workload.TenantIDAnnotation, "<the identity's tenant>")}
}

func (f *facts) annotate(name, value string) string {
	return kubectl(f.pod.Namespace, "annotate --overwrite serviceaccount %s %s=%s",
		commands.Word(f.pod.Spec.ServiceAccountName), name, commands.Word(value))
}

// judgeExchange goes by what the pod itself was answered: another pod of its
// service account may ask for something else.
func judgeExchange(f *facts) link {
	a := f.token()
	switch {
	case f.agentErr != nil:
		return link{State: unknown, Detail: "the agent does not answer"}
	case a == nil:
		return link{State: unknown, Detail: "the pod has not asked this agent for a token yet" + f.othersFailure(time.Time{})}
	case a.Error != "":
		l := link{State: broken, Detail: a.Error + " (" + rfc3339(a.At) + ")", Fix: a.Fix}
		if l.Fix == "" && !a.Explained {
			l.Fix = kubectl(f.agentNamespace, "logs %s", commands.Word(f.agent))
		}
		return l
	}
	return link{State: ok, Detail: "token at " + rfc3339(a.At) + ", good until " + rfc3339(a.ExpiresOn) + f.othersFailure(a.At)}
}

// othersFailure says that the last exchange of the service account failed, if
// that was after the time: the pod itself was not refused.
func (f *facts) othersFailure(after time.Time) string {
	if f.exchange.LastError == "" || f.exchange.LastExchange.Before(after) {
		return ""
	}
	return "; the last exchange of its service account failed, for another pod or ahead of time: " +
		f.exchange.LastError + " (" + rfc3339(f.exchange.LastExchange) + ")"
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
