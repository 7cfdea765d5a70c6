package faults

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// waiting is a process that has a connection to the metadata service and waits
// for what comes.
type waiting struct{ Begun string }

// waited is how that ended, and when.
type waited struct {
	Aborted bool
	Err     string
	At      time.Time
}

func init() { lab.Register("wait", wait) }

func wait(w waiting) (waited, error) {
	c, err := net.DialTimeout("tcp4", lab.IMDS+":80", patience)
	if err != nil {
		return waited{}, err
	}
	defer c.Close()
	if err := os.WriteFile(w.Begun, nil, 0o600); err != nil {
		return waited{}, err
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return waited{}, err
	}
	_, err = c.Read(make([]byte, 1))
	return waited{errors.Is(err, syscall.ECONNABORTED), err.Error(), time.Now()}, nil
}

// wait has a process of the pod wait, and returns once it does.
func (r *rig) wait(w *scene.Workload) (end func() waited) {
	r.t.Helper()
	begun := r.t.TempDir() + "/begun"
	type result struct {
		waited
		err error
	}
	done := make(chan result, 1)
	go func() {
		got, err := lab.Run[waiting, waited](r.t.Context(), w.Pod, "wait", waiting{begun})
		done <- result{got, err}
	}()
	r.eventually("the pod is connected", func() bool { _, err := os.Stat(begun); return err == nil })
	return func() waited {
		r.t.Helper()
		got := <-done
		check(r.t, got.err)
		return got.waited
	}
}

const header = "apiVersion: " + config.APIVersion + "\nkind: " + config.Kind + "\n"

// soon is when an application sees that its connection has ended, at the latest.
const soon = 10 * time.Second

// The kill switch is taken back: what was connected meanwhile leads where the
// pod may not go.
func TestAuditToEnforce(t *testing.T) {
	r := open(t, "audit -> enforce, a connection to the node's IMDS is open", "the application sees an error at once",
		func(o *scene.Options) { o.Config = header + "mode: audit\n" })
	end := r.wait(r.steered)
	since := time.Now()
	check(t, r.Agent.WriteConfig(header+"mode: enforce\n"))
	r.wantAborted(end(), since)
	r.want(r.steered, ownToken)
	r.see("then its own token")
}

// Who passed is denied.
func TestPassToDeny(t *testing.T) {
	r := open(t, "a pod is denied, a connection to the node's IMDS is open", "the application sees an error at once")
	end := r.wait(r.passing)
	since := time.Now()
	check(t, r.Agent.Configure(config.UnlabeledDeny))
	r.wantAborted(end(), since)
	r.want(r.passing, refused)
	r.see("then refused")
}

func (r *rig) wantAborted(got waited, since time.Time) {
	r.t.Helper()
	took := got.At.Sub(since)
	if !got.Aborted || took > soon {
		r.t.Errorf("the connection ended after %v: %s", took, got.Err)
	}
	r.see("ECONNABORTED after %.1f s", took.Seconds())
}
