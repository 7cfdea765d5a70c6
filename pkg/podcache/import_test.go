package podcache

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// taken is when the states of these tests were exported.
var taken = now.Add(-time.Minute)

func down(string) error { return syscall.ECONNREFUSED }

// stateOf returns what a cache exports that has these objects from the API.
func stateOf(t *testing.T, cfg *config.AgentConfiguration, objects ...runtime.Object) []byte {
	t.Helper()
	c := newCluster(t, cfg, objects...).start(t)
	return c.export(t)
}

func (c *cluster) export(t *testing.T) []byte {
	t.Helper()
	exported, err := c.Export()
	if err != nil {
		t.Fatal(err)
	}
	return exported
}

// startDown runs a cache while nothing answers at the API server's address.
func startDown(t *testing.T, cfg *config.AgentConfiguration, objects ...runtime.Object) *cluster {
	t.Helper()
	c := newCluster(t, cfg, objects...)
	c.api.setFail(down)
	c.custom.setFailure(syscall.ECONNREFUSED)
	go func() { _ = c.Run(t.Context()) }()
	c.awaitUnanswered(t)
	return c
}

func (c *cluster) awaitUnanswered(t *testing.T) {
	t.Helper()
	select {
	case <-c.Unanswered():
	case <-time.After(30 * time.Second):
		t.Fatal("the cache goes on waiting")
	}
}

func (c *cluster) mustImport(t *testing.T, exported []byte) {
	t.Helper()
	if err := c.Import(exported, taken); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) stale() bool {
	_, stale := c.Stale()
	return stale
}

func TestImportServesWhileTheAPIIsDown(t *testing.T) {
	skip := withAnnotations(workload.SkipContainersAnnotation, "proxy")
	sa := newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c1", workload.IdentitiesAnnotation, `[{"clientId":"c2"}]`)
	objects := []runtime.Object{
		sa,
		newTestPod("shop", "cart", "u1", "cart", labeled),
		newTestPod("shop", "mixed", "u2", "cart", labeled, skip, withContainer("proxy", "id-proxy")),
		newTestPod("bank", "teller", "u3", "missing"),
		newTestPod("kube-system", "static", "u4", "", mirror(hash), aks),
	}
	before := newCluster(t, config.Default(), objects...).start(t)
	after := startDown(t, config.Default())
	after.mustImport(t, before.export(t))
	after.awaitReady(t)
	if at, stale := after.Stale(); !stale || !at.Equal(taken) {
		t.Errorf("Stale = %v, %v", at, stale)
	}
	if diff := cmp.Diff(before.Pods(), after.Pods()); diff != "" {
		t.Errorf("pods (-exported +imported):\n%s", diff)
	}
	for _, ref := range []workload.CgroupRef{
		{PodUID: "u1"}, {PodUID: "u2"}, {PodUID: "u2", ContainerID: "id-proxy"}, {PodUID: "u3"}, {PodUID: hash},
	} {
		want, wantDecision, _ := before.Lookup(ref)
		got, decision, ok := after.Lookup(ref)
		if diff := cmp.Diff(want, got); diff != "" || !ok || decision != wantDecision {
			t.Errorf("%v: %v, %v, want %v; workload (-exported +imported):\n%s", ref, decision, ok, wantDecision, diff)
		}
	}
	if after.verdict("new") != notFound {
		t.Error("a pod that was never seen is known")
	}
	if exported := after.export(t); exported != nil {
		t.Errorf("a stale cache exports %s", exported)
	}
	wantStaleMetric(t, after, "1")
}

func wantStaleMetric(t *testing.T, c *cluster, value string) {
	t.Helper()
	want := "# HELP sidestep_pods_stale 1 while pods are as an earlier agent knew them, since the API server has not answered this one yet; else 0.\n" +
		"# TYPE sidestep_pods_stale gauge\nsidestep_pods_stale " + value + "\n"
	if err := testutil.GatherAndCompare(c.metrics, strings.NewReader(want), "sidestep_pods_stale"); err != nil {
		t.Error(err)
	}
}

// What the API server says when it is back holds, whatever it said before.
func TestAnswerReplacesWhatWasImported(t *testing.T) {
	sa, other := newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c1"), newTestAccount("bank", "teller", "sa2")
	stays := newTestPod("shop", "stays", "u1", "cart", labeled)
	exported := stateOf(t, config.Default(), sa, other, stays,
		newTestPod("shop", "gone", "u2", "cart", labeled),
		newTestPod("shop", "relabelled", "u3", "cart", labeled),
		newTestPod("shop", "replaced", "u4", "cart", labeled),
		newTestPod("bank", "teller", "u5", "teller", labeled))
	changed := newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c2")
	c := startDown(t, config.Default(), changed, other, stays,
		newTestPod("shop", "relabelled", "u3", "cart"),
		newTestPod("shop", "replaced", "u6", "cart", labeled),
		newTestPod("bank", "teller", "u5", "teller", labeled))
	c.mustImport(t, exported)
	if got := c.workload("u1").ClientID; got != "c1" {
		t.Errorf("while the API is down the client is %q", got)
	}
	c.awaitWatches(t) // none: the accounts are asked for when the pods have come
	changes, cancel := c.Subscribe()
	defer cancel()
	c.api.setFail(nil)
	eventually(t, "the end of staleness", func() bool { return !c.stale() })
	<-changes

	verdicts := map[string]workload.Verdict{}
	for _, uid := range []string{"u1", "u2", "u3", "u4", "u5", "u6"} {
		verdicts[uid] = c.verdict(uid)
	}
	if diff := cmp.Diff(map[string]workload.Verdict{
		"u1": workload.Steer, "u2": notFound, "u3": workload.Pass, "u4": notFound, "u5": workload.Steer, "u6": workload.Steer,
	}, verdicts); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if w := c.workload("u1"); w.ClientID != "c2" || !w.ChangedAt.Equal(now) {
		t.Errorf("of the account that changed: client %q, changed %v", w.ClientID, w.ChangedAt)
	}
	if w := c.workload("u5"); !w.ServiceAccountSeen || !w.ChangedAt.Equal(created) {
		t.Errorf("of the account that did not: %+v", w)
	}
	wantStaleMetric(t, c, "0")
	if c.export(t) == nil {
		t.Error("nothing is exported after the API server has answered")
	}
	c.awaitWatches(t, podWatch, accountWatch("bank", "teller"), accountWatch("shop", "cart"))
	c.api.put(newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c3"))
	eventually(t, "the next annotation", func() bool { return c.workload("u1").ClientID == "c3" })
}

// The watch of an account that no pod uses any more when the API is back.
func TestImportedAccountWithoutPodsEnds(t *testing.T) {
	c := startDown(t, config.Default())
	c.mustImport(t, stateOf(t, config.Default(), newTestAccount("shop", "cart", "sa1"), newTestPod("shop", "gone", "u1", "cart")))
	c.api.setFail(nil)
	eventually(t, "the end of staleness", func() bool { return !c.stale() })
	eventually(t, "the account's end", func() bool {
		c.fake.Step(linger)
		c.mu.RLock()
		defer c.mu.RUnlock()
		return len(c.accounts) == 0
	})
}

func TestImportUsesTheActiveConfiguration(t *testing.T) {
	exported := stateOf(t, config.Default(), newTestPod("shop", "a", "u1", ""), newTestPod("kube-system", "b", "u2", "", aks))
	c := startDown(t, unlabeled(config.UnlabeledDeny))
	c.mustImport(t, exported)
	if c.verdict("u1") != workload.Deny || c.verdict("u2") != workload.Pass {
		t.Errorf("verdicts = %v, %v", c.verdict("u1"), c.verdict("u2"))
	}
	if err := c.SetConfig(config.Default()); err != nil {
		t.Fatal(err)
	}
	if c.verdict("u1") != workload.Pass {
		t.Errorf("verdict after the configuration changed = %v", c.verdict("u1"))
	}
}

// A label on the service account counts, and is remembered, as before.
func TestImportKnowsAccountsLabels(t *testing.T) {
	sa := newTestAccount("shop", "cart", "sa1")
	sa.Labels = map[string]string{workload.UseLabel: "true"}
	before := newCluster(t, either, sa, newTestPod("shop", "cart", "u1", "cart"), newTestPod("bank", "x", "u2", "unseen")).start(t)
	before.api.remove(sa)
	eventually(t, "the account's end", func() bool { return before.logs.count("was deleted while pods use it") == 1 })
	c := startDown(t, either)
	c.mustImport(t, before.export(t))
	if c.verdict("u1") != workload.Steer || c.verdict("u2") != workload.Unknown {
		t.Errorf("verdicts = %v, %v, want steer and unknown", c.verdict("u1"), c.verdict("u2"))
	}
}

// Pods are listed, and then the API server is gone.
func TestImportOfAccountsAlone(t *testing.T) {
	exported := stateOf(t, config.Default(), newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c1"),
		newTestPod("shop", "cart", "u1", "cart", labeled), newTestPod("shop", "gone", "u2", "cart", labeled))
	c := newCluster(t, config.Default(), newTestPod("shop", "cart", "u1", "cart", labeled), newTestPod("shop", "new", "u3", "cart", labeled))
	c.api.setFail(func(resource string) error {
		if resource == "serviceaccounts" {
			return syscall.ECONNREFUSED
		}
		return nil
	})
	go func() { _ = c.Run(t.Context()) }()
	eventually(t, "the pods", func() bool { return len(c.Pods()) == 2 })
	c.awaitUnanswered(t)
	c.mustImport(t, exported)
	c.awaitReady(t)
	if !c.stale() || c.workload("u3").ClientID != "c1" || c.verdict("u2") != notFound {
		t.Errorf("stale %v, client %q, pod that is gone: %v", c.stale(), c.workload("u3").ClientID, c.verdict("u2"))
	}
}

func TestImportAfterTheAnswerIsNone(t *testing.T) {
	exported := stateOf(t, config.Default(), newTestPod("shop", "old", "u1", "", labeled))
	c := newCluster(t, config.Default(), newTestPod("shop", "new", "u2", "")).start(t)
	c.mustImport(t, exported)
	if c.stale() || c.verdict("u1") != notFound || c.verdict("u2") != workload.Pass {
		t.Errorf("stale %v, old pod %v, new pod %v", c.stale(), c.verdict("u1"), c.verdict("u2"))
	}
}

func TestSecondImportIsNone(t *testing.T) {
	c := startDown(t, config.Default())
	c.mustImport(t, stateOf(t, config.Default(), newTestPod("shop", "a", "u1", "")))
	c.mustImport(t, stateOf(t, config.Default(), newTestPod("shop", "b", "u2", "")))
	if c.verdict("u1") != workload.Pass || c.verdict("u2") != notFound {
		t.Errorf("verdicts = %v, %v", c.verdict("u1"), c.verdict("u2"))
	}
}

func TestImportTakesNothingOfWhatIsBroken(t *testing.T) {
	whole := stateOf(t, config.Default(), newTestPod("shop", "a", "u1", "a", labeled), newTestPod("shop", "b", "u2", "b"))
	for name, exported := range map[string][]byte{
		"empty": nil, "null": []byte("null"), "cut off": whole[:len(whole)-1], "followed by more": append(whole[:len(whole):len(whole)], '{'),
		"other types": []byte(`{"Pods":[{"Namespace":"shop","Name":"a","Ports":[65536]}]}`),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, config.Default())
			if err := c.Import(exported, taken); !errors.Is(err, ErrState) {
				t.Errorf("Import = %v, want ErrState", err)
			}
			if pods := c.Pods(); len(pods) != 0 || c.stale() || c.isReady() {
				t.Errorf("taken: %v, stale %v, ready %v", pods, c.stale(), c.isReady())
			}
		})
	}
}
