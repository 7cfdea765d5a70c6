package delivery

import (
	"slices"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// podListener is the listener of one pod and the namespace it is in.
type podListener struct {
	*listener
	inode      uint64
	containers []workload.ContainerCgroup // when the namespace was last looked at
}

// deliver makes sure that a steered pod has its listener, in the namespace
// that the pod is in now, and returns where its connects go. Until it has one
// that is nowhere: the zero entry, Unknown.
func (r *round) deliver(pod workload.Pod, cg workload.PodCgroup, box *sandbox) (workload.Entry, error) {
	if !pod.Steered() {
		r.closeListener(pod.UID)
		return workload.Entry{}, nil
	}
	if r.NodeOnly {
		return workload.Entry{Verdict: workload.Steer}, nil
	}
	l, err := r.ensure(pod, cg, box)
	if err != nil {
		return workload.Entry{}, err
	}
	return workload.Entry{Verdict: workload.Steer, Port: l.port(), NetnsCookie: l.netnsCookie}, nil
}

func (r *round) ensure(pod workload.Pod, cg workload.PodCgroup, box *sandbox) (*podListener, error) {
	have := r.listeners[pod.UID]
	if have != nil && !r.thorough && slices.Equal(have.containers, cg.Containers) {
		return have, nil
	}
	if pod.HostNetwork {
		if have != nil {
			return have, nil
		}
		return r.open(pod, nil, cg.Containers)
	}
	ns, err := box.open()
	if have != nil && workload.Exhausted(err) {
		return have, nil // looked at again with the others
	}
	if err != nil {
		// The sandbox has ended: an open listener would keep its namespace
		// and the devices in it alive.
		r.closeListener(pod.UID)
		return nil, err
	}
	if have != nil && have.inode == ns.inode {
		have.containers = cg.Containers
		return have, nil
	}
	r.closeListener(pod.UID)
	return r.open(pod, ns, cg.Containers)
}

// open opens the pod's listener in the namespace, or in the node's if that is
// nil, and starts to accept.
func (r *Reconciler) open(pod workload.Pod, ns *namespace, containers []workload.ContainerCgroup) (*podListener, error) {
	p := &podListener{containers: containers}
	listen := func() (err error) {
		p.listener, err = listenInRange(r.Kernel, r.Ports, pod.Ports)
		return err
	}
	var err error
	if ns == nil {
		err = listen()
	} else {
		p.inode = ns.inode
		err = ns.do(listen)
	}
	if err != nil {
		if p.listener != nil {
			p.Close()
		}
		return nil, err
	}
	r.start(pod.UID, p)
	r.Log.Debug("listener opened", "namespace", pod.Namespace, "pod", pod.Name, "port", p.port())
	return p, nil
}

// start makes the listener the pod's and accepts.
func (r *Reconciler) start(uid string, p *podListener) {
	var wait func()
	if r.Pace != nil {
		wait = r.Pace()
	}
	go p.accept(r.Serve, p.netnsCookie, wait, r.Log)
	r.listeners[uid] = p
	r.mu.Lock()
	r.ports[uid] = p.port()
	r.mu.Unlock()
	r.opened.tell()
}

func (r *Reconciler) closeListener(uid string) {
	l := r.listeners[uid]
	if l == nil {
		return
	}
	l.Close()
	delete(r.listeners, uid)
	r.mu.Lock()
	delete(r.ports, uid)
	r.mu.Unlock()
}
