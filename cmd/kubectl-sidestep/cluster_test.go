package main

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// scene is a cluster of one node with one pod for which everything is right.
// Tests break it.
type scene struct {
	pod     *corev1.Pod
	account *corev1.ServiceAccount // nil: there is none
	agents  []string               // on the node
	reports map[string]status.Report
}

func newScene() *scene {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-1", Labels: map[string]string{workload.UseLabel: "true"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-abc", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "node-1", ServiceAccountName: "web", Volumes: []corev1.Volume{tokenVolume(workload.TokenAudience)}},
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "web", Annotations: map[string]string{workload.ClientIDAnnotation: "client-1"},
	}}
	asked := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	return &scene{
		pod: pod, account: account, agents: []string{"agent-1"},
		reports: map[string]status.Report{"agent-1": {
			Version: "v1", Node: "node-1", Mode: "enforce", Delivery: "pod", Guard: "full", Ready: true,
			Pods: []status.Pod{{Namespace: "shop", Name: "web-1", ServiceAccount: "web", ClientID: "client-1",
				Verdict: "steer", Access: "identity", Reason: "label", Listener: 28000, CgroupID: 7,
				Token: &status.Answer{At: asked, ExpiresOn: asked.Add(time.Hour)}}},
			ServiceAccounts: []status.ServiceAccount{{Namespace: "shop", Name: "web", ClientID: "client-1", TenantID: "tenant-1",
				LastExchange: asked, ExpiresOn: asked.Add(time.Hour)}},
		}},
	}
}

func tokenVolume(audience string) corev1.Volume {
	return corev1.Volume{Name: "azure-identity-token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience}}},
	}}}
}

// bind makes the pod one with an AKS identity binding, as the webhook does.
func (s *scene) bind(proxy string) {
	s.pod.Spec.Volumes = []corev1.Volume{tokenVolume(workload.BindingAudience)}
	s.pod.Spec.Containers = []corev1.Container{{
		Name: "app", Env: []corev1.EnvVar{{Name: workload.TokenProxyVariable, Value: proxy}},
	}}
}

// environment gives the container app variables, as pairs of name and value.
func (s *scene) environment(pairs ...string) {
	app := corev1.Container{Name: "app"}
	for i := 0; i < len(pairs); i += 2 {
		app.Env = append(app.Env, corev1.EnvVar{Name: pairs[i], Value: pairs[i+1]})
	}
	s.pod.Spec.Containers = []corev1.Container{app}
}

// clientIDs has the service account name no identity, and the pod's container web
// these variables; its container sidecar has none.
func (s *scene) clientIDs(env ...corev1.EnvVar) {
	s.account.Annotations = nil
	s.pod.Spec.Containers = []corev1.Container{{Name: "web", Env: env}, {Name: "sidecar"}}
	s.change(func(_ *status.Report, p *status.Pod, _ *status.ServiceAccount) { p.ClientID = "" })
}

// skipContainers has the pod exempt its container proxy; app has a verdict.
func (s *scene) skipContainers(app string) {
	s.pod.Annotations = map[string]string{workload.SkipContainersAnnotation: "proxy"}
	s.pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", ContainerID: "containerd://a1"}, {Name: "proxy", ContainerID: "containerd://b2"}}
	s.change(func(_ *status.Report, p *status.Pod, _ *status.ServiceAccount) {
		p.Verdict, p.Access, p.Reason = "unknown", "", "skip-containers: container not known"
		p.Containers = []status.Container{
			{ID: "a1", Verdict: app, Access: "identity", Reason: "label"},
			{ID: "b2", Verdict: "pass", Reason: "skip-containers, unlabeled: pass"},
		}
	})
}

// change edits what the agent says.
func (s *scene) change(edit func(r *status.Report, pod *status.Pod, account *status.ServiceAccount)) {
	r := s.reports["agent-1"]
	edit(&r, &r.Pods[0], &r.ServiceAccounts[0])
	s.reports["agent-1"] = r
}

func (s *scene) cluster() *cluster {
	objects := []runtime.Object{s.pod, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "web-abc",
		OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: "web", Controller: new(true)}},
	}}}
	if s.account != nil {
		objects = append(objects, s.account)
	}
	for _, name := range s.agents {
		objects = append(objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "sidestep-system", Name: name, Labels: map[string]string{"app.kubernetes.io/name": "sidestep-agent"}},
			Spec:       corev1.PodSpec{NodeName: s.reports[name].Node},
		})
	}
	return &cluster{client: fake.NewClientset(objects...), agentNamespace: "sidestep-system", run: s.run}
}

func (s *scene) run(_ context.Context, namespace, pod, container string, _ ...string) ([]byte, error) {
	r, ok := s.reports[pod]
	if namespace != "sidestep-system" || container != "agent" || !ok || r.Version == "" {
		return nil, errors.New("the container does not run")
	}
	return json.Marshal(r)
}

func TestOwnerIsWhoMakesThePod(t *testing.T) {
	s := newScene()
	if got, want := s.cluster().ownerOf(t.Context(), s.pod), (owner{"deployment", "web"}); got != want {
		t.Errorf("owner %v, want %v", got, want)
	}
	s.pod.OwnerReferences = nil
	if got, want := s.cluster().ownerOf(t.Context(), s.pod), (owner{"pod", "web-1"}); got != want {
		t.Errorf("owner %v, want %v", got, want)
	}
}
