package podcache

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const podWatch = "pods  spec.nodeName=" + testNode

func accountWatch(namespace, name string) string {
	return "serviceaccounts " + namespace + " metadata.name=" + name
}

func (c *cluster) awaitWatches(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, cmp.Diff(want, c.api.watches()), func() bool { return slices.Equal(want, c.api.watches()) })
}

func TestServiceAccountsAreWatchedWhileInUse(t *testing.T) {
	first, second := newTestPod("shop", "cart-1", "u1", "cart"), newTestPod("shop", "cart-2", "u2", "cart")
	c := newCluster(t, config.Default(), first, second,
		newTestPod("bank", "teller", "u3", "teller"),
		newTestAccount("shop", "cart", "sa1"), newTestAccount("shop", "unused", "sa2")).start(t)
	c.awaitWatches(t, podWatch, accountWatch("bank", "teller"), accountWatch("shop", "cart"))

	c.api.remove(first)
	eventually(t, "the first pod's end", func() bool { return len(c.Pods()) == 2 })
	c.fake.Step(linger)
	c.awaitWatches(t, podWatch, accountWatch("bank", "teller"), accountWatch("shop", "cart"))

	c.api.put(newTestPod("shop", "cart-2", "u2", "cart", withPhase(corev1.PodSucceeded)))
	eventually(t, "the last pod's end", func() bool { return len(c.Pods()) == 1 })
	c.awaitWatches(t, podWatch, accountWatch("bank", "teller"), accountWatch("shop", "cart"))
	c.fake.Step(linger)
	c.awaitWatches(t, podWatch, accountWatch("bank", "teller"))

	c.api.put(newTestPod("shop", "cart-3", "u4", "cart"))
	eventually(t, "the account again", func() bool { return c.workload("u4").ServiceAccountUID == "sa1" })
	c.awaitWatches(t, podWatch, accountWatch("bank", "teller"), accountWatch("shop", "cart"))
}

func TestServiceAccountUsedAgainIsKept(t *testing.T) {
	old := newTestPod("shop", "cart-1", "u1", "cart")
	c := newCluster(t, config.Default(), old, newTestAccount("shop", "cart", "sa1")).start(t)
	c.api.remove(old)
	eventually(t, "the pod's end", func() bool { return len(c.Pods()) == 0 })
	c.api.put(newTestPod("shop", "cart-2", "u2", "cart"))
	eventually(t, "the next pod", func() bool { return len(c.Pods()) == 1 })
	if !c.workload("u2").ServiceAccountSeen {
		t.Error("the account was asked for again")
	}
	c.fake.Step(2 * linger)
	c.api.put(newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c"))
	eventually(t, "the annotation", func() bool { return c.workload("u2").ClientID == "c" })
}

func TestAnnotationChangesOnALivingPod(t *testing.T) {
	c := newCluster(t, config.Default(),
		newTestPod("shop", "cart", "u1", "cart", labeled, withEnvironment("AZURE_CLIENT_ID", "from-env")),
		newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c1")).start(t)
	if w := c.workload("u1"); w.ClientID != "c1" || !w.ChangedAt.Equal(created) {
		t.Errorf("at first: client %q, changed %v", w.ClientID, w.ChangedAt)
	}
	c.fake.SetTime(now.Add(time.Minute))
	c.api.put(newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c2", workload.TenantIDAnnotation, "t2"))
	eventually(t, "the change", func() bool { return c.workload("u1").ClientID == "c2" })
	if w := c.workload("u1"); w.TenantID != "t2" || !w.ChangedAt.Equal(now.Add(time.Minute)) {
		t.Errorf("after the change: tenant %q, changed %v", w.TenantID, w.ChangedAt)
	}
	c.api.put(newTestAccount("shop", "cart", "sa1"))
	eventually(t, "the fallback", func() bool { return c.workload("u1").ClientID == "from-env" })
}

func TestServiceAccountRecreated(t *testing.T) {
	sa := newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c1")
	c := newCluster(t, config.Default(), newTestPod("shop", "cart", "u1", "cart", labeled), sa).start(t)
	c.api.remove(sa)
	c.api.put(newTestAccount("shop", "cart", "sa2", workload.ClientIDAnnotation, "c2"))
	eventually(t, "the new account", func() bool { return c.workload("u1").ServiceAccountUID == "sa2" })
	if w := c.workload("u1"); w.ClientID != "c2" {
		t.Errorf("client %q, want the new account's", w.ClientID)
	}
}

// helm uninstall deletes the account before the pod has ended: a token in the
// cache is the pod's until then.
func TestServiceAccountDeletedWhileItsPodRuns(t *testing.T) {
	sa := newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c1",
		workload.IdentitiesAnnotation, `[{"clientId":"c2","principalId":"p2"}]`)
	pod := newTestPod("shop", "cart", "u1", "cart", labeled)
	c := newCluster(t, config.Default(), pod, sa).start(t)
	want := c.workload("u1")
	c.api.remove(sa)
	eventually(t, "the deletion", func() bool { return c.logs.count("was deleted while pods use it") == 1 })
	if diff := cmp.Diff(want, c.workload("u1")); diff != "" {
		t.Errorf("the workload of a pod that still runs (-before +after):\n%s", diff)
	}
	c.api.remove(pod)
	eventually(t, "the pod's end", func() bool { return len(c.Pods()) == 0 })
	c.fake.Step(linger)
	c.awaitWatches(t, podWatch)
	c.api.put(newTestPod("shop", "cart-2", "u2", "cart", labeled))
	eventually(t, "the next pod", func() bool { return len(c.Pods()) == 1 })
	if w := c.workload("u2"); w.ServiceAccountUID != "" {
		t.Errorf("a pod that came later has the deleted account's UID %q", w.ServiceAccountUID)
	}
}

// Readiness and the verdicts of select: either wait for the account: until it
// is seen, its label may be the one that steers.
func TestUnseenServiceAccountHoldsPodsBack(t *testing.T) {
	sa := newTestAccount("shop", "cart", "sa1")
	sa.Labels = map[string]string{workload.UseLabel: "true"}
	c := newCluster(t, either, sa, newTestPod("shop", "cart", "u1", "cart"), newTestPod("bank", "teller", "u2", "teller"))
	c.api.setFail(func(resource string) error {
		if resource == "serviceaccounts" {
			return apierrors.NewForbidden(corev1.Resource(resource), "", nil)
		}
		return nil
	})
	go func() { _ = c.Run(t.Context()) }()
	eventually(t, "the pods", func() bool { return len(c.Pods()) == 2 })
	if c.verdict("u1") != workload.Unknown || c.verdict("u2") != workload.Unknown {
		t.Errorf("verdicts = %v, %v, want unknown", c.verdict("u1"), c.verdict("u2"))
	}
	eventually(t, "a log line", func() bool { return c.logs.count("trying again") > 0 })
	select {
	case <-c.Ready():
		t.Error("ready without the service accounts")
	default:
	}
	c.api.setFail(nil)
	c.awaitReady(t)
	if c.verdict("u1") != workload.Steer || c.verdict("u2") != workload.Unknown {
		t.Errorf("verdicts = %v, %v, want steer and, for the missing account, unknown", c.verdict("u1"), c.verdict("u2"))
	}
}

func TestLabelOutlivesADeletedServiceAccount(t *testing.T) {
	labeledAccount, plain := newTestAccount("shop", "cart", "sa1"), newTestAccount("bank", "teller", "sa2")
	labeledAccount.Labels = map[string]string{workload.UseLabel: "true"}
	c := newCluster(t, either, labeledAccount, plain,
		newTestPod("shop", "cart", "u1", "cart"), newTestPod("bank", "teller", "u2", "teller")).start(t)
	c.api.remove(labeledAccount)
	c.api.remove(plain)
	eventually(t, "the accounts' end", func() bool { return c.logs.count("was deleted while pods use it") == 2 })
	if c.verdict("u1") != workload.Steer || c.verdict("u2") != workload.Pass {
		t.Errorf("verdicts = %v, %v, want steer and pass", c.verdict("u1"), c.verdict("u2"))
	}
	c.api.put(newTestAccount("shop", "cart", "sa3"))
	eventually(t, "the account without the label", func() bool { return c.verdict("u1") == workload.Pass })
}

// An account that no pod uses any more is not waited for.
func TestReadyForgetsAccountsWithoutPods(t *testing.T) {
	c := newCluster(t, config.Default())
	c.api.setFail(func(string) error { return apierrors.NewForbidden(corev1.Resource("serviceaccounts"), "", nil) })
	s := podStore{Cache: c.Cache, ctx: t.Context(), round: t.Context(), again: new(bool)}
	p := newTestPod("shop", "cart", "u1", "cart")
	if err := s.Replace([]any{p}, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(p); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Ready():
	default:
		t.Error("not ready")
	}
}

func TestBrokenIdentitiesAreLoggedOncePerChange(t *testing.T) {
	const line = "annotation is not valid"
	c := newCluster(t, config.Default(),
		newTestPod("shop", "cart", "u1", "cart", labeled),
		newTestAccount("shop", "cart", "sa1", workload.IdentitiesAnnotation, `[{"clientId":"c1"}]`)).start(t)
	if got := c.workload("u1").Identities; len(got) != 1 {
		t.Fatalf("Identities = %v", got)
	}
	for i, client := range []string{"x", "y"} {
		c.api.put(newTestAccount("shop", "cart", "sa1", workload.IdentitiesAnnotation, "nonsense", workload.ClientIDAnnotation, client))
		eventually(t, "the change", func() bool { return c.workload("u1").ClientID == client })
		if n := c.logs.count(line); n != 1 {
			t.Errorf("change %d: logged %d times in all", i+1, n)
		}
	}
	if got := c.workload("u1").Identities; got != nil {
		t.Errorf("Identities = %v, want none", got)
	}
}

// An API server or proxy that ignores field selectors must not lend one
// service account's identity to another.
func TestOtherServiceAccountsAreNotTaken(t *testing.T) {
	c := newCluster(t, config.Default())
	s := podStore{Cache: c.Cache, ctx: t.Context(), round: t.Context(), again: new(bool)}
	if err := s.Add(newTestPod("shop", "cart", "u1", "cart")); err != nil {
		t.Fatal(err)
	}
	c.mu.RLock()
	a := c.accounts[types.NamespacedName{Namespace: "shop", Name: "cart"}]
	c.mu.RUnlock()
	if err := (accountStore{c.Cache, a, t.Context()}).Replace([]any{newTestAccount("shop", "other", "sa2", workload.ClientIDAnnotation, "c2")}, ""); err != nil {
		t.Fatal(err)
	}
	if w := c.workload("u1"); w.ServiceAccountSeen || w.ClientID != "" {
		t.Errorf("the workload got another's identity: %+v", w)
	}
}

// After an API server's restart the accounts' watches of all nodes come back
// over half a minute. One that was never seen is not kept back.
func TestWatchesOfSeenAccountsComeBackOverTime(t *testing.T) {
	c := newCluster(t, config.Default())
	calls := make(chan struct{}, 1)
	next := func(context.Context, metav1.ListOptions) (watch.Interface, error) {
		calls <- struct{}{}
		return nil, errors.New("connection refused")
	}
	again := func(a *account) {
		spread := c.spread(a, next)
		for range 2 {
			_, _ = spread(t.Context(), metav1.ListOptions{})
		}
	}
	go again(&account{})
	for range 2 {
		<-calls
	}
	go again(&account{synced: true})
	<-calls
	eventually(t, "a pause", func() bool { return c.fake.HasWaiters() })
	if len(calls) > 0 {
		t.Error("the watch was asked for again at once")
	}
	c.fake.Step(spreadTime)
	<-calls
}
