package podcache

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var honoured = with(func(c *config.AgentConfiguration) {
	c.AzurePodIdentityExceptions = config.PodIdentityExceptionsHonour
	c.WireServer = config.WireServerDeny
})

func TestIdentityExceptionsExempt(t *testing.T) {
	malformed := func(spec any) *unstructured.Unstructured {
		o := newIdentityException("shop", "odd")
		o.Object["spec"] = spec
		return o
	}
	odd := map[string]any{"podLabels": map[string]any{"app": "nmi", "replicas": int64(1)}}
	for name, tc := range map[string]struct {
		objects []*unstructured.Unstructured
		want    string
	}{
		"none":                   {nil, ""},
		"one label":              {[]*unstructured.Unstructured{newIdentityException("shop", "a", "app", "nmi")}, "a"},
		"any one label":          {[]*unstructured.Unstructured{newIdentityException("shop", "a", "app", "x", "tier", "system", "y", "z")}, "a"},
		"value in another case":  {[]*unstructured.Unstructured{newIdentityException("shop", "a", "app", "NMI")}, "a"},
		"key in another case":    {[]*unstructured.Unstructured{newIdentityException("shop", "a", "App", "nmi")}, ""},
		"another value":          {[]*unstructured.Unstructured{newIdentityException("shop", "a", "app", "nmi2")}, ""},
		"empty value, no label":  {[]*unstructured.Unstructured{newIdentityException("shop", "a", "absent", "")}, ""},
		"empty":                  {[]*unstructured.Unstructured{newIdentityException("shop", "a")}, ""},
		"another namespace":      {[]*unstructured.Unstructured{newIdentityException("bank", "a", "app", "nmi")}, ""},
		"the second of two":      {[]*unstructured.Unstructured{newIdentityException("shop", "a", "x", "y"), newIdentityException("shop", "b", "app", "nmi")}, "b"},
		"both: the first":        {[]*unstructured.Unstructured{newIdentityException("shop", "b", "app", "nmi"), newIdentityException("shop", "a", "app", "nmi")}, "a"},
		"no spec":                {[]*unstructured.Unstructured{malformed(nil)}, ""},
		"labels that are a list": {[]*unstructured.Unstructured{malformed(map[string]any{"podLabels": []any{"app"}})}, ""},
		"a label not text":       {[]*unstructured.Unstructured{malformed(odd)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := &identityExceptions{objects: map[string]map[string]podLabels{}}
			for _, o := range tc.objects {
				e.set(o.GetNamespace(), o.GetName(), newPodLabels(o))
			}
			p := newPod(newTestPod("shop", "p", "u", "sa", labeled, withLabels("app", "nmi", "tier", "system")))
			if got := e.exempting(&p); got != tc.want {
				t.Errorf("exempting = %q, want %q", got, tc.want)
			}
		})
	}
}

// Whoever may create such an object must not exempt himself by it.
func TestIdentityExceptionsAreIgnoredByDefault(t *testing.T) {
	c := newCluster(t, config.Default(), newTestPod("shop", "cart", "u1", "cart", labeled))
	c.custom.put(newIdentityException("shop", "mine", workload.UseLabel, "true"))
	c.start(t)
	c.api.put(newTestPod("shop", "later", "u2", "cart", labeled))
	eventually(t, "the later pod", func() bool { return c.verdict("u2") == workload.Steer })
	if c.verdict("u1") != workload.Steer {
		t.Errorf("the pod's verdict is %v", c.verdict("u1"))
	}
	if n := c.custom.asked("list") + c.custom.asked("watch"); n != 0 {
		t.Errorf("the objects were asked for %d times", n)
	}
}

// startHonouring waits, besides, until the objects are watched.
func startHonouring(t *testing.T, c *cluster) *cluster {
	t.Helper()
	c.start(t)
	eventually(t, "the watch of exceptions", func() bool { return c.custom.asked("watch") > 0 })
	return c
}

func TestIdentityExceptionsComeAndGo(t *testing.T) {
	nmi := withLabels("app", "nmi")
	c := newCluster(t, honoured, newTestPod("shop", "nmi", "u1", "", labeled, nmi), newTestPod("bank", "nmi", "u2", "", labeled, nmi))
	before := newIdentityException("shop", "before", "app", "nmi")
	c.custom.put(before)
	startHonouring(t, c)
	_, got, _ := c.Lookup(workload.CgroupRef{PodUID: "u1"})
	if diff := cmp.Diff(pass("AzurePodIdentityException shop/before"), got); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
	changes, cancel := c.Subscribe()
	defer cancel()
	c.custom.put(newIdentityException("bank", "later", "app", "nmi"))
	eventually(t, "the later exception", func() bool { return c.verdict("u2") == workload.Pass })
	c.custom.put(newIdentityException("bank", "later", "app", "mic"))
	eventually(t, "its change", func() bool { return c.verdict("u2") == workload.Steer })
	c.custom.remove(before)
	eventually(t, "the first one's end", func() bool { return c.verdict("u1") == workload.Steer })
	if len(changes) == 0 {
		t.Error("the changes were not signalled")
	}
	// A pod's own labels count as they are now.
	c.custom.put(newIdentityException("shop", "mic", "app", "mic"))
	c.api.put(newTestPod("shop", "nmi", "u1", "", labeled, withLabels("app", "mic")))
	eventually(t, "the pod's new label", func() bool { return c.verdict("u1") == workload.Pass })
}

func TestIdentityExceptionsAreSwitchedLive(t *testing.T) {
	c := newCluster(t, config.Default(), newTestPod("shop", "nmi", "u1", "", labeled, withLabels("app", "nmi"))).start(t)
	c.custom.put(newIdentityException("shop", "e", "app", "nmi"))
	for range 2 {
		if err := c.SetConfig(honoured); err != nil {
			t.Fatal(err)
		}
		// Until they are listed, the pod stays what it was.
		if v := c.verdict("u1"); v != workload.Steer && v != workload.Pass {
			t.Errorf("verdict while they are listed: %v", v)
		}
		eventually(t, "the exception", func() bool { return c.verdict("u1") == workload.Pass })
		late := identityExceptionStore{c.Cache, c.exempt, t.Context()}
		if err := c.SetConfig(config.Default()); err != nil {
			t.Fatal(err)
		}
		if c.verdict("u1") != workload.Steer {
			t.Error("the exception is still honoured")
		}
		// What was under way when they were switched off counts no more.
		o := newIdentityException("shop", "late", "app", "nmi")
		if err := errors.Join(late.Replace([]any{o}, ""), late.Add(o), late.Delete(o)); err != nil {
			t.Fatal(err)
		}
		late.failed(t.Context(), errNoKind)
		if c.verdict("u1") != workload.Steer || c.logs.count("level=WARN") != 0 {
			t.Error("a late answer is honoured")
		}
	}
}

// A restarted agent must not steer an exempt pod for a moment.
func TestReadyWaitsForIdentityExceptions(t *testing.T) {
	c := newCluster(t, honoured, newTestPod("shop", "nmi", "u1", "", labeled, withLabels("app", "nmi")),
		newTestPod("kube-system", "dns", "u2", "", aks))
	c.custom.put(newIdentityException("shop", "e", "app", "nmi"))
	c.custom.setFailure(errors.New("the server is starting"))
	go func() { _ = c.Run(t.Context()) }()
	eventually(t, "the pods", func() bool { return c.verdict("u1") != notFound && c.verdict("u2") == workload.Pass })
	eventually(t, "a list that fails", func() bool { return c.logs.count("watching the API failed") > 0 })
	if v := c.verdict("u1"); v != workload.Unknown {
		t.Errorf("verdict before the objects are listed: %v", v)
	}
	select {
	case <-c.Ready():
		t.Fatal("ready before the objects are listed")
	default:
	}
	c.custom.setFailure(nil)
	c.awaitReady(t)
	if v := c.verdict("u1"); v != workload.Pass {
		t.Errorf("verdict when ready: %v", v)
	}
}

// Nor must it be held when they cease to be honoured meanwhile.
func TestReadyWhenIdentityExceptionsAreNoLongerHonoured(t *testing.T) {
	c := newCluster(t, honoured, newTestPod("shop", "cart", "u1", "", labeled))
	c.custom.setFailure(errors.New("forbidden"))
	go func() { _ = c.Run(t.Context()) }()
	eventually(t, "the pod", func() bool { return c.verdict("u1") == workload.Unknown })
	if err := c.SetConfig(config.Default()); err != nil {
		t.Fatal(err)
	}
	c.awaitReady(t)
	if v := c.verdict("u1"); v != workload.Steer {
		t.Errorf("verdict = %v", v)
	}
}

func TestClusterWithoutIdentityExceptions(t *testing.T) {
	c := newCluster(t, honoured, newTestPod("shop", "nmi", "u1", "", labeled, withLabels("app", "nmi")))
	c.custom.setFailure(errNoKind)
	c.start(t)
	if v := c.verdict("u1"); v != workload.Steer {
		t.Errorf("verdict without the kind: %v", v)
	}
	store := identityExceptionStore{c.Cache, c.exempt, t.Context()}
	for range 3 {
		store.failed(t.Context(), errNoKind)
	}
	if n := c.logs.count("level=WARN"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	// The kind is installed.
	c.custom.put(newIdentityException("shop", "e", "app", "nmi"))
	c.custom.setFailure(nil)
	eventually(t, "the exception", func() bool { return c.verdict("u1") == workload.Pass })
	// It is removed, and its objects with it.
	store.failed(t.Context(), errNoKind)
	if v := c.verdict("u1"); v != workload.Steer {
		t.Errorf("verdict after the kind is gone: %v", v)
	}
}

func TestImportedIdentityExceptions(t *testing.T) {
	before := newCluster(t, honoured, newTestPod("shop", "legacy", "u1", "", labeled, withLabels("app", "legacy")))
	before.custom.put(newIdentityException("shop", "exempt", "app", "legacy"))
	go func() { _ = before.Run(t.Context()) }()
	before.awaitReady(t)
	withObjects := before.export(t)
	if err := before.SetConfig(config.Default()); err != nil {
		t.Fatal(err)
	}
	without := before.export(t)

	c := startDown(t, honoured)
	c.mustImport(t, withObjects)
	c.awaitReady(t)
	if c.verdict("u1") != workload.Pass {
		t.Errorf("an exempted pod: %v", c.verdict("u1"))
	}
	c.api.put(newTestPod("shop", "legacy", "u1", "", labeled, withLabels("app", "legacy")))
	c.api.setFail(nil)
	eventually(t, "the pods", func() bool { c.mu.RLock(); defer c.mu.RUnlock(); return c.listed })
	if !c.stale() {
		t.Error("not stale while whom the objects exempt is an earlier agent's word")
	}
	c.custom.setFailure(nil)
	eventually(t, "the objects' end", func() bool { return !c.stale() && c.verdict("u1") == workload.Steer })

	// It is not known which pods they exempt: pods are held.
	c = startDown(t, honoured)
	c.mustImport(t, without)
	if c.isReady() || c.verdict("u1") != workload.Unknown {
		t.Errorf("without the objects: ready %v, verdict %v", c.isReady(), c.verdict("u1"))
	}
	if err := c.SetConfig(config.Default()); err != nil {
		t.Fatal(err)
	}
	if !c.isReady() || c.verdict("u1") != workload.Steer {
		t.Errorf("once they are ignored: ready %v, verdict %v", c.isReady(), c.verdict("u1"))
	}
}
