package podcache

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestPodsAndLookupTellTheWholeWorkload(t *testing.T) {
	p := newTestPod("shop", "cart-1", "u1", "cart", labeled,
		withEnvironment("AZURE_CLIENT_ID", "from-env", "AZURE_TENANT_ID", "tenant-env", "AZURE_AUTHORITY_HOST", "https://login.example/"))
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: workload.TokenAudience, Path: "token"}}},
	}}}}
	sa := newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "from-annotation",
		workload.IdentitiesAnnotation, `[{"clientId":"c2","principalId":"p2"}]`)
	sa.CreationTimestamp = metav1.NewTime(created.Add(time.Minute))
	elsewhere := newTestPod("shop", "cart-2", "u2", "cart", labeled)
	elsewhere.Spec.NodeName = "node-2"
	c := newCluster(t, config.Default(), p, elsewhere, sa,
		newTestPod("bank", "teller", "u3", "teller"),
		newTestPod("shop", "done", "u4", "cart", labeled, withPhase(corev1.PodSucceeded)),
		newTestPod("shop", "failed", "u5", "cart", labeled, withPhase(corev1.PodFailed)),
	).start(t)

	want := []workload.Pod{
		{UID: "u3", Namespace: "bank", Name: "teller", ServiceAccount: "teller", Decision: pass("unlabeled: pass")},
		{UID: "u1", Namespace: "shop", Name: "cart-1", ServiceAccount: "cart", Ports: []uint16{8080}, Decision: steer("label")},
	}
	if diff := cmp.Diff(want, c.Pods()); diff != "" {
		t.Errorf("Pods (-want +got):\n%s", diff)
	}
	got, decision, ok := c.Lookup(workload.CgroupRef{PodUID: "u1", ContainerID: "u1-app"})
	if !ok || decision != steer("label") {
		t.Errorf("Lookup = %v, %v", decision, ok)
	}
	if diff := cmp.Diff(workload.Workload{
		PodUID: "u1", PodName: "cart-1", Namespace: "shop", ServiceAccount: "cart", ServiceAccountUID: "sa1",
		ChangedAt: created.Add(time.Minute), ClientID: "from-annotation", TenantID: "tenant-env",
		AuthorityHost: "https://login.example/", Identities: []workload.MappedIdentity{{ClientID: "c2", PrincipalID: "p2"}},
		Projected: &workload.ProjectedToken{Volume: "v", Path: "token"}, ServiceAccountSeen: true,
	}, got); diff != "" {
		t.Errorf("workload (-want +got):\n%s", diff)
	}
	for _, uid := range []string{"u2", "u4", "u5", "", "nobody"} {
		if _, _, ok := c.Lookup(workload.CgroupRef{PodUID: uid}); ok {
			t.Errorf("Lookup(%q) found a pod", uid)
		}
	}
	if w := c.workload("u3"); w.ServiceAccountSeen {
		t.Error("a missing service account counts as seen")
	}
}

func TestDeletedPodIsGone(t *testing.T) {
	p := newTestPod("shop", "cart", "u1", "cart", labeled)
	c := newCluster(t, config.Default(), p).start(t)

	p = p.DeepCopy()
	p.DeletionTimestamp = &metav1.Time{Time: now}
	p.Labels["seen"] = "terminating"
	c.api.put(p, newTestPod("shop", "later", "u2", "cart"))
	eventually(t, "the later pod", func() bool { return c.verdict("u2") == workload.Pass })
	if c.verdict("u1") != workload.Steer {
		t.Error("a terminating pod is not alive")
	}
	c.api.remove(p)
	eventually(t, "deletion", func() bool { return c.verdict("u1") == notFound })
}

func TestFinishedPodIsGone(t *testing.T) {
	c := newCluster(t, config.Default(), newTestPod("shop", "job", "u1", "job", labeled)).start(t)
	c.api.put(newTestPod("shop", "job", "u1", "job", labeled, withPhase(corev1.PodSucceeded)))
	eventually(t, "the end", func() bool { return c.verdict("u1") == notFound })
}

func TestPodReplacedUnderItsName(t *testing.T) {
	for name, replace := range map[string]func(*api, *corev1.Pod, *corev1.Pod){
		"deletion seen": func(a *api, old, next *corev1.Pod) { a.remove(old); a.put(next) },
		"merged":        func(a *api, _, next *corev1.Pod) { a.put(next) },
	} {
		t.Run(name, func(t *testing.T) {
			old := newTestPod("shop", "db-0", "u1", "db", labeled)
			c := newCluster(t, config.Default(), old).start(t)
			replace(c.api, old, newTestPod("shop", "db-0", "u2", "db"))
			eventually(t, "the new pod", func() bool { return c.verdict("u2") == workload.Pass })
			if c.verdict("u1") != notFound {
				t.Error("the old UID is still found")
			}
			if pods := c.Pods(); len(pods) != 1 {
				t.Errorf("Pods = %v", pods)
			}
		})
	}
}

func TestLabelRemovedFromALivingPod(t *testing.T) {
	c := newCluster(t, config.Default(), newTestPod("shop", "cart", "u1", "cart", labeled)).start(t)
	if got := c.workload("u1").ChangedAt; !got.Equal(created) {
		t.Errorf("ChangedAt = %v, want the creation", got)
	}
	c.api.put(newTestPod("shop", "cart", "u1", "cart"))
	eventually(t, "the label's end", func() bool { return c.verdict("u1") == workload.Pass })
	if got := c.workload("u1").ChangedAt; !got.Equal(now) {
		t.Errorf("ChangedAt = %v, want when the change was seen", got)
	}
}

func TestSkipContainersDecideByContainer(t *testing.T) {
	skip := withAnnotations(workload.SkipContainersAnnotation, "proxy")
	c := newCluster(t, config.Default(),
		newTestPod("shop", "cart", "u1", "cart", labeled, skip, withContainer("proxy", ""))).start(t)
	decision := func(id string) workload.Verdict {
		_, d, _ := c.Lookup(workload.CgroupRef{PodUID: "u1", ContainerID: id})
		return d.Verdict
	}
	for id, want := range map[string]workload.Verdict{
		"": workload.Unknown, "id-proxy": workload.Unknown, "u1-app": workload.Steer,
	} {
		if got := decision(id); got != want {
			t.Errorf("container %q: %v, want %v", id, got, want)
		}
	}
	c.api.put(newTestPod("shop", "cart", "u1", "cart", labeled, skip, withContainer("proxy", "id-proxy")))
	eventually(t, "the proxy's id", func() bool { return decision("id-proxy") == workload.Pass })
	if decision("") != workload.Unknown || decision("u1-app") != workload.Steer {
		t.Error("the other decisions changed")
	}
	if pods := c.Pods(); !pods[0].Steered() {
		t.Error("the pod needs no listener")
	}
}

func TestSetConfigAppliesToEveryPod(t *testing.T) {
	c := newCluster(t, config.Default(),
		newTestPod("shop", "a", "u1", "a", labeled), newTestPod("shop", "b", "u2", "b")).start(t)
	changes, cancel := c.Subscribe()
	defer cancel()

	if err := c.SetConfig(unlabeled(config.UnlabeledDeny)); err != nil {
		t.Fatal(err)
	}
	<-changes
	if c.verdict("u1") != workload.Steer || c.verdict("u2") != workload.Deny {
		t.Errorf("verdicts = %v, %v", c.verdict("u1"), c.verdict("u2"))
	}
	if err := c.SetConfig(unlabeled("steer")); err == nil {
		t.Error("a bad configuration was taken")
	}
	if c.verdict("u2") != workload.Deny {
		t.Error("a bad configuration changed a verdict")
	}
}

func TestSubscribe(t *testing.T) {
	c := newCluster(t, config.Default())
	s := podStore{Cache: c.Cache, ctx: t.Context(), round: t.Context(), again: new(bool)}
	add := func(o *corev1.Pod) {
		t.Helper()
		if err := s.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	changes, cancel := c.Subscribe()
	other, cancelOther := c.Subscribe()
	defer cancelOther()
	add(newTestPod("shop", "a", "u1", ""))
	add(newTestPod("shop", "b", "u2", ""))
	if len(changes) != 1 || len(other) != 1 {
		t.Fatalf("waiting signals: %d and %d, want one each", len(changes), len(other))
	}
	<-changes
	heartbeat := newTestPod("shop", "a", "u1", "")
	heartbeat.ResourceVersion = "7"
	heartbeat.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady}}
	add(heartbeat)
	if len(changes) != 0 {
		t.Error("a change of nothing that matters is signalled")
	}
	cancel()
	cancel()
	add(newTestPod("shop", "c", "u3", ""))
	if len(changes) != 0 {
		t.Error("a cancelled subscription gets signals")
	}
}

func TestMetricCountsPodsByVerdict(t *testing.T) {
	c := newCluster(t, unlabeled(config.UnlabeledDeny),
		newTestPod("shop", "a", "u1", "a", labeled),
		newTestPod("shop", "b", "u2", "b", labeled, withAnnotations(workload.SkipContainersAnnotation, "app"), withContainer("x", "id-x")),
		newTestPod("shop", "c", "u3", "c"),
		newTestPod("kube-system", "d", "u4", "d", aks)).start(t)
	want := `# HELP sidestep_pods Pods of this node that have not finished, by verdict; a pod with any steered container counts as steer.
# TYPE sidestep_pods gauge
sidestep_pods{verdict="deny"} 1
sidestep_pods{verdict="pass"} 1
sidestep_pods{verdict="steer"} 2
sidestep_pods{verdict="unknown"} 0
# HELP sidestep_pods_stale 1 while pods are as an earlier agent knew them, since the API server has not answered this one yet; else 0.
# TYPE sidestep_pods_stale gauge
sidestep_pods_stale 0
# HELP sidestep_pods_unexplained Pods that have run here for 5 s and that the API server has not reported: while there are some, the agent may be blind.
# TYPE sidestep_pods_unexplained gauge
sidestep_pods_unexplained 0
`
	if err := testutil.GatherAndCompare(c.metrics, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	c := newCluster(t, config.Default(), newTestPod("shop", "cart", "u1", "cart", labeled)).start(t)
	ref := workload.CgroupRef{PodUID: "u1", ContainerID: "u1-app"}
	if n := testing.AllocsPerRun(100, func() { c.Lookup(ref) }); n > 0 {
		t.Errorf("Lookup allocates %v times", n)
	}
}
