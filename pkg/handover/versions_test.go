package handover

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// speaks has the holder speak other versions.
func speaks(t *testing.T, v versions) {
	t.Helper()
	former := spoken
	spoken = v
	t.Cleanup(func() { spoken = former })
}

func TestCommonVersion(t *testing.T) {
	for _, tc := range []struct {
		a, b versions
		want int
	}{
		{versions{1, 1}, versions{1, 1}, 1},
		{versions{1, 2}, versions{1, 1}, 1},
		{versions{1, 3}, versions{2, 4}, 3},
		{versions{2, 3}, versions{3, 3}, 3},
		{versions{2, 3}, versions{1, 1}, 0},
	} {
		if got := tc.a.common(tc.b); got != tc.want || tc.b.common(tc.a) != got {
			t.Errorf("%v and %v: %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

// Agents of several versions take over from each other, forth and back.
func TestHandOverBetweenVersions(t *testing.T) {
	for name, tc := range map[string]struct{ holder, successor versions }{
		"the same":      {versions{1, 1}, versions{1, 1}},
		"a newer one":   {versions{1, 1}, versions{1, 2}},
		"an older one":  {versions{1, 2}, versions{1, 1}},
		"both newer":    {versions{1, 2}, versions{1, 3}},
		"without the 1": {versions{1, 3}, versions{2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			speaks(t, tc.holder)
			dir, e := stateDir(t), state(t)
			gone := holder(t, acquire(t, dir), e)
			lock, got, err := take(t.Context(), dir, tc.successor)
			check(t, err)
			check(t, errors.Join(<-gone, got.Close(), lock.Release()))
			if len(got.Listeners) != len(e.Listeners) || len(got.Tokens) != len(e.Tokens) {
				t.Errorf("%d listeners, %d tokens came", len(got.Listeners), len(got.Tokens))
			}
			if want := tc.holder.common(tc.successor); got.Version != want {
				t.Errorf("handed over in version %d, want %d", got.Version, want)
			}
		})
	}
}

// An agent of before ranges asks in its one version, and knows no agreement.
func TestASuccessorOfBeforeRanges(t *testing.T) {
	speaks(t, versions{1, 3})
	dir := stateDir(t)
	l := acquire(t, dir)
	gone := holder(t, l, State{})
	c := dial(t, dir)
	defer c.Close()
	check(t, send(c, message{Kind: hello, Version: 1}, nil))
	for _, want := range []kind{lock, socket, whole} {
		check(t, expect(c, want))
	}
	check(t, send(c, message{Kind: taken}, nil))
	check(t, expect(c, yours))
	check(t, <-gone)
}

func TestWithoutACommonVersionBothAreNamed(t *testing.T) {
	speaks(t, versions{1, 2})
	dir := stateDir(t)
	l := acquire(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := l.Successor(ctx, quiet)
		waited <- err
	}()
	_, _, err := take(t.Context(), dir, versions{3, 4})
	if err == nil || !strings.Contains(err.Error(), "versions 3 to 4") || !strings.Contains(err.Error(), "versions 1 to 2") {
		t.Errorf("Take = %v, want both ranges named", err)
	}
	c := dial(t, dir)
	defer c.Close()
	check(t, send(c, message{Kind: hello, Version: 3}, nil))
	m, _, err := receive(c)
	check(t, err)
	if m.Kind != refusal || m.Reason == "" {
		t.Errorf("%+v, want a refusal with its reason", m)
	}
	if _, _, err := receive(c); !errors.Is(err, io.EOF) {
		t.Errorf("after the refusal: %v, want EOF", err)
	}
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("Successor = %v, want context.Canceled", err)
	}
	check(t, l.Release())
}
