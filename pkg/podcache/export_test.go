package podcache

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

func TestExportIsStable(t *testing.T) {
	c := newCluster(t, config.Default(), newTestAccount("shop", "cart", "sa1"),
		newTestPod("shop", "b", "u2", "cart"), newTestPod("shop", "a", "u1", "cart"), newTestPod("bank", "c", "u3", "teller"))
	if exported := c.export(t); exported != nil {
		t.Errorf("exported before the API server has listed anything: %s", exported)
	}
	c.start(t)
	first := c.export(t)
	for range 20 {
		if diff := cmp.Diff(string(first), string(c.export(t))); diff != "" {
			t.Fatalf("the same state in other words:\n%s", diff)
		}
	}
}
