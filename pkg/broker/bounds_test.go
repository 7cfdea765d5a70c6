package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// await waits until the condition holds, and fails after a long time.
func (r *rig) await(what string, holds func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not seen: %s", what)
		}
	}
}

// open waits until so many connections are counted.
func (r *rig) open(n int) {
	r.t.Helper()
	r.await(fmt.Sprintf("%d connections", n), func() bool { return r.server.conns.Len() == n })
}

// A pod whose clients leave each connection open is answered on all of them.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	r := newRig(t)
	settings := testSettings
	settings.Limits.Concurrent = 2
	r.server.SetSettings(settings)
	const most = 2 * connsPerRequest
	for i := range 3 * most {
		if got, _ := r.dial().send(get(tokenTarget)); got.Status != 200 {
			t.Fatalf("request %d: %+v", i, got)
		}
	}
	if n := r.server.conns.Len(); n != most {
		t.Errorf("%d connections are open, want %d", n, most)
	}
	if n := testutil.ToFloat64(r.server.metrics.closed.WithLabelValues("idle")); n != 2*most {
		t.Errorf("%v idle connections were closed, want %d", n, 2*most)
	}
}

// Where every connection is being used, the next is asked to try again.
func TestConnectionsPerPod(t *testing.T) {
	r := newRig(t)
	goOn := make(chan struct{})
	asked := make(chan struct{}, connsPerRequest)
	r.tokens.set(func(f *fakeTokens) {
		f.before = func(context.Context) {
			asked <- struct{}{}
			<-goOn
		}
	})
	var kept []*client
	for range connsPerRequest {
		c := r.dial()
		_, _ = io.WriteString(c, get(tokenTarget))
		<-asked
		kept = append(kept, c)
	}
	settings := testSettings
	settings.Limits.Concurrent = 1
	r.server.SetSettings(settings)
	c := r.dial()
	if got, header := c.send(get(tokenTarget)); got != throttledReply || header.Get("Retry-After") != "1" {
		t.Errorf("one too many: %+v", got)
	}
	c.ended()
	close(goOn)
	for _, c := range kept {
		if got, _ := c.receive(); got.Status != 200 {
			t.Errorf("one of those within the limit: %+v", got)
		}
	}
}

func TestHeldCallersAreBounded(t *testing.T) {
	r := newRig(t)
	release := r.holdCallers()
	var kept []*client
	for i := range connBounds.Held {
		kept = append(kept, r.dial())
		r.open(i + 1)
	}
	for range 3 {
		c := r.dial()
		if got, _ := c.send(get(tokenTarget)); got != throttledReply {
			t.Errorf("one too many: %+v", got)
		}
		c.ended()
	}
	if n := testutil.ToFloat64(r.server.metrics.turnedAway); n != 3 {
		t.Errorf("%v connections were turned away, want 3", n)
	}
	release()
	for _, c := range kept {
		if got, _ := c.send(get(tokenTarget)); got.Status != 200 {
			t.Errorf("held: %+v", got)
		}
	}
}

// Nothing is kept of a caller that is held and leaves.
func TestHeldCallersLeave(t *testing.T) {
	for name, test := range map[string]struct {
		sent  string
		leave func(*client)
	}{
		"nothing sent":   {"", func(c *client) { _ = c.Close() }},
		"half a request": {"GET /metadata HTTP/1.1\r\n", func(c *client) { _ = c.Close() }},
		"reset":          {get(tokenTarget), (*client).reset},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			defer r.holdCallers()()
			c := r.dial()
			r.open(1)
			_, _ = io.WriteString(c, test.sent)
			r.probeTime()
			test.leave(c)
			r.open(0)
		})
	}
}

// A client that closed its sending side behind its request waits for an answer.
func TestHalfClosedWhileHeld(t *testing.T) {
	r := newRig(t)
	release := r.holdCallers()
	c := r.dial()
	r.open(1)
	_, _ = io.WriteString(c, get(tokenTarget))
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	r.probeTime()
	time.Sleep(20 * time.Millisecond) // so that the end was seen
	release()
	if got, _ := c.receive(); got.Status != 200 {
		t.Errorf("answer %+v", got)
	}
	c.ended()
}

// Half-closed connections are served, from the cache and where something is
// waited for.
func TestHalfClosed(t *testing.T) {
	for name, request := range map[string]string{
		"cached": get(tokenTarget), "not cached": get(tokenTarget + "&bypass_cache=true"),
		"form": post(tokenTarget, ""), "metadata": get("/metadata/instance"), "info": get("/metadata/identity/info"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.tokens.set(func(f *fakeTokens) {
				f.empty = name == "not cached"
				if f.empty {
					f.before = func(ctx context.Context) { // until net/http has seen the end
						select {
						case <-ctx.Done():
						case <-time.After(100 * time.Millisecond):
						}
						f.mu.Lock()
						f.err = ctx.Err()
						f.mu.Unlock()
					}
				}
			})
			for range 10 {
				c := r.dial()
				_, _ = io.WriteString(c, request)
				_ = c.Conn.(*net.TCPConn).CloseWrite()
				if got, _ := c.receive(); got.Status != 200 {
					t.Errorf("answer %+v", got)
				}
				c.ended()
			}
		})
	}
}

// A client that looks for metadata is answered before it gives up.
func TestMetadataOfHeldCaller(t *testing.T) {
	for request, want := range map[string]reply{
		request("GET", "/metadata/instance?api-version=2019-08-15"): noMetadata,
		request("GET", "/latest/meta-data/"):                        page,
		get("/metadata/instance?api-version=2019-08-15"):            throttledReply,
	} {
		r := newRig(t)
		release := r.holdCallers()
		c := r.dial()
		_, _ = io.WriteString(c, request)
		r.probeTime()
		if want == throttledReply {
			r.await("metadata is waited for", r.clock.HasWaiters)
			got := make(chan reply, 1)
			go func() {
				answer, _ := c.receive()
				got <- answer
			}()
			var answer reply
			r.await("an answer", func() bool {
				r.clock.Step(metadataHold)
				select {
				case answer = <-got:
					return true
				default:
					return false
				}
			})
			if answer != want {
				t.Errorf("%.40q: %+v, want %+v", request, answer, want)
			}
			c.ended()
		} else if got, _ := c.receive(); got != want {
			t.Errorf("%.40q: %+v, want %+v", request, got, want)
		}
		if seen := r.imds.requests(); seen != nil {
			t.Errorf("%.40q: the node's IMDS was asked: %q", request, seen)
		}
		release()
	}
}

// A pod whose requests begin and do not end keeps a bounded number of them, and
// its others are served.
func TestUnfinishedRequestsAreBounded(t *testing.T) {
	for name, begun := range map[string]string{
		"header": "GET /metadata HTTP/1.1\r\nX: " + strings.Repeat("x", 1000),
		"body":   request("POST", tokenAt, "Metadata: true", "Content-Length: 100"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var all []*client
			for i := range connBounds.Reading + 3 {
				c := r.dial()
				_, _ = io.WriteString(c, begun)
				all = append(all, c)
				r.open(min(i+1, connBounds.Reading))
				r.await("reading", func() bool {
					closed := testutil.ToFloat64(r.server.metrics.closed.WithLabelValues("reading"))
					return closed == float64(max(0, i+1-connBounds.Reading))
				})
				time.Sleep(2 * time.Millisecond) // until its request is seen to have begun
			}
			if got, _ := all[0].receive(); got != throttledReply {
				t.Errorf("the first: %+v", got)
			}
			if got, _ := r.dial().send(get(tokenTarget)); got.Status != 200 {
				t.Errorf("a whole request: %+v", got)
			}
		})
	}
}

func TestPanicIsItsConnections(t *testing.T) {
	for name, test := range map[string]struct {
		arrange func(*rig)
		request string
	}{
		"inspect": {func(r *rig) { r.attester.set(func(f *fakeAttester) { f.panics = "Inspect" }) }, get(tokenTarget)},
		"current": {func(r *rig) { r.attester.set(func(f *fakeAttester) { f.panics = "Current" }) }, get(tokenTarget)},
		"await": {func(r *rig) {
			r.holdCallers()()
			r.attester.set(func(f *fakeAttester) { f.panics = "Await" })
		}, get(tokenTarget)},
		"handler": {func(r *rig) {
			r.tokens.set(func(f *fakeTokens) { f.before = func(context.Context) { panic("token") } })
		}, get(tokenTarget)},
		"handler, between requests": {func(r *rig) { r.attester.set(func(f *fakeAttester) { f.panics = "Current" }) }, post(tokenTarget, "")},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			kept := r.dial()
			kept.send(get(tokenTarget))
			test.arrange(r)
			c := r.dial()
			_, _ = io.WriteString(c, test.request)
			_, _ = io.ReadAll(c)
			r.await("a panic that is counted", func() bool { return testutil.ToFloat64(r.server.metrics.panics) == 1 })
			r.tokens.set(func(f *fakeTokens) { f.before = nil })
			r.attester.set(func(f *fakeAttester) { f.before, f.panics = nil, "" })
			if got, _ := kept.send(get(tokenTarget)); got.Status != 200 {
				t.Errorf("another connection: %+v", got)
			}
			if log := r.log.String(); strings.Count(log, "level=ERROR") != 1 || !strings.Contains(log, "broker.") {
				t.Errorf("log: %s", log)
			}
			r.open(1)
		})
	}
}

// What a pod does wrong a thousand times is a few lines in the log, and a
// number.
func TestLinesAreBounded(t *testing.T) {
	r := newRig(t)
	r.tokens.set(func(f *fakeTokens) { f.err = errors.New("refused by Entra") })
	c := r.dial()
	for range 5 * podLines {
		c.send(get(tokenTarget))
	}
	r.clock.Step(podLineInterval)
	c.send(get(tokenTarget, "Connection: close"))
	c.ended()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	log := r.log.String()
	if n := strings.Count(log, "\n"); n != podLines+1 {
		t.Errorf("%d lines, want %d:\n%s", n, podLines+1, log)
	}
	if want := fmt.Sprintf("not_logged=%d", 4*podLines); !strings.Contains(log, want) {
		t.Errorf("the last line lacks %s", want)
	}
}

// A client that ignores 429 is answered at its own cost.
func TestOverLimitIsAnsweredSlowly(t *testing.T) {
	r := newRig(t)
	settings := testSettings
	settings.Limits.RequestsPerSecond = 1
	r.server.SetSettings(settings)
	c := r.dial()
	c.send(get(tokenTarget))
	begun := time.Now()
	for range 4 {
		if got, _ := c.send(get(tokenTarget)); got.Status != 429 {
			t.Errorf("over the limit: %+v", got)
		}
	}
	if took := time.Since(begun); took < 3*overLimitPause {
		t.Errorf("four refusals in %v", took)
	}
	r.clock.Step(time.Second)
	if got, _ := c.send(get(tokenTarget)); got.Status != 200 {
		t.Errorf("a second later: %+v", got)
	}
}
