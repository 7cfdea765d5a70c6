package relay

import "slices"

// fairQueue orders the calls that wait for the window: each pod's in the order
// of its requests, the pods one after the other. So a pod that asks for a
// hundred different documents waits for its own, and keeps another from its
// first one for a single exchange. It is not safe for concurrent use.
type fairQueue struct {
	waiting  int // calls that one pod may wait for
	underWay int // calls of one pod that may be under way
	pods     []*podQueue
}

// podQueue is one pod's part of the queue. It is there as long as it says
// anything.
type podQueue struct {
	uid     string
	calls   []*call
	running int // calls under way that were the pod's turn
}

// add puts the call behind those that the pod waits for; false if they are too
// many already. Pods that wait for one call each give it their turn.
func (q *fairQueue) add(uid string, c *call) bool {
	p := q.of(uid)
	switch {
	case slices.Contains(p.calls, c):
		return true
	case len(p.calls) >= q.waiting:
		return false
	}
	p.calls = append(p.calls, c)
	return true
}

func (q *fairQueue) of(uid string) *podQueue {
	i := slices.IndexFunc(q.pods, func(p *podQueue) bool { return p.uid == uid })
	if i >= 0 {
		return q.pods[i]
	}
	p := &podQueue{uid: uid}
	q.pods = append(q.pods, p)
	return p
}

// next takes out the call whose turn it is; nil if there is none, or none of a
// pod that may have one more under way.
func (q *fairQueue) next() *call {
	i := slices.IndexFunc(q.pods, func(p *podQueue) bool { return len(p.calls) > 0 && p.running < q.underWay })
	if i < 0 {
		return nil
	}
	p := q.pods[i]
	q.pods = append(slices.Delete(q.pods, i, i+1), p)
	c := p.calls[0]
	c.turn = p
	p.running++
	q.drop(c)
	return c
}

// finish counts out a call that next returned.
func (q *fairQueue) finish(c *call) {
	c.turn.running--
	q.tidy()
}

// drop takes the call out, for all pods that wait for it.
func (q *fairQueue) drop(c *call) {
	for _, p := range q.pods {
		p.calls = slices.DeleteFunc(p.calls, func(other *call) bool { return other == c })
	}
	q.tidy()
}

func (q *fairQueue) tidy() {
	q.pods = slices.DeleteFunc(q.pods, func(p *podQueue) bool { return len(p.calls) == 0 && p.running == 0 })
}
