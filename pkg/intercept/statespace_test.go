package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// The state space of flows and quotas: whatever two pods, their sockets and the
// agent may do, in every order up to a depth. The programs are those of the
// agent, interpreted; so is the agent's code that claims, sweeps and recounts.
// That of verdicts is in pkg/delivery.

const (
	searchQuota = 2
	searchFlows = 2 // as many as there may be records
)

// scenario is how two pods are connected.
type scenario struct {
	name   string
	netns  [2]uint64
	client [2]netip.Addr // towards the node listener
	ports  [2]uint16     // local, of each socket
	depth  int           // of the search, in steps
}

func scenarios() []scenario {
	copied := netip.MustParseAddr("10.0.0.1")
	return []scenario{
		{"one pod copies the other's address", [2]uint64{21, 22}, [2]netip.Addr{copied, copied}, [2]uint16{40000, 40000}, 4},
		{"both on the node's network", [2]uint64{nodeNetns, nodeNetns}, [2]netip.Addr{nodeListener.Addr(), nodeListener.Addr()}, [2]uint16{40000, 40000}, 3},
		{"both on the node's network, other ports", [2]uint64{nodeNetns, nodeNetns}, [2]netip.Addr{nodeListener.Addr(), nodeListener.Addr()}, [2]uint16{40000, 40001}, 3},
	}
}

// world is one state.
type world struct {
	*fakeKernel
	scenario   scenario
	generation [2]int // how often a pod's cgroup was made
	verdicts   [2]*workload.Entry
	alive      bool // the agent's listeners are open
	unseen     bool // the end of some connection was seen by no program, or too late
	recounted  bool // of a pod with a connection in another's namespace, which the agent does not list
	swept      bool // nothing has happened since the last whole sweep
	last       event
}

// event is the last thing that happened, where it is to be judged.
type event struct {
	connect bool
	pod     int
	to      netip.AddrPort // zero: refused
	claimed *fakeSocket    // its connection was claimed
	got     uint64
	err     error
}

func newWorld(t *testing.T, s scenario, d defects) *world {
	t.Helper()
	specs, programs := newPrograms(t)
	k := &fakeKernel{
		programs: programs, specs: specs, defects: d, now: minute, tables: make(map[string]*fakeMap),
		sockets: make([]*fakeSocket, 2), machine: &machine{},
	}
	for name, m := range specs.Maps {
		k.tables[name] = &fakeMap{
			name: name, kind: m.Type, keySize: int(m.KeySize), valueSize: int(m.ValueSize), maxEntries: int(m.MaxEntries),
			entries: make(map[string][]byte),
		}
	}
	k.tables[flowMap].maxEntries = searchFlows
	put(k.tables[settingsMap], uint32(0), kernelSettings{
		KubepodsId: kubepodsID, QosIds: [2]uint64{burstableID}, NodeNetns: nodeNetns,
		NodeAddr: addressWord(nodeListener.Addr()), NodePort: uint32(nodeListener.Port()),
		PortFirst: 28000, PortLast: 29999, Quota: searchQuota,
	})
	w := &world{fakeKernel: k, scenario: s}
	w.setAlive(true)
	return w
}

func put[K, V any](m *fakeMap, key K, value V) {
	m.entries[string(bytesOf(key))] = bytesOf(value)
}

func bytesOf(v any) []byte {
	b, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}

func valueOf[V any](b []byte) (v V) {
	if _, err := binary.Decode(b, binary.NativeEndian, &v); err != nil {
		panic(err)
	}
	return v
}

func (w *world) clone() *world {
	c := *w
	c.fakeKernel, c.last, c.swept = w.fakeKernel.clone(), event{}, false
	return &c
}

// cgroup returns the id of a pod's cgroup; that of its container is the next.
func (w *world) cgroup(pod int) uint64 {
	return uint64(1000 + 100*pod + 10*w.generation[pod])
}

// podListener is where the pod's own listener is.
func podListener(pod int) netip.AddrPort {
	return netip.AddrPortFrom(loopback, uint16(28000+pod))
}

// setAlive opens or closes the agent's listeners.
func (w *world) setAlive(alive bool) {
	w.alive, w.listeners = alive, nil
	if !alive {
		return
	}
	listen := func(netns, key uint64, at netip.AddrPort) {
		w.listeners = append(w.listeners, &fakeSocket{
			netns: netns, local: at.Addr(), port: at.Port(),
			storage: map[string][]byte{tagMap: bytesOf(kernelTag{
				NetnsCookie: key, ServerAddr: addressWord(at.Addr()), ServerPort: uint32(at.Port()),
			})},
		})
	}
	listen(nodeNetns, 0, nodeListener)
	for pod, netns := range w.scenario.netns {
		listen(netns, netns, podListener(pod))
	}
}

// step is one thing that may happen.
type step struct {
	name string
	do   func(*world)
}

func searchSteps() []step {
	all := []step{
		{"the agent accepts the connections of socket 0", func(w *world) { w.accept(0) }},
		{"the agent accepts the connections of socket 1", func(w *world) { w.accept(1) }},
		{"the agent dies, or comes back", (*world).restart},
		{"six minutes pass", func(w *world) { w.now += 6 * minute }},
		{"sweep", func(w *world) { w.swept = w.sweep(-1) }},
		{"the agent is killed in a sweep before its first write", func(w *world) { w.sweep(0) }},
		{"the agent is killed in a sweep after its first write", func(w *world) { w.sweep(1) }},
	}
	for i := range 2 {
		all = append(all, socketSteps(i)...)
		all = append(all, podSteps(i)...)
	}
	return all
}

func socketSteps(i int) []step {
	named := func(what string, do func(*world)) step { return step{fmt.Sprintf("socket %d: %s", i, what), do} }
	return []step{
		named("its pod connects to IMDS", func(w *world) { w.connect(i, i, false) }),
		named("the other pod, which got it, connects to IMDS", func(w *world) { w.connect(i, 1-i, false) }),
		named("connect to IMDS fails after the hook", func(w *world) { w.connect(i, i, true) }),
		named("connect elsewhere", func(w *world) { w.elsewhere(i) }),
		named("its connection is reset", func(w *world) { w.withSocket(i, w.reset) }),
		named("its connection is reset, which another's program hides", func(w *world) { w.withSocket(i, w.hiddenReset) }),
		named("close", func(w *world) { w.closeSocket(i, true) }),
		named("close that no program sees", func(w *world) { w.closeSocket(i, false) }),
		named("its pod connects to IMDS; close that no program sees", func(w *world) {
			w.connect(i, i, false)
			w.closeSocket(i, false)
		}),
	}
}

func podSteps(pod int) []step {
	named := func(what string, do func(*world)) step { return step{fmt.Sprintf("pod %d: %s", pod, what), do} }
	set := func(e workload.Entry) func(*world) { return func(w *world) { w.setVerdict(pod, &e) } }
	return []step{
		named("pass", set(workload.Entry{Verdict: workload.Pass})),
		named("deny", set(workload.Entry{Verdict: workload.Deny})),
		named("steer to the node listener", set(workload.Entry{Verdict: workload.Steer})),
		named("steer to its own listener", func(w *world) {
			w.setVerdict(pod, &workload.Entry{Verdict: workload.Steer, Port: podListener(pod).Port(), NetnsCookie: w.scenario.netns[pod]})
		}),
		named("no verdict", func(w *world) { w.setVerdict(pod, nil) }),
		named("cgroup made again", (func(w *world) { w.remake(pod) })),
	}
}

func (w *world) setVerdict(pod int, e *workload.Entry) {
	w.verdicts[pod] = e
	id := bytesOf(w.cgroup(pod))
	if e != nil {
		w.tables[verdictMap].entries[string(id)] = bytesOf(toKernel(*e))
		return
	}
	if !w.defects.keepsVerdicts {
		_ = w.tables[verdictMap].remove(string(id)) // it may have none
	}
}

// remake gives the pod another cgroup. Its sockets may live on in the other pod,
// which got them.
func (w *world) remake(pod int) {
	w.setVerdict(pod, nil)
	w.generation[pod]++
}

// connect is connect(2) on the socket, made if there is none, by a task of the
// pod. failing: no local port is free, or there is no route.
func (w *world) connect(i, by int, failing bool) {
	s := w.sockets[i]
	if s == nil {
		w.cookies++
		s = &fakeSocket{cookie: w.cookies, netns: w.scenario.netns[i], port: w.scenario.ports[i], storage: make(map[string][]byte)}
		w.sockets[i] = s
	}
	if s.open {
		return // EISCONN, before any hook
	}
	w.task = []uint64{1, kubepodsID, burstableID, w.cgroup(by), w.cgroup(by) + 1}
	to, ok := w.connectHook(s, netip.AddrPortFrom(imdsAddress, imdsPort))
	w.task = nil
	w.last = event{connect: true, pod: by, to: to}
	if !ok || failing {
		return
	}
	s.remote, s.local = to, w.scenario.client[i]
	if to.Addr() == loopback {
		s.local = loopback
	}
	if w.taken(s) {
		return // EADDRNOTAVAIL
	}
	s.open, s.pod, s.owner = true, by, w.container(by)
	w.sockops(s, opConnect, 0)
	w.establish()
}

// container is the cgroup of the pod's one container, which its flows bear.
func (w *world) container(pod int) uint64 { return w.cgroup(pod) + 1 }

// elsewhere connects the socket to somebody else, whom no hook is about.
func (w *world) elsewhere(i int) {
	w.withSocket(i, func(s *fakeSocket) {
		if s.open {
			return
		}
		s.remote, s.local = netip.MustParseAddrPort("10.9.9.9:443"), w.scenario.client[i]
		s.open, s.owner = true, 0
		w.sockops(s, opConnect, 0)
	})
}

func (w *world) withSocket(i int, do func(*fakeSocket)) {
	if s := w.sockets[i]; s != nil {
		do(s)
		w.establish()
	}
}

func (w *world) reset(s *fakeSocket) {
	w.unseen = w.unseen || s.open && s.flags&stateFlag == 0
	w.end(s)
}

// hiddenReset is a reset after another's program has set the flags of the
// socket to its own.
func (w *world) hiddenReset(s *fakeSocket) {
	s.flags = 0
	w.reset(s)
}

// closeSocket closes the last descriptor of the socket.
func (w *world) closeSocket(i int, seen bool) {
	s := w.sockets[i]
	if s == nil {
		return
	}
	if seen {
		w.runHook("sidestep_release", s, nil, -1)
	} else {
		s.flags = 0
		w.unseen = w.unseen || s.open
	}
	w.end(s)
	w.sockets[i] = nil
	w.establish()
}

// accept takes the socket's connection off its listener's queue.
func (w *world) accept(i int) {
	s := w.sockets[i]
	if s == nil || !s.queued || !w.alive {
		return
	}
	t := w.tuple(s)
	s.queued, s.accepted = false, true
	got, err := claim(fakeTable[kernelFlowKey, kernelFlow]{w.fakeKernel, flowMap, nil}, nil,
		workload.Connection{NetnsCookie: t.netns, Client: t.client, Server: t.server})
	w.last = event{claimed: s, got: got, err: err}
}

// restart ends the agent with all of its connections, or starts the next.
func (w *world) restart() {
	w.setAlive(!w.alive)
	for _, s := range w.sockets {
		if s != nil && (s.queued || s.accepted) && !w.alive {
			w.reset(s)
		}
	}
	w.establish()
}

// sweep is the agent's; it is killed after so many writes, if that is not
// negative. It reports whether it came to its end.
func (w *world) sweep(writes int) bool {
	left := &writes
	if writes < 0 {
		left = nil
	}
	for pod := range 2 {
		all, listed := w.open(pod)
		w.recounted = w.recounted || all > listed
	}
	exists := func(id uint64) bool { return id == w.cgroup(0) || id == w.cgroup(1) }
	err := errors.Join(
		sweepFlows(fakeTable[kernelFlowKey, kernelFlow]{w.fakeKernel, flowMap, left}, time.Duration(w.now), flowAge),
		usage{
			counts: fakeTable[uint64, int64]{w.fakeKernel, usageMap, left}, quota: searchQuota,
			exists: exists, namespaces: w.namespaces, steered: w.steered, log: slog.New(slog.DiscardHandler),
		}.correct())
	if err != nil && !errors.Is(err, errKilled) {
		panic(err)
	}
	return err == nil
}

func (w *world) namespaces(id uint64) ([]string, error) {
	for pod, netns := range w.scenario.netns {
		if id == w.cgroup(pod) {
			return []string{fmt.Sprint(netns)}, nil
		}
	}
	return nil, nil
}

// steered is the kernel's list of sockets, as Hooks.Steered reads it.
func (w *world) steered(namespace string) (n int, err error) {
	for _, s := range w.sockets {
		if s != nil && s.open && s.toListener() && fmt.Sprint(s.netns) == namespace {
			n++
		}
	}
	return n, nil
}

func (s *fakeSocket) toListener() bool {
	return s.remote == nodeListener || s.remote.Addr() == loopback
}

// fakeTable is a map as the agent sees it.
type fakeTable[K, V any] struct {
	kernel *fakeKernel
	name   string
	left   *int // writes until the agent is killed; nil: it is not
}

var errKilled = errors.New("the agent was killed")

func (f fakeTable[K, V]) m() *fakeMap { return f.kernel.tables[f.name] }

// write counts a write.
func (f fakeTable[K, V]) write() error {
	if f.left == nil {
		return nil
	}
	if *f.left == 0 {
		return errKilled
	}
	*f.left--
	return nil
}

func (f fakeTable[K, V]) lookup(key K) (value V, err error) {
	b, ok := f.m().entries[string(bytesOf(key))]
	if !ok {
		return value, ebpf.ErrKeyNotExist
	}
	return valueOf[V](b), nil
}

func (f fakeTable[K, V]) take(key K) (value V, err error) {
	if value, err = f.lookup(key); err == nil {
		err = f.remove(key)
	}
	return value, err
}

func (f fakeTable[K, V]) update(key K, value V, flags ebpf.MapUpdateFlags) error {
	if err := f.write(); err != nil || f.kernel.defects.noRecount {
		return err
	}
	if e := f.m().update(string(bytesOf(key)), bytesOf(value), uint64(flags), false); e != 0 {
		return e
	}
	return nil
}

func (f fakeTable[K, V]) remove(key K) error {
	if err := f.write(); err != nil {
		return err
	}
	if f.m().remove(string(bytesOf(key))) != 0 {
		return ebpf.ErrKeyNotExist
	}
	return nil
}

func (f fakeTable[K, V]) each(do func(K, V)) error {
	for _, key := range f.m().sortedKeys() {
		do(valueOf[K]([]byte(key)), valueOf[V](f.m().entries[key]))
	}
	return nil
}

// wrong returns what may not be so.
func (w *world) wrong() error {
	return errors.Join(w.wrongWay(), w.wrongClaim(), w.wrongUsage())
}

// wrongWay judges where a connect was led to.
func (w *world) wrongWay() error {
	if !w.last.connect || !w.last.to.IsValid() {
		return nil
	}
	want := nodeListener // where it is held
	if e := w.verdicts[w.last.pod]; e != nil {
		switch e.Verdict {
		case workload.Pass:
			want = netip.AddrPortFrom(imdsAddress, imdsPort)
		case workload.Deny:
			return fmt.Errorf("a denied pod was led to %s", w.last.to)
		case workload.Steer:
			if e.Port != 0 {
				want = podListener(w.last.pod)
			}
		}
	}
	elsewhere := w.last.to == nodeListener && want.Addr() == loopback // held in another's namespace
	if w.last.to != want && !elsewhere {
		return fmt.Errorf("pod %d was led to %s, want %s", w.last.pod, w.last.to, want)
	}
	return nil
}

// wrongClaim judges whose the agent takes a connection for.
func (w *world) wrongClaim() error {
	s := w.last.claimed
	if s == nil || w.last.err != nil {
		return nil
	}
	if w.last.got != s.owner {
		return fmt.Errorf("the connection of cgroup %d was taken for that of %d", s.owner, w.last.got)
	}
	return nil
}

// wrongUsage judges the counts: exact while every end was seen, and else after a
// sweep neither below what is open nor so high that nothing can be opened.
func (w *world) wrongUsage() error {
	var errs []error
	for pod := range 2 {
		open, listed := w.open(pod)
		count, err := fakeTable[uint64, int64]{w.fakeKernel, usageMap, nil}.lookup(w.cgroup(pod))
		if err != nil {
			count = 0
		}
		switch {
		case !w.unseen && !w.recounted && count != open:
			errs = append(errs, fmt.Errorf("pod %d has %d open connections and a count of %d", pod, open, count))
		case w.swept && count < listed:
			errs = append(errs, fmt.Errorf("after a sweep pod %d has %d open connections and a count of %d", pod, listed, count))
		case w.swept && open == 0 && count >= searchQuota:
			errs = append(errs, fmt.Errorf("after a sweep pod %d is locked out: no open connection, and a count of %d", pod, count))
		}
	}
	return errors.Join(errs...)
}

// open returns how many steered connections the pod has, and how many of them
// the kernel lists in the pod's own network namespace.
func (w *world) open(pod int) (all, listed int64) {
	for _, s := range w.sockets {
		if s == nil || !s.open || !s.toListener() || s.owner/10 != w.cgroup(pod)/10 {
			continue
		}
		all++
		if s.netns == w.scenario.netns[pod] {
			listed++
		}
	}
	return all, listed
}

// key names the state. Cookies count from the living sockets, cgroups from the
// pods' present ones, times from now.
func (w *world) key() string {
	var b strings.Builder
	fmt.Fprint(&b, w.alive, w.unseen, w.recounted)
	for _, e := range w.verdicts {
		fmt.Fprint(&b, " ", e != nil)
	}
	for _, name := range []string{verdictMap, usageMap, flowMap} {
		w.writeTable(&b, name)
	}
	for i, s := range w.sockets {
		if s == nil {
			b.WriteString("|-")
			continue
		}
		fmt.Fprintf(&b, "|%d %v %v %t %d %s %t %t", i, s.remote, s.local, s.open, s.flags, w.id(s.owner), s.accepted, s.queued)
		if c := s.storage[claimMap]; c != nil {
			claim := valueOf[kernelClaim](c)
			fmt.Fprint(&b, claim.Counted, w.id(claim.CgroupId), w.id(claim.QuotaId), claim.Key, claim.State, w.now-claim.RecordedNs > 5*minute)
		}
	}
	return b.String()
}

func (w *world) writeTable(b *strings.Builder, name string) {
	b.WriteString(name[9:11])
	t := w.tables[name]
	for _, key := range t.sortedKeys() {
		if t.keySize == 8 {
			fmt.Fprintf(b, ";%s=%x", w.id(binary.NativeEndian.Uint64([]byte(key))), t.entries[key])
			continue
		}
		f := valueOf[kernelFlow](t.entries[key])
		slot := slices.IndexFunc(w.sockets, func(s *fakeSocket) bool { return s != nil && s.cookie == f.SocketCookie })
		fmt.Fprintf(b, ";%x=%s %d %t %d %d", key, w.id(f.CgroupId), slot, w.now-f.CreatedNs > 5*minute, f.Ambiguous, f.Accepted)
	}
}

// id names a cgroup: the pod's, and whether it is the present one.
func (w *world) id(id uint64) string {
	for pod := range 2 {
		if id >= w.cgroup(pod) && id <= w.cgroup(pod)+1 {
			return fmt.Sprintf("%d+%d", pod, id-w.cgroup(pod))
		}
	}
	if id < 1000 {
		return fmt.Sprint(id)
	}
	return fmt.Sprintf("former %d+%d", (id-1000)/100, id%10)
}

// found is what a search has come to.
type found struct {
	states int
	path   []string // to the first state that is wrong; nil: none is
	err    error
}

// search visits all states that so many steps lead to, those that fewer lead to
// first.
func search(start *world, deepest int) found {
	type visited struct {
		w    *world
		path []string
	}
	steps := searchSteps()
	seen := map[string]bool{start.key(): true}
	frontier := []visited{{w: start}}
	for range deepest {
		var next []visited
		for _, v := range frontier {
			for _, s := range steps {
				w := v.w.clone()
				s.do(w)
				path := append(slices.Clone(v.path), s.name)
				if err := w.wrong(); err != nil {
					return found{len(seen), path, err}
				}
				if key := w.key(); !seen[key] {
					seen[key] = true
					next = append(next, visited{w, path})
				}
			}
		}
		frontier = next
	}
	return found{states: len(seen)}
}

func TestFlowsAndQuotasInEveryState(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			began := time.Now()
			got := search(newWorld(t, s, defects{}), s.depth)
			t.Logf("%d states in %d steps, %.1f s", got.states, s.depth, time.Since(began).Seconds())
			if got.err != nil {
				t.Errorf("after:\n  %s\n%v", strings.Join(got.path, "\n  "), got.err)
			}
		})
	}
}

// The search must find what is wrong.
func TestSearchFindsPlantedDefects(t *testing.T) {
	for name, tc := range map[string]struct {
		defects defects
		want    string
	}{
		"verdicts stay when they are removed": {defects{keepsVerdicts: true}, "was led to"},
		"a live record is overwritten":        {defects{overwrites: true}, "was taken for that of"},
		"what a recount finds is not written": {defects{noRecount: true}, "is locked out"},
	} {
		t.Run(name, func(t *testing.T) {
			got := search(newWorld(t, scenarios()[0], tc.defects), scenarios()[0].depth)
			if got.err == nil || !strings.Contains(got.err.Error(), tc.want) {
				t.Errorf("in %d states %v, want: %s", got.states, got.err, tc.want)
			}
			t.Logf("found after %d states: %v: %v", got.states, strings.Join(got.path, "; "), got.err)
		})
	}
}
