package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

const (
	// pause is how long one that asks all the time waits between two requests.
	pause = 20 * time.Millisecond
	// patience is how long it waits for an answer that must come, impatience
	// for one that need not.
	patience   = 30 * time.Second
	impatience = time.Second
)

// asking has a process of a pod ask for a token, each time on a new connection.
type asking struct {
	Until    string // a file at which it ends; empty: ask once
	Patience time.Duration
}

// answers counts what came: the client ids of tokens, or what came instead.
type answers map[string]int

// What may come in place of a token.
const (
	refused  = "refused"
	noAnswer = "no answer"
	reset    = "reset"
)

func init() { lab.Register("ask", ask) }

func ask(a asking) (answers, error) {
	all := answers{}
	client := &http.Client{Timeout: a.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		all[askOnce(client)]++
		if a.Until == "" {
			return all, nil
		}
		if _, err := os.Stat(a.Until); err == nil {
			return all, nil
		}
		time.Sleep(pause)
	}
}

func askOnce(client *http.Client) string {
	clientID, err := scene.Token(context.Background(), client)
	var timeout net.Error
	var status scene.StatusError
	switch {
	case err == nil:
		return clientID
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.As(err, &status):
		return status.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		return noAnswer
	}
	return reset
}

// ask returns what one request of the pod brings.
func (r *rig) ask(w *scene.Workload) string {
	r.t.Helper()
	got, err := lab.Run[asking, answers](r.t.Context(), w.Pod, "ask", asking{Patience: patience})
	check(r.t, err)
	return r.named(slices.Collect(maps.Keys(got))[0])
}

// begin has the pod ask all the time. The function ends it, and returns what
// came of it.
func (r *rig) begin(w *scene.Workload, patience time.Duration) (end func() answers) {
	until := r.t.TempDir() + "/enough"
	type result struct {
		answers
		err error
	}
	done := make(chan result, 1)
	go func() {
		got, err := lab.Run[asking, answers](context.Background(), w.Pod, "ask", asking{Until: until, Patience: patience})
		done <- result{got, err}
	}()
	return func() answers {
		r.t.Helper()
		check(r.t, os.WriteFile(until, nil, 0o600))
		got := <-done
		check(r.t, got.err)
		all := answers{}
		for id, n := range got.answers {
			all[r.named(id)] += n
		}
		return all
	}
}

// named returns the name of whose token it is, or what came instead.
func (r *rig) named(clientID string) string {
	switch clientID {
	case nodeClient:
		return nodeToken
	case steeredClient:
		return ownToken
	}
	return clientID
}

func (a answers) String() string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(a)) {
		parts = append(parts, fmt.Sprintf("%d × %s", a[what], what))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// only reports whether there were answers and all of them of these kinds.
func (a answers) only(kinds ...string) bool {
	for what := range a {
		if !slices.Contains(kinds, what) {
			return false
		}
	}
	return len(a) > 0
}

// watch has both pods ask all the time; the function ends it. What the steered
// pod got is for the test to judge: it must be one of may. The pod that passes
// must have got the node's token each time.
func (r *rig) watch(may ...string) (end func()) {
	r.t.Helper()
	wait := patience
	if slices.Contains(may, noAnswer) {
		wait = impatience
	}
	steered, passing := r.begin(r.steered, wait), r.begin(r.passing, patience)
	return func() {
		r.t.Helper()
		got, passed := steered(), passing()
		r.see("steered: %v", got)
		r.see("passing: %v", passed)
		if !got.only(may...) {
			r.t.Errorf("the steered pod got %v, want nothing but %v", got, may)
		}
		if !passed.only(nodeToken) {
			r.t.Errorf("the pod that passes got %v, want nothing but %s", passed, nodeToken)
		}
	}
}
