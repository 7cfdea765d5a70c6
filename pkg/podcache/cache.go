package podcache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/podcache/listwatch"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Options are what a Cache needs. All but TokenAudience are required.
type Options struct {
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface // for AzurePodIdentityException objects
	NodeName   string            // only this node's pods are watched
	Config     *config.AgentConfiguration
	Registerer prometheus.Registerer
	Log        *slog.Logger
	Clock      clock.Clock

	// TokenAudience is the audience of the pods' tokens for Entra; empty:
	// workload.TokenAudience.
	TokenAudience string
}

// Cache holds the pods of one node with the rules applied to them.
type Cache struct {
	client     kubernetes.Interface
	dynamic    dynamic.Interface
	node       string
	log        *slog.Logger
	clock      clock.Clock
	errors     *listwatch.Errors
	gate       *listwatch.Gate
	ready      chan struct{}
	unanswered chan struct{}
	giveUp     func()        // closes unanswered
	switched   chan struct{} // exempt became nil, or ceased to be; or is to be listed again
	relist     chan bool     // pods are to be listed again; true: the API server's own word, not its cache's

	tokenAudience string // as in Options, but never empty

	mu          sync.RWMutex
	policy      *policy
	exempt      *identityExceptions               // nil: they are ignored
	records     map[types.NamespacedName]*record  // pods that have not finished
	claims      map[string][]*record              // by cgroup UID; more than one only if somebody forges
	accounts    map[types.NamespacedName]*account // those in use, or just out of it
	entries     map[string]*entry                 // by cgroup UID; what callers get
	listed      bool                              // the first list of pods has come
	pending     map[types.NamespacedName]struct{} // accounts that are yet to come
	asOf        time.Time                         // of the imported state that is gone by; zero: of none
	subscribers map[chan struct{}]struct{}
	strangers   strangers
}

// New returns a cache that is empty until Run, and registers the metrics
// sidestep_pods, sidestep_pods_stale and sidestep_pods_unexplained. It fails
// for a configuration that config.Parse would refuse, and if the metrics cannot
// be registered.
func New(o Options) (*Cache, error) {
	p, err := newPolicy(o.Config)
	if err != nil {
		return nil, fmt.Errorf("pod rules: %w", err)
	}
	c := &Cache{
		client:      o.Client,
		dynamic:     o.Dynamic,
		node:        o.NodeName,
		log:         o.Log,
		clock:       o.Clock,
		gate:        listwatch.NewGate(),
		ready:       make(chan struct{}),
		unanswered:  make(chan struct{}),
		switched:    make(chan struct{}, 1),
		relist:      make(chan bool, 1),
		policy:      p,
		records:     map[types.NamespacedName]*record{},
		claims:      map[string][]*record{},
		accounts:    map[types.NamespacedName]*account{},
		entries:     map[string]*entry{},
		pending:     map[types.NamespacedName]struct{}{},
		subscribers: map[chan struct{}]struct{}{},
	}
	c.tokenAudience = cmp.Or(o.TokenAudience, workload.TokenAudience)
	c.giveUp = sync.OnceFunc(func() { close(c.unanswered) })
	c.errors = listwatch.NewErrors(o.Log, c.giveUp)
	c.honour(o.Config.AzurePodIdentityExceptions == config.PodIdentityExceptionsHonour)
	if err := o.Registerer.Register(collector{c}); err != nil {
		return nil, fmt.Errorf("register pod metrics: %w", err)
	}
	return c, nil
}

// Run follows the API until ctx is done, and returns nil then. The cache goes
// on answering with what it knew. Run may be called once.
func (c *Cache) Run(ctx context.Context) error {
	go c.followPods(ctx)
	go c.listFromTimeToTime(ctx)
	go c.awaitAnswer(ctx)
	exceptionWatch{c}.run(ctx)
	return nil
}

// Ready returns a channel that is closed once the node's pods are listed,
// every service account that they then used was seen or found missing, and the
// AzurePodIdentityException objects, if they are honoured, are listed or the
// cluster was found not to have that kind; or once Import said all that.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// patience is how long the API server may take for its first answers before
// somebody else's word is taken. It answers in milliseconds; steered pods are
// refused meanwhile.
const patience = 3 * time.Second

// Unanswered returns a channel that is closed when, before Ready, the API
// server cannot be reached, or has kept the cache waiting for 3 seconds. It is
// asked further; Import helps meanwhile.
func (c *Cache) Unanswered() <-chan struct{} { return c.unanswered }

// awaitAnswer gives up when patience ends.
func (c *Cache) awaitAnswer(ctx context.Context) {
	timer := c.clock.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.ready:
	case <-timer.C():
		c.giveUp()
	case <-ctx.Done():
	}
}

// Stale reports whether what the cache says is, in part or whole, from an
// imported state, and the time at which that was taken. It is so until the API
// server has answered all that Ready waits for.
func (c *Cache) Stale() (taken time.Time, stale bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.asOf, !c.asOf.IsZero()
}

// checkReady ends what depends on the API server's answers, as far as they
// have come. The caller holds the lock.
func (c *Cache) checkReady() {
	complete := c.listed && len(c.pending) == 0 && !c.exempt.isAwaited() && !c.exempt.isImported()
	imported := !c.asOf.IsZero()
	if complete && imported {
		c.log.Info("the API server has answered: pods and service accounts are as it says", "stale_since", c.asOf)
		c.asOf = time.Time{}
		c.notify()
	}
	if (complete || (imported && !c.exempt.isAwaited())) && !c.isReady() {
		close(c.ready)
	}
}

func (c *Cache) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// SetConfig applies new rules to every pod. It fails, and keeps the old ones,
// for a configuration that config.Parse would refuse.
func (c *Cache) SetConfig(cfg *config.AgentConfiguration) error {
	p, err := newPolicy(cfg)
	if err != nil {
		return fmt.Errorf("pod rules: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy = p
	c.honour(cfg.AzurePodIdentityExceptions == config.PodIdentityExceptionsHonour)
	c.recompute(func(*record) bool { return true })
	c.checkReady()
	return nil
}

// honour begins or ceases to honour AzurePodIdentityException objects. While
// the cache starts, pods are unknown until the objects are listed; later they
// keep their decisions until then. The caller holds the lock.
func (c *Cache) honour(honoured bool) {
	if honoured == (c.exempt != nil) {
		return
	}
	c.exempt = nil
	if honoured {
		c.exempt = &identityExceptions{objects: map[string]map[string]podLabels{}, awaited: !c.isReady()}
	}
	select {
	case c.switched <- struct{}{}:
	default: // the last one was not taken up yet
	}
}

// recompute computes again what callers get about the pods that the function
// names. The caller holds the lock.
func (c *Cache) recompute(which func(*record) bool) {
	changed := false
	for uid, claims := range c.claims {
		if slices.ContainsFunc(claims, which) {
			c.compute(uid)
			changed = true
		}
	}
	if changed {
		c.notify()
	}
}

// compute computes what callers get about a cgroup UID. The caller
// holds the lock.
func (c *Cache) compute(cgroupUID string) {
	r := owner(c.claims[cgroupUID])
	if r == nil {
		delete(c.entries, cgroupUID)
		return
	}
	c.entries[cgroupUID] = c.newEntry(r)
}

func (c *Cache) newEntry(r *record) *entry {
	a := c.accounts[r.account()]
	decision, containers := c.policy.decide(&r.pod, a.label(), c.exempt)
	caller, callers := newWorkloads(r, a)
	return &entry{
		pod: workload.Pod{
			UID:            r.cgroupUID,
			Namespace:      r.name.Namespace,
			Name:           r.name.Name,
			ServiceAccount: r.serviceAccount,
			HostNetwork:    r.hostNetwork,
			Ports:          r.ports,
			Decision:       decision,
			Containers:     containers,
		},
		workload: caller,
		callers:  callers,
	}
}

// Pods returns every pod of the node that has not finished, ordered by
// namespace and name. A pod that is being deleted is among them while its
// object exists. The values share slices and maps with the cache: they must
// not be changed.
func (c *Cache) Pods() []workload.Pod {
	c.mu.RLock()
	pods := make([]workload.Pod, 0, len(c.entries))
	for _, e := range c.entries {
		pods = append(pods, e.pod)
	}
	c.mu.RUnlock()
	slices.SortFunc(pods, func(a, b workload.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return pods
}

// Pod returns the pod with the UID, as Pods does; false if there is none.
func (c *Cache) Pod(uid string) (workload.Pod, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.entries[uid]
	if e == nil {
		return workload.Pod{}, false
	}
	return e.pod, true
}

// Lookup returns the workload that a cgroup belongs to and what the rules say
// about it; false if the cache has no such pod. In a pod where the rules differ
// between containers, a container that is not known, or not named, is Unknown.
// Its own AZURE_CLIENT_ID is a container's default identity. Where containers
// differ in that, one that is not known has none, and ContainerUnknown is set if
// the reference names it: then it becomes known with the pod's status.
// The workload shares memory with the cache and must not be changed.
func (c *Cache) Lookup(ref workload.CgroupRef) (workload.Workload, workload.Decision, bool) {
	c.mu.RLock()
	e := c.entries[ref.PodUID]
	c.mu.RUnlock()
	if e == nil {
		return workload.Workload{}, workload.Decision{}, false
	}
	w, own := e.callers[ref.ContainerID]
	if !own {
		w = e.workload
		w.ContainerUnknown = w.ContainerUnknown && ref.ContainerID != ""
	}
	if d, ok := e.pod.Containers[ref.ContainerID]; ok {
		return w, d, true
	}
	return w, e.pod.Decision, true
}

// Subscribe returns a channel that receives after each change of what Pods or
// Lookup return; changes that come before it is read are merged into one. The
// channel is never closed; cancel ends the subscription.
func (c *Cache) Subscribe() (changes <-chan struct{}, cancel func()) {
	s := make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscribers[s] = struct{}{}
	return s, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subscribers, s)
	})
}

// notify tells the subscribers of a change. The caller holds the lock.
func (c *Cache) notify() {
	for s := range c.subscribers {
		select {
		case s <- struct{}{}:
		default: // one is waiting to be read already
		}
	}
}

// Witness tells the cache which pods run on the node, by the UIDs that their
// cgroups name; those that Lookup knows may be left out. It is to be called
// every second or so. A pod that the API does not explain within 5 s means that
// the watch may be blind: pods are then listed again, not from the API server's
// cache, and ever less often while that explains nothing.
func (c *Cache) Witness(running []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.listed {
		return // there is no watch yet that could be blind
	}
	if !c.strangers.meet(running, c.isExplained, c.clock.Now()) {
		return
	}
	c.log.Warn("pods run here that the API server has not reported: listing pods again", "pods", len(c.strangers.met))
	c.listPods(true)
}

// Unexplained returns the UIDs, sorted, of the pods that have run for 5 s or
// more by Witness's word and that the API has not reported.
func (c *Cache) Unexplained() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.strangers.unexplained(c.isExplained, c.clock.Now())
}

// isExplained reports whether the API has reported a pod whose cgroup names
// the UID. The caller holds the lock.
func (c *Cache) isExplained(uid string) bool { return len(c.claims[uid]) > 0 }

// ErrState is returned by Import for what no Export has written.
var ErrState = errors.New("podcache: not a state of pods")

// Export returns all that the cache knows, without secrets, for an Import in
// StateFormat. It returns nil while the API server has not listed all of it:
// before Ready, and while it is Stale. Equal states are equal bytes.
func (c *Cache) Export() ([]byte, error) {
	c.mu.RLock()
	if !c.isReady() || !c.asOf.IsZero() {
		c.mu.RUnlock()
		return nil, nil
	}
	s := newState(c.records, c.accounts, c.exempt)
	c.mu.RUnlock()
	return json.Marshal(s)
}

// Import has the cache go by what another exported at the time taken, where
// the API server has not reported it yet. The present rules are applied. Ready
// is closed then, unless AzurePodIdentityException objects are honoured and the
// other did not know them. What the API server tells later takes the place of
// it all: pods that it does not name are gone. After Ready, and after another
// Import, nothing is taken; nor with the error, which is ErrState.
func (c *Cache) Import(exported []byte, taken time.Time) error {
	var s *state
	if err := json.Unmarshal(exported, &s); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if s == nil {
		return fmt.Errorf("%w: it is null", ErrState)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isReady() || !c.asOf.IsZero() {
		return nil
	}
	if !c.listed {
		for _, saved := range s.Pods {
			c.insert(saved.record())
		}
	}
	c.importAccounts(s.Accounts)
	if c.exempt.isAwaited() && s.IdentityExceptions != nil {
		c.exempt.objects, c.exempt.awaited, c.exempt.imported = s.IdentityExceptions, false, true
	}
	c.asOf = taken
	for uid := range c.claims {
		c.compute(uid)
	}
	c.notify()
	c.log.Warn("the API server has not answered: pods and service accounts are as an earlier agent knew them",
		"stale_since", taken, "pods", len(c.records))
	c.checkReady()
	return nil
}

// importAccounts takes those that pods use. They are watched once the API
// server has listed the pods.
func (c *Cache) importAccounts(all []savedAccount) {
	for _, s := range all {
		a := c.accounts[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}]
		if a == nil || a.synced {
			continue
		}
		object := s.serviceAccount()
		c.readIdentities(a, object)
		a.object, a.lastLabel, a.changed = object, s.LastLabel, s.Changed
	}
}
