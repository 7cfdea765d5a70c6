package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
)

// hostRoutingLabel is "true" on nodes of AKS with eBPF host routing. Packets
// bypass netfilter there, and AKS blocks those who write rules.
const hostRoutingLabel = "kubernetes.azure.com/ebpf-host-routing"

// Why the full guard has no second line.
var (
	errLineOff     = errors.New("--second-line=off: what a Service, a tunnel or another node leads to the metadata service is not dropped")
	errHostRouting = errors.New("the node bears the label " + hostRoutingLabel + "=true, so packets bypass netfilter and no rules may be written: " +
		"what a Service, a tunnel or another node leads to the metadata service is not dropped")
)

const (
	// firstLabelLook is how long a start waits for the node's label before the
	// second line is made all the same. The programs are attached by then.
	firstLabelLook = time.Second
	labelLook      = 10 * time.Second
	longestPause   = 30 * time.Second // between two looks
)

// secondLine is the part of the full guard that drops where the node routes: it
// is there where the options and the node's label want it.
type secondLine struct {
	options    Options
	log        *slog.Logger
	events     *events          // nil until there is an API client
	rules      *routeguard.Line // nil: the guard has none
	labelKnown bool             // the node's, that LineAuto goes by
}

// newSecondLine makes the second line where the full guard is active; nothing is
// written yet. repaired is called when it was put back.
func newSecondLine(o Options, log *slog.Logger, repaired func()) *secondLine {
	l := &secondLine{options: o, log: log}
	if guard, _ := o.effectiveGuard(); guard == GuardFull && o.SecondLine != LineOff {
		l.rules = routeguard.New(routeguard.Options{Log: log, Repaired: repaired, Failed: l.missing})
	}
	return l
}

// nodeGetter reads nodes.
type nodeGetter interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Node, error)
}

// decide makes the second line where nothing is known of pods yet (fresh),
// unless the node's label says that there may be none. A label that cannot be
// read in time is taken for none: rules that packets bypass harm nobody, and are
// removed once the label is known; a line that is missing lets packets through.
func (l *secondLine) decide(fresh bool) {
	if l.rules == nil {
		return
	}
	if l.options.SecondLine == LineAuto {
		ctx, cancel := context.WithTimeout(context.Background(), firstLabelLook)
		defer cancel()
		client, _, err := NewClients(l.options.Kubeconfig, l.options.Version)
		if err == nil {
			err = l.lookAtLabel(ctx, client.CoreV1().Nodes())
		}
		if err != nil {
			l.log.Debug("the node's label is not known yet", "err", err)
		}
	}
	if fresh {
		l.hold()
	}
}

// hold has everything dropped where the node routes, until it is known which pods
// pass. A table of an earlier agent stays as it is. That it cannot be made is
// reported by missing.
func (l *secondLine) hold() {
	if l.rules != nil {
		_ = l.rules.Hold()
	}
}

// lookAtLabel withdraws the line if the node's label says so.
func (l *secondLine) lookAtLabel(ctx context.Context, nodes nodeGetter) error {
	node, err := nodes.Get(ctx, l.options.NodeName, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("read the label %s of node %s: %w", hostRoutingLabel, l.options.NodeName, err)
	}
	l.labelKnown = true
	if node.Labels[hostRoutingLabel] == "true" {
		l.rules.Withdraw(errHostRouting)
		l.missing(errHostRouting)
	}
	return nil
}

// followLabel asks for the node's label until it is known. It does not change
// later: AKS upgrades a node to switch this.
func (l *secondLine) followLabel(ctx context.Context, nodes nodeGetter) error {
	if l.rules == nil || l.options.SecondLine != LineAuto {
		return nil
	}
	warned := false
	for pause := time.Second; !l.labelKnown && ctx.Err() == nil; pause = min(2*pause, longestPause) {
		look, cancel := context.WithTimeout(ctx, labelLook)
		err := l.lookAtLabel(look, nodes)
		cancel()
		if err == nil {
			return nil
		}
		if apierrors.IsForbidden(err) && !warned {
			warned = true
			l.log.Warn("the agent may not read its node: the second line is made whatever the node's label says", "err", err,
				"fix", "apply manifests/base/rbac.yaml, or set --second-line to nftables or off")
		} else {
			l.log.Debug("the node's label is not known yet", "err", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}

// forDelivery returns the line as delivery knows it.
func (l *secondLine) forDelivery() delivery.Line {
	if l.rules == nil {
		return nil // and not an interface with a nil in it
	}
	return l.rules
}

// apply has the line follow the configuration. If it cannot, that is reported by
// state.
func (l *secondLine) apply(c *config.AgentConfiguration) {
	if l.rules != nil {
		_ = l.rules.SetPolicy(linePolicy(c))
	}
}

// keep keeps the line as it was written, or removes what an earlier agent with
// another guard has left of one.
func (l *secondLine) keep(ctx context.Context) error {
	if l.rules != nil {
		return l.rules.Run(ctx)
	}
	left, err := routeguard.Leftovers()
	if err != nil {
		l.log.Debug("cannot look for a second line", "err", err) // no nftables here
	}
	for _, one := range left {
		if err := one.Remove(); err != nil {
			return fmt.Errorf("remove %s: %w", one.What, err)
		}
	}
	return nil
}

// state returns what the line does, and why it is none; empty where the guard
// has no second line.
func (l *secondLine) state() (string, error) {
	guard, _ := l.options.effectiveGuard()
	switch {
	case guard != GuardFull:
		return "", nil
	case l.rules == nil:
		return string(routeguard.None), errLineOff
	}
	state, err := l.rules.State()
	return string(state), err
}

// register reports, in metric, log and event, whether the line is there.
func (l *secondLine) register(r prometheus.Registerer) {
	for _, s := range routeguard.States() {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "sidestep_second_line",
			Help:        "1 for the state of the second line of --guard=full, where the node routes; all 0 with another guard.",
			ConstLabels: prometheus.Labels{"state": string(s)},
		}, func() float64 {
			if state, _ := l.state(); state == string(s) {
				return 1
			}
			return 0
		}))
	}
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "sidestep_second_line_drops_total",
		Help: "Packets to the metadata service or the wire server that the second line dropped.",
	}, func() float64 {
		if l.rules == nil {
			return 0
		}
		n, _ := routeguard.Drops()
		return float64(n)
	}))
	if state, err := l.state(); state == string(routeguard.None) {
		l.missing(err)
	}
}

// missing tells that the full guard lacks its second line.
func (l *secondLine) missing(err error) {
	l.log.Warn("the full guard has no second line", "err", err)
	if l.events != nil { // else register says it
		l.events.lineMissing(err)
	}
}

// problems says what is wrong with the line.
func (l *secondLine) problems() []string {
	if state, err := l.state(); state == string(routeguard.None) {
		return []string{fmt.Sprintf("the guard has no second line: %s", strings.TrimSpace(err.Error()))}
	}
	return nil
}
