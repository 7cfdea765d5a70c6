package main

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// result holds the results of a run.
type result struct {
	Took          time.Duration
	Counts        counts
	Notes         []string
	Before, After figures
}

// leaked returns the figures that are not as they were.
func (r *result) leaked() []difference { return compare(r.Before, r.After) }

// print prints all of it, for people.
func (r *result) print(w io.Writer) {
	for _, note := range r.Notes {
		fmt.Fprintln(w, "soak:", note)
	}
	printFigures(w, r.Before, r.After)
	c := r.Counts
	fmt.Fprintf(w, "soak: %d pods came and went, %d identities and %d configurations changed; "+
		"%d hand-overs, %d agents killed, %d faults of Entra\n",
		c.Pods, c.Identities, c.Reloads, c.HandOvers, c.Kills, c.Faults)
}

// summary is the run in a line.
func (r *result) summary() string {
	c := r.Counts
	leaks := "none"
	if all := r.leaked(); len(all) > 0 {
		leaks = fmt.Sprint(all)
	}
	return fmt.Sprintf("%s, %d requests: %d failed, %d reset, %d wrong; %d refused while no agent ran, "+
		"%d of new pods held in vain while Entra failed; leaks: %s",
		r.Took, c.Requests, c.Failed, c.Reset, c.Wrong, c.Refused, c.Held, leaks)
}

// verdict returns an error if something went wrong, was left behind, or was
// never done.
func (r *result) verdict() error {
	c := r.Counts
	switch {
	case c.Failed+c.Reset+c.Wrong > 0:
		return errors.New("requests went wrong")
	case len(r.leaked()) > 0:
		return errors.New("the agent has not released everything")
	case c.Requests == 0 || c.Pods == 0 || c.Identities == 0 || c.HandOvers == 0 || c.Faults == 0:
		return errors.New("not everything was done: the run was too short")
	}
	return nil
}
