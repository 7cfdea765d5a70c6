package broker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestAttestGetsTheConnection(t *testing.T) {
	r := newRig(t)
	c := r.dial()
	c.send(get(tokenTarget))
	want := []workload.Connection{{
		NetnsCookie: testCookie,
		Client:      netip.MustParseAddrPort(c.LocalAddr().String()),
		Server:      netip.MustParseAddrPort(c.RemoteAddr().String()),
	}}
	if diff := cmp.Diff(want, r.attester.connections(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("connections (-want +got):\n%s", diff)
	}
}

// Refused callers read an answer and an end, never a reset, whatever they
// asked for and however much they sent.
func TestRefusedConnections(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		status int
		after  string
	}{
		"no flow":     {errors.New("no flow"), 403, ""},
		"unknown pod": {unknownPodError{}, 429, "1"},
		"cut short":   {context.DeadlineExceeded, 403, ""},
	} {
		for _, request := range []string{
			get(tokenTarget), get("/metadata/instance"), request("GET", "/metadata/identity"),
			post(tokenTarget, strings.Repeat("a", 100_000)),
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t)
				r.attester.set(func(f *fakeAttester) { f.attest = test.err })
				c := r.dial()
				got, header := c.send(request)
				if got.Status != test.status || header.Get("Retry-After") != test.after {
					t.Errorf("answer %+v, Retry-After %q", got, header.Get("Retry-After"))
				}
				c.ended()
				if len(r.tokens.requests()) > 0 || len(r.imds.requests()) > 0 {
					t.Error("a refused caller's request went on")
				}
			})
		}
	}
}

// A kept connection follows the pod's decision from request to request.
func TestKeptConnectionFollowsDecision(t *testing.T) {
	r := newRig(t)
	c := r.dial()
	for _, step := range []struct {
		decision workload.Decision
		err      error
		want     int
	}{
		{steered, nil, 200},
		{workload.Decision{Verdict: workload.Deny}, nil, 403},
		{steered, nil, 200},
		{steered, errors.New("gone"), 403},
		{workload.Decision{Verdict: workload.Pass}, nil, 429},
	} {
		r.attester.set(func(f *fakeAttester) { f.decision, f.current = step.decision, step.err })
		got, header := c.send(get(tokenTarget))
		if got.Status != step.want {
			t.Errorf("%v: status %d, want %d", step.decision.Verdict, got.Status, step.want)
		}
		if last := step.want == 429; last != (header.Get("Connection") == "close") {
			t.Errorf("%v: Connection %q", step.decision.Verdict, header.Get("Connection"))
		}
	}
	c.ended()
}

func TestUnknownDecisionIsAskedToTryAgain(t *testing.T) {
	r := newRig(t)
	r.attester.set(func(f *fakeAttester) { f.decision = workload.Decision{Verdict: workload.Unknown} })
	c := r.dial()
	got, header := c.send(get(tokenTarget))
	if got != throttledReply || header.Get("Retry-After") != "1" {
		t.Errorf("answer %+v, Retry-After %q", got, header.Get("Retry-After"))
	}
	c.ended()
}

func TestQuietConnections(t *testing.T) {
	r := newRig(t)
	_ = r.dial().Close() // Java's probe: connects and closes
	c := r.dial()
	_, _ = io.WriteString(c, "GET /metadata") // half a request
	_ = c.Close()
	expect := post(tokenTarget, "", "Expect: 100-continue")
	if got, _ := r.dial().send(expect); got.Status != 200 {
		t.Errorf("with Expect: %+v", got)
	}
	if got, _ := r.dial().send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); got.Status/100 == 2 {
		t.Errorf("HTTP/2 preface: %+v", got)
	}
	if got, _ := r.dial().send(request("OPTIONS", "*")); got.Status != 404 {
		t.Errorf("OPTIONS *: %+v", got)
	}
	if log := r.log.String(); strings.Contains(log, "level=WARN") {
		t.Errorf("warnings:\n%s", log)
	}
}

// A passing pod talks with the node's IMDS itself, identity paths included.
func TestPassIsSpliced(t *testing.T) {
	r := newRig(t)
	r.attester.set(func(f *fakeAttester) { f.decision = workload.Decision{Verdict: workload.Pass} })
	c := r.dial()
	got, _ := c.send(get(tokenTarget))
	got2, _ := c.send(get("/metadata/identity%5coauth2/token"))
	if want := (reply{200, `{"node":true}`}); got != want || got2 != want {
		t.Errorf("answers %+v, %+v", got, got2)
	}
	want := []string{"GET " + tokenTarget + " true", "GET /metadata/identity%5coauth2/token true"}
	if diff := cmp.Diff(want, r.imds.requests()); diff != "" {
		t.Errorf("seen by IMDS (-want +got):\n%s", diff)
	}
}

func TestSpliceCarriesHalfClose(t *testing.T) {
	echo, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()
	go func() {
		c, err := echo.Accept()
		if err != nil {
			return
		}
		all, _ := io.ReadAll(c) // answers only after the client's end
		_, _ = c.Write(all)
		_ = c.Close()
	}()
	r := newRig(t, func(o *Options) { o.IMDSEndpoint = "http://" + echo.Addr().String() })
	r.attester.set(func(f *fakeAttester) { f.decision = workload.Decision{Verdict: workload.Pass} })
	c := r.dial()
	payload := strings.Repeat("\x00bytes\xff", 50_000)
	if _, err := io.WriteString(c, payload); err != nil {
		t.Fatal(err)
	}
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != payload {
		t.Errorf("%d bytes came back with error %v, want %d", len(got), err, len(payload))
	}
}

func TestSpliceEnds(t *testing.T) {
	for name, test := range map[string]struct {
		decision workload.Decision
		after    time.Duration
	}{
		"when the pod passes no more": {steered, spliceTick},
		"when it is old":              {workload.Decision{Verdict: workload.Pass}, spliceLifetime},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.attester.set(func(f *fakeAttester) { f.decision = workload.Decision{Verdict: workload.Pass} })
			c := r.dial()
			c.send(get("/metadata/instance"))
			for !r.clock.HasWaiters() { // until the splice watches the pod
				time.Sleep(time.Millisecond)
			}
			r.attester.set(func(f *fakeAttester) { f.decision = test.decision })
			r.clock.Step(test.after)
			c.ended()
		})
	}
}

func TestPassWithIMDSDown(t *testing.T) {
	r := newRig(t)
	r.attester.set(func(f *fakeAttester) { f.decision = workload.Decision{Verdict: workload.Pass} })
	r.imds.Close()
	c := r.dial()
	if got, _ := c.send(get(tokenTarget)); got != throttledReply {
		t.Errorf("answer %+v", got)
	}
	c.ended()
}

// What a caller was held for is taken off its first token request only.
func TestHoldIsSharedWithFirstTokenRequest(t *testing.T) {
	r := newRig(t)
	var left []time.Duration
	r.tokens.set(func(f *fakeTokens) {
		f.before = func(ctx context.Context) {
			deadline, _ := ctx.Deadline()
			left = append(left, time.Until(deadline))
		}
	})
	ours, theirs := net.Pipe()
	defer func() { _ = theirs.Close() }()
	slow := &conn{Conn: ours, accepted: ours, server: r.server, caller: testCaller, verdict: workload.Steer, waited: hold - time.Second}
	if !slow.admit() {
		t.Fatal("not admitted")
	}
	r.server.listener.deliver(newHTTPConn(slow, nil))
	piped := &client{Conn: theirs, t: t, reader: bufio.NewReader(theirs)}
	piped.send(get(tokenTarget))
	piped.send(get(tokenTarget))
	if len(left) != 2 || left[0] > exchangeTime || left[1] < exchangeTime {
		t.Errorf("time left for the exchanges: %v, want at most %v and then more", left, exchangeTime)
	}
}

func TestRunDrains(t *testing.T) {
	r := newRig(t)
	asked, goOn := make(chan struct{}), make(chan struct{})
	r.tokens.set(func(f *fakeTokens) {
		f.before = func(context.Context) {
			close(asked)
			<-goOn
		}
	})
	c := r.dial()
	if _, err := io.WriteString(c, get(tokenTarget)); err != nil {
		t.Fatal(err)
	}
	<-asked
	stopped := make(chan error)
	go func() { stopped <- r.stop() }()
	<-r.server.life.Done()
	late := r.dial()
	if _, err := late.Read(make([]byte, 1)); err == nil {
		t.Error("a connection was served while draining")
	}
	close(goOn)
	if got, _ := c.receive(); got.Status != 200 {
		t.Errorf("request under way: %+v", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	r := newRig(t)
	c := r.dial()
	for _, request := range []string{
		get(tokenTarget), get(tokenTarget), request("GET", tokenTarget), get("/metadata/identity/x"),
		get("/metadata/attested/document"), get("/metadata/instance"), get("/metadata/identity/info"),
	} {
		c.send(request)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	families = slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() != "sidestep_imds_request_duration_seconds" })
	for _, m := range families[0].GetMetric() { // labels come in the order of their names
		code, endpoint := m.GetLabel()[0].GetValue(), m.GetLabel()[1].GetValue()
		got[endpoint+" "+code] = m.GetHistogram().GetSampleCount()
	}
	want := map[string]uint64{
		"token 200": 2, "token 400": 1, "info 200": 1, "instance 200": 1, "refused 403": 1, "refused 404": 1,
		"versions 200": 0, "loadbalancer 200": 0, "scheduledevents 200": 0, "allowed 200": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests by endpoint and code (-want +got):\n%s", diff)
	}
}
