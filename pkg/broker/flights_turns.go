package broker

import "slices"

// maxTurns is how many exchanges one pod may wait for: as many as the window
// gives a pod that waits alone within a second.
const maxTurns = windowSize

// turns orders the exchanges that wait for the window: each pod's in the order
// of its requests, the pods one after the other. So a pod that asks for a
// hundred different documents waits for its own, and keeps another from its
// first one for a single exchange. It is not safe for concurrent use.
type turns struct {
	pods []*podTurns // none without a flight; the next one first
}

type podTurns struct {
	uid     string
	flights []*flight
}

// add puts the flight behind those that the pod waits for; false if they are
// too many already. Pods that wait for one flight each give it their turn.
func (t *turns) add(uid string, fl *flight) bool {
	i := slices.IndexFunc(t.pods, func(p *podTurns) bool { return p.uid == uid })
	if i < 0 {
		t.pods = append(t.pods, &podTurns{uid: uid, flights: []*flight{fl}})
		return true
	}
	p := t.pods[i]
	if slices.Contains(p.flights, fl) {
		return true
	}
	if len(p.flights) >= maxTurns {
		return false
	}
	p.flights = append(p.flights, fl)
	return true
}

func (t *turns) empty() bool { return len(t.pods) == 0 }

// next takes out the flight whose turn it is. There must be one.
func (t *turns) next() *flight {
	p := t.pods[0]
	t.pods = append(t.pods[1:], p)
	fl := p.flights[0]
	t.drop(fl)
	return fl
}

// drop takes the flight out, for all pods that wait for it.
func (t *turns) drop(fl *flight) {
	t.pods = slices.DeleteFunc(t.pods, func(p *podTurns) bool {
		p.flights = slices.DeleteFunc(p.flights, func(f *flight) bool { return f == fl })
		return len(p.flights) == 0
	})
}
