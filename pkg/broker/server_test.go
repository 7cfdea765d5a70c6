package broker

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	testclock "k8s.io/utils/clock/testing"
)

// sleeper is a clock that notes for how long it was slept.
type sleeper struct {
	*testclock.FakeClock
	slept time.Duration
}

func (s *sleeper) Sleep(d time.Duration) {
	s.slept += d
	s.Step(d)
}

func newPaced(t *testing.T, limits Limits) (*Server, *sleeper) {
	t.Helper()
	clock := &sleeper{FakeClock: testclock.NewFakeClock(time.Unix(1e9, 0))}
	s, err := New(Options{
		IMDSEndpoint: "http://169.254.169.254", Clock: clock, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Settings: Settings{Limits: limits},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, clock
}

var defaultLimits = Limits{RequestsPerSecond: 200, Concurrent: 64}

// Who opens a connection for each request it may make never waits, nor who opens
// as many at once as it may have.
func TestOrdinaryClientsAreNotPaced(t *testing.T) {
	for name, begin := range map[string]func(wait func(), clock *sleeper){
		"512 at once": func(wait func(), _ *sleeper) {
			for range connsPerRequest * defaultLimits.Concurrent {
				wait()
			}
		},
		"a connection for each of 200 requests a second": func(wait func(), clock *sleeper) {
			for range 60 * defaultLimits.RequestsPerSecond {
				wait()
				clock.Step(time.Second / 200)
			}
		},
		"200 at once, each second": func(wait func(), clock *sleeper) {
			for range 60 {
				for range defaultLimits.RequestsPerSecond {
					wait()
				}
				clock.Step(time.Second)
			}
		},
	} {
		s, clock := newPaced(t, defaultLimits)
		if begin(s.Pace(), clock); clock.slept != 0 {
			t.Errorf("%s: it waited %s, want not at all", name, clock.slept)
		}
	}
}

// However fast connections come, they are accepted at the pace of the pod's
// limits, as they are now; another pod's listener is not slowed by that.
func TestFloodsArePaced(t *testing.T) {
	s, clock := newPaced(t, defaultLimits)
	wait, other := s.Pace(), s.Pace()
	begin := func(n int) {
		clock.slept = 0
		for range n {
			wait()
		}
	}
	begin(512)
	begin(4000)
	if want := 10 * time.Second; clock.slept < want-time.Millisecond || clock.slept > want+time.Millisecond {
		t.Errorf("4000 connections beyond the burst waited %s, want %s", clock.slept, want)
	}
	clock.slept = 0
	if other(); clock.slept != 0 {
		t.Errorf("another pod's connection waited %s", clock.slept)
	}
	s.SetSettings(Settings{Limits: Limits{RequestsPerSecond: 2000, Concurrent: 64}})
	begin(4000)
	if want := time.Second; clock.slept < want-10*time.Millisecond || clock.slept > want+10*time.Millisecond {
		t.Errorf("with ten times the limit 4000 connections waited %s, want %s", clock.slept, want)
	}
}
