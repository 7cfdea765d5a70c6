package main

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/sidestep-agent/sidestep/test/load"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// settleLimit is how long a changed identity may take to be applied, through
// a fault of Entra's and a restart of the agent.
const settleLimit = 2 * time.Minute

// churner makes pods and removes them, one after the other.
type churner struct {
	scene  *scene.Scene
	record *record
	number int // of the churner
}

// run makes pods until ctx ends; the last one is gone when it returns.
func (c *churner) run(ctx context.Context) error {
	for n := 0; ctx.Err() == nil; n++ {
		if err := c.life(context.WithoutCancel(ctx), n); err != nil {
			return err
		}
		c.record.count(func(n *counts) *int { return &n.Pods })
	}
	return nil
}

// life is that of one pod: it asks, its identity changes, and it ends while it
// asks. Every fifth bears no label, and has the node's identity.
func (c *churner) life(ctx context.Context, n int) error {
	number := c.number*names + n%names
	first, second := clientID(ofChurned, number), clientID(ofChanged, number)
	w := steeredPod(churn, churnedName(number), first)
	w.Slot = uint32(1 + c.number*addresses + n%addresses)
	unlabelled := n%5 == 4
	if unlabelled {
		w.Labels, w.Annotations, w.Account = nil, nil, "default"
	}
	if err := c.scene.Start(w); err != nil {
		return err
	}
	// The service account may be known as it was for the last pod of the name.
	err := c.become(ctx, w, whose(w), second)
	if err == nil {
		err = c.ask(ctx, w, n%2 == 0)
	}
	if err == nil && !unlabelled && n%3 != 0 {
		err = c.change(ctx, w, n%3 == 1, second)
	}
	if err == nil {
		err = c.part(ctx, w)
	}
	err = errors.Join(err, c.scene.Stop(w))
	if n%2 == 0 {
		c.scene.Cloud.API.DeleteServiceAccount(w.Namespace, w.Account)
	}
	return err
}

// change gives the pod's service account another identity, or the pod another
// service account of the same name with it.
func (c *churner) change(ctx context.Context, w *scene.Workload, account bool, to string) error {
	former := whose(w)
	if account {
		c.scene.DeleteAccount(w)
	}
	c.scene.Annotate(w, identity(to))
	c.record.count(func(n *counts) *int { return &n.Identities })
	return c.become(ctx, w, to, former)
}

// become waits until the pod gets the client's tokens. Those of the former one
// may come before, since the agent learns of the change by a watch.
func (c *churner) become(ctx context.Context, w *scene.Workload, client, former string) error {
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(100 * time.Millisecond) {
		t, err := w.Ask(ctx, "", load.Options{
			Workers: 1, Requests: 1, Every: time.Second, Idle: time.Second, Client: client,
		})
		if err != nil {
			return err
		}
		if t.Wrong > 0 && t.Failures[0].Client == former {
			c.record.add(coming, load.Tally{Requests: t.Requests})
		} else if excused := c.record.add(coming, t); t.Bad() == 0 || !excused {
			return nil
		}
		if time.Now().After(deadline) {
			c.record.fail("%s has not become %s in %s: %q", w, client, settleLimit, t.Notes)
			return nil
		}
	}
}

// ask has the pod's clients ask a few times.
func (c *churner) ask(ctx context.Context, w *scene.Workload, keep bool) error {
	t, err := w.Ask(ctx, "", load.Options{
		Keep: keep, Workers: 1, Requests: 3, Every: 50 * time.Millisecond, Idle: 50 * time.Millisecond, Client: whose(w),
	})
	c.record.add(coming, t)
	return err
}

// part has the pod ask, and returns at some moment while it does.
func (c *churner) part(ctx context.Context, w *scene.Workload) error {
	go func() {
		_, _ = w.Ask(ctx, "", load.Options{ // its end is the pod's
			Keep: true, Workers: 2, Every: 20 * time.Millisecond, Idle: 20 * time.Millisecond, Client: whose(w),
		})
	}()
	err := runs(w.Pod.Container)
	time.Sleep(rand.N(150 * time.Millisecond)) // where in a request that is shall differ
	return err
}

var errNoProcess = errors.New("the pod's clients have not been started")

// runs waits until the cgroup has a process.
func runs(cgroup string) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		processes, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(processes)) > 0 {
			return nil
		}
	}
	return errNoProcess
}
