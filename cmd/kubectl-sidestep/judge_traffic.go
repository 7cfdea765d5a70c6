package main

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"
	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/commands"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// imds is what applications ask for a token.
var imds = &url.URL{Scheme: "http", Host: workload.IMDS.String(), Path: "/metadata/identity/oauth2/token"}

// judgeTraffic looks in the pod's spec for what takes its requests elsewhere
// before a hook of the agent's sees them, or changes them behind it.
func judgeTraffic(f *facts) link {
	if c := proxiedContainer(f.pod); c != nil {
		return judgeProxied(f, c)
	}
	if mesh := meshSidecar(f.pod); mesh != "" && f.agentErr == nil && f.report.Delivery == "node" {
		return link{State: broken,
			Detail: "the sidecar " + mesh + " takes what the pod sends to the node listener, and the agent cannot prove whose it is",
			Fix: "with --delivery=pod nothing leaves the pod; else leave the listener's address (169.254.169.252, or --listen) to the pod: " +
				"annotate its template with traffic.sidecar.istio.io/excludeOutboundIPRanges or config.linkerd.io/skip-subnets"}
	}
	if container := nestedRuntime(f.pod); container != "" {
		return link{State: ok, Detail: "what container " + container + " starts in containers of its own is answered 403: the pod translates its address"}
	}
	return link{State: ok, Detail: "nothing in the pod's spec takes its requests elsewhere"}
}

// judgeProxied: whether the application goes by the variable is not known, but
// where the pod got a token it cannot be all of them.
func judgeProxied(f *facts, c *corev1.Container) link {
	l := link{State: broken,
		Detail: "HTTP_PROXY is set for container " + c.Name + " and NO_PROXY does not name 169.254.169.254: requests go to the proxy",
		Fix:    "add 169.254.169.254 to NO_PROXY of container " + c.Name}
	if _, ok := commands.LabelPods(f.pod.Namespace, f.owner.kind, f.owner.name); ok { // its template can be changed
		l.Fix = kubectl(f.pod.Namespace, "set env %s/%s --containers=%s NO_PROXY=%s", f.owner.kind, commands.Word(f.owner.name),
			commands.Word(c.Name), commands.Word(withIMDS(proxyVariables(c)["NO_PROXY"])))
	}
	if a := f.token(); a != nil && a.Error == "" {
		l.State = unknown
	}
	return l
}

func withIMDS(noProxy string) string {
	if noProxy == "" {
		return imds.Host
	}
	return noProxy + "," + imds.Host
}

// proxiedContainer returns a container whose environment sends requests for the
// metadata service to a proxy; nil if none does. Variables from ConfigMaps and
// Secrets are not read.
func proxiedContainer(pod *corev1.Pod) *corev1.Container {
	for _, c := range steeredContainers(pod) {
		env := proxyVariables(c)
		config := httpproxy.Config{HTTPProxy: env["HTTP_PROXY"], NoProxy: env["NO_PROXY"]}
		if proxy, err := config.ProxyFunc()(imds); err == nil && proxy != nil {
			return c
		}
	}
	return nil
}

// proxyVariables returns the container's literal variables that speak of proxies,
// by their names in capitals.
func proxyVariables(c *corev1.Container) map[string]string {
	env := map[string]string{}
	for _, e := range c.Env {
		if name := strings.ToUpper(e.Name); e.Value != "" && (name == "HTTP_PROXY" || name == "NO_PROXY") {
			env[name] = e.Value
		}
	}
	return env
}

// steeredContainers returns the pod's containers but those that it exempts.
func steeredContainers(pod *corev1.Pod) []*corev1.Container {
	skipped := strings.Split(pod.Annotations[workload.SkipContainersAnnotation], ";")
	var found []*corev1.Container
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if !slices.Contains(skipped, list[i].Name) {
				found = append(found, &list[i])
			}
		}
	}
	return found
}

// meshSidecar returns the name of a sidecar that takes what the pod sends; ""
// if there is none.
func meshSidecar(pod *corev1.Pod) string {
	for _, c := range steeredContainers(pod) {
		excluded := pod.Annotations["traffic.sidecar.istio.io/excludeOutboundIPRanges"] + pod.Annotations["config.linkerd.io/skip-subnets"]
		if (c.Name == "istio-proxy" || c.Name == "linkerd-proxy") && !strings.Contains(excluded, "169.254.") {
			return c.Name
		}
	}
	return ""
}

// nestedRuntime returns the name of a container that runs containers in it; ""
// if none is known to.
func nestedRuntime(pod *corev1.Pod) string {
	for _, c := range steeredContainers(pod) {
		privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		name, tag, _ := strings.Cut(path.Base(c.Image), ":")
		if privileged && (name == "docker" || strings.Contains(name, "dind") || strings.Contains(tag, "dind")) {
			return c.Name
		}
	}
	return ""
}
