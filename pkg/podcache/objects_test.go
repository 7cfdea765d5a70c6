package podcache

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func resourceOf(o runtime.Object) schema.GroupVersionResource {
	if _, ok := o.(*corev1.ServiceAccount); ok {
		return corev1.SchemeGroupVersion.WithResource("serviceaccounts")
	}
	return corev1.SchemeGroupVersion.WithResource("pods")
}

type podOption func(*corev1.Pod)

// newTestPod returns a running pod of the test node with one container, app,
// whose id is the pod's UID and "-app".
func newTestPod(namespace, name, uid, account string, options ...podOption) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: newObjectMeta(namespace, name, uid),
		Spec: corev1.PodSpec{
			NodeName:           testNode,
			ServiceAccountName: account,
			Containers:         []corev1.Container{{Name: "app"}},
		},
		Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			ContainerStatuses: []corev1.ContainerStatus{{Name: "app", ContainerID: "containerd://" + uid + "-app"}},
		},
	}
	for _, o := range options {
		o(p)
	}
	return p
}

func labeled(p *corev1.Pod) { withLabels(workload.UseLabel, "true")(p) }

func withLabels(pairs ...string) podOption {
	return func(p *corev1.Pod) { p.Labels = merged(p.Labels, pairs) }
}

func withAnnotations(pairs ...string) podOption {
	return func(p *corev1.Pod) { p.Annotations = merged(p.Annotations, pairs) }
}

func withPhase(phase corev1.PodPhase) podOption {
	return func(p *corev1.Pod) { p.Status.Phase = phase }
}

func withEnvironment(pairs ...string) podOption {
	return func(p *corev1.Pod) {
		for i := 0; i < len(pairs); i += 2 {
			c := &p.Spec.Containers[0]
			c.Env = append(c.Env, corev1.EnvVar{Name: pairs[i], Value: pairs[i+1]})
		}
	}
}

// withContainer adds a container that the kubelet has not started if id is "".
func withContainer(name, id string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name})
		status := corev1.ContainerStatus{Name: name}
		if id != "" {
			status.ContainerID = "containerd://" + id
		}
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, status)
	}
}

func newTestAccount(namespace, name, uid string, annotations ...string) *corev1.ServiceAccount {
	sa := &corev1.ServiceAccount{ObjectMeta: newObjectMeta(namespace, name, uid)}
	sa.Annotations = merged(nil, annotations)
	return sa
}

func merged(m map[string]string, pairs []string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}
