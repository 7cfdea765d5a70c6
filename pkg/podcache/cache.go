package podcache

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/config"
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
	client      kubernetes.Interface
	dynamic     dynamic.Interface
	node        string
	log         *slog.Logger
	clock       clock.Clock
	watchErrors *rate.Limiter
	gate        *gate
	ready       chan struct{}
	unanswered  chan struct{}
	giveUp      func()        // closes unanswered
	switched    chan struct{} // exempt became nil, or ceased to be; or is to be listed again
	relist      chan bool     // pods are to be listed again; true: the API server's own word, not its cache's

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
	strangers   map[string]*stranger // by UID: pods that run and that the API does not explain
	asked       time.Time            // when they had pods listed again
}

// record is a pod as the cache knows it. It is replaced, never changed.
type record struct {
	pod
	changed time.Time // when its label was last seen to change; zero: never
}

// New returns a cache that is empty until Run, and registers the metrics
// sidestep_pods, sidestep_pods_stale and sidestep_pods_unexplained. It fails for a configuration that
// config.Parse would refuse, and if the metrics cannot be registered.
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
		watchErrors: rate.NewLimiter(rate.Every(10*time.Second), 5),
		gate:        newGate(),
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
		strangers:   map[string]*stranger{},
	}
	c.tokenAudience = cmp.Or(o.TokenAudience, workload.TokenAudience)
	c.giveUp = sync.OnceFunc(func() { close(c.unanswered) })
	c.honour(o.Config.AzurePodIdentityExceptions == config.PodIdentityExceptionsHonour)
	if err := o.Registerer.Register(collector{c}); err != nil {
		return nil, fmt.Errorf("register pod metrics: %w", err)
	}
	return c, nil
}

// Ready returns a channel that is closed once the node's pods are listed,
// every service account that they then used was seen or found missing, and the
// AzurePodIdentityException objects, if they are honoured, are listed or the
// cluster was found not to have that kind; or once Import said all that.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// Run follows the API until ctx is done, and returns nil then. The cache goes
// on answering with what it knew. Run may be called once.
func (c *Cache) Run(ctx context.Context) error {
	go c.followPods(ctx)
	go c.listFromTimeToTime(ctx)
	go c.awaitAnswer(ctx)
	c.followIdentityExceptions(ctx)
	return nil
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
