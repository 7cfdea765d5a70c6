package connlimit

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// fakeConn records that it was closed to make room.
type fakeConn struct {
	*Conn
	mu  sync.Mutex
	was []State
}

func (f *fakeConn) Evict(s State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.was = append(f.was, s)
}

func (f *fakeConn) evictedFrom(s State) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.was) == 1 && f.was[0] == s
}

// bench is a Table whose clock goes on by a second with each step.
type bench struct {
	*Table
	now time.Time
}

func newBench(b Bounds) *bench { return &bench{Table: New(b), now: time.Unix(0, 0)} }

func (b *bench) tick() time.Time {
	b.now = b.now.Add(time.Second)
	return b.now
}

func (b *bench) add(owner string, s State, perOwner int) *fakeConn {
	f := &fakeConn{}
	f.Conn = b.Add(owner, s, perOwner, b.tick(), f)
	return f
}

func (b *bench) many(n int, owner string, s State) []*fakeConn {
	all := make([]*fakeConn, n)
	for i := range all {
		all[i] = b.add(owner, Idle, 1000)
		if s != Idle {
			all[i].Set(s, b.tick())
		}
	}
	return all
}

var wide = Bounds{Total: 100, Spare: 1, Reading: 100, ReadingTotal: 100, Held: 100, HeldTotal: 100}

func TestOwnersOldestIdleConnectionMakesRoom(t *testing.T) {
	b := newBench(wide)
	all := b.many(3, "a", Idle)
	all[0].Set(Serving, b.tick())
	all[0].Set(Idle, b.tick()) // used last
	all[1].Set(Serving, b.tick())
	if c := b.add("a", Idle, 3); c.Conn == nil {
		t.Error("refused with an idle connection there")
	}
	if !all[2].evictedFrom(Idle) || all[0].was != nil || all[1].was != nil {
		t.Error("not the connection that was idle for the longest was closed")
	}
	if all[2].Set(Serving, b.tick()) {
		t.Error("a connection that was closed serves")
	}
	all[2].Remove()
	if n := b.Len(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}

func TestServingIsNeverClosed(t *testing.T) {
	b := newBench(wide)
	b.many(3, "a", Serving)
	if c := b.add("a", Idle, 3); c.Conn != nil {
		t.Error("there is room though every connection serves")
	}
	if c := b.add("b", Idle, 3); c.Conn == nil {
		t.Error("another owner has no room")
	}
}

// Over all, whoever has the most loses one; whoever has the most by then is
// not let in at another's cost.
func TestTotalIsTakenFromTheGreediest(t *testing.T) {
	bounds := wide
	bounds.Total = 10
	b := newBench(bounds)
	modest := b.many(3, "modest", Idle)
	greedy := b.many(7, "greedy", Idle)
	if c := b.add("modest", Idle, 100); c.Conn == nil || !greedy[0].evictedFrom(Idle) {
		t.Error("the greediest owner did not make room")
	}
	if c := b.add("greedy", Idle, 100); c.Conn == nil || !greedy[1].evictedFrom(Idle) {
		t.Error("the greediest owner does not pay for its own")
	}
	for _, c := range modest {
		if c.was != nil {
			t.Error("a modest owner lost a connection")
		}
	}
	if n := b.Len(); n != bounds.Total {
		t.Errorf("%d connections, want %d", n, bounds.Total)
	}
}

func TestSpareWhereAllServe(t *testing.T) {
	bounds := wide
	bounds.Total, bounds.Spare = 10, 2
	b := newBench(bounds)
	b.many(10, "greedy", Serving)
	for i := range 3 {
		if c := b.add("modest", Idle, 100); (c.Conn != nil) != (i < 2) {
			t.Errorf("connection %d: let in %t", i, c.Conn != nil)
		} else if c.Conn != nil {
			c.Set(Serving, b.tick())
		}
	}
}

func TestSlowestRequestMakesRoom(t *testing.T) {
	bounds := wide
	bounds.Reading, bounds.ReadingTotal = 3, 5
	b := newBench(bounds)
	a := b.many(4, "a", Reading)
	if !a[0].evictedFrom(Reading) {
		t.Error("an owner's slowest request goes on beyond the owner's bound")
	}
	b.many(2, "b", Reading)
	c := b.many(1, "c", Reading)
	last := b.many(1, "d", Reading)
	if !a[1].evictedFrom(Reading) {
		t.Error("beyond the bound over all, not the greediest owner's slowest request ended")
	}
	if c[0].was != nil || last[0].was != nil {
		t.Error("another's request ended")
	}
	c[0].Set(Serving, b.tick())
	if c[0].State() != Serving || b.in[Reading] != bounds.ReadingTotal-1 {
		t.Errorf("%d requests arrive, want %d", b.in[Reading], bounds.ReadingTotal-1)
	}
}

func TestHeld(t *testing.T) {
	bounds := wide
	bounds.Held, bounds.HeldTotal = 4, 6
	b := newBench(bounds)
	var a []*fakeConn
	for range 4 {
		a = append(a, b.add("a", Held, 100))
	}
	if c := b.add("a", Held, 100); c.Conn != nil {
		t.Error("one too many of an owner is held")
	}
	for range 2 {
		b.add("b", Held, 100)
	}
	if c := b.add("b", Held, 100); c.Conn == nil || !a[0].evictedFrom(Held) {
		t.Error("the greediest owner did not make room for one that is held")
	}
	if c := b.add("b", Held, 100); c.Conn != nil {
		t.Error("an owner with as many as the greediest pushed one out")
	}
	if c := b.add("c", Held, 100); c.Conn == nil {
		t.Error("an owner's first is not held")
	}
	a[1].Set(Idle, b.tick())
	if n := b.in[Held]; n != 6 {
		t.Errorf("%d are held, want 6", n)
	}
}

func TestCloseIdle(t *testing.T) {
	b := newBench(wide)
	idle, serving := b.many(2, "a", Idle), b.many(2, "a", Serving)
	b.CloseIdle()
	for i := range idle {
		if !idle[i].evictedFrom(Idle) || serving[i].was != nil {
			t.Error("not the idle ones alone were closed")
		}
	}
	for _, c := range serving {
		c.Remove()
		c.Remove()
	}
	if b.Len() != 0 || len(b.owners) != 0 {
		t.Errorf("%d connections of %d owners are left", b.Len(), len(b.owners))
	}
}

// Whatever connections do at once, the counts are right in the end and no
// bound is passed.
func TestAtOnce(t *testing.T) {
	bounds := Bounds{Total: 20, Spare: 2, Reading: 3, ReadingTotal: 6, Held: 3, HeldTotal: 6}
	table := New(bounds)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 500 {
				f, s := &fakeConn{}, Idle
				if j%3 == 0 {
					s = Held
				}
				f.Conn = table.Add(fmt.Sprint(i%4), s, 8, time.Now(), f)
				if f.Conn == nil {
					continue
				}
				for _, to := range []State{Serving, Idle, Reading, Serving, Idle} {
					if !f.Set(to, time.Now()) {
						break
					}
				}
				if n := table.Len(); n > bounds.Total+4*bounds.Spare {
					t.Errorf("%d connections", n)
				}
				if j%2 == 0 {
					f.Remove()
				} else {
					f.Set(Idle, time.Now())
				}
			}
		})
	}
	all.Wait()
	table.CloseIdle()
	if table.Len() != 0 || table.in != [states]int{} || len(table.owners) != 0 {
		t.Errorf("left: %d connections, %v by state, %d owners", table.Len(), table.in, len(table.owners))
	}
}
