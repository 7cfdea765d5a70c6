package connlimit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// State is what a connection is being used for.
type State uint32

// The states, in the order in which connections are closed to make room.
const (
	Idle    State = iota // waits for a request to begin
	Reading              // a request has begun to arrive, and has not ended
	Held                 // waits until it is known who its client is
	Serving              // a request is being answered: it is never closed for another
	closed               // was closed to make room, or removed
	states
)

// Bounds is how much there may be at once. Every field but Spare is at least 1.
type Bounds struct {
	Total int // connections over all owners
	// Spare is how many connections each owner may have, and may have held,
	// whatever the others have: what is full is never full for those who have
	// next to nothing.
	Spare        int
	Reading      int // requests of one owner that arrive
	ReadingTotal int // over all owners
	Held         int // connections of one owner that are held
	HeldTotal    int // over all owners
}

// Evictee is a connection as its server knows it.
type Evictee interface {
	// Evict closes the connection, which was in that state, to make room. It
	// is called once, from any goroutine, and must not block.
	Evict(State)
}

// Table has the connections of a server. Its methods may be called from many
// goroutines.
type Table struct {
	bounds Bounds

	mu     sync.Mutex
	owners map[string]*owner // none without a connection
	total  int
	in     [states]int // connections; those that are Idle or Serving are not counted
}

// owner is whose connections compete with each other first. It is guarded by
// Table.mu.
type owner struct {
	name  string
	conns []*Conn
	in    [states]int // as Table.in
}

// Conn is a connection in a Table. One goroutine at a time may call Set.
type Conn struct {
	table   *Table
	owner   *owner
	evictee Evictee
	index   int // in owner.conns

	state atomic.Uint32
	since atomic.Int64 // of the state, in nanoseconds
}

// New returns a Table without connections.
func New(b Bounds) *Table { return &Table{bounds: b, owners: map[string]*owner{}} }

// Len returns how many connections there are.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// Add counts a connection of the owner in, Idle or Held, and closes another if
// that is needed to make room. perOwner is how many the owner may have. It
// returns nil if there is no room.
func (t *Table) Add(name string, s State, perOwner int, now time.Time, e Evictee) *Conn {
	t.mu.Lock()
	o := t.owners[name]
	if o == nil {
		o = &owner{name: name}
	}
	victim, was, ok := t.makeRoom(o, s, perOwner)
	if !ok {
		t.mu.Unlock()
		return nil
	}
	c := &Conn{table: t, owner: o, evictee: e, index: len(o.conns)}
	c.state.Store(uint32(s))
	c.since.Store(now.UnixNano())
	o.conns = append(o.conns, c)
	t.owners[name] = o
	t.total++
	t.count(o, s, 1)
	t.mu.Unlock()
	victim.evict(was)
	return c
}

// CloseIdle closes every connection that is idle.
func (t *Table) CloseIdle() {
	t.mu.Lock()
	var idle []*Conn
	for _, o := range t.owners {
		for _, c := range o.conns {
			if c.state.CompareAndSwap(uint32(Idle), uint32(closed)) {
				idle = append(idle, c)
			}
		}
	}
	for _, c := range idle {
		c.remove(Idle)
	}
	t.mu.Unlock()
	for _, c := range idle {
		c.evict(Idle)
	}
}

// Set moves the connection to another state, and closes another connection if
// too many requests arrive. It returns false if this one was closed to make
// room.
func (c *Conn) Set(to State, now time.Time) bool {
	from := State(c.state.Load())
	c.since.Store(now.UnixNano())
	if !from.counted() && !to.counted() && c.state.CompareAndSwap(uint32(from), uint32(to)) {
		return true
	}
	t := c.table
	t.mu.Lock()
	from = State(c.state.Load())
	if from == closed {
		t.mu.Unlock()
		return false
	}
	var victim *Conn
	if to != from {
		victim = t.roomIn(c.owner, to, t.bounds.Reading, t.bounds.ReadingTotal)
	}
	was := victim.drop()
	t.count(c.owner, from, -1)
	t.count(c.owner, to, 1)
	c.state.Store(uint32(to))
	t.mu.Unlock()
	victim.evict(was)
	return true
}

// State returns what the connection is used for; it may have changed already.
func (c *Conn) State() State { return State(c.state.Load()) }

// Remove counts the connection out. It may be called again, and on nil.
func (c *Conn) Remove() {
	if c == nil {
		return
	}
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	if was := State(c.state.Swap(uint32(closed))); was != closed {
		c.remove(was)
	}
}

// counted reports whether the connections in that state have a bound of their
// own.
func (s State) counted() bool { return s == Reading || s == Held || s >= closed }

func (t *Table) count(o *owner, s State, by int) {
	if s.counted() {
		t.in[s] += by
		o.in[s] += by
	}
}

// makeRoom drops a connection for a new one of the owner if that is needed, and
// returns it with the state that it was in; false if there is no room.
func (t *Table) makeRoom(o *owner, s State, perOwner int) (victim *Conn, was State, ok bool) {
	for {
		victim, ok = t.roomFor(o, s, perOwner)
		if victim == nil {
			return nil, Serving, ok
		}
		// An idle connection may begin to serve at any time.
		if was = victim.drop(); was != Serving {
			return victim, was, true
		}
	}
}

// roomFor returns which connection to close for a new one of the owner; nil for
// none, false if none can be closed.
func (t *Table) roomFor(o *owner, s State, perOwner int) (victim *Conn, ok bool) {
	if s == Held && o.in[Held] >= t.bounds.Held {
		return nil, false // those who came first wait on
	}
	if s == Held && t.in[Held] >= t.bounds.HeldTotal && o.in[Held] >= t.bounds.Spare {
		most := t.greediest(func(o *owner) int { return o.in[Held] })
		if most.in[Held] <= o.in[Held]+1 {
			return nil, false
		}
		return most.oldest(Held), true
	}
	if len(o.conns) >= perOwner {
		victim = o.leastUsed()
		return victim, victim != nil
	}
	if t.total < t.bounds.Total || len(o.conns) < t.bounds.Spare {
		return nil, true
	}
	most := t.greediest(func(o *owner) int { return len(o.conns) })
	if len(most.conns) <= len(o.conns) {
		most = o
	}
	victim = most.leastUsed()
	return victim, victim != nil
}

// roomIn returns which connection to close for one more request of the owner
// that arrives: the slowest, of the owner's or of whoever has the most.
func (t *Table) roomIn(o *owner, to State, each, total int) *Conn {
	switch {
	case to != Reading:
		return nil
	case o.in[Reading] >= each:
		return o.oldest(Reading)
	case t.in[Reading] < total:
		return nil
	}
	most := t.greediest(func(o *owner) int { return o.in[Reading] })
	if most.in[Reading] <= o.in[Reading] {
		most = o
	}
	return most.oldest(Reading)
}

func (t *Table) greediest(has func(*owner) int) *owner {
	most, n := &owner{}, -1
	for _, o := range t.owners {
		if has(o) > n {
			most, n = o, has(o)
		}
	}
	return most
}

// leastUsed returns the owner's connection that costs least to close; nil if
// each is serving.
func (o *owner) leastUsed() *Conn {
	for s := Idle; s < Serving; s++ {
		if c := o.oldest(s); c != nil {
			return c
		}
	}
	return nil
}

// oldest returns the connection that has been in that state for the longest;
// nil if there is none.
func (o *owner) oldest(s State) *Conn {
	var oldest *Conn
	since := int64(math.MaxInt64)
	for _, c := range o.conns {
		if at := c.since.Load(); State(c.state.Load()) == s && at < since {
			oldest, since = c, at
		}
	}
	return oldest
}

// drop takes the connection out of the table and returns the state that it was
// in; Serving if it cannot be closed after all. It may be called on nil.
func (c *Conn) drop() State {
	if c == nil {
		return Serving
	}
	was := State(c.state.Load())
	if was == Serving || !c.state.CompareAndSwap(uint32(was), uint32(closed)) {
		return Serving
	}
	c.remove(was)
	return was
}

// evict closes a connection that was dropped.
func (c *Conn) evict(was State) {
	if c != nil && was != Serving {
		c.evictee.Evict(was)
	}
}

// remove takes a connection out of the table that was in that state.
func (c *Conn) remove(was State) {
	t, o := c.table, c.owner
	t.count(o, was, -1)
	t.total--
	last := len(o.conns) - 1
	o.conns[c.index] = o.conns[last]
	o.conns[c.index].index = c.index
	o.conns[last] = nil
	o.conns = o.conns[:last]
	if last == 0 {
		delete(t.owners, o.name)
	}
}
