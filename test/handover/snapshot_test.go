package handover

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
)

// An agent that is killed while the API server is down serves again, from what
// it had written down of pods. It says so. What it has not seen is held, and
// what has ended meanwhile has nothing.
func TestStartWithoutTheAPI(t *testing.T) {
	s, all := open(t)
	// It passes, so that what it gets is the node's.
	passing := &scene.Workload{
		Namespace: "shop", Name: "passing", Account: "passing",
		Annotations: map[string]string{scene.ClientIDAnnotation: s.Cloud.Federation.NodeIdentity.ClientID},
	}
	check(t, s.Start(passing))
	if !served(t, all[0]) || !served(t, passing) {
		t.Fatal("not served at first")
	}
	awaitSnapshot(t, s, passing.Pod.UID)
	holdsNoSecret(t, s, all)

	check(t, s.Agent.Kill())
	check(t, s.Cloud.StopAPI())
	ended := all[1]
	check(t, ended.Pod.Stop())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	check(t, s.Restart(ctx))
	report, err := s.Agent.Status(ctx)
	check(t, err)
	if !report.Ready || report.StaleSince.IsZero() || len(report.Pods) != len(all)+1 {
		t.Errorf("ready %v, stale since %v, %d pods", report.Ready, report.StaleSince, len(report.Pods))
	}
	for _, p := range report.Pods {
		if runs := p.UID != ended.Pod.UID; runs != (p.CgroupID != 0) || (!runs && p.Listener != 0) {
			t.Errorf("running: %v, and reported as %+v", runs, p)
		}
	}
	before := issued(t, s)
	if !served(t, all[0]) || !served(t, passing) {
		t.Error("not served while the API server is down")
	}
	if n := issued(t, s); n != before+1 {
		t.Errorf("Entra was asked for %d tokens, want one", n-before)
	}
	if t.Failed() {
		t.Log(s.Agent.LastWords())
	}
	former := all[3]
	next := replace(ctx, t, s, former)
	awaitStatus(ctx, t, s, "the end of staleness", func(r status.Report) bool {
		return r.StaleSince.IsZero() && has(r, next.Pod.UID) && !has(r, former.Pod.UID)
	})
}

// replace starts another pod of the same name, which was not reported while
// the API server is down. It is held, gets nothing of the node's, and is served
// once the API server is back.
func replace(ctx context.Context, t *testing.T, s *scene.Scene, w *scene.Workload) *scene.Workload {
	t.Helper()
	report, err := s.Agent.Status(ctx)
	check(t, err)
	ofNode := nodeTokens(t, s)
	next := *w
	check(t, s.Start(&next))
	var back errgroup.Group
	back.Go(func() error {
		for ctx.Err() == nil {
			now, err := s.Agent.Status(ctx)
			if err != nil {
				return err
			}
			if now.Counters["unknown"] > report.Counters["unknown"] {
				if now.StaleSince.IsZero() || has(now, next.Pod.UID) {
					return fmt.Errorf("the pod is known, or nothing is stale, without the API server: %+v", now)
				}
				return s.Cloud.StartAPI(ctx)
			}
			time.Sleep(10 * time.Millisecond)
		}
		return ctx.Err()
	})
	// On a busy machine it may be refused after the hold.
	for !served(t, &next) {
		check(t, ctx.Err())
	}
	check(t, back.Wait())
	if n := nodeTokens(t, s); n != ofNode {
		t.Errorf("the pod that was not known got %d tokens of the node's", n-ofNode)
	}
	return &next
}

// A successor that the API server does not answer leaves the serving to the
// running agent, which knows more than a snapshot; and does it when that dies.
func TestSuccessorWithoutTheAPI(t *testing.T) {
	s, all := open(t)
	awaitSnapshot(t, s, all[0].Pod.UID)
	check(t, s.Cloud.StopAPI())
	former := s.Agent
	next, err := s.StartBeside()
	check(t, err)
	defer func() { check(t, next.Kill()) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const waits = "another agent serves"
	for !bytes.Contains(next.Log.Whole(), []byte(waits)) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	for range 3 {
		if !served(t, all[0]) {
			t.Error("not served by the running agent")
		}
	}
	if report, err := s.Agent.Status(ctx); err != nil || !report.StaleSince.IsZero() {
		t.Errorf("the agent that serves is stale since %v, %v", report.StaleSince, err)
	}
	check(t, former.Kill())
	check(t, next.WaitReady(ctx))
	if !served(t, all[0]) {
		t.Errorf("not served by the successor\n%s", next.LastWords())
	}
}

func has(r status.Report, podUID string) bool {
	return slices.ContainsFunc(r.Pods, func(p status.Pod) bool { return p.UID == podUID })
}

func snapshotOf(s *scene.Scene) string { return filepath.Join(s.StateDir(), "pods.snapshot") }

func awaitSnapshot(t *testing.T, s *scene.Scene, podUID string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(snapshotOf(s))
		if err == nil && bytes.Contains(text, []byte(podUID)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the pod is not in the snapshot: %v", err)
		}
	}
}

// holdsNoSecret looks for tokens in the snapshot after pods have got some: all
// are JWTs, which begin with {" in base64.
func holdsNoSecret(t *testing.T, s *scene.Scene, all []*scene.Workload) {
	t.Helper()
	text, err := os.ReadFile(snapshotOf(s))
	check(t, err)
	for _, w := range all {
		if w.Assertion == "" || !bytes.HasPrefix([]byte(w.Assertion), []byte("eyJ")) {
			t.Errorf("%s has no assertion that could be found", w)
		}
	}
	if bytes.Contains(text, []byte("eyJ")) || bytes.Contains(text, []byte("Bearer")) {
		t.Errorf("there is a token in the snapshot: %s", text)
	}
	if info, err := os.Stat(snapshotOf(s)); err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
}

// awaitStatus asks the agent until what it reports is so.
func awaitStatus(ctx context.Context, t *testing.T, s *scene.Scene, what string, so func(status.Report) bool) {
	t.Helper()
	for {
		report, err := s.Agent.Status(ctx)
		if ctx.Err() != nil {
			t.Fatalf("never came: %s: %+v\n%s", what, report, s.Agent.LastWords())
		}
		check(t, err)
		if so(report) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// nodeTokens returns how often the node's own metadata service was asked for a
// token.
func nodeTokens(t *testing.T, s *scene.Scene) (n int) {
	t.Helper()
	log, err := scene.Entries[imds.Entry](&s.Cloud.Logs.IMDS)
	check(t, err)
	for _, e := range log {
		if e.Identity {
			n++
		}
	}
	return n
}
