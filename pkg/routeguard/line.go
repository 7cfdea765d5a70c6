package routeguard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// lookInterval is how often the table is compared with what it should be, in case
// a notice was missed; tryAgainEvery is how often it is tried to be written while
// that fails.
const lookInterval, tryAgainEvery = 30 * time.Second, 2 * time.Second

// State says what the line does.
type State string

const (
	// Active means that what is not known to come from a pod that may is dropped.
	Active State = "active"
	// Open means that the configuration lets everything through.
	Open State = "open"
	// Waiting means that the table is as an earlier agent left it, or is not there yet.
	Waiting State = "waiting"
	// None means that there is no table: it cannot be made, or may not be.
	None State = "none"
)

// States returns all values of a State.
func States() []State { return []State{Active, Open, Waiting, None} }

// Options are what a Line works with. All fields are needed.
type Options struct {
	Log *slog.Logger
	// Repaired is called for each time that others had changed or removed the
	// table and it was put back.
	Repaired func()
	// Failed is called when the table cannot be written, once for each reason.
	// It must not call the Line.
	Failed func(error)
}

// Line is the table in the network namespace it is used in, the node's. It may
// be used by several goroutines. One agent of a node at a time may write.
type Line struct {
	Options

	mu     sync.Mutex
	policy Policy
	links  []workload.PodLink // sorted
	ours   bool               // this agent has written the table, or tried to
	now    written            // as the last write left it
	wrong  error              // why the last write failed
	never  error              // why there may be no table; nil: there may
	nudge  chan struct{}      // has one when never was set
}

// New returns a Line that has written nothing yet.
func New(o Options) *Line { return &Line{Options: o, nudge: make(chan struct{}, 1)} }

// Withdraw has the line write no table, and Run remove one that is there. State
// returns why. It cannot be taken back.
func (l *Line) Withdraw(why error) {
	l.mu.Lock()
	l.never = why
	l.mu.Unlock()
	select {
	case l.nudge <- struct{}{}:
	default:
	}
}

// Hold makes the table, with everything held, unless one is there: an earlier
// agent's knows which pods may send. It is for a node on which no pod is known
// to pass.
func (l *Line) Hold() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.never != nil || l.ours || newTable(tableName, l.policy, nil).there(&nftables.Conn{}) {
		return nil
	}
	l.write()
	return l.wrong
}

// SetPolicy has the line follow the configuration. Before the first SetLinks
// it changes only a table that Hold has made.
func (l *Line) SetPolicy(p Policy) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p == l.policy {
		return nil
	}
	l.policy = p
	if !l.ours || l.never != nil {
		return nil
	}
	l.write()
	return l.wrong
}

// SetLinks says what the pods' links may send: all links that are known, of
// pods that may send nothing as well. When it returns nil, the links that may
// do so send, or there is no line that would keep them from it.
func (l *Line) SetLinks(links []workload.PodLink) error {
	links = slices.SortedFunc(slices.Values(links), func(a, b workload.PodLink) int {
		return cmp.Compare(a.Ifindex, b.Ifindex)
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.never != nil || l.ours && l.wrong == nil && slices.Equal(links, l.links) {
		return nil
	}
	l.links = links
	l.write()
	if l.wrong != nil && !l.table().there(&nftables.Conn{}) {
		return nil
	}
	return l.wrong
}

// State returns what the line does, and why it is None.
func (l *Line) State() (State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.never != nil:
		return None, l.never
	case !l.ours:
		return Waiting, nil
	case l.wrong != nil:
		return None, l.wrong
	case l.policy.Open:
		return Open, nil
	}
	return Active, nil
}

// Run keeps the table as it was written last until ctx ends, which is no
// error. The table stays. That of a line that is withdrawn is removed.
func (l *Line) Run(ctx context.Context) error {
	changes := make(chan struct{}, 1)
	go watch(ctx, changes, l.Log)
	for {
		next := time.NewTimer(l.pause())
		select {
		case <-ctx.Done():
			next.Stop()
			l.mu.Lock()
			l.ours = false // another agent's from now on
			l.mu.Unlock()
			return nil
		case <-changes:
		case <-l.nudge:
		case <-next.C:
		}
		next.Stop()
		l.look()
	}
}

// pause returns how soon to look again if nothing is heard of the table.
func (l *Line) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.never == nil && l.wrong != nil {
		return tryAgainEvery
	}
	return lookInterval
}

// look writes the table again if it is not as this agent has left it.
func (l *Line) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.never != nil {
		l.clear()
		return
	}
	if !l.ours {
		return
	}
	if l.wrong != nil {
		l.write()
		return
	}
	now, err := l.table().read(&nftables.Conn{})
	if err == nil && reflect.DeepEqual(now, l.now) {
		return
	}
	l.write()
	if l.wrong == nil {
		l.Log.Warn("the second line's table was not as this agent had left it; put back")
		l.Repaired()
	}
}

// clear removes a table that was there before the line was withdrawn. The caller
// holds mu.
func (l *Line) clear() {
	if !l.table().there(&nftables.Conn{}) {
		return
	}
	if err := remove(); err != nil {
		l.Log.Warn("the second line's table cannot be removed", "err", err)
		return
	}
	l.Log.Info("the second line's table was removed", "reason", l.never)
}

func (l *Line) table() *table { return newTable(tableName, l.policy, l.links) }

// write makes the kernel's table what it should be, and keeps what is wrong if
// it cannot. The caller holds mu.
func (l *Line) write() {
	conn, t := &nftables.Conn{}, l.table()
	err := t.write(conn)
	if err == nil {
		l.now, err = t.read(conn)
	}
	if err != nil {
		err = fmt.Errorf("write the nftables table %s: %w", tableName, err)
	}
	switch {
	case err != nil && (l.wrong == nil || l.wrong.Error() != err.Error()):
		l.Failed(err)
	case err == nil && l.wrong != nil:
		l.Log.Info("the second line is active again")
	}
	l.ours, l.wrong = true, err
}

// Drops returns how many packets the line has dropped since its table was
// made; false if there is no table.
func Drops() (uint64, bool) {
	conn, t := &nftables.Conn{}, newTable(tableName, Policy{}, nil)
	o, err := conn.GetObject(t.counter())
	if err != nil {
		return 0, false
	}
	counter, ok := o.(*nftables.CounterObj)
	if !ok {
		return 0, false
	}
	return counter.Packets, true
}

// Try tells whether such a table can be made here. It makes one and removes it
// in the same transaction: no packet meets it.
func Try() error {
	conn, t := &nftables.Conn{}, newTable(scratchName, Policy{DenyWireServer: true}, []workload.PodLink{{Ifindex: 1, IMDS: true}})
	if err := t.add(conn); err != nil {
		return err
	}
	conn.DelTable(&t.Table)
	return conn.Flush()
}

// Leftovers returns the table, if it is there.
func Leftovers() ([]workload.Leftover, error) {
	conn, t := &nftables.Conn{}, newTable(tableName, Policy{}, nil)
	tables, err := conn.ListTablesOfFamily(t.Family)
	if unsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the nftables tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(other *nftables.Table) bool { return other.Name == tableName }) {
		return nil, nil
	}
	return []workload.Leftover{{What: "nftables table ip " + tableName, Remove: remove}}, nil
}

// unsupported reports whether the kernel has no nftables at all: no netlink
// protocol of netfilter, or nothing behind it.
func unsupported(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

func remove() error {
	conn, t := &nftables.Conn{}, newTable(tableName, Policy{}, nil)
	conn.DelTable(&t.Table)
	err := conn.Flush()
	if err != nil && !t.there(conn) {
		return nil
	}
	return err
}
