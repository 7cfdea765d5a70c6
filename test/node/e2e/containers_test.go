package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const annotationSkip = "azure.workload.identity/skip-containers"

// withProxy adds a container that is to be skipped.
func withProxy(o *corev1.Pod) {
	proxy := *o.Spec.Containers[0].DeepCopy()
	proxy.Name = "proxy"
	o.Spec.Containers = append(o.Spec.Containers, proxy)
	o.Annotations = map[string]string{annotationSkip: "proxy"}
}

// Sidecars that are init containers, and containers that people add to a
// running pod, have the pod's identity and use its one listener.
func TestSidecarAndEphemeralContainers(t *testing.T) {
	needNode(t)
	t.Parallel()
	p := pod{namespace: edge, name: "companions", account: "app-one", labelled: true, token: newVolume, change: func(o *corev1.Pod) {
		sidecar := *o.Spec.Containers[0].DeepCopy()
		sidecar.Name = "sidecar"
		sidecar.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		o.Spec.InitContainers = []corev1.Container{sidecar}
	}}
	start(t, p)
	kubectl(t, "-n", edge, "debug", p.name, "--image="+clientsImage, "--image-pull-policy=Never",
		"--container=debug", "--profile=restricted", "--arguments-only", "--", "wait")
	kubectl(t, "-n", edge, "wait", "pod/"+p.name, "--timeout=30s",
		"--for=jsonpath={.status.ephemeralContainerStatuses[0].state.running}")
	port := p.listener(t)
	for _, container := range []string{"app", "sidecar", "debug"} {
		if got := p.in(container).who(t); got != "app-one" {
			t.Errorf("%s gets %q, want app-one", container, got)
		}
	}
	if now := p.listener(t); now != port {
		t.Errorf("the listener is %d, and was %d", now, port)
	}
}

// What tells containers of one pod apart is their cgroup: neither a shared
// process namespace nor cgroups of their own making mislead it.
func TestSkippedContainers(t *testing.T) {
	needNode(t)
	t.Parallel()
	shared := pod{namespace: edge, name: "skipping-shared", account: "app-one", labelled: true, token: newVolume, change: func(o *corev1.Pod) {
		withProxy(o)
		o.Spec.ShareProcessNamespace = ptr.To(true)
	}}
	nesting := pod{namespace: edge, name: "skipping-nesting", account: "app-two", labelled: true, token: newVolume, change: func(o *corev1.Pod) {
		privileged(o)
		withProxy(o)
	}}
	start(t, shared, nesting)
	for _, p := range []pod{shared, nesting} {
		p.becomes(t, p.account)
		p.in("proxy").becomes(t, nodes)
	}
	for _, move := range [][]string{{"below", "child"}, {"below", "deep/deeper"}} {
		if got := nesting.elsewhere(t, move...); got != "app-two" {
			t.Errorf("%v of app gets %q, want app-two", move, got)
		}
		if got := nesting.in("proxy").elsewhere(t, move...); got != nodes {
			t.Errorf("%v of the skipped container gets %q, want %q", move, got, nodes)
		}
	}
}

// privileged lets the pod's containers do what root may.
func privileged(o *corev1.Pod) {
	o.Spec.SecurityContext = nil
	for i := range o.Spec.Containers {
		o.Spec.Containers[i].SecurityContext = &corev1.SecurityContext{
			Privileged: ptr.To(true), RunAsUser: ptr.To[int64](0),
		}
	}
}

// A Job's pods ask when they start, and the pods that it leaves have nothing
// left in the agent.
func TestJob(t *testing.T) {
	needNode(t)
	t.Parallel()
	worker := pod{namespace: edge, name: "job", account: "app-one", labelled: true, token: newVolume,
		args: []string{"get", "-timeout=40s", tokenPath + url.QueryEscape(vaultURL)}}
	spec := worker.spec()
	spec.RestartPolicy = corev1.RestartPolicyNever
	apply(t, &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Namespace: edge, Name: worker.name},
		Spec: batchv1.JobSpec{
			Completions: ptr.To[int32](3), Parallelism: ptr.To[int32](2), BackoffLimit: ptr.To[int32](0),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: worker.allLabels()}, Spec: spec},
		},
	})
	t.Cleanup(func() { kubectl(t, "-n", edge, "delete", "job", worker.name, "--wait=false") })
	kubectl(t, "-n", edge, "wait", "--for=condition=Complete", "job/"+worker.name, "--timeout=80s")
	got := answers(t, kubectl(t, "-n", edge, "logs", "-l", "app.kubernetes.io/name=job", "--tail=-1"))
	if len(got) != 3 {
		t.Errorf("%d answers, want 3", len(got))
	}
	for _, a := range got {
		if a.whose() != "app-one" {
			t.Errorf("a worker gets %q, want app-one", a.whose())
		}
	}
	eventually(t, 10*time.Second, func() error {
		for _, r := range agentStatus(t).Pods {
			if r.Namespace == edge && strings.HasPrefix(r.Name, worker.name+"-") {
				return fmt.Errorf("%s has finished, and the agent has it still", r.Name)
			}
		}
		return nil
	})
}

// answers reads a log of probe get.
func answers(t *testing.T, log string) []answer {
	t.Helper()
	var all []answer
	for line := range strings.Lines(log) {
		var a answer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		all = append(all, a)
	}
	return all
}
