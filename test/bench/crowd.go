package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/kubeapi"
)

const (
	// starters is how many pods are being started at a time; the kernel makes
	// one network namespace after another anyway.
	starters = 8
	// loadRequests is what each pod asks for under load, half of it on
	// connections of their own.
	loadRequests = 100
	// atRest is how long nothing happens.
	atRest = 10 * time.Second
)

// crowd is the pods of a full node.
type crowd struct {
	scene *scene.Scene
	first string // the program that asks
	pods  []*scene.Workload
}

// measureCrowd returns the rows of 250 pods with 50 identities.
func measureCrowd(ctx context.Context, o options, s *scene.Scene, r *report) error {
	c := &crowd{scene: s, first: o.first}
	asked := len(s.Cloud.Logs.API.Whole())
	if err := c.restartAgent(ctx); err != nil {
		return err
	}
	served, most, err := c.startAll(ctx)
	if err != nil {
		return err
	}
	r.Rows = append(r.Rows,
		valueRow(fmt.Sprintf("%d pods started at once: served", crowdPods), fmt.Sprintf("%d of %d", served, crowdPods), "–",
			float64(served), exactly(crowdPods)),
		valueRow(fmt.Sprintf("%d pods started at once: exchanges per identity", crowdPods), fmt.Sprintf("%d at most", most), "–",
			float64(most), atMost(1, "")))
	if err := c.measureAPI(ctx, asked, r); err != nil {
		return err
	}
	return c.measureMemory(ctx, r)
}

func (c *crowd) restartAgent(ctx context.Context) error {
	if err := c.scene.Agent.End(ctx); err != nil {
		return err
	}
	return c.scene.Restart(ctx)
}

// startAll starts all pods, each with a process that asks for a token at its
// first instruction. It returns how many got one, and how many exchanges the
// identity that took most took.
func (c *crowd) startAll(ctx context.Context) (served, most int, err error) {
	before := len(c.scene.Cloud.Logs.Entra.Whole())
	c.pods = make([]*scene.Workload, crowdPods)
	got := make([]bool, crowdPods)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(starters)
	for i := range c.pods {
		group.Go(func() error {
			w := newWorkload(fmt.Sprintf("crowd-%d", i), i%crowdIdentities)
			c.pods[i] = w
			if err := c.scene.Start(w); err != nil {
				return err
			}
			err := c.ask(ctx, w, 1)
			got[i] = err == nil
			return ignoreExit(err)
		})
	}
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	for _, ok := range got {
		if ok {
			served++
		}
	}
	most, err = mostExchanges(c.scene.Cloud.Logs.Entra.Whole()[before:])
	return served, most, err
}

// ask has a process of the pod ask for tokens.
func (c *crowd) ask(ctx context.Context, w *scene.Workload, requests int) error {
	cmd := exec.CommandContext(ctx, c.first, url.QueryEscape(vault), strconv.Itoa(requests))
	cmd.Env = []string{}
	var why bytes.Buffer
	cmd.Stderr = &why
	if err := w.Pod.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %.500s", err, &why)
	}
	return nil
}

// ignoreExit returns nil for a program's exit status, which is an answer.
func ignoreExit(err error) error {
	var status *exec.ExitError
	if errors.As(err, &status) {
		return nil
	}
	return err
}

// mostExchanges returns how often Entra was asked for the token of the identity
// that it was asked for most.
func mostExchanges(log []byte) (most int, err error) {
	var record scene.Record
	_, _ = record.Write(log) // to memory
	all, err := scene.Entries[entra.Entry](&record)
	asked := map[string]int{}
	for _, e := range all {
		if e.Kind == entra.Token {
			asked[e.ClientID]++
			most = max(most, asked[e.ClientID])
		}
	}
	return most, err
}

// measureAPI counts what the agent has asked the API stand-in for: since its
// restart, without the first asked bytes of the log, and at rest.
func (c *crowd) measureAPI(ctx context.Context, asked int, r *report) error {
	log := &c.scene.Cloud.Logs.API
	began := len(log.Whole())
	select {
	case <-time.After(atRest):
	case <-ctx.Done():
		return ctx.Err()
	}
	rest := bytes.Count(log.Whole()[began:], []byte("\n"))
	accounts, pods, wide, err := selectors(log.Whole()[asked:])
	if err != nil {
		return err
	}
	for _, counted := range []struct {
		figure string
		n      int
		want   limit
	}{
		{"API server: requests in 10 s at rest", rest, exactly(0)},
		{fmt.Sprintf("API server: service accounts watched, of %d pods", crowdPods), accounts, exactly(crowdIdentities)},
		{"API server: sets of pods watched", pods, exactly(1)},
		{"API server: requests without a field selector", wide, exactly(0)},
	} {
		r.Rows = append(r.Rows, valueRow(counted.figure, strconv.Itoa(counted.n), "–", float64(counted.n), counted.want))
	}
	return nil
}

// selectors counts the service accounts and the sets of pods that were asked
// for, and what was asked for without saying which.
func selectors(log []byte) (accounts, pods, wide int, err error) {
	var record scene.Record
	_, _ = record.Write(log) // to memory
	all, err := scene.Entries[kubeapi.Entry](&record)
	if err != nil {
		return 0, 0, 0, err
	}
	seen := map[string]bool{}
	for _, e := range all {
		uri, err := url.Parse(e.URI)
		if err != nil {
			return 0, 0, 0, err
		}
		selector := uri.Query().Get("fieldSelector")
		what := uri.Path + " " + selector
		switch {
		case e.Event != nil || uri.Path == "/.well-known/openid-configuration" || uri.Path == "/openid/v1/jwks":
			continue // posted, or asked for by Entra
		case selector == "":
			wide++
		case seen[what]:
		case strings.HasSuffix(uri.Path, "/serviceaccounts"):
			accounts++
		default:
			pods++
		}
		seen[what] = true
	}
	return accounts, pods, wide, nil
}

// measureMemory returns the row of what the agent holds after load, and the
// same with fewer pods, each time of an agent that started with as many.
func (c *crowd) measureMemory(ctx context.Context, r *report) error {
	for {
		if err := c.restartAgent(ctx); err != nil {
			return err
		}
		group, loaded := errgroup.WithContext(ctx)
		group.SetLimit(starters)
		for _, w := range c.pods {
			group.Go(func() error { return c.ask(loaded, w, loadRequests) })
		}
		if err := group.Wait(); err != nil {
			return fmt.Errorf("load from %d pods: %w", len(c.pods), err)
		}
		m, err := memoryOf(c.scene.Agent.PID())
		if err != nil {
			return err
		}
		m.Pods = len(c.pods)
		r.Memory = append(r.Memory, m)
		if len(c.pods) == 0 {
			break
		}
		keep := len(c.pods) - crowdPods/5
		for _, w := range c.pods[keep:] {
			if err := c.scene.Stop(w); err != nil {
				return err
			}
		}
		c.pods = c.pods[:keep]
	}
	full := r.Memory[0]
	r.Rows = append(r.Rows, valueRow(fmt.Sprintf("agent memory, %d steered pods, %d identities, after load", crowdPods, crowdIdentities),
		fmt.Sprintf("%.1f MB RSS", full.RSS), fmt.Sprintf("%d MB, a sidecar of 30 MB each", crowdPods*30), full.RSS, atMost(60, " MB")))
	return nil
}

// memoryOf reads what a process holds, from proc(5).
func memoryOf(pid int) (m memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		var kilobytes float64
		if _, err := fmt.Sscanf(strings.TrimSpace(value), "%f kB", &kilobytes); err != nil {
			continue
		}
		switch name {
		case "VmRSS":
			m.RSS = kilobytes / 1000 * 1.024
		case "RssAnon":
			m.Anon = kilobytes / 1000 * 1.024
		}
	}
	return m, nil
}
