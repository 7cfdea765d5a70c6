package main

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/test/load"
)

// counts is what happened in a run.
type counts struct {
	Requests, Failed, Reset, Wrong int
	Refused                        int // while no agent ran
	Held                           int // and asked to try again, while Entra failed
	Pods, Identities, Reloads      int // that came and went, changed, were applied
	HandOvers, Kills, Faults       int
}

// record keeps the counts while they grow, and what excuses a request.
type record struct {
	mu     sync.Mutex
	counts counts
	notes  []string // on the first that went wrong
	dead   spans    // no agent ran
	broken spans    // Entra failed
}

const maxNotes = 20

// clients are whose requests a tally has.
type clients int

const (
	steered clients = iota // with a cached token, but for their first
	passing                // nothing of the agent's is between
	coming                 // of pods that have just come, or changed
)

// add counts a tally, and reports whether all that failed in it is excused.
func (r *record) add(of clients, t load.Tally) (excused bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Requests += t.Requests
	unnoted := t.Bad() - len(t.Failures)
	r.counts.Failed += unnoted
	excused = unnoted == 0
	for _, f := range t.Failures {
		n := r.judge(of, f)
		*n++
		if n != &r.counts.Refused && n != &r.counts.Held {
			excused = false
			r.note(f.Note)
		}
	}
	return excused
}

// judge returns what the failure counts as.
func (r *record) judge(of clients, f load.Failure) *int {
	switch {
	case f.Client != "":
		return &r.counts.Wrong
	case of != passing && r.dead.meet(f.Alive, f.At):
		return &r.counts.Refused
	case of == coming && f.Status == http.StatusTooManyRequests && r.broken.meet(f.Alive, f.At):
		return &r.counts.Held
	case f.Reset:
		return &r.counts.Reset
	}
	return &r.counts.Failed
}

// fail counts something that went wrong besides requests.
func (r *record) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Failed++
	r.note(fmt.Sprintf(format, args...))
}

func (r *record) note(text string) {
	if len(r.notes) < maxNotes {
		r.notes = append(r.notes, time.Now().Format(time.TimeOnly)+" "+text)
	}
}

// count adds one.
func (r *record) count(n func(*counts) *int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*n(&r.counts)++
}

// pods returns how many have come and gone.
func (r *record) pods() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts.Pods
}

// during notes that a span lasts while do runs.
func (r *record) during(s *spans, do func() error) error {
	r.mu.Lock()
	s.begin()
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		s.end()
		r.mu.Unlock()
	}()
	return do()
}
