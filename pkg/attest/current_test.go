package attest

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestCurrent(t *testing.T) {
	k, p := newKernel(), newPods()
	p.set(refA, workload.Steer)
	a := newAttestor(k, p, nil)
	w, d, err := a.Current(callerA)
	if err != nil {
		t.Fatal(err)
	}
	want := workload.Workload{PodUID: "a", ServiceAccount: "sa-a"}
	if diff := cmp.Diff(want, w); diff != "" || d.Verdict != workload.Steer {
		t.Errorf("Current: %+v (-want +got):\n%s", d, diff)
	}
	p.set(refA, workload.Unknown)
	if _, d, err := a.Current(callerA); err != nil || d.Verdict != workload.Unknown {
		t.Errorf("Current = %+v, %v, want the verdict of now", d, err)
	}
}

func TestCurrentOfACallerThatIsNoMore(t *testing.T) {
	tests := map[string]func(*kernel, *pods){
		"cgroup removed": func(k *kernel, _ *pods) { k.remove(42) },
		"pod forgotten":  func(_ *kernel, p *pods) { p.forget(refA) },
		"pod replaced": func(k *kernel, p *pods) {
			b := workload.CgroupRef{PodUID: "b", ContainerID: "c1"}
			k.put(42, b)
			p.set(b, workload.Steer)
		},
		"container replaced": func(k *kernel, p *pods) {
			c2 := workload.CgroupRef{PodUID: "a", ContainerID: "c2"}
			k.put(42, c2)
			p.set(c2, workload.Steer)
		},
		"cgroup cannot be looked up": func(k *kernel, _ *pods) { k.broken = errNotPod },
	}
	for name, change := range tests {
		k, p := newKernel(), newPods()
		p.set(refA, workload.Steer)
		change(k, p)
		w, d, err := newAttestor(k, p, nil).Current(callerA)
		if !errors.Is(err, ErrGone) || !cmp.Equal(w, workload.Workload{}) || d != (workload.Decision{}) {
			t.Errorf("%s: Current = %+v, %+v, %v, want ErrGone", name, w, d, err)
		}
	}
}
