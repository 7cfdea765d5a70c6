package podcache

import (
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// A late deletion of the old pod must not take the new one along.
func TestDeletionOfTheOldUIDLeavesTheNewPod(t *testing.T) {
	c := newCluster(t, config.Default())
	s := podStore{Cache: c.Cache, ctx: t.Context(), round: t.Context(), again: new(bool)}
	for _, err := range []error{
		s.Add(newTestPod("shop", "db-0", "u2", "")),
		s.Delete(newTestPod("shop", "db-0", "u1", "")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if c.verdict("u2") != workload.Pass {
		t.Error("the new pod is gone")
	}
}

// An API server or proxy that ignores field selectors sends other nodes' pods.
func TestPodsOfOtherNodesAreNotTaken(t *testing.T) {
	c := newCluster(t, config.Default())
	p := newTestPod("shop", "cart", "u1", "")
	p.Spec.NodeName = "node-2"
	if err := (podStore{Cache: c.Cache, ctx: t.Context(), round: t.Context(), again: new(bool)}).Add(p); err != nil {
		t.Fatal(err)
	}
	if pods := c.Pods(); len(pods) != 0 {
		t.Errorf("Pods = %v", pods)
	}
}

func TestRelistForgetsPodsThatWentUnseen(t *testing.T) {
	c := newCluster(t, config.Default())
	s := podStore{Cache: c.Cache, ctx: t.Context(), round: t.Context(), again: new(bool)}
	stay, gone := newTestPod("shop", "a", "u1", ""), newTestPod("shop", "b", "u2", "")
	if err := s.Replace([]any{stay, gone}, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Replace([]any{stay}, ""); err != nil {
		t.Fatal(err)
	}
	if pods := c.Pods(); len(pods) != 1 || pods[0].UID != "u1" {
		t.Errorf("Pods = %v", pods)
	}
}
