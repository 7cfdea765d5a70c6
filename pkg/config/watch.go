package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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

// WatcherOptions are what a Watcher needs. All are required.
type WatcherOptions struct {
	Path       string
	Registerer prometheus.Registerer
	Log        *slog.Logger
	Clock      clock.Clock
}

// Watcher keeps an eye on one configuration file.
type Watcher struct {
	path    string
	log     *slog.Logger
	clock   clock.Clock
	reloads *prometheus.CounterVec
	inForce prometheus.Gauge
	initial *AgentConfiguration
	seen    content
}

// content tells one version of the file from another. The zero value stands
// for a file that could not be read.
type content struct {
	readable bool
	hash     [sha256.Size]byte
}

// NewWatcher loads the file for the first time and registers its metrics. Its
// errors are those of Load, or that of the registerer.
func NewWatcher(o WatcherOptions) (*Watcher, error) {
	w := &Watcher{path: o.Path, log: o.Log, clock: o.Clock}
	data, err := os.ReadFile(o.Path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if w.initial, err = Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Path, err)
	}
	w.seen = content{readable: true, hash: sha256.Sum256(data)}
	if err := w.register(o.Registerer); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Watcher) register(r prometheus.Registerer) error {
	w.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sidestep_config_reloads_total",
		Help: "Changes of the configuration file, by result (applied or refused).",
	}, []string{"result"})
	w.reloads.WithLabelValues("applied")
	w.reloads.WithLabelValues("refused")
	w.inForce = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sidestep_config_last_reload_successful",
		Help: "1 while the configuration file as it is now is in force, 0 while an earlier version is.",
	})
	w.inForce.Set(1)
	for _, c := range []prometheus.Collector{w.reloads, w.inForce} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register configuration metrics: %w", err)
		}
	}
	return nil
}

// Initial returns the configuration that NewWatcher loaded.
func (w *Watcher) Initial() *AgentConfiguration { return w.initial }

// Run reads the file again whenever it changes, until ctx is done, and
// returns nil then. Each new content goes to onChange if it is valid, else the
// error goes to onRefused; what was applied before stays in force. Both are
// called from Run's goroutine, once for each content. After a refused one, the
// former content's return goes to onChange again.
func (w *Watcher) Run(ctx context.Context, onChange func(*AgentConfiguration), onRefused func(error)) error {
	events, stop := w.notifications()
	defer stop()
	poll := w.clock.NewTimer(pollInterval)
	defer poll.Stop()
	// A change made since NewWatcher was not notified.
	w.reload(onChange, onRefused)
	var quiet <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
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

// reload reads the file and hands it on if it is not the one seen last.
func (w *Watcher) reload(onChange func(*AgentConfiguration), onRefused func(error)) {
	data, err := os.ReadFile(w.path)
	now := content{}
	if err == nil {
		now = content{readable: true, hash: sha256.Sum256(data)}
	}
	if now == w.seen {
		return
	}
	w.seen = now
	if err != nil {
		w.refuse(fmt.Errorf("read configuration: %w", err), onRefused)
		return
	}
	c, err := Parse(data)
	if err != nil {
		w.refuse(fmt.Errorf("%s: %w", w.path, err), onRefused)
		return
	}
	w.reloads.WithLabelValues("applied").Inc()
	w.inForce.Set(1)
	onChange(c)
}

func (w *Watcher) refuse(err error, onRefused func(error)) {
	w.reloads.WithLabelValues("refused").Inc()
	w.inForce.Set(0)
	onRefused(err)
}
