package podcache

import (
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const hash = "0123456789abcdef0123456789abcdef"

func mirror(cgroupUID string) podOption {
	return withAnnotations(mirrorAnnotation, cgroupUID, configHashAnnotation, cgroupUID)
}

func TestMirrorPodIsFoundByItsHash(t *testing.T) {
	c := newCluster(t, config.Default(), newTestPod("shop", "static-node-1", "u1", "", mirror(hash), labeled)).start(t)
	w, d, ok := c.Lookup(workload.CgroupRef{PodUID: hash})
	if !ok || d.Verdict != workload.Steer || w.PodUID != hash {
		t.Errorf("Lookup = %v, %v, %v", w, d, ok)
	}
	if !w.ServiceAccountSeen {
		t.Error("a pod without a service account waits for one")
	}
	if c.verdict("u1") != notFound {
		t.Error("the mirror's own UID is found: no cgroup bears it")
	}
}

// Whoever may create pods can write the annotations of a mirror pod.
func TestForgedMirrorPodTakesNobodysCgroup(t *testing.T) {
	victim := newTestPod("shop", "cart", "u1", "cart", labeled)
	c := newCluster(t, config.Default(), victim,
		newTestPod("shop", "static-node-1", "u2", "", mirror(hash)),
		newTestPod("evil", "empty", "u5", "", withAnnotations(mirrorAnnotation, ""))).start(t)

	c.api.put(newTestPod("evil", "a", "u3", "", mirror("u1")), newTestPod("evil", "b", "u4", "", mirror(hash)))
	eventually(t, "the doubt about the static pod", func() bool { return c.verdict(hash) == notFound })
	if w := c.workload("u1"); w.Namespace != "shop" || c.verdict("u1") != workload.Steer {
		t.Errorf("the victim's cgroup belongs to %s/%s", w.Namespace, w.PodName)
	}
	if _, _, ok := c.Lookup(workload.CgroupRef{}); ok {
		t.Error("the empty UID belongs to somebody")
	}
	c.api.remove(newTestPod("evil", "b", "u4", ""))
	eventually(t, "the static pod's return", func() bool { return c.verdict(hash) == workload.Pass })
}
