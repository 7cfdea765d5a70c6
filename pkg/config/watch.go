package config

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
)

const (
	// settle is how long the directory must be quiet before the file is read:
	// the kubelet replaces a ConfigMap in several steps.
	settle = 100 * time.Millisecond
	// pollInterval bounds how long a change goes unseen where notification
	// fails (the directory itself replaced, inotify limits reached).
	pollInterval = 10 * time.Second
)

// Source tells the configuration besides the file, and earlier: the ConfigMap
// that the file is mounted from (pkg/config/configmap).
type Source interface {
	// String returns what messages call it.
	String() string
	// Follow returns a channel that has the newest update that was not yet
	// received, until ctx is done. failed is called with each error of asking,
	// and with nil after each success.
	Follow(ctx context.Context, failed func(error)) <-chan Update
}

// Update is what a Source reports.
type Update struct {
	Text []byte
	Err  error // it has no configuration, and why
}

// WatcherOptions are what a Watcher needs. All but Source are required.
type WatcherOptions struct {
	Path       string
	StateDir   string // where the last good version is kept
	Source     Source // nil: the file alone is followed
	Registerer prometheus.Registerer
	Log        *slog.Logger
	Clock      clock.Clock
}

// Watcher follows one configuration, in its file and at its source. The kubelet takes a minute or more to bring a change to
// the file; the API server tells it at once.
type Watcher struct {
	path       string
	kept       kept
	source     Source // nil: there is none
	log        *slog.Logger
	clock      clock.Clock
	reloads    *prometheus.CounterVec
	successful prometheus.Gauge
	initial    *AgentConfiguration

	// Of the goroutine of Run.
	newest   version
	fromFile version
	replaced map[version]struct{} // what the source has sent before its newest

	mu        sync.Mutex
	state     State
	lastGood  []byte // the text of the last valid version; nil: there was none
	keptAnew  chan struct{}
	notKept   error
	unwatched error
}

// version tells one text of the configuration from another, or one reason why
// there is none.
type version struct {
	readable bool
	hash     [sha256.Size]byte
}

func versionOf(text []byte, err error) version {
	if err != nil {
		return version{hash: sha256.Sum256([]byte(err.Error()))}
	}
	return version{readable: true, hash: sha256.Sum256(text)}
}

// Origin says where the applied configuration is from.
type Origin string

// The origins.
const (
	OriginFile      Origin = "file"
	OriginConfigMap Origin = "configMap" // from the API server
	OriginKept      Origin = "kept"      // the last good one that an agent of this node kept
	OriginNone      Origin = "none"      // there was no valid one: every pod is held
)

// State is what a Watcher has applied, and what is wrong.
type State struct {
	Origin Origin
	// Refused is why the newest version is not applied; nil: it is.
	Refused error
	// NotKept is why an agent that starts with a bad file would not have this
	// configuration; nil: it would.
	NotKept error
	// Unwatched is why a change comes with the file alone, when the kubelet
	// has brought it; nil: the API server tells it, or is not asked.
	Unwatched error
}

// NewWatcher loads the configuration for the first time and registers its
// metrics. Where the file cannot be used, it takes the last good one that was
// kept in the state directory, else Held. State says which. Its error is the
// registerer's.
func NewWatcher(o WatcherOptions) (*Watcher, error) {
	w := &Watcher{
		path: o.Path, kept: newKept(o.StateDir), source: o.Source, log: o.Log, clock: o.Clock,
		replaced: map[version]struct{}{}, keptAnew: make(chan struct{}, 1),
	}
	if err := w.register(o.Registerer); err != nil {
		return nil, err
	}
	text, err := w.read()
	w.newest = versionOf(text, err)
	w.fromFile = w.newest
	if err == nil {
		w.initial, err = w.parse(text, w.path)
	}
	if err == nil {
		w.accept(text, OriginFile)
		return w, nil
	}
	w.refused(err)
	w.initial = w.fallBack()
	return w, nil
}

// fallBack returns what to start with in place of a file that cannot be used.
func (w *Watcher) fallBack() *AgentConfiguration {
	text, err := w.kept.read()
	var c *AgentConfiguration
	if err == nil {
		c, err = w.parse(text, w.kept.path)
	}
	if err != nil {
		w.log.Error("the configuration is refused and no earlier one can be used: every pod is held", "err", err)
		w.state.Origin = OriginNone
		return Held()
	}
	w.lastGood, w.state.Origin = text, OriginKept
	return c
}

func (w *Watcher) register(r prometheus.Registerer) error {
	w.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sidestep_config_reloads_total",
		Help: "Changes of the configuration, by result (applied or refused).",
	}, []string{"result"})
	w.reloads.WithLabelValues("applied")
	w.reloads.WithLabelValues("refused")
	w.successful = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sidestep_config_last_reload_successful",
		Help: "1 while the newest configuration is applied, 0 while an earlier one or none is.",
	})
	w.successful.Set(1)
	for _, c := range []prometheus.Collector{w.reloads, w.successful} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register configuration metrics: %w", err)
		}
	}
	return nil
}

// Initial returns the configuration that NewWatcher loaded.
func (w *Watcher) Initial() *AgentConfiguration { return w.initial }

// State returns what is applied at the moment.
func (w *Watcher) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.state
	s.NotKept, s.Unwatched = w.notKept, w.unwatched
	return s
}

// Run follows the configuration until ctx is done, and returns nil then. Each
// new version goes to onChange if it is valid, else the error goes to
// onRefused, that of NewWatcher too; what was applied before stays applied.
// Both are called from Run's goroutine, once for each version. After a refused
// one, the former one's return goes to onChange again.
func (w *Watcher) Run(ctx context.Context, onChange func(*AgentConfiguration), onRefused func(error)) error {
	events, stop := w.notifications()
	defer stop()
	poll := w.clock.NewTimer(pollInterval)
	defer poll.Stop()
	if err := w.State().Refused; err != nil {
		onRefused(err)
	}
	var updates <-chan Update
	if w.source != nil {
		updates = w.source.Follow(ctx, w.setUnwatched)
	}
	// A change made since NewWatcher was not notified.
	w.reload(onChange, onRefused)
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case t := <-updates:
			w.takeUpdate(t, onChange, onRefused)
			continue
		case _, ok := <-events:
			if !ok {
				events = nil // the poll goes on
				continue
			}
			quiet = w.clock.After(settle)
			continue
		case <-quiet:
			quiet = nil
		case <-poll.C():
			poll.Reset(pollInterval)
		}
		w.reload(onChange, onRefused)
	}
}

// notifications watches the file's directory: a mounted ConfigMap changes by
// a swap of the symbolic link ..data beside the file. Without notification it
// returns a nil channel, and the poll alone sees changes.
func (w *Watcher) notifications() (<-chan fsnotify.Event, func()) {
	n, err := fsnotify.NewWatcher()
	if err == nil {
		if err = n.Add(filepath.Dir(w.path)); err == nil {
			go w.logErrors(n.Errors)
			return n.Events, func() { _ = n.Close() }
		}
		_ = n.Close()
	}
	w.log.Warn("no notification of configuration changes, the file is polled instead",
		"interval", pollInterval.String(), "err", err)
	return nil, func() {}
}

// logErrors reads until errs is closed: an unread error would block events.
func (w *Watcher) logErrors(errs <-chan error) {
	for err := range errs {
		w.log.Warn("notification of configuration changes failed", "err", err)
	}
}

func (w *Watcher) read() ([]byte, error) {
	text, err := os.ReadFile(w.path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return text, nil
}

func (w *Watcher) parse(text []byte, from string) (*AgentConfiguration, error) {
	c, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return c, nil
}

// reload reads the file and takes it if it has changed, unless the source has
// sent this version before its newest: the kubelet is late then.
func (w *Watcher) reload(onChange func(*AgentConfiguration), onRefused func(error)) {
	text, err := w.read()
	v := versionOf(text, err)
	if v == w.fromFile {
		return
	}
	w.fromFile = v
	if _, old := w.replaced[v]; old {
		return
	}
	w.take(text, err, w.path, OriginFile, onChange, onRefused)
}

// takeUpdate applies an update from the source.
func (w *Watcher) takeUpdate(t Update, onChange func(*AgentConfiguration), onRefused func(error)) {
	v := versionOf(t.Text, t.Err)
	if w.newest.readable && w.newest != v {
		w.replaced[w.newest] = struct{}{}
	}
	delete(w.replaced, v)
	w.take(t.Text, t.Err, w.source.String(), OriginConfigMap, onChange, onRefused)
}

// take applies a version if it is not the newest already.
func (w *Watcher) take(text []byte, err error, from string, origin Origin,
	onChange func(*AgentConfiguration), onRefused func(error),
) {
	v := versionOf(text, err)
	if v == w.newest {
		return
	}
	w.newest = v
	var c *AgentConfiguration
	if err == nil {
		c, err = w.parse(text, from)
	}
	if err != nil {
		w.refused(err)
		onRefused(err)
		return
	}
	w.reloads.WithLabelValues("applied").Inc()
	w.accept(text, origin)
	onChange(c)
}

// accept notes that a version is applied, and has it kept.
func (w *Watcher) accept(text []byte, origin Origin) {
	w.successful.Set(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = State{Origin: origin}
	w.lastGood = text
	select {
	case w.keptAnew <- struct{}{}:
	default: // the last one was not kept yet
	}
}

func (w *Watcher) refused(err error) {
	w.reloads.WithLabelValues("refused").Inc()
	w.successful.Set(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Refused = err
}

// setUnwatched notes whether the API server tells changes, and logs when that
// changes.
func (w *Watcher) setUnwatched(err error) {
	w.mu.Lock()
	before := w.unwatched
	w.unwatched = err
	w.mu.Unlock()
	switch {
	case err != nil && before == nil:
		w.log.Warn("the configuration's ConfigMap cannot be watched; a change is applied once the kubelet has brought it", "err", err)
	case err == nil && before != nil:
		w.log.Info("the configuration's ConfigMap is watched again")
	}
}

// keepRetry is the pause after the last good version could not be kept.
const keepRetry = 30 * time.Second

// Keep keeps the last good version in the state directory until ctx is done,
// and returns nil then. One agent of a node at a time may call it.
func (w *Watcher) Keep(ctx context.Context) error {
	for {
		w.keep()
		var retry <-chan time.Time
		if w.State().NotKept != nil {
			retry = w.clock.After(keepRetry)
		}
		select {
		case <-w.keptAnew:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *Watcher) keep() {
	w.mu.Lock()
	text, failed := w.lastGood, w.notKept != nil
	w.mu.Unlock()
	if text == nil {
		return
	}
	err := w.kept.write(text)
	if err != nil && !failed {
		w.log.Warn("the configuration is not kept: an agent that starts with a bad file would hold every pod", "err", err)
	}
	if err != nil {
		// None is better than an old one, which may let a pod through that is
		// steered since.
		err = errors.Join(err, w.kept.remove())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notKept = err
}
