package broker

import (
	"context"
	"io"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"
)

func TestRequestsPerSecond(t *testing.T) {
	r := newRig(t)
	settings := testSettings
	settings.Limits.RequestsPerSecond = 2
	r.server.SetSettings(settings)
	want := []int{200, 200, 429, 429}
	for i, status := range want {
		// A connection for each: the limit is the pod's.
		got, header := r.dial().send(get(tokenTarget))
		if got.Status != status || (status == 429) != (header.Get("Retry-After") == "1") {
			t.Errorf("request %d: %+v, Retry-After %q", i, got, header.Get("Retry-After"))
		}
	}
	r.clock.Step(time.Second)
	if got, _ := r.dial().send(get(tokenTarget)); got.Status != 200 {
		t.Errorf("a second later: %+v", got)
	}
	r.server.SetSettings(testSettings)
	r.dial().send(get(tokenTarget))
	r.clock.Step(time.Second) // the new rate counts from the request before
	for range 10 {
		if got, _ := r.dial().send(get(tokenTarget)); got.Status != 200 {
			t.Errorf("with the limit raised: %+v", got)
		}
	}
}

func TestConcurrentRequests(t *testing.T) {
	r := newRig(t)
	settings := testSettings
	settings.Limits.Concurrent = 1
	r.server.SetSettings(settings)
	asked, goOn := make(chan struct{}, 2), make(chan struct{})
	r.tokens.set(func(f *fakeTokens) {
		f.before = func(context.Context) {
			asked <- struct{}{}
			<-goOn
		}
	})
	first := r.dial()
	if _, err := io.WriteString(first, get(tokenTarget)); err != nil {
		t.Fatal(err)
	}
	<-asked
	if got, _ := r.dial().send(get(tokenTarget)); got != throttledReply {
		t.Errorf("second request: %+v", got)
	}
	close(goOn)
	if got, _ := first.receive(); got.Status != 200 {
		t.Errorf("first request: %+v", got)
	}
	if got, _ := first.send(get(tokenTarget)); got.Status != 200 {
		t.Errorf("request after it: %+v", got)
	}
}

func TestUsagesForgetRestedPods(t *testing.T) {
	clock := testingclock.NewFakeClock(testNow)
	all := newUsages(clock)
	most := Limits{RequestsPerSecond: 1, Concurrent: 2}
	// request makes one on a connection of its own.
	request := func(uid string) bool {
		u := all.connect(uid)
		defer all.disconnect(u)
		ok := u.begin(most, clock.Now())
		if ok {
			u.end()
		}
		return ok
	}
	if !request("a") {
		t.Fatal("first request refused")
	}
	held := all.connect("held")
	request("b")
	if request("a") {
		t.Error("pod a is forgotten before its second is over")
	}
	clock.Step(time.Second)
	request("c")
	if _, ok := all.pods["a"]; ok {
		t.Error("pod a is remembered with nothing to remember")
	}
	if all.connect("held") != held {
		t.Error("a pod with an open connection is forgotten")
	}
}
