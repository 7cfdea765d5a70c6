package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

// stress is a run of all suites.
type stress struct {
	out          string // the folder for logs
	begun, until time.Time

	mu  sync.Mutex // guards what the suites count
	all []*suite
}

// run runs rounds until all are done, time is up or ctx ends: so many at the
// same time.
func (s *stress) run(ctx context.Context, atOnce int) {
	var workers sync.WaitGroup
	free := sync.NewCond(&s.mu)
	for range atOnce {
		workers.Go(func() {
			for {
				one, number := s.take(ctx, free)
				if one == nil {
					return
				}
				started := time.Now()
				err := s.round(ctx, one, number)
				s.put(one, time.Since(started), err)
				free.Broadcast()
			}
		})
	}
	workers.Wait()
}

// take returns the suite whose turn it is and the number of its round. It waits
// while those that are left may run no further one beside those that run; nil if
// none is left.
func (s *stress) take(ctx context.Context, free *sync.Cond) (*suite, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if ctx.Err() != nil || time.Now().After(s.until) {
			return nil, 0
		}
		var next *suite
		left := false
		for _, one := range s.all {
			if one.begun == one.rounds {
				continue
			}
			left = true
			if one.atOnce != 0 && one.running == one.atOnce {
				continue
			}
			if next == nil || one.before(next) {
				next = one
			}
		}
		if next != nil {
			next.begun++
			next.running++
			return next, next.begun
		}
		if !left {
			return nil, 0
		}
		free.Wait()
	}
}

// put takes in how a round ended.
func (s *stress) put(one *suite, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one.running--
	if errors.Is(err, errInterrupted) {
		return
	}
	one.done++
	one.took += took
	state := "ok"
	if err != nil {
		one.failures++
		state = "FAILED: " + err.Error()
	}
	fmt.Printf("stress: %s %d of %d, %.1f s: %s\n", one.name, one.done, one.rounds, took.Seconds(), state)
}

// errInterrupted means that a round was not let come to its end.
var errInterrupted = errors.New("interrupted")

// round runs one round. Where it fails its output stays, and its end is in the
// error.
func (s *stress) round(ctx context.Context, one *suite, number int) error {
	log, err := os.Create(filepath.Join(s.out, fmt.Sprintf("%s-%d.log", strings.ReplaceAll(one.name, "/", "-"), number)))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := one.command(ctx, log)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err = cmd.Run()
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err == nil {
		return os.Remove(log.Name())
	}
	text, _ := os.ReadFile(log.Name())
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return fmt.Errorf("%w; all of it is in %s:\n%s", err, log.Name(), bytes.Join(lines[max(0, len(lines)-40):], []byte("\n")))
}

// report prints the table, and returns an error if a round failed or a suite has
// done none.
func (s *stress) report(w io.Writer) error {
	fmt.Fprintf(w, "\n%.0f minutes\n", time.Since(s.begun).Minutes())
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "suite\trounds\tof\tfailures\tfails in at most (95 %)\tseconds a round\t")
	rounds, failures, none := 0, 0, 0
	for _, one := range s.all {
		rounds, failures = rounds+one.done, failures+one.failures
		if one.done == 0 {
			none++
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.1f %%\t%.1f\t\n", one.name, one.done, one.rounds, one.failures,
			100*bound(one.failures, one.done), one.took.Seconds()/float64(max(1, one.done)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "stress: %d rounds, %d failures\n", rounds, failures)
	if failures > 0 {
		return fmt.Errorf("%d of %d rounds failed", failures, rounds)
	}
	if none > 0 {
		return fmt.Errorf("time was up before %d of the suites ran: raise STRESS_MINUTES", none)
	}
	return nil
}
