package broker

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// holdCallers keeps callers from being known until the returned function is called.
func (r *rig) holdCallers() (release func()) {
	known := make(chan struct{})
	r.attester.set(func(f *fakeAttester) {
		f.before = func(ctx context.Context) {
			select {
			case <-known:
			case <-ctx.Done():
			}
		}
	})
	return func() { close(known) }
}

// probeTime lets the time pass after which a held caller's bytes are read.
func (r *rig) probeTime() {
	for !r.clock.HasWaiters() {
		time.Sleep(time.Millisecond)
	}
	r.clock.Step(probeAfter)
}

// A client that looks for an IMDS is answered while its pod is not known yet.
func TestProbeOfHeldCaller(t *testing.T) {
	for name, decision := range map[string]workload.Decision{
		"steered": steered,
		"passes":  {Verdict: workload.Pass},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			release := r.holdCallers()
			r.attester.set(func(f *fakeAttester) { f.decision = decision })
			c := r.dial()
			if _, err := io.WriteString(c, request("GET", "//metadata/identity/oauth2/token?api-version=2018-02-01")); err != nil {
				t.Fatal(err)
			}
			r.probeTime()
			if got, _ := c.receive(); got != (reply{400, noHeader}) {
				t.Errorf("held: %+v", got)
			}
			release()
			want := 200
			if got, _ := c.send(get(tokenTarget)); got.Status != want {
				t.Errorf("known: %+v", got)
			}
			if seen := len(r.imds.requests()); (seen == 1) != (name == "passes") {
				t.Errorf("the node's IMDS was asked %d times", seen)
			}
		})
	}
}

// What is no probe waits until its caller is known, and is then read from its
// first byte.
func TestHeldRequests(t *testing.T) {
	for name, first := range map[string]string{
		"token":        get(tokenTarget),
		"in pieces":    "GET " + tokenTarget + " HT",
		"pipelined":    request("GET", tokenTarget) + get(tokenTarget),
		"no HTTP":      "\x16\x03\x01\r\n\r\n",
		"nothing":      "",
		"instance":     get("/metadata/instance"),
		"issue":        request("GET", "/metadata/identity/issuecredential"),
		"token, close": get(tokenTarget, "Connection: close"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			release := r.holdCallers()
			c := r.dial()
			if _, err := io.WriteString(c, first); err != nil {
				t.Fatal(err)
			}
			r.probeTime()
			if asked := r.tokens.requests(); asked != nil {
				t.Errorf("asked of Tokens: %+v", asked)
			}
			release()
			switch name {
			case "in pieces":
				if got, _ := c.send("TP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n"); got.Status != 200 {
					t.Errorf("the rest: %+v", got)
				}
			case "nothing":
				if got, _ := c.send(get(tokenTarget)); got.Status != 200 {
					t.Errorf("after it: %+v", got)
				}
			case "pipelined":
				one, _ := c.receive()
				two, _ := c.receive()
				if one.Status != 400 || two.Status != 200 {
					t.Errorf("answers %+v, %+v", one, two)
				}
			default:
				want := map[string]int{"token": 200, "no HTTP": 400, "instance": 200, "issue": 404, "token, close": 200}[name]
				if got, _ := c.receive(); got.Status != want {
					t.Errorf("answer %+v, want %d", got, want)
				}
			}
		})
	}
}

// Whoever is not proven in the end is refused whatever was answered before.
func TestProbeOfRefusedCaller(t *testing.T) {
	r := newRig(t)
	release := r.holdCallers()
	r.attester.set(func(f *fakeAttester) { f.attest = errors.New("no flow") })
	c := r.dial()
	if _, err := io.WriteString(c, request("GET", tokenTarget)); err != nil {
		t.Fatal(err)
	}
	r.probeTime()
	if got, _ := c.receive(); got != (reply{400, noHeader}) {
		t.Errorf("held: %+v", got)
	}
	release()
	if got, _ := c.send(get(tokenTarget)); got.Status != 403 {
		t.Errorf("known: %+v", got)
	}
	c.ended()
}
